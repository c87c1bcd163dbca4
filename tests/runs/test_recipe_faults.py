"""Every error in a configuration: exit status 2 and one line that names the setting."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import refused, spiral
from spiral.cli.train_help import sections
from spiral.runs.recipe import load_recipe, recipe_files, validate_recipe

NANO = next(file for file in recipe_files() if file.stem == "nano").read_text()
WRONG = {
    int: ["many", 1.5, True, [], {}, -1],
    float: ["much", True, [], {}, float("nan"), float("inf"), -1.0],
    bool: [1, "yes", 0.0, []],
    str: [1, True, 2.5, [], {}],
    Literal: ["no such choice", 1, True, []],
    list: ["one", [1], {}, 3],
    dict: ["one", [], 3, {"tictactoe": "x"}, {"tictactoe": -1}],
}
"""Values of the wrong type or out of range for a field of each type; no number of ours may be negative."""


WRONG_ITEMS = {int: ["one", ["one"], [1.5], [-1], {}, 3]}
"""Values that are wrong for a list of the type, where it is not one of strings."""


def wrong_values(annotation):
    """Values that are wrong for a field."""
    kind = kind_of(annotation)
    items = [get_args(item)[0] if get_origin(item) is Annotated else item for item in get_args(annotation)]
    return WRONG_ITEMS.get(items[0], WRONG[list]) if kind is list else WRONG[kind]


def kind_of(annotation):
    """The type of a field, without its parameters and without the None of one that may be left out."""
    if NoneType in get_args(annotation):
        annotation = get_args(annotation)[0]
    return get_origin(annotation) or annotation


WRONG_SETTINGS = [
    pytest.param(name, field, value, id=f"{name}.{field}-{number}")
    for name, section in sections().items()
    for field, info in section.model_fields.items()
    for number, value in enumerate(wrong_values(info.annotation))
]


@pytest.mark.parametrize("file", recipe_files(), ids=lambda file: file.stem)
def test_every_recipe_loads(file):
    recipe = load_recipe(file.stem)
    assert recipe.summary
    assert recipe.selfplay.games
    assert validate_recipe(recipe.model_dump(), "again") == recipe


def test_there_are_many_wrong_settings():
    assert len(WRONG_SETTINGS) >= 200


@pytest.mark.parametrize(("section", "field", "value"), WRONG_SETTINGS)
def test_wrong_values_are_refused(section, field, value, tmp_path):
    file = tmp_path / "wrong.toml"
    values = {field: value}
    for name in reversed(section.split(".")):
        values = {name: values}
    file.write_text(tomli_w.dumps(values))
    line = refused("train", str(file), "--dry-run")
    assert line.startswith(f"{file}: ")
    assert f"{section}.{field}" in line
    assert len(line) < len(str(file)) + 400


@pytest.mark.parametrize("section", sections())
def test_misspelt_keys_are_refused_with_the_right_one(section):
    for field in sections()[section].model_fields:
        line = refused("train", "nano", "--dry-run", "--set", f"{section}.{field}x=1")
        assert f"unknown key '{section}.{field}x'; did you mean '{field}'?" in line


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lerner.epochs=1", "unknown key 'lerner'; did you mean 'learner'?"),
        ("learner.epochs", "expected section.key=value"),
        ("epochs=3", "expected section.key=value"),
        ("=", "expected section.key=value"),
        ("learner.=1", "expected section.key=value"),
        ("summary.x=1", "'summary' is not a section"),
        ("learner.epochs=", "learner.epochs: got ''"),
        ("learner.epochs=0", "greater than or equal to 1"),
        ("learner.epochs=3\nminibatches=2", "learner.epochs: got '3\\nminibatches=2'"),
        ("learner.epochs=" + "[" * 5000, "learner.epochs: got '[[["),
        ("learner.epochs=" + "9" * 5000, "learner.epochs: got '999"),
        ("learner.epochs.more=1", "unknown key 'learner.epochs.more'"),
        ("sampling.top_p=0", "greater than 0"),
        ("credit.decay=1.0", "expected a number with 0 <= decay < 1"),
        ("credit.options=decay=much", "got decay 'much'"),
        ("credit.options={dekay=0.9}", "'rae' has no option 'dekay'; did you mean 'decay'?"),
        ("prompt.history_thoughts=keep", "prompt.history is 'observation', which has no earlier replies; set prompt."),
        ("prompt.history=chat", "evaluation.exploitability has 'kuhn_poker' and prompt.history is 'chat', with which"),
        ("loss.kind=ppp", "loss.kind: there is no 'ppp' among the losses; did you mean 'ppo'?"),
        (
            "loss.options={beta=1.0}",
            "the loss 'ppo' has no options, and loss.options is {'beta': 1.0}; see loss.clip_low",
        ),
        ("loss.kind=math:pi", "'math:pi' is a float; expected a class or function"),
        ("selfplay.games={}", "selfplay.games"),
        ("selfplay.games={tictactoe=0}", "expected some above zero"),
        ("selfplay.games={tictactoe=1, kuhn_poker=-1}", "expected some above zero"),
        ("selfplay.games={chess=1}", "there is no game 'chess'"),
        ("selfplay.games={'kuhn_poker(hands=0)'=1}", "hands"),
        ("selfplay.games={'kuhn_poker(hand=1)'=1}", "no parameter 'hand'"),
        ("selfplay.opening_plies={connect_four=2}", "expected games of selfplay.games"),
        ("credit.estimator=rea", "credit.estimator: there is no 'rea'"),
        ("credit.estimator=nowhere:at_all", "cannot be imported"),
        ("credit.estimator=.json:loads", "cannot be imported"),
        ("credit.estimator=json:__doc__", "expected a class or function"),
        ("run.guard_options=x", "run.guard_options: got 'x'; expected a table of tables, such as {"),
        ("run.tracker_options=tensorboard, x=3", "run.tracker_options: got 'tensorboard, x=3'; expected a table of"),
        (
            "run.guard_options={collapse=1}",
            "run.guard_options.collapse: got 1; input should be a valid dictionary, such",
        ),
        ("credit.options=[1]", "input should be a valid dictionary, such as {NAME = 3}"),
        ("run.trackers=tensorboard", """such as ["tensorboard"] (in a shell, --set 'run.trackers=["tensorboard"]')"""),
        ("run.trackers=", "input should be a valid list, such as [] (in a shell"),
        ("run.guards=3", 'run.guards: got 3; input should be a valid list, such as ["NAME", "OTHER"]'),
        ("evaluation.games=kuhn_poker,tictactoe", 'such as ["kuhn_poker", "tictactoe"] (in a shell'),
        ("evaluation.games=kuhn_poker(hands=2), 'go'", 'such as ["kuhn_poker(hands=2)", "go"] (in a shell'),
        ("evaluation.games=['go']", "there is no game 'go'"),
        ("evaluation.opponents=['./rando']", "evaluation.opponents: there is no model"),
        (
            "benchmark.shots_data={mmlu_pro='x'}",
            "benchmark.shots_data: got worked examples for mmlu_pro, but no number",
        ),
        ("evaluation.episodes=7", "even number"),
        ("evaluation.episodes_between=7", "even number"),
        ("evaluation.exploitability=['connect_four']", "exact theory does not cover"),
        ("evaluation.exploitability=['simple_negotiation']", "exact theory does not cover"),
    ],
)
def test_wrong_settings_on_the_command_line(setting, words):
    arguments = ["--set", "selfplay.opening_plies={}"] if "opening" not in setting else []
    assert words in refused("train", "nano", "--dry-run", *arguments, "--set", setting)


def test_worked_examples_that_no_task_would_use():
    for values, words in (
        (("tasks={aime24=''}", "shots=5"), "got 5 shots, but there are no worked examples for aime24"),
        (
            ("tasks={mmlu_pro=''}", "shots=5", "shots_data={aime24='x'}"),
            "got worked examples for aime24, which is not among the tasks",
        ),
    ):
        arguments = [part for setting in values for part in ("--set", f"benchmark.{setting}")]
        assert f"benchmark.shots_data: {words}" in refused("train", "nano", "--dry-run", *arguments)


def test_an_estimator_whose_module_is_broken(monkeypatch, tmp_path):
    (tmp_path / "broken_module_of_mine.py").write_text("def estimate(:")
    monkeypatch.syspath_prepend(tmp_path)
    setting = "credit.estimator=broken_module_of_mine:estimate"
    assert "cannot be imported: SyntaxError" in refused("train", "nano", "--dry-run", "--set", setting)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("./nowhere", "there is no model './nowhere'"),
        ("/tmp/no/such/model", "there is no model"),
        ("a b", "there is no model 'a b'"),
        ("nosuch", "the Hugging Face hub cannot be reached"),
        ("endpoint:gpt", "endpoint"),
        ("", "is not a model"),
    ],
)
def test_models_that_are_not_there(model, words, monkeypatch, tmp_path):
    monkeypatch.setattr("spiral.models.hub.hub_answers", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert words in refused("train", "nano", "--model", model, "--dry-run")
    assert words in refused("train", "nano", "--model", model)
    assert words in refused("evaluate", model, "--game", "tictactoe", "--opponent", "random")
    assert words in refused("evaluate", "random", "--game", "tictactoe", "--opponent", model)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "directory.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.toml").write_text("x = " + "[" * 5000)
    for name in ("directory", "binary", "deep"):
        assert f"{name}.toml" in refused("train", str(tmp_path / f"{name}.toml"))


@pytest.mark.slow
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, len(NANO)), insert=st.text(max_size=4))
def test_a_recipe_torn_anywhere_loads_or_is_refused(cut, insert, tmp_path):
    file = tmp_path / "torn.toml"
    file.write_text(NANO[:cut] + insert, encoding="utf-8")
    assert_loads_or_refuses("train", str(file), "--dry-run")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    key=st.sampled_from(["learner.epochs", "run.seed", "selfplay.games", "loss.kind", "x.y", "summary"]),
    value=st.text(max_size=8) | st.sampled_from(["nan", "-1", "1e400", "{a=1}", "[1", "'x", "2020-01-01", "0x1F"]),
)
def test_any_setting_loads_or_is_refused(key, value):
    assert_loads_or_refuses("train", "nano", "--dry-run", "--set", f"{key}={value}")


def assert_loads_or_refuses(*arguments):
    """Status 0 with the recipe on standard output, or status 2 with one line on standard error."""
    result = spiral(*arguments)
    if result.status == 0:
        assert (result.err, "[learner]" in result.out) == ("", True)
    else:
        assert (result.status, result.out, len(result.err.splitlines())) == (2, "", 1), result
