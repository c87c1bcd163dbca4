"""docs/estimators.md names every estimator and loss, its recipe lines are taken, and its table is the script's."""

import re
import tomllib

import pytest

from documents import ROOT, blocks
from file_modules import module_of
from made_up import new_episode, new_turn
from spiral.core.storage import read_episodes
from spiral.runs.recipe import validate_recipe
from spiral.training.advantages import ESTIMATORS, GROUP_ESTIMATORS
from spiral.training.settings import BUILTIN_LOSSES, NLL

PAGE = "docs/estimators.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")


def script():
    """The module experiments/estimators/table.py."""
    return module_of(ROOT / "experiments" / "estimators" / "table.py")


def rows(title):
    """(first cell, settings) of each row of the table under a heading."""
    lines = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")][1:]
    return [(first, tomllib.loads("\n".join(re.findall(r"`([^`]+)`", last)))) for first, *_, last in cells]


def test_every_estimator_and_loss_is_in_its_table():
    assert [settings["estimator"] for _, settings in rows("Estimators")] == list(ESTIMATORS)
    assert list(dict.fromkeys(settings["kind"] for _, settings in rows("Losses"))) == list(BUILTIN_LOSSES)
    for name, settings in rows("Estimators"):
        file = re.fullmatch(r"\[(\S+)\]\(\.\./(src/spiral/training/advantages/\w+\.py)\)", name)
        assert file.group(1) == settings["estimator"]
        assert (ROOT / file.group(2)).is_file()


@pytest.mark.parametrize("title", ["Estimators", "Losses", "Regularisers"])
def test_recipes_take_the_lines_of_the_tables(title):
    for _, settings in rows(title):
        section = "credit" if title == "Estimators" else "loss"
        values = {"model": {"path": "nano"}, "selfplay": {"games": {"tictactoe": 1.0}}, section: settings}
        if settings.get("estimator") in GROUP_ESTIMATORS:
            values["selfplay"]["attempts"] = 2
        recipe = validate_recipe(values, PAGE)
        assert settings == {key: getattr(getattr(recipe, section), key) for key in settings}
        defaults = validate_recipe({"model": {"path": "nano"}, "selfplay": {"games": {"tictactoe": 1.0}}}, PAGE)
        if title == "Estimators" and "value_epochs" in settings:
            assert defaults.credit.value_epochs == settings["value_epochs"]
            assert defaults.credit.value_learning_rate == settings["value_learning_rate"]
    assert NLL == "nll"


def test_the_table_of_one_record_is_what_the_script_prints():
    ((_, shown),) = blocks(PAGE, "text")
    module = script()
    assert shown == module.table(read_episodes(module.STEP)) + "\n"
    assert [line.split()[0] for line in shown.splitlines()] == ["estimator", *ESTIMATORS]


def test_a_record_without_attempts_has_a_table_too():
    lines = script().table([new_episode((1.0, -1.0), [new_turn(0), new_turn(1)])]).splitlines()
    assert lines[1].split() == ["rae", "0.000", "1.000", "1.000", "-1.000", "0.0%"]
    grouped = [line.split()[0] for line in lines if line.endswith("compares attempts at one deal, and there are none")]
    assert grouped == list(GROUP_ESTIMATORS)
