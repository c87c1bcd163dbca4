"""`spiral train` from start to end: what it prints, what it leaves, and how it goes on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib

import pytest

from commands import TINY, refused, spiral, tiny_run, tiny_settings
from spiral.runs.directory import read_evaluations, read_metrics
from spiral.runs.display import PlainDisplay


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run and what it printed."""
    path = tmp_path_factory.mktemp("runs") / "trained"
    return path, tiny_run(path, drawn=True)


def slow_but(first, *others):
    """The first parameter for the fast tests, and the others for the slow ones."""
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


@pytest.fixture
def copied(trained, tmp_path):
    """A copy to do harm to."""
    return shutil.copytree(trained[0], tmp_path / "run", symlinks=True)


def test_it_says_where_and_what_to_press(trained):
    path, result = trained
    assert result.status == 0
    lines = result.err.splitlines()
    assert lines[0] == f"run directory: {path}"
    assert lines[1].startswith("Ctrl-C stops after the current step and writes a checkpoint")
    assert [line for line in lines if line.startswith("step 2/2")]
    assert "Writing model shards" not in result.err
    assert "Warning" not in result.err


def test_it_ends_with_results_and_what_to_try_next(trained):
    path, result = trained
    before, after = (report.arena[0] for _, report in read_evaluations(path))
    assert f"{before['win']:.0%} (" in result.out
    assert f"{after['not_lost']:.0%} (" in result.out
    exact = [report.exploitability[0]["exploitability"] for _, report in read_evaluations(path)]
    assert all(f"{value:.4f}" in result.out for value in exact)
    assert "---+---+---" in result.out
    assert "Result: " in result.out
    assert f"Run directory: {path}" in result.out
    assert f"  spiral play {path} --game tictactoe\n" in result.out
    assert f"  spiral evaluate {path} --game tictactoe --opponent minimax\n" in result.out
    assert f"  spiral exploitability {path} --game kuhn_poker\n" in result.out
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_directory(trained):
    path, _ = trained
    config = tomllib.loads((path / "config.toml").read_text())
    assert (config["run"]["steps"], config["learner"]["epochs"]) == (2, 1)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    assert os.readlink(path / "checkpoints" / "latest") == "step-000002"
    assert sorted(file.name for file in (path / "episodes").iterdir()) == [
        "step-000001.parquet", "step-000002.parquet",
    ]  # fmt: skip


