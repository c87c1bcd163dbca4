"""The rules of guards: what turns each of them, from made rows, and that a healthy run turns none."""

from __future__ import annotations

import re

import pytest

from spiral.core.metrics import Matchup
from spiral.runs.guards import Guards, GuardWatch
from spiral.runs.recipe import load_recipe
from spiral.runs.rules import RULES

GAME = Matchup(game="tictactoe")
RANDOM = Matchup(game="tictactoe", opponent="random")
FINE = {
    GAME.key("games"): 64.0,
    GAME.key("draw"): 0.2,
    "learner/grad_norm": 0.5,
    RANDOM.evaluation_key("win"): 0.8,
    RANDOM.evaluation_key("draw"): 0.1,
    **{
        GAME.key(name, player): value
        for player in (0, 1)
        for name, value in {
            "return": 0.0,
            "win": 0.4,
            "illegal": 0.01,
            "response_length": 40.0,
            "thinking_empty": 0.05,
            "entropy": 0.5,
            "thought_information": 0.2,
            "zero_advantage": 0.1,
        }.items()
    },
}


def findings(name, then, now, steps=20, **options):
    rows = [{"step": float(step), **(then if step <= 10 else now)} for step in range(1, steps + 1)]
    return list(RULES[name](**options)(rows, [GAME]))


def changed(**values):
    """The fine row with other numbers of player 1."""
    return FINE | {GAME.key(name, 1): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("name", "now", "level", "reading"),
    [
        (
            "illegal",
            changed(illegal=0.12),
            "warning",
            "illegal moves, player 1 of tictactoe: 12.0% .* \\(1.0% at best",
        ),
        ("illegal", changed(illegal=0.5), "collapsed", "50.0% of its moves are illegal"),
        ("illegal", changed(illegal=0.03), None, ""),
        ("length", changed(response_length=200.0), "warning", "200 tokens a reply \\(40 at first\\)"),
        ("length", changed(response_length=3.0), "collapsed", "3 tokens a reply"),
        ("thoughts", changed(thinking_empty=0.4), "warning", "40% of its thoughts are empty \\(5% at first\\)"),
        ("thoughts", changed(thinking_empty=0.9), "collapsed", "90% of its thoughts"),
        ("entropy", changed(entropy=0.08), "warning", "0.08 nats a token \\(0.5 at first\\)"),
        ("entropy", changed(entropy=3.0), None, ""),
        ("entropy", changed(entropy=0.0), "collapsed", "0 nats a token"),
        ("entropy_rise", changed(entropy=0.8), "warning", "0.8 nats a token \\(0.5 at the lowest\\)"),
        ("entropy_rise", changed(entropy=3.0), "collapsed", "rising entropy, player 1 of tictactoe: 3 nats"),
        ("entropy_rise", changed(entropy=0.0), None, ""),
        ("seats", changed(win=0.0) | {GAME.key("draw"): 0.0}, "collapsed", "it loses 100.0% of its games"),
        ("seats", changed(win=0.94) | {GAME.key("draw"): 0.0}, "warning", "it wins 94.0% of its games \\(it won 40.0%"),
        ("seats", changed(win=0.0) | {GAME.key("draw"): 0.9}, None, ""),
        ("advantages", changed(zero_advantage=0.9), "warning", "90% of its turns have no advantage"),
        ("advantages", changed(zero_advantage=1.0), "collapsed", "100% of its turns"),
        ("template", changed(thought_information=0.08), "warning", "0.08 nats a token about the prompt \\(0.2 at"),
        ("template", changed(thought_information=-0.001), "collapsed", "-0.001 nats a token"),
        ("gradient", FINE | {"learner/grad_norm": 2.5}, "warning", "gradient norm, the run: 2.5 in the middle"),
        ("gradient", FINE | {"learner/grad_norm": 0.0}, "collapsed", "0 in the middle"),
        (
            "anchor",
            FINE | {RANDOM.evaluation_key("win"): 0.65},
            "warning",
            "anchor, tictactoe: it scores 70.0% against",
        ),
        (
            "anchor",
            FINE | {RANDOM.evaluation_key("win"): 0.0},
            "collapsed",
            "5.0% against random \\(at best 85.0%\\), and",
        ),
    ],
)
def test_what_turns_a_rule(name, now, level, reading):
    assert findings(name, FINE, FINE) == []
    found = findings(name, FINE, now)
    assert [finding.level for finding in found] == ([level] if level else [])
    if level:
        assert re.search(reading, found[0].message)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_nothing_of_few_steps_games_or_numbers(name):
    worst = changed(illegal=1.0, entropy=0.0, win=0.0, thinking_empty=1.0) | {"learner/grad_norm": 1e6}
    assert findings(name, FINE, worst, steps=0) == []
    assert findings(name, FINE, FINE, steps=4) == []
    assert findings(name, {}, {}) == []
    if name not in ("gradient", "anchor"):
        few = {GAME.key("games"): 10.0}
        assert findings(name, FINE | few, worst | few) == []


