"""Whole runs on a cluster equal the run of one process, for any number of processes, with kills and on a full disk."""

import json
import os
import resource
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import spiral.launch
from commands import spiral as command
from distributed_session import small_ray
from spiral.core.storage import read_episodes
from spiral.distributed import learner as learning
from spiral.distributed import session as cluster_session
from spiral.distributed.session import LearnerLostError
from spiral.launch import execute, saved_recipe, start
from spiral.models.loading import model_directory
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe
from spiral.training.process_group import GroupError

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = [
    "run.episodes_every=1",
    "run.checkpoint_every=2",
    "run.snapshots=[0, 3]",
    "selfplay.episodes_per_step=32",
    "selfplay.in_flight=32",
    "evaluation.games=['tictactoe']",
    "evaluation.opponents=['random']",
    "evaluation.episodes=4",
    "evaluation.exploitability=[]",
]
ELSEWHERE = ("time/", "cluster/")
"""Metrics of how long something took and who did it."""
LIMIT = (100_000, resource.RLIM_INFINITY)
"""Bytes of the largest file."""


@pytest.fixture(scope="module", autouse=True)
def session():
    with small_ray():
        yield


def settings(steps, rollout=0, learner=1, *more):
    cluster = [
        f"cluster.rollout_workers={rollout}",
        f"cluster.learner_workers={learner}",
        "cluster.cpus_per_worker=0.5",
    ]
    return [*SMALL, f"run.steps={steps}", *cluster, *more]


def recipe(*arguments):
    return load_recipe("nano", settings(*arguments))


def ran(path, made, show=lambda run, step: None):
    """A whole run; `show(run, step)` is called after every step."""
    return went_on(start(made, path), show)


def went_on(run, show=lambda run, step: None):
    ended = execute(run, lambda step, metrics: show(run, step))
    ended.close()
    return run.directory.path


def trained(monkeypatch, path, arguments, show):
    """`spiral train`, with `show(run, step)` called after every step."""

    def executed(run, record, guards=None):
        def record_and_show(step, metrics):
            record(step, metrics)
            show(run, step)

        return execute(run, record_and_show, guards)

    given = [part for setting in settings(*arguments) for part in ("--set", setting)]
    with monkeypatch.context() as patch:
        patch.setattr(spiral.launch, "execute", executed)
        return command("train", "nano", "--run-dir", str(path), *given)


def compared_metrics(path):
    return [{key: value for key, value in row.items() if not key.startswith(ELSEWHERE)} for row in read_metrics(path)]


def played(path):
    """Everything that was played, step by step."""
    return [
        [(e.game, e.seed, e.actions, e.returns) for e in read_episodes(file)]
        for file in sorted((path / "episodes").iterdir())
    ]


def reports(path):
    """Every evaluation."""
    return {file.name: json.loads(file.read_text()) for file in (path / "evaluation").glob("*.json")}


