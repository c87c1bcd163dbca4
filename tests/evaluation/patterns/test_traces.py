"""Which traces are found, and which of them are drawn."""

import json

import pytest

from spiral.core.records import Episode, Seat, Turn
from spiral.core.storage import write_episodes
from spiral.evaluation.patterns.traces import (
    BETWEEN_TURNS,
    MAX_STEPS,
    Trace,
    choose_files,
    find_files,
    read_traces,
    sample_traces,
)
from spiral.evaluation.results import ResultDirectory
from spiral.models.weights_hash import weights_sha256


def episode(seed, *replies, policies=("m", "m"), returns=(1.0, -1.0), outcome="finished", learns=True):
    """A game in which the players reply in turn."""
    turns = tuple(
        Turn(player=number % 2, observation="?", reply=reply, action="0") for number, reply in enumerate(replies)
    )
    seats = tuple(Seat(policy=name, trainable=learns and name == "m") for name in policies)
    return Episode(game="tictactoe", seed=seed, seats=seats, turns=turns, returns=returns, outcome=outcome)


def attempts(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": name, "sample": k, "reply": reply, "correct": right} for name, k, reply, right in records]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    """A run with games of training, games of an evaluation, and replies of a benchmark."""
    path = tmp_path / "r1"
    (path / "episodes").mkdir(parents=True)
    write_episodes(
        path / "episodes" / "step-000002.parquet",
        [
            episode(1, "I think a", "b", "c"),
            episode(2, "lost", outcome="not_played"),
            episode(3, "mine", "4", policies=("m", "random")),
        ],
    )
    records = path / "evaluation" / "step-000000"
    records.mkdir(parents=True)
    games = [
        episode(1, "x", "3", policies=("m", "random"), learns=False),
        episode(1, "3", "y", policies=("random", "m"), returns=(1.0, -1.0), learns=False),
    ]
    write_episodes(records / "tictactoe-against-random.parquet", games)
    attempts(records / "gsm8k.jsonl", ("p1", 0, "right", True), ("p1", 1, "wrong", False))
    (records / "kuhn_poker-states.jsonl").write_text('{"state": "J", "player": 0}\n', encoding="utf-8")
    return path


def test_the_traces_of_a_run(run):
    traces = read_traces(find_files([run]))
    found = [(trace.step, trace.domain, trace.task, trace.success, trace.text) for trace in traces]
    assert found == [
        (2, "games", "tictactoe", True, "I think a" + BETWEEN_TURNS + "c"),
        (2, "games", "tictactoe", False, "b"),
        (2, "games", "tictactoe", True, "mine"),
        (0, "games", "tictactoe", True, "x"),
        (0, "games", "tictactoe", False, "y"),
        (0, "maths", "gsm8k", True, "right"),
        (0, "maths", "gsm8k", False, "wrong"),
    ]
    assert {trace.model for trace in traces} == {"r1"}
    assert len({trace.id for trace in traces}) == len(traces)


def result(root, kind, model, **settings):
    directory = ResultDirectory(path=root, kind=kind, settings={"model": {"name": model}, **settings})
    directory.make()
    return directory


def test_the_traces_of_results_and_their_checkpoints(tmp_path, run):
    items = [{"id": "p", "sample": 0, "reply": "so 2", "correct": True}]
    result(tmp_path / "a", "benchmark", f"{run}@16", task="gsm8k").write({}, items=items)
    games = [episode(1, "think", "4", policies=("some/model", "random"), learns=False)]
    result(tmp_path / "b", "evaluate", "some/model").write({}, episodes=games)
    result(tmp_path / "c", "exploitability", "some/model").write({})
    traces = read_traces(find_files([tmp_path]))
    assert [(trace.model, trace.step, trace.domain, trace.text) for trace in traces] == [
        ("r1", 16, "maths", "so 2"),
        ("some/model", None, "games", "think"),
    ]
    with pytest.raises(ValueError, match="is a result of kind 'exploitability'"):
        find_files([tmp_path / "c"])


def test_a_result_of_a_run_belongs_to_the_checkpoint_with_its_weights(tmp_path, run):
    for step in (4, 8):
        model = run / "checkpoints" / f"step-{step:06d}"
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(b"%d" % step)
    weights = weights_sha256(run / "checkpoints" / "step-000004")
    items = [{"id": "p", "sample": 0, "reply": "so 2", "correct": True}]
    for name, sha in (("then", weights), ("gone", "0" * 64)):
        directory = result(run / "results" / name, "benchmark", "runs/r1", task="gsm8k")
        settings = {**directory.settings, "model": {"name": "runs/r1", "weights_sha256": sha}}
        ResultDirectory(path=directory.path, kind="benchmark", settings=settings).write({}, items=items)
    found = {file.path.parent.name: file for file in find_files([run]) if file.path.parent.parent.name == "results"}
    assert {name: (file.model, file.step) for name, file in found.items()} == {"then": ("r1", 4), "gone": ("r1", None)}
    named = result(tmp_path / "d", "benchmark", str(run / "checkpoints" / "step-000008"), task="gsm8k")
    named.write({}, items=items)
    assert [(file.model, file.step) for file in find_files([named.path])] == [("r1", 8)]


def test_a_source_named_twice_counts_once(run):
    assert len(read_traces(find_files([run, run.parent / "r1"]))) == 7


def test_sources_without_traces_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds neither episodes nor replies"):
        find_files([tmp_path])
    with pytest.raises(ValueError, match="there is no directory"):
        find_files([tmp_path / "none"])
    (tmp_path / "s" / "episodes").mkdir(parents=True)
    played = [episode(1, "4", "3", policies=("random", "minimax"), learns=False)]
    write_episodes(tmp_path / "s" / "episodes" / "step-000001.parquet", played)
    with pytest.raises(ValueError, match="no text of a language model"):
        read_traces(find_files([tmp_path / "s"]))


def test_steps(tmp_path):
    (tmp_path / "episodes").mkdir()
    for step in range(1, 21):
        write_episodes(tmp_path / "episodes" / f"step-{step:06d}.parquet", [episode(step, "a")])
    files = find_files([tmp_path])
    chosen = [file.step for file in choose_files(files)]
    assert chosen == [1, 5, 9, 12, 16, 20]
    assert len(chosen) == MAX_STEPS
    assert [file.step for file in choose_files(files, [3, 7])] == [3, 7]
    with pytest.raises(ValueError, match=r"no traces of step 21; steps with traces: 1, 2"):
        choose_files(files, [3, 21])
    for step in (2, 6):
        attempts(tmp_path / "evaluation" / f"step-{step:06d}" / "gsm8k.jsonl", ("p", 0, "r", True))
    assert sorted({file.step for file in choose_files(find_files([tmp_path]))}) == [2, 6]


def trace(number, domain, success, unit=None, step=0):
    return Trace(
        id=f"{domain}{number}", model="m", step=step, domain=domain, task="t", unit=unit or f"u{number}",
        success=success, text="",
    )  # fmt: skip


def test_winners_come_first_and_right_and_wrong_solutions_are_drawn_apart():
    games = [trace(number, "games", number < 3) for number in range(20)]
    solutions = [trace(number, "maths", number % 10 == 0) for number in range(40)]
    drawn = sample_traces([*games, *solutions], 5, seed=1)
    assert sum(one.domain == "games" and one.success for one in drawn) == 3
    assert sum(one.domain == "games" for one in drawn) == 5
    assert sum(one.domain == "maths" and one.success for one in drawn) == 4
    assert sum(one.domain == "maths" and not one.success for one in drawn) == 5


def test_the_seed_alone_says_which_are_drawn():
    solutions = [trace(number, "maths", False) for number in range(40)]
    first = sample_traces(solutions, 5, seed=1)
    assert sample_traces(solutions[::-1], 5, seed=1) == first
    assert sample_traces(solutions, 5, seed=2) != first
    assert sample_traces(solutions, 100, seed=1) == sorted(solutions, key=lambda one: one.id)


def test_of_a_game_or_problem_one_trace_is_drawn():
    both_players = [trace(0, "games", False, unit="g"), trace(1, "games", True, unit="g")]
    samples = [trace(number, "maths", number < 2, unit="p") for number in range(4)]
    drawn = sample_traces([*both_players, *samples], 50, seed=0)
    assert [(one.domain, one.success) for one in drawn] == [("games", True), ("maths", True), ("maths", False)]
