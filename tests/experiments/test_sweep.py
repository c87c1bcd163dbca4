"""Reading `sweep.toml`, and the jobs and keys that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from spiral.cli.experiment import check_command
from spiral.experiments.experiment import load_experiment
from spiral.experiments.sweep import load_sweep, seeds_of

SWEEP = """
summary = "Specialists, head to head"
source = "v3, table 4"

[models]
base = { full = "Qwen/Qwen3-4B-Base", laptop = "nano" }

[arms.kuhn]
full = "train kuhn-qwen3-4b"
laptop = "train nano --steps 2"
gpu_hours = 200
hours_from = "v3: 25 hours on 8 H100"

[arms.further]
laptop = "train nano --steps 3 --model {kuhn}"

[evaluations.random]
each = ["base", "kuhn", "kuhn@2"]
full = "evaluate {each} --game tictactoe --opponent random"
laptop = "evaluate {each} --game tictactoe --opponent random --episodes 20"
gpu_hours = 0.5
hours_from = "estimate"

[evaluations.seeds]
laptop = "tournament {kuhn*} --game tictactoe"
"""


def write(folder: Path, text: str = SWEEP) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    (folder / "table.py").touch()
    return folder


def load(folder: Path, scale="laptop", seeds=None, root=Path("runs")):
    return load_experiment(folder, scale, seeds, root, check_command)


def test_every_command_is_what_a_user_would_type(tmp_path):
    kuhn, further, base, run, snapshot, seeds = load(write(tmp_path)).jobs
    path = f"runs/train-nano-14-{kuhn.key}/run"
    assert kuhn.command == f"spiral train nano --steps 2 --run-dir {path} --seed 14 --resume --json"
    assert further.words[:6] == ("train", "nano", "--steps", "3", "--model", path)
    assert base.command == "spiral evaluate nano --game tictactoe --opponent random --episodes 20 --json"
    assert (run.words[1], snapshot.words[1]) == (path, f"{path}@2")
    assert [one.needs for one in (kuhn, further, base, run)] == [(), (kuhn.key,), (), (kuhn.key,)]
    assert seeds.words == ("tournament", path, "--game", "tictactoe", "--json")


def test_seeds(tmp_path):
    assert seeds_of(5) == (14, 42, 100, 101, 102)
    jobs = load(write(tmp_path), seeds=2).jobs
    runs = [one for one in jobs if one.job.name == "kuhn"]
    assert [one.words[-3] for one in runs] == ["14", "42"]
    bases = {one.key for one in jobs if one.job.item == "base"}
    (together,) = {one.words[1] for one in jobs if one.job.name == "seeds"}
    assert len(bases) == 1  # the same with every seed
    assert together == ",".join(str(one.output) for one in runs)


def test_full_scale_leaves_out_what_only_a_laptop_runs(tmp_path):
    jobs = load(write(tmp_path), "full").jobs
    assert [one.job.label for one in jobs] == ["kuhn", "random, base", "random, kuhn", "random, kuhn@2"]
    assert [one.job.gpu_hours for one in jobs] == [200, 0.5, 0.5, 0.5]


def test_entries_that_a_scale_has_not_are_left_out(tmp_path):
    jobs = load(write(tmp_path, SWEEP.replace('"base", "kuhn",', '"base", "further", "kuhn",')), "full").jobs
    assert [one.job.item for one in jobs] == ["", "base", "kuhn", "kuhn@2"]


def test_the_key_says_what_is_computed_and_nothing_else(tmp_path):
    first = load(write(tmp_path / "a")).jobs
    renamed = load(write(tmp_path / "b", SWEEP.replace("kuhn", "other").replace("other-qwen", "kuhn-qwen")), "laptop")
    elsewhere = load(tmp_path / "a", root=tmp_path / "elsewhere")
    longer = load(write(tmp_path / "c", SWEEP.replace("--steps 2", "--steps 4")))
    keys = [one.key for one in first]
    assert len(set(keys)) == 6
    assert [one.key for one in renamed.jobs] == keys
    assert [one.key for one in elsewhere.jobs] == keys
    same = [one.key == key for one, key in zip(longer.jobs, keys, strict=True)]
    assert same == [False, False, True, False, False, False]  # what was made from the run changes with it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('summary = "Specialists, head to head"', ""), "summary"),
        (("[arms.kuhn]", "[arms.each]"), "the name 'each' is not possible"),
        (("[arms.further]", "[arms.base]"), "the name 'base' stands for two things"),
        (("gpu_hours = 200\nhours_from", "gpu_hours = 200\n#"), "needs gpu_hours and hours_from"),
        (("train nano --steps 2", "evaluate nano"), "got the command 'evaluate'; expected one of train, sft"),
        (("train nano --steps 2", "train 'nano"), "cannot read the command"),
        (("{kuhn*}", "{kun}"), "{kun} stands for nothing; known: base, kuhn, further, random, seeds"),
        (('tictactoe --opponent random"', 'tictactoe --opponent {further}"'), "{further} is left out at this scale"),
        (('each = ["base", "kuhn", "kuhn@2"]', ""), "`each` and {each} need each other"),
        (("--steps 2", "--steps 2 --model {further}"), "these commands need each other: "),
        (("--steps 2", "--step 2"), "kuhn: No such option: --step"),
        (("--steps 2", "--set learner.epoch=2"), "did you mean 'epochs'?"),
        (("--episodes 20", "--episode 20"), "random, base: No such option: --episode"),
        (("seeds", "seeds]"), "cannot read"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, change, message):
    assert change[0] in SWEEP
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is checked)
        load(write(tmp_path, SWEEP.replace(*change)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(ValueError, match=r"is not an experiment: it has no sweep\.toml"):
        load_sweep(tmp_path)
    with pytest.raises(ValueError, match="there is nothing to run at the scale 'full'"):
        load(write(tmp_path, 'summary = "s"\nsource = "v3"\n'), "full")


def test_the_documents_experiment_loads(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    sweep, table = text.split("```toml\n")[1].split("```")[0], text.split("```python\n")[1].split("```")[0]
    folder = write(tmp_path, sweep)
    (folder / "table.py").write_text(table, encoding="utf-8")
    experiment = load(folder, "full")
    assert [(one.job.label, one.job.seed) for one in experiment.jobs][:3] == [
        ("kuhn", 14),
        ("kuhn", 42),
        ("games, base", 14),
    ]
    (found,), files = experiment.make_tables()
    assert [(entry.row, entry.value) for entry in found.entries] == [("base", None), ("kuhn", None)]
    assert [file.name for file in files] == ["wins.csv", "wins.md"]
