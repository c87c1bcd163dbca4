"""The cost model and the simulated cluster: cases by hand, agreement of the two, and what must be monotone."""

import dataclasses
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import common, scaling, scaling_simulation
from benchmarks.scaling_cases import COSTS, Case
from benchmarks.scaling_checks import Check, fitted_engine, measured_here, published
from benchmarks.scaling_inputs import H100, H200, LLAMA3_70B, QWEN3_4B, QWEN3_8B, SHAPES, SMOLLM2, Workload
from benchmarks.scaling_model import (
    Constants,
    Engine,
    chunk_seconds,
    engine,
    learner_communication_seconds,
    learner_compute_seconds,
    learner_seconds,
    least_learner_gpus,
    more_gpus,
    publish_seconds,
    replica_gpus,
    step_seconds,
)
from benchmarks.scaling_play import deal, draw_games, play
from benchmarks.scaling_simulation import FORMER_CHUNKS, Setting, _Cluster, simulate
from benchmarks.scaling_tables import Point, last_worthwhile
from benchmarks.scaling_worker import Chunk
from spiral.distributed import game_queue, rollout_worker
from spiral.distributed.pool import Play, WorkerHandle, WorkerPool
from spiral.models.shapes import known_config
from spiral.plan.memory import model_shape
from spiral.plan.tokens import survey_games
from spiral.runs.cluster import ClusterConfig, Schedule
from spiral.runs.recipe import load_recipe

EVEN = Workload(games=32, turns=(3,), prompt=100.0, reply=50.0, budget=400)
UNEVEN = Workload(games=64, turns=(2, 3, 4), prompt=100.0, reply=100.0, budget=800, tail=1.0)
SLOW = Engine(
    pass_seconds=1.0, weights_seconds=4.0, row_seconds=0.5, cache_seconds=0.001, prompt_seconds=2.0, rows=16
)  # fmt: skip
PLAIN = Constants()
EVERY_SECOND = Engine(
    pass_seconds=1.0, weights_seconds=0.0, row_seconds=0.0, cache_seconds=0.0, prompt_seconds=0.0, rows=1
)  # fmt: skip
"""One game at a time, a token a second."""
SCHEDULES = get_args(Schedule)


def of(engine=EVERY_SECOND, prompt=0.0, **rest):
    """A cluster; one worker that plays and learns at once unless it is said otherwise."""
    return Setting(**{"workers": 1, "schedule": "sync", "learn": 0.0, "engine": engine, "prompt": prompt} | rest)


def repeated(*steps):
    """Draws these steps, then the last one again and again."""
    return lambda step: steps[min(step, len(steps) - 1)]


def drawn(workload):
    """Draws the games of a workload."""
    return lambda step: draw_games(workload, 0, step + 1)


# Shapes and FLOP


@pytest.mark.parametrize(
    ("shape", "name"),
    [(SMOLLM2, "smollm2"), (QWEN3_4B, "Qwen/Qwen3-4B-Base"), (QWEN3_8B, "Qwen/Qwen3-8B-Base")],
)
def test_shapes_are_those_that_plans_use(shape, name):
    planned = model_shape(known_config(name))
    assert shape.parameters == pytest.approx(planned.parameters, rel=1e-3)  # norms are not counted
    assert (shape.layers, shape.query_size, shape.key_size) == (planned.layers, planned.query_size, planned.key_size)


def test_sizes_by_hand():
    assert [round(shape.parameters / 1e8) / 10 for shape in SHAPES] == [4.0, 8.2, 32.8, 70.6]
    assert QWEN3_4B.cache_bytes == 2 * 36 * 8 * 128 * 2
    per_token = 6 * (36 * 2560 * (2 * 4096 + 2 * 1024 + 3 * 9728) + 151936 * 2560)
    assert QWEN3_4B.training_flop(0) == per_token
    assert QWEN3_4B.training_flop(1000) == per_token + 6 * 36 * 4096 * 1000