def test_the_default_run_directory_is_never_overwritten(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('[evaluation]\nopponents = ["random"]\n')
    arguments = ["train", "mine.toml", *tiny_settings(evaluation__games="[]", run__steps="1"), "--seed", "7"]
    assert spiral(*arguments).status == 0
    assert (tmp_path / "runs" / "mine-7" / "metrics.jsonl").exists()
    assert refused(*arguments) == (
        "runs/mine-7 already holds a run; resume it with --resume, or choose another --run-dir"
    )
    assert "--run-dir mine.toml is a file" in refused("train", "nano", "--run-dir", "mine.toml")


def test_dry_run_prints_the_recipe_and_does_nothing_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = spiral("train", "nano", "--dry-run", "--steps", "9", "--seed", "5", "--set", "learner.epochs=4")
    recipe = tomllib.loads(result.out)
    assert (result.status, result.err) == (0, "")
    assert (recipe["run"]["steps"], recipe["run"]["seed"], recipe["learner"]["epochs"]) == (9, 5, 4)
    assert recipe["evaluation"]["seed"] == 1_000_003, "defaults are spelled out"
    size = spiral("models", "--json").json["models"][0]["parameters"]
    lines = result.out.splitlines()
    assert lines[:2] == [f"# nano: {size:,} parameters", "# Memory of one device, in MiB:"]
    assert "#   tictactoe: 256 games of about 6.7 turns (at most 9), prompts of about 5 tokens (longest 5)" in lines
    assert [line for line in lines if " usable: " in line and line.endswith("(this machine) less 5%")]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_a_hub_model_that_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr("spiral.models.hub.hub_answers", lambda: False)
    result = spiral("train", "nano", "--dry-run", "--model", "someone/some-model")
    assert result.status == 0
    assert tomllib.loads(result.out)["model"]["path"] == "someone/some-model"
    assert result.out.startswith("# someone/some-model: parameters unknown: ")


def test_dry_run_refuses_what_cannot_fit():
    fits = ["train", "nano", "--dry-run", "--set", "selfplay.episodes_per_step=8", "--set", "evaluation.games=[]"]
    settings = ["--set", "hardware.memory_gib=0.2", "--set", "learner.tokens_per_microbatch=1000000"]
    assert spiral(*fits).status == 0
    line = refused("train", "nano", "--dry-run", *settings)
    assert line.startswith("the plan for nano does not fit: it needs ")
    assert "hardware.memory_gib is 0.2" in line
    assert "activations of a micro-batch" in line
    fitting = line.partition("; it fits with ")[2].rpartition(" (")[0].split(" and ")
    more = [part for setting in fitting for part in ("--set", setting.replace(" = ", "="))]
    assert spiral("train", "nano", "--dry-run", *settings, *more).status == 0


def test_json_is_all_that_is_printed(copied):
    result = spiral("train", "--resume", "--run-dir", str(copied), "--steps", "3", "--json")
    rows = read_metrics(copied)
    assert (result.status, result.json["run_dir"], result.json["step"]) == (0, str(copied), 3)
    assert result.json["metrics"] == {key: value for key, value in rows[-1].items() if key != "step"}
    assert rows[-1]["step"] == 3
    assert "step 3/3" in result.err
    assert "use only one of them" in refused("train", "nano", "--dry-run", "--json")


def test_resume_goes_on_and_shows_the_end(copied):
    result = spiral("train", "nano", "--resume", "--run-dir", str(copied), "--steps", "3")
    assert result.status == 0
    assert "resuming with the run's own settings, not those of nano: " in result.err
    assert [row["step"] for row in read_metrics(copied)] == [1, 2, 3]
    assert "Before training and after step 3:" in result.out
    again = spiral("train", "--resume", "--run-dir", str(copied))
    assert (again.status, "after step 3" in again.out) == (0, True)
    assert len(read_metrics(copied)) == 3


@pytest.mark.parametrize("steps", ["2", pytest.param("1", marks=pytest.mark.slow)])
def test_a_shortened_run_is_evaluated_at_its_end(steps, trained, copied):
    """Its last step got no report of its own, as it was not meant to be the last."""
    path = copied
    if steps == "1":
        shutil.rmtree(path / "checkpoints" / "step-000002")
        (path / "checkpoints" / "latest").unlink()
        (path / "checkpoints" / "latest").symlink_to("step-000001")
    (path / "evaluation" / "step-000002.json").unlink()
    result = spiral("train", "--resume", "--run-dir", str(path), "--steps", steps)
    assert (result.status, f"Before training and after step {steps}:" in result.out) == (0, True)
    reports = dict(read_evaluations(path))
    assert list(reports) == [0, int(steps)]
    assert reports[int(steps)].arena[0]["episodes"] == 4
    if steps == "2":
        assert reports[2] == dict(read_evaluations(trained[0]))[2]
    kept = (path / "evaluation" / f"step-00000{steps}.json").stat().st_mtime_ns
    assert spiral("train", "--resume", "--run-dir", str(path)).status == 0
    assert (path / "evaluation" / f"step-00000{steps}.json").stat().st_mtime_ns == kept


def test_a_run_copied_without_its_links_goes_on(trained, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / "copy")
    latest = path / "checkpoints" / "latest"
    assert not latest.is_symlink()
    arguments = ["train", "--resume", "--run-dir", str(path)]
    assert "has done 2 already; expected 2 or more" in refused(*arguments, "--steps", "1")
    assert spiral(*arguments, "--steps", "3").status == 0
    assert os.readlink(latest) == "step-000003"
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]


def test_resume_with_the_command_line_of_the_start(copied):
    result = tiny_run(copied, run__steps="3")
    assert "already holds a run" in result.err
    result = spiral("train", "nano", "--run-dir", str(copied), *tiny_settings(), "--resume", "--steps", "3")
    assert (result.status, "own settings" in result.err) == (0, False)
    assert len(read_metrics(copied)) == 3


def test_only_the_length_may_change_on_resume(copied, tmp_path):
    arguments = ["train", "nano", "--resume", "--run-dir", str(copied)]
    line = refused(*arguments, "--steps", "3", "--set", "learner.epochs=5")
    assert (
        line == "with --resume only --steps and cluster settings may change: learner.epochs is 1 in the run and 5 here"
    )
    assert "run.seed is 0 in the run and 4 here" in refused(*arguments, "--seed", "4")
    assert "model.path is 'nano' in the run" in refused("train", *arguments[2:], "--model", "other")
    assert "has done 2 already" in refused(*arguments, "--steps", "1")
    other = tmp_path / "other.toml"
    other.write_text('summary = "another"')
    assert f"not from {other}" in refused("train", str(other), *arguments[2:])
    assert "is not a run directory" in refused("train", "--resume", "--run-dir", str(tmp_path))