@pytest.mark.parametrize(("name", "metric"), [("illegal", "illegal"), ("entropy_rise", "entropy")])
def test_a_rise_is_measured_from_the_lowest_and_not_from_the_first_steps(name, metric):
    """A model that began badly and has learned better may lose that again."""
    fell = [changed(**{metric: value}) for value in [0.4] * 6 + [0.1] * 6]
    rows = [{"step": float(step), **row} for step, row in enumerate([*fell, *[changed(**{metric: 0.25})] * 6], 1)]
    assert list(RULES[name]()(rows[:12], [GAME])) == []
    assert [finding.level for finding in RULES[name]()(rows, [GAME])] == ["warning"]


def test_a_rise_from_next_to_nothing_is_none():
    assert findings("entropy_rise", changed(entropy=0.05), changed(entropy=0.19)) == []
    assert len(findings("entropy_rise", changed(entropy=0.05), changed(entropy=0.21))) == 1
    assert findings("entropy_rise", changed(entropy=0.05), changed(entropy=0.21), min_rise=0.2) == []


def test_one_large_gradient_is_no_finding():
    rows = [FINE] * 19 + [FINE | {"learner/grad_norm": 1e6}]
    assert list(RULES["gradient"]()(rows, [GAME])) == []


def test_thoughts_that_told_nothing_at_first_cannot_collapse():
    nothing = {GAME.key("thought_information", 1): 0.001}
    assert findings("template", FINE | nothing, FINE | {GAME.key("thought_information", 1): 0.0}) == []
    assert len(findings("template", FINE | nothing, changed(thought_information=0.0), min_information=0.0)) == 1


def test_a_few_thoughts_among_many_replies_are_no_template():
    rare = {GAME.key("thinking_empty", 1): 0.9}
    assert findings("template", FINE | rare, changed(thought_information=0.0) | rare) == []
    often = {GAME.key("thinking_empty", 1): 0.4}
    assert len(findings("template", FINE | often, changed(thought_information=0.0) | often)) == 1


def test_thresholds_are_options_and_states_are_metrics():
    assert findings("entropy", FINE, changed(entropy=0.2)) == []
    assert [found.level for found in findings("entropy", FINE, changed(entropy=0.2), warn=0.5)] == ["warning"]
    recipe = load_recipe("nano", ["run.guards=['illegal', 'seats']", "run.guard_options={illegal = {limit = 0.1}}"])
    watch = GuardWatch(Guards.from_names(recipe.run.guards, recipe.run.guard_options), [GAME])
    states = [watch(step, FINE if step <= 10 else changed(illegal=0.4)) for step in range(1, 21)]
    assert states[9] == {"guard/illegal": 0.0, "guard/seats": 0.0}
    assert [state["guard/illegal"] for state in states[10:]][-1] == 2.0
    assert {state["guard/seats"] for state in states} == {0.0}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("seats", {"limit": -1}, "limit is -1; expected a number from 0"),
        ("seats", {"warn": float("nan")}, "warn is nan; expected a number from 0"),
        ("seats", {"warn": 0.99}, "warn is 0.99 and limit 0.97; expected a warn of at most the limit, so set both"),
        ("entropy", {"warn": 0.01}, "warn is 0.01 and limit 0.05; expected a warn of at least the limit, so set both"),
        ("entropy_rise", {"min_rise": "x"}, "min_rise is 'x'; expected a number from 0"),
        ("template", {"min_information": -1}, "min_information is -1; expected a number from 0"),
        ("anchor", {"opponent": 3}, "opponent is 3; expected the name of one of evaluation.opponents"),
    ],
)
def test_options_that_no_rule_can_have(name, options, words):
    with pytest.raises(ValueError, match=f"guard '{name}' cannot be made: ") as refused:
        Guards.from_names([name], {name: options})
    assert words in str(refused.value)


def test_an_anchor_needs_results_to_compare():
    def refused(*settings):
        with pytest.raises(ValueError, match=r"run\.guards: the guard 'anchor'") as error:
            load_recipe("nano", ["run.guards=['anchor']", *settings])
        return str(error.value)

    assert "and evaluation.opponents has minimax; add it there" in refused("evaluation.opponents=['minimax']")
    assert "looks at games against 'equilibrium'" in refused("run.guard_options={anchor = {opponent = 'equilibrium'}}")
    assert "set evaluation.every" in refused("evaluation.every=0")
    assert "set evaluation.games" in refused("evaluation.games=[]")
    load_recipe("nano", ["run.guards=['anchor']", "run.guard_options={anchor = {opponent = 'minimax'}}"])