def weights(path, step):
    return load_file(path / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def same_bits(a, b):
    return all(a[name].equal(b[name]) for name in a) and a.keys() == b.keys()


def assert_same_run(path, other):
    """To the last bit."""
    assert played(path) == played(other)
    assert compared_metrics(path) == compared_metrics(other)
    assert reports(path) == reports(other)
    for step in (2, 4):
        assert same_bits(weights(path, step), weights(other, step))
    for step in (0, 3):
        ours, theirs = (load_file(model_directory(f"{run}@{step}") + "/model.safetensors") for run in (path, other))
        assert same_bits(ours, theirs)
    assert sorted(file.name for file in (path / "snapshots").iterdir()) == ["step-000000", "step-000003"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Four steps in one process, with a checkpoint after each second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path = ran(tmp_path_factory.mktemp("alone") / "run", recipe(4))
    torch.set_num_threads(before)
    return path


@pytest.mark.slow
def test_a_learner_that_is_killed_is_replaced_and_the_run_is_that_of_one_process_bit_for_bit(
    alone, monkeypatch, tmp_path
):
    path, killed, said = tmp_path / "run", [], []

    def kill(run, step):
        if step == 3 and not killed:
            killed.extend(run.learner.processes())
            os.kill(killed[0], signal.SIGKILL)
            while not (path / "cluster.json").exists():
                time.sleep(0.05)
            said.append(command("cluster", "status", str(path), "--json").json)

    result = trained(monkeypatch, path, (4, 1, 1), kill)
    assert (result.status, len(killed)) == (0, 1)
    assert_same_run(path, alone)
    (warning,) = [line for line in result.err.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning: learner worker 0 died at score: ")
    assert warning.endswith("; resuming from the last checkpoint (1 times so far)")
    # Beside the lines that are always there: how far a slow command is, and two lines about workers below a step's.
    slow = ("  ", "the first step took ")
    own = [line for line in result.err.splitlines() if not line.startswith(slow) and not line.endswith(" elapsed")]
    first = {line.split(": ")[0].split()[0] for line in own}
    assert first == {"run", "Ctrl-C", "evaluating", "evaluated", "step", "warning"}, (
        "no other program has printed a line"
    )
    assert (said[0]["state"], said[0]["step"], said[0]["driver"]["alive"]) == ("running", 3, True)
    status = command("cluster", "status", str(path), "--json").json
    assert (status["state"], status["step"], status["version"], status["schedule"]) == ("ended", 4, 4, "sync")
    assert (status["ready"], status["rollout_workers"], status["restarts"]) == (1, 1, 0)
    assert [(worker["number"], worker["version"]) for worker in status["workers"]] == [(0, 4)]
    assert len(status["learners"]) == 1
    assert status["learners"] != killed


@pytest.mark.slow
def test_a_full_disk_in_a_learner_worker_leaves_a_checkpoint_from_which_one_process_goes_on(
    alone, monkeypatch, tmp_path
):
    """Files of more than 100 kB cannot be written; the weights have 596 kB."""

    def fill_the_disk(run, step):
        if step == 3:
            resource.prlimit(run.learner.processes()[0], resource.RLIMIT_FSIZE, LIMIT)

    path = tmp_path / "run"
    result = trained(monkeypatch, path, (4, 1, 1), fill_the_disk)
    assert (result.status, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith(f"spiral: cannot write to {path}: ")
    assert "File too large" in last
    assert last.endswith(f"the last good checkpoint is step-000002; to resume: spiral train --resume --run-dir {path}")
    assert "Traceback" not in result.err
    assert sorted(file.name for file in (path / "checkpoints").iterdir()) == ["latest", "step-000000", "step-000002"]
    walls = [row.get("cluster/wall_s") for row in read_metrics(path)]
    assert walls[0] is None
    assert walls[1] > read_metrics(path)[1]["time/step_s"]
    resumed = command("train", "--resume", "--run-dir", str(path), "--set", "cluster.rollout_workers=0")
    assert resumed.status == 0
    assert_same_run(path, alone)
    assert (
        "has only one process; to spread it over several, start or resume it with"
        in command("cluster", "status", str(path)).err
    )


def test_a_learner_that_is_lost_too_often_ends_the_run(monkeypatch, tmp_path):
    """Once more than `cluster.restarts` says; whatever is resumed is closed again, and has the same guards."""
    made, closed, guarding = recipe(4, 1, 1, "cluster.restarts=2"), [], []

    def run():
        return SimpleNamespace(
            recipe=made, directory=SimpleNamespace(path=tmp_path), close=lambda: closed.append(len(closed))
        )

    def lose(run, show, guards, ends):
        guarding.append(guards)
        raise LearnerLostError("learner worker 0 died at update")

    monkeypatch.setattr(spiral.launch.lifecycle, "_train", lose)
    monkeypatch.setattr(spiral.launch.lifecycle, "resume", lambda path: run())
    with pytest.raises(LearnerLostError, match="learner worker 0 died at"):
        execute(run(), lambda step, metrics: None)
    assert closed == [0, 1, 2]
    assert len(guarding) == 3
    assert all(guards is guarding[0] for guards in guarding)


@pytest.mark.parametrize(
    ("errors", "kind", "message"),
    [
        ([OSError(28, "No space left"), GroupError("waited for rank 0")], OSError, "No space left"),
        ([GroupError("waited for rank 1"), OSError(28, "No space left")], OSError, "No space left"),
        (
            [GroupError("waited for rank 1"), GroupError("waited for rank 0")],
            LearnerLostError,
            "worker 0 failed at save",
        ),
        (
            [None, GroupError("waited for rank 0")],
            LearnerLostError,
            "learner worker 1 failed at save: GroupError: waited",
        ),
    ],
)
def test_the_error_of_a_failed_rank_is_raised_and_not_that_of_the_others(errors, kind, message, monkeypatch):
    import ray

    def get(error):
        if error is not None:
            raise ray.exceptions.RayTaskError("save", "its traceback", error)

    said = SimpleNamespace(
        get=get,
        exceptions=ray.exceptions,
        wait=lambda refs, num_returns, timeout: (refs[:num_returns], refs[num_returns:]),
    )
    for module in (learning, cluster_session):
        monkeypatch.setattr(module, "import_ray", lambda: said)
    with pytest.raises(kind, match=message):
        learning.ClusterLearner._wait(None, errors, "save", 10.0)


@pytest.mark.slow
def test_two_workers_of_each_kind_learn_what_one_process_learns(tmp_path):
    alone = ran(tmp_path / "alone", recipe(10))
    spread = ran(tmp_path / "spread", recipe(10, 2, 2))
    for one, two in zip(read_metrics(alone), read_metrics(spread), strict=True):
        for key in ("loss/policy", "loss/entropy", "loss/kl_reference", "sampler/gap_mean"):
            assert two[key] == pytest.approx(one[key], abs=1e-5), (one["step"], key)
    one, two = weights(alone, 10), weights(spread, 10)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["overlap", "async"])
def test_schedules_that_play_ahead(tmp_path, schedule):
    path = ran(tmp_path / "run", recipe(4, 2, 1, f"cluster.schedule={schedule}"))
    rows = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["rollout/games"] == 32 for row in rows)
    # Older turns were counted and left out.
    assert all(row["cluster/staleness_max"] <= 1 or row["cluster/dropped_turns"] > 0 for row in rows)
    seeds = [seed for step in played(path) for _, seed, *_ in step]
    assert len(set(seeds)) == len(seeds) == 4 * 32
    assert not any(row["sampler/gap_warning"] for row in rows if row["cluster/staleness"])
    # So few games may all be over before their step begins.
    assert 0 < sum(row["time/tokens_per_s"] for row in rows) < 4e6
    assert all(row["time/tokens_per_s"] >= 0 for row in rows)
    if schedule == "overlap":
        assert [row["cluster/staleness"] for row in rows] == [0, 1, 1, 1]


@pytest.mark.slow
def test_training_that_diverges_on_a_cluster_ends_the_run(monkeypatch, tmp_path):
    """The error comes from the learner's process; no worker is blamed for it."""
    arguments = (9, 1, 2, "learner.learning_rate=1e30", "learner.minibatches=1", "learner.epochs=1")
    result = trained(monkeypatch, tmp_path / "run", arguments, lambda run, step: None)
    assert (result.status, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("spiral: no gradient was finite in 3 updates in a row, up to update 4 ")
    assert "the last good checkpoint is step-000000; for a new run from there: spiral train " in last
    warnings = [line.split(",")[0] for line in result.err.splitlines() if line.startswith("warning")]
    assert warnings == ["warning: step 2: no gradient was finite"]


@pytest.mark.slow
def test_a_full_disk_is_no_lost_learner_with_two_ranks(monkeypatch, tmp_path):
    """The other rank only knows that it waited in vain."""

    def fill_the_disk(run, step):
        if step == 3:
            resource.prlimit(run.learner.processes()[0], resource.RLIMIT_FSIZE, LIMIT)

    result = trained(monkeypatch, tmp_path / "run", (4, 1, 2), fill_the_disk)
    assert (result.status, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith(f"spiral: cannot write to {tmp_path / 'run'}: ")
    assert "File too large" in last
    assert "; the last good checkpoint is step-000002; " in last
    warnings = [line.split(",")[0] for line in result.err.splitlines() if line.startswith("warning")]
    assert warnings == []


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_learner_workers(alone, tmp_path):
    def stop(run, step):
        if step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        ran(tmp_path / "run", recipe(4, 1, 2), stop)
    path = tmp_path / "run"
    assert saved_recipe(path).hardware.devices == 2
    one_learner = ["--set", "cluster.learner_workers=1"]
    assert command("train", "--resume", "--run-dir", str(path), *one_learner).status == 0
    for row, other in zip(read_metrics(alone), read_metrics(path), strict=True):
        assert other["loss/policy"] == pytest.approx(row["loss/policy"], abs=1e-5), row["step"]
    two_learners = ["--steps", "5", "--set", "cluster.learner_workers=2", "--set", "hardware.devices=2"]
    assert command("train", "--resume", "--run-dir", str(path), *two_learners).status == 0
    kept = saved_recipe(path)
    assert (kept.cluster.learner_workers, kept.hardware.devices, kept.run.steps) == (2, 2, 5)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_model_as_an_opponent_plays_the_same_games_on_a_cluster(tmp_path):
    """One engine in every worker, for training and evaluation, gives the episodes of one process."""
    rival = ("selfplay.opponents={ mirror = 0.5, rival = 0.5 }", "evaluation.opponents=['rival']", "evaluation.every=1")
    table = ("opponent.rival.model=nano", "opponent.rival.temperature=0.5", "opponent.rival.max_new_tokens=1")
    runs = [
        ran(tmp_path / name, recipe(2, workers, 1, *rival, *table)) for name, workers in (("one", 0), ("several", 2))
    ]
    assert played(runs[0]) == played(runs[1])
    assert compared_metrics(runs[0]) == compared_metrics(runs[1])
    assert reports(runs[0]) == reports(runs[1])
    (row, _) = read_metrics(runs[1])
    assert row["against/tictactoe/rival/opponent_cut_off"] == 1.0
    assert row["evaluation/tictactoe/rival/opponent_cut_off"] == 1.0


@pytest.mark.slow
def test_an_opponent_in_the_policys_engine_plays_the_same_games_on_a_cluster(tmp_path):
    """In training and evaluation, with its own weights: those of before training."""
    rival = ("selfplay.opponents={ mirror = 0.5, rival = 0.5 }", "evaluation.opponents=['rival']", "evaluation.every=1")
    table = ("opponent.rival.model=nano", "opponent.rival.engine=shared", "learner.learning_rate=1e-2")
    runs = [
        ran(tmp_path / name, recipe(2, workers, 1, *rival, *table)) for name, workers in (("one", 0), ("several", 2))
    ]
    assert played(runs[0]) == played(runs[1])
    assert compared_metrics(runs[0]) == compared_metrics(runs[1])
    assert reports(runs[0]) == reports(runs[1])
    assert [row["against/tictactoe/rival/games"] for row in read_metrics(runs[1])] == [5, 5]  # of eleven