def test_models_fit_on_as_many_gpus_as_their_weights_need():
    assert [replica_gpus(shape, H100) for shape in SHAPES] == [1, 1, 2, 4]
    assert [replica_gpus(shape, H200) for shape in SHAPES] == [1, 1, 1, 2]
    assert [least_learner_gpus(shape, H100) for shape in SHAPES] == [2, 4, 16, 24]
    assert [more_gpus(gpus) for gpus in (1, 4, 8, 16)] == [2, 8, 16, 24]
    with pytest.raises(ValueError, match="70B"):
        engine(LLAMA3_70B, H100, 1, EVEN, PLAIN, 256)


# Generation


def test_decoding_is_bound_by_memory_until_the_batch_is_large():
    made = engine(QWEN3_8B, H100, 1, EVEN, PLAIN, 1024)
    assert made.weights_seconds == pytest.approx(2 * 8.190e9 / (0.7 * 3.35e12), rel=1e-3)
    assert made.pass_base(1) == made.pass_base(200) == made.pass_seconds + made.weights_seconds
    ridge = 0.5 * 989e12 / (0.7 * 3.35e12) * QWEN3_8B.parameters / QWEN3_8B.active
    assert made.pass_base(int(ridge)) == made.pass_base(1)
    assert made.pass_base(int(ridge) + 2) > made.pass_base(1)


def test_games_by_hand():
    # One game of one turn: the prompt, then ten passes; each reads the 100 tokens of the prompt and half of the ten.
    assert play(SLOW, 100.0, [(10.0,)]) == pytest.approx(2.0 + 10 * 5.0 + 0.001 * 10 * (100 + 5))
    # Two games: both prompts, four passes together, six alone.
    together = 4 * 5.0 + 0.001 * 4 * (200 + 4)
    alone = 6 * 5.0 + 0.001 * 6 * (104 + 3)
    assert play(SLOW, 100.0, [(10.0,), (4.0,)]) == pytest.approx(4.0 + together + alone)


def test_a_game_that_waits_begins_when_another_ends():
    one = dataclasses.replace(SLOW, rows=1)
    alone = play(one, 100.0, [(10.0, 5.0)]) + play(one, 100.0, [(7.0,)])
    assert play(one, 100.0, [(10.0, 5.0), (7.0,)]) == pytest.approx(alone)