@pytest.mark.parametrize("stop", slow_but(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
def test_a_stop_writes_a_checkpoint_and_says_how_to_resume(stop, monkeypatch, tmp_path):
    interrupt_after(monkeypatch, step=2, stop=stop)
    result = tiny_run(tmp_path / "my run", run__steps="6", run__checkpoint_every="100")
    assert result.status == 130
    last = result.err.splitlines()[-1]
    assert last.startswith("spiral: stopped after step 3, with a checkpoint; to resume: ")
    assert os.readlink(tmp_path / "my run" / "checkpoints" / "latest") == "step-000003"
    command = shlex.split(last.partition("to resume: ")[2])
    assert command == ["spiral", "train", "--resume", "--run-dir", str(tmp_path / "my run")]
    monkeypatch.undo()
    assert spiral(*command[1:]).status == 0
    assert [row["step"] for row in read_metrics(tmp_path / "my run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("stop", slow_but(signal.SIGINT, signal.SIGTERM))
def test_a_second_stop_ends_it_at_once(stop, monkeypatch, tmp_path):
    interrupt_after(monkeypatch, step=2, times=2, stop=stop)
    result = tiny_run(tmp_path / "run", run__steps="6")
    assert result.status == 130
    assert result.err.splitlines()[-1].startswith(
        "spiral: interrupted at once; the last good checkpoint is step-000002; to resume: spiral train --resume"
    )


@pytest.mark.parametrize("stop", slow_but(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
@pytest.mark.parametrize(
    ("target", "advice"),
    [
        pytest.param(
            "spiral.runs.evaluation.evaluate_policy",
            "the last good checkpoint is step-000000; to resume: ",
            marks=pytest.mark.slow,
        ),
        ("safetensors.torch.save_file", "there is no checkpoint yet; to begin again: "),
        ("spiral.launch.local.load_language_model", "choose another --run-dir"),
    ],
)
def test_stopped_before_the_first_step(target, advice, stop, monkeypatch, tmp_path):
    """Nothing that is left bars the directory: the same command line begins again, with --resume and without."""
    with monkeypatch.context() as patch:
        patch.setattr(target, lambda *_, **__: os.kill(os.getpid(), stop))
        result = tiny_run(tmp_path / "run")
    assert result.status == 130
    assert f"spiral: interrupted at once; {advice}" in result.err.splitlines()[-1]
    assert tiny_run(tmp_path / "run").status == 0
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]
    assert [step for step, _ in read_evaluations(tmp_path / "run")] == [0, 2]


def test_one_command_line_serves_a_run_for_ever(monkeypatch, tmp_path):
    """A new directory, an empty one, one stopped at any moment, and a finished run."""
    path = tmp_path / "runs" / "mine"
    command = ["train", "nano", "--run-dir", str(path), *tiny_settings(), "--steps", "3", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr("spiral.runs.evaluation.evaluate_policy", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        assert spiral(*command).status == 130
    with monkeypatch.context() as patch:
        interrupt_after(patch, step=1, stop=signal.SIGTERM)
        assert spiral(*command).status == 130
    assert [step for step, _ in read_evaluations(path)] == [0], "evaluated before training all the same"
    assert spiral(*command).status == 0
    result = spiral(*command)
    assert (result.status, "all 3 steps are done; to continue, add --steps" in result.err) == (0, True)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    assert [step for step, _ in read_evaluations(path)] == [0, 3]


def test_a_bad_setting_that_shows_late_does_not_bar_the_directory(tmp_path):
    result = tiny_run(tmp_path / "run", benchmark__tasks="{gsm8k='/nosuch'}")
    assert (result.status, "/nosuch" in result.err) == (2, True)
    assert tiny_run(tmp_path / "run").status == 0
    assert "gsm8k" not in (tmp_path / "run" / "config.toml").read_text()


def test_a_refused_recipe_leaves_no_directory(tmp_path):
    refused("train", "nano", "--run-dir", str(tmp_path / "runs" / "run"), "--model", "nonsense-model")
    refused("train", "--resume", "--run-dir", str(tmp_path / "runs" / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path):
    """The installed entry point, a real signal, and nothing on standard error that is not ours."""
    settings = [part for key, value in (TINY | {"run.steps": "500"}).items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "spiral", "train", "nano", "--run-dir", str(tmp_path / "run"), *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stderr.readline()]
    while not lines[-1].startswith("step "):
        lines.append(process.stderr.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    lines += err.splitlines(keepends=True)
    assert (process.returncode, out) == (130, "")
    starts = (
        "run directory: ",
        "Ctrl-C stops",
        "evaluating nano",
        "step ",
        "the first step took ",
        "spiral: stopped after",
    )
    assert [line for line in lines if not line.startswith(starts)] == []
    step = read_metrics(tmp_path / "run")[-1]["step"]
    state = json.loads((tmp_path / "run" / "checkpoints" / "latest" / "state.json").read_text())
    assert state["step"] == step


def interrupt_after(monkeypatch, step, times=1, stop=signal.SIGINT):
    """Ctrl-C, or another stop, as soon as `step` is shown."""
    show = PlainDisplay.show

    def interrupting(self, at, metrics):
        show(self, at, metrics)
        if at == step:
            for _ in range(times):
                os.kill(os.getpid(), stop)

    monkeypatch.setattr(PlainDisplay, "show", interrupting)