@given(games=st.integers(1, 16), turns=st.integers(1, 4), reply=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_simulated_chunks_agree_with_the_formula_where_nothing_varies(games, turns, reply):
    workload = dataclasses.replace(EVEN, games=games, turns=(turns,), reply=float(reply))
    drawn = draw_games(workload, 0, 1)
    assert play(SLOW, workload.prompt, drawn) == pytest.approx(chunk_seconds(SLOW, workload, games), rel=1e-9)


def test_more_games_at_once_take_longer_together_and_less_each():
    alone, eight, sixteen = (chunk_seconds(SLOW, EVEN, games) for games in (1, 8, 16))
    assert alone < eight < sixteen
    assert alone > eight / 8 > sixteen / 16


def test_replies_have_the_length_that_was_asked_for():
    workload = dataclasses.replace(UNEVEN, games=20_000)
    games = draw_games(workload, 3, 1)
    lengths = np.array([length for game in games for length in game])
    assert lengths.mean() == pytest.approx(workload.reply, rel=0.02)
    assert lengths.max() == workload.budget
    assert np.mean([len(game) for game in games]) == pytest.approx(3.0, rel=0.01)
    even = workload.without_tail()
    assert even.tokens == pytest.approx(workload.tokens)
    assert set(draw_games(even, 3, 1)) == {(100.0, 100.0, 100.0)}


# Dealing

PAIRINGS = [None] * 600


def test_games_are_cut_into_the_chunks_of_the_game_queue():
    games = draw_games(UNEVEN, 0, 1)
    real = game_queue.GameQueue(len(games), 5)
    real.add_step(1, PAIRINGS, None)
    chunks = [real.next_chunk() for _ in range(40)]
    per_worker = scaling_simulation.CHUNKS_PER_WORKER
    assert deal(games, 5, per_worker) == [[games[index] for index in each.indices] for each in chunks]
    assert real.next_chunk() is None
    real_constants = (game_queue.CHUNKS_PER_WORKER, rollout_worker.MAX_CHUNKS)
    assert (per_worker, scaling_simulation.MAX_CHUNKS) == real_constants


@pytest.mark.parametrize(("games", "workers", "in_flight"), [(64, 3, 8), (64, 3, 256), (600, 1, 256), (500, 2, 20)])
def test_chunks_are_assigned_as_the_worker_pool_does(games, workers, in_flight):
    real = game_queue.GameQueue(games, workers)
    handles = [WorkerHandle(number=number, actor=None, starting=None, since=0.0) for number in range(workers)]
    for step in (1, 2):
        real.add_step(step, PAIRINGS, None)
    expected = []
    while (
        handle := WorkerPool.least_busy(SimpleNamespace(workers=handles), in_flight + 2 * real.max_chunk_games)
    ) is not None:
        if (given := real.next_chunk()) is None:
            break
        handle.assigned[given.number] = Play(chunk=given, weights=None, limit=1.0)
        expected.append(handle.number)
    setting = of(workers=workers, in_flight=in_flight)
    cluster = _Cluster(setting, games)
    given_to, give = [], [each.give for each in cluster.workers]
    for worker, each in enumerate(cluster.workers):
        each.give = lambda chunk, now, worker=worker: (given_to.append(worker), give[worker](chunk, now))
    for step in (1, 2):
        cut = deal(list(enumerate([(1.0,)] * games)), workers, setting.chunks_per_worker)
        cluster.waiting.extend(Chunk(step, number, games, None) for number, games in enumerate(cut))
    cluster.hand_out(0.0)
    assert given_to == expected
    assert len(cluster.waiting) == real.waiting


# Learning and publishing


def test_an_update_by_hand():
    workload = Workload(games=1, turns=(1,), prompt=0.0, reply=16_384.0 * 16, budget=10**6, epochs=1)
    flop = 4 / 3 * QWEN3_4B.training_flop(16_384 * 16) * 16_384 * 16
    assert learner_compute_seconds(QWEN3_4B, H100, 8, workload, PLAIN) == pytest.approx(flop / (8 * 989e12 * 0.45))
    gathered = 2 * 8 * QWEN3_4B.parameters * 7 / 8  # two micro-batches a GPU
    assert learner_communication_seconds(QWEN3_4B, 8, workload, PLAIN) == pytest.approx(gathered / 450e9)
    across = 1 * 8 * QWEN3_4B.parameters * 15 / 16
    assert learner_communication_seconds(QWEN3_4B, 16, workload, PLAIN) == pytest.approx(across / 50e9)
    assert learner_communication_seconds(QWEN3_4B, 1, workload, PLAIN) == 0


def test_more_learner_gpus_help_until_the_network_is_full():
    times = [learner_seconds(QWEN3_8B, H100, gpus, UNEVEN, PLAIN) for gpus in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    many = [learner_seconds(QWEN3_8B, H100, gpus, UNEVEN, PLAIN) for gpus in (512, 1024)]
    assert many[0] == pytest.approx(many[1], rel=0.01)  # one micro-batch each, and its communication


def test_publishing_by_hand():
    size = 2 * QWEN3_4B.parameters
    hand_out, load = publish_seconds(QWEN3_4B, 1, 1, PLAIN, "store")
    assert hand_out == pytest.approx(size / 20e9 + size / 1.8e9)
    assert load == pytest.approx(size / 5e9 + size / 10e9)
    assert publish_seconds(QWEN3_4B, 128, 1, PLAIN, "store")[1] == pytest.approx(8 * size / 5e9 + size / 10e9)
    sent = size / 50e9 + size / 20e9
    assert publish_seconds(QWEN3_4B, 128, 1, PLAIN, "broadcast") == pytest.approx((sent, size / 10e9))
    gathered = [publish_seconds(QWEN3_4B, 1, gpus, PLAIN, "broadcast")[0] - sent for gpus in (2, 16)]
    assert gathered == pytest.approx([2 * size / 450e9, 2 * size / 50e9])
    assert publish_seconds(QWEN3_4B, 128, 16, PLAIN, "free") == (0.0, 0.0)


# Schedules


def test_one_worker_and_one_learner():
    draw = repeated([(6.0,), (4.0,)])
    sync = simulate(of(learn=5.0), draw, 8)
    assert (sync.step, sync.rollout_idle, sync.learner_idle) == pytest.approx((15.0, 1 / 3, 2 / 3))
    assert sync.in_flight == pytest.approx(2 / 3)
    overlap = simulate(of(schedule="overlap", learn=5.0), draw, 8)
    assert (overlap.step, overlap.rollout_idle, overlap.learner_idle) == pytest.approx((10.0, 0.0, 0.5))
    slow = simulate(of(schedule="overlap", learn=25.0), draw, 8)
    assert (slow.step, slow.rollout_idle, slow.learner_idle) == pytest.approx((25.0, 0.6, 0.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_publishing_alone(schedule):
    found = simulate(of(workers=3, schedule=schedule, hand_out=5.0, load=2.0), repeated([(0.0,)] * 6), 9)
    assert found.step == step_seconds(schedule, 0.0, 0.0, 5.0, 2.0) == (7.0 if schedule == "sync" else 5.0)


def test_the_driver_handles_one_turn_after_the_other():
    setting = of(workers=4, learn=1.0, handling=0.25, batching=0.5)
    found = simulate(setting, repeated([(5.0, 5.0)] * 4), 5)
    assert found.step == pytest.approx(10.0 + 4 * 2 * 0.25 + 8 * 0.5 + 1.0)


@pytest.mark.parametrize(("schedule", "way"), [(s, w) for s in SCHEDULES for w in ("joined", "chunks")])
@pytest.mark.parametrize(("learn", "load"), [(10.0, 1.0), (5000.0, 1.0), (300.0, 200.0)])
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_simulation_and_formula_agree_where_nothing_varies(schedule, way, learn, load, workers):
    engine, workload = SLOW, EVEN
    share = EVEN.games // workers
    if way == "chunks":
        seconds = 2 * chunk_seconds(SLOW, EVEN, share // 2)
    elif schedule == "async":  # one game at a time: swaps do not wait
        engine = dataclasses.replace(SLOW, rows=1)
        seconds = share * chunk_seconds(SLOW, EVEN, 1)
    else:  # sixteen at a time
        seconds = max(1, share // 16) * chunk_seconds(SLOW, EVEN, min(16, share))
    chunks = {"chunks_per_worker": FORMER_CHUNKS} if way == "chunks" else {}
    setting = of(
        engine, EVEN.prompt, workers=workers, schedule=schedule, way=way, learn=learn, hand_out=3.0, load=load, **chunks
    )  # fmt: skip
    expected = step_seconds(schedule, seconds, learn, 3.0, load)
    assert simulate(setting, drawn(workload), 9).step == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("learn", [30.0, 3000.0])
def test_joining_does_not_matter_to_one_game_at_a_time(schedule, learn):
    setting = of(dataclasses.replace(SLOW, rows=1), 100.0, schedule=schedule, learn=learn)
    joined, former = (simulate(dataclasses.replace(setting, way=way), drawn(UNEVEN), 8) for way in ("joined", "chunks"))
    assert joined.step == pytest.approx(former.step, rel=1e-9)
    assert joined.rollout_idle == pytest.approx(former.rollout_idle, abs=1e-9)


@pytest.mark.parametrize("schedule", ["sync", "overlap"])
def test_joining_does_not_matter_when_a_share_is_one_chunk(schedule):
    setting = of(SLOW, 100.0, workers=4, schedule=schedule, chunks_per_worker=1, learn=20_000.0, load=5.0)
    joined, former = (simulate(dataclasses.replace(setting, way=way), drawn(UNEVEN), 8) for way in ("joined", "chunks"))
    assert dataclasses.asdict(joined) == pytest.approx(dataclasses.asdict(former), rel=1e-9, abs=1e-9)


def test_async_with_free_weights_is_one_stream_of_games():
    """Without seconds for weights or updates, one worker never runs empty, and plays as if all were given at once."""
    games = draw_games(UNEVEN, 0, 1)
    setting = of(SLOW, 100.0, schedule="async", way="in reply", max_staleness=2)
    found = simulate(setting, repeated(games), 14, warm_up=4)
    some, all_ = (play(SLOW, 100.0, games * count) for count in (4, 14))
    assert found.step == pytest.approx((all_ - some) / 10, rel=0.02)
    assert found.rollout_idle == pytest.approx(0.0, abs=1e-9)
    drained = simulate(dataclasses.replace(setting, way="joined"), repeated(games), 14, warm_up=4)
    assert found.step < drained.step < 1.5 * found.step


def test_joining_helps_and_waiting_for_turns_costs():
    step = {
        (schedule, way): simulate(
            of(SLOW, 100.0, workers=4, schedule=schedule, way=way, learn=10.0, load=5.0,
               chunks_per_worker=FORMER_CHUNKS if way == "chunks" else 8),
            repeated(draw_games(UNEVEN, 0, 1)), 10,
        ).step
        for schedule in SCHEDULES for way in ("chunks", "joined", "in reply")
    }  # fmt: skip
    for schedule in SCHEDULES:
        assert step[schedule, "joined"] < step[schedule, "chunks"]
    assert step["async", "in reply"] < step["async", "joined"] < step["overlap", "joined"]
    assert step["overlap", "in reply"] < step["overlap", "joined"]
    assert step["sync", "in reply"] == step["sync", "joined"]


@pytest.mark.parametrize("workers", [1, 4, 16])
@pytest.mark.parametrize("learn", [50.0, 1000.0])
def test_working_at_once_is_never_slower(workers, learn):
    draw = repeated(draw_games(UNEVEN, 0, 1))  # the same games, since schedules have different ones begun at the end
    setting = of(SLOW, 100.0, workers=workers, learn=learn, load=5.0)
    step = {s: simulate(dataclasses.replace(setting, schedule=s), draw, 8).step for s in SCHEDULES}
    assert step["overlap"] <= step["sync"]
    assert step["async"] <= step["sync"]


def test_longer_tails_take_longer_and_more_workers_do_not():
    def step(workers, tail):
        workload = dataclasses.replace(UNEVEN, tail=tail, budget=10_000)
        return simulate(of(SLOW, 100.0, workers=workers, learn=10.0), drawn(workload), 8).step

    assert step(8, 0.0) < step(8, 0.7) < step(8, 1.4)
    assert step(1, 0.7) > step(2, 0.7) > step(8, 0.7) > step(32, 0.7)


def test_staleness():
    setting = of(SLOW, 100.0, workers=4, learn=20.0)
    found = {s: simulate(dataclasses.replace(setting, schedule=s), drawn(UNEVEN), 16) for s in SCHEDULES}
    assert (found["sync"].staleness, found["sync"].staleness_max, found["sync"].dropped) == (0.0, 0, 0.0)
    assert (found["overlap"].staleness, found["overlap"].staleness_max) == (1.0, 1)
    assert found["async"].staleness_max > 1
    assert found["async"].dropped > 0
    patient = simulate(dataclasses.replace(setting, schedule="async", max_staleness=4), drawn(UNEVEN), 16)
    assert patient.staleness > found["async"].staleness
    assert patient.in_flight > found["async"].in_flight
    assert patient.step < found["async"].step


def test_turns_that_are_too_old_are_dropped_and_newer_ones_of_the_same_game_are_not():
    # The second worker's game takes several updates; the first worker's games fill the steps meanwhile.
    short = [(1.0,), (1.0,)]
    setting = of(workers=2, schedule="async", max_staleness=2, learn=1.0)
    for long, turns in (((12.0,), 1), ((10.0, 2.0), 2)):
        found = simulate(setting, repeated(short, [(1.0,), long], short), 12, warm_up=0)
        assert found.staleness_max > 2
        assert found.dropped == pytest.approx(1 / (12 * 2 - 1 + turns))
        assert found.turns == pytest.approx((12 * 2 - 2 + turns) / 12)


def test_steps_ahead_are_those_of_the_cluster():
    for schedule in SCHEDULES:
        config = ClusterConfig(schedule=schedule, max_staleness=3)
        assert of(schedule=schedule, max_staleness=3).steps_ahead == config.steps_ahead


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="2 steps were given"):
        simulate(of(), repeated([(1.0,)]), 2)


# Cases


CASE = Case(shape=QWEN3_8B, device=H100, workers=4, workload=dataclasses.replace(UNEVEN, games=48), steps=4)


def test_a_case_is_reproducible_and_its_seed_matters():
    first, again = CASE.balanced().run(), CASE.balanced().run()
    assert first == again
    assert dataclasses.replace(CASE, seed=1).balanced().run() != first


def test_the_learner_is_as_small_as_the_games_allow():
    balanced = CASE.balanced()
    assert balanced.learner_gpus >= least_learner_gpus(QWEN3_8B, H100)
    assert CASE.learn(balanced.learner_gpus) <= CASE.play_seconds()
    assert CASE.balanced(seconds=1e-9).learner_gpus == 1024


def test_larger_models_take_longer():
    steps = [dataclasses.replace(CASE, shape=shape, learner_gpus=64).run().step for shape in SHAPES]
    assert steps[:2] == sorted(steps[:2])
    assert min(steps[2:]) > max(steps[:2])  # 70B has twice the GPUs of 32B


def test_taking_a_cost_away_never_hurts_sync_and_each_is_judged():
    blamed = CASE.balanced().blame()
    assert {cost for cost, _ in blamed} == set(COSTS)
    assert all(gain > 0.95 for _, gain in blamed)
    assert [gain for _, gain in blamed] == sorted((gain for _, gain in blamed), reverse=True)


def test_before_games_joined():
    before = CASE.as_before()
    assert (before.balanced().setting().way, before.chunks_per_worker) == ("chunks", 2)
    assert before.balanced().run().step > 1.1 * CASE.balanced().run().step


def test_workers_have_as_many_games_under_way_as_fit():
    setting = dataclasses.replace(CASE, rows=5).balanced().setting()
    assert (setting.engine.rows, setting.in_flight) == (5, 5)


def test_where_scaling_ends_by_hand():
    case = dataclasses.replace(CASE, learner_gpus=0)
    result = dataclasses.replace(CASE.balanced().run(), step=1.0)

    def at(workers, turns):
        return Point(
            case=dataclasses.replace(case, workers=workers),
            result=dataclasses.replace(result, turns=turns),
        )

    assert last_worthwhile([at(1, 10.0), at(2, 20.0), at(4, 24.0), at(8, 30.0)]) == 2
    assert last_worthwhile([at(1, 10.0), at(2, 9.0), at(4, 40.0)]) == 0


# Checks


def test_fitted_values_match_and_the_others_nearly():
    checks = measured_here()
    ratios = {check.what: check.predicted / check.measured for check in checks}
    assert all(ratios[check.what] == pytest.approx(1.0, abs=0.01) for check in checks if check.fitted)
    assert sum(not check.fitted for check in checks) == 7
    assert all(0.7 < ratio < 1.25 for ratio in ratios.values())
    assert fitted_engine().pass_seconds == pytest.approx(0.056, abs=0.001)


def test_published_values():
    found = {check.what: check for check in published()}
    assert found["MFU of its RL, 16,384 tokens"].predicted == pytest.approx(14.65, abs=0.02)
    assert found["7B on 64 + 64 GPUs, gain of overlap"].predicted == pytest.approx(2.364, abs=0.001)
    assert Check(what="", predicted=3.0, measured=2.0, unit="s", source="x").row()["predicted/measured"] == "1.50"


def test_the_games_are_those_of_the_recipe():
    recipe = load_recipe("kuhn-qwen3-4b")
    (kind,) = survey_games(recipe, None)
    workload = scaling.recipe_workload(recipe, 1024, 1.0)
    assert workload.mean_turns == pytest.approx(kind.turns, rel=0.05)
    assert (workload.prompt, workload.reply, workload.budget, workload.epochs) == (kind.prompt, 2048, 4096, 2)


TABLES = ("checks", "sweep", "joining", "sensitivity", "ends", "changes", "patience", "tails", "growing")


@pytest.mark.slow
def test_the_program_writes_its_tables_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    smaller = {"CHANGED_WORKERS": 2, "PATIENT_WORKERS": (2,), "ALLOWED": (1, 2), "TAIL_STEPS": 1, "GAMES_A_WORKER": 4}
    for name, value in smaller.items():
        monkeypatch.setattr(scaling, name, value)
    scaling.main(["--games", "4", "--workers", "1", "2", "--pictures", str(tmp_path)])
    text = (tmp_path / "scaling.md").read_text()
    assert [text.count(f"table {name}") for name in TABLES] == [1] * len(TABLES)
    assert text.count("| 70B |") == 2 + 1 + 4 + 4
    assert all((tmp_path / f"scaling_{name}.png").stat().st_size > 5000 for name in ("workers", "tails"))
