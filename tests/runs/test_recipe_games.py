"""Changing what a recipe plays from the command line, and numbers and names that no run can mean."""

from __future__ import annotations

import pytest

from commands import refused
from spiral.runs.recipe import load_recipe


@pytest.mark.parametrize(
    ("setting", "games", "plies", "evaluated", "exact"),
    [
        ("selfplay.games={kuhn_poker=1}", {"kuhn_poker": 1}, {}, ["kuhn_poker"], ["kuhn_poker"]),
        ("selfplay.games=kuhn_poker", {"kuhn_poker": 1}, {}, ["kuhn_poker"], ["kuhn_poker"]),
        ("selfplay.games={tictactoe=2}", {"tictactoe": 2}, {"tictactoe": 4}, ["tictactoe"], []),
        ("selfplay.games=connect_four", {"connect_four": 1}, {}, ["connect_four"], []),
        (
            "selfplay.games=leduc_poker=1, tictactoe=0.5",
            {"leduc_poker": 1, "tictactoe": 0.5},
            {"tictactoe": 4},
            ["tictactoe", "leduc_poker"],
            [],
        ),
        (
            "selfplay.games=kuhn_poker(hands=1)=3, simple_negotiation",
            {"kuhn_poker(hands=1)": 3, "simple_negotiation": 1},
            {},
            ["kuhn_poker(hands=1)", "simple_negotiation"],
            [],
        ),
    ],
)
def test_the_rest_of_a_recipe_follows_its_games(setting, games, plies, evaluated, exact):
    recipe = load_recipe("nano", [setting])
    assert recipe.selfplay.games == games
    assert recipe.selfplay.opening_plies == plies
    assert recipe.evaluation.games == evaluated
    assert recipe.evaluation.exploitability == exact


def test_what_the_user_set_as_well_stays():
    own = ["evaluation.games=['tictactoe']", "evaluation.exploitability=[]", "selfplay.games=kuhn_poker"]
    for overrides in (own, own[::-1]):
        recipe = load_recipe("nano", overrides)
        assert (recipe.evaluation.games, recipe.evaluation.exploitability) == (["tictactoe"], [])
    with pytest.raises(ValueError, match=r"selfplay\.opening_plies got tictactoe = 3; expected games of selfplay"):
        load_recipe("nano", ["selfplay.games=kuhn_poker", "selfplay.opening_plies=tictactoe=3"])
    assert load_recipe("nano", ["selfplay.opening_plies=kuhn_poker=1"]).selfplay.opening_plies == {"kuhn_poker": 1}
    assert load_recipe("nano", ["run.steps=3"]).evaluation.games == ["tictactoe", "kuhn_poker"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "selfplay.games={connect_for=1}",
            "selfplay.games: there is no game 'connect_for'; did you mean 'connect_four'?",
        ),
        ("selfplay.games=tictacto", "did you mean 'tictactoe'?"),
        ("selfplay.games={kuhn_pocker=1, tictactoe=1}", "did you mean 'kuhn_poker'?"),
        (
            "evaluation.games=['leduc_pokr']",
            "evaluation.games: there is no game 'leduc_pokr'; did you mean 'leduc_poker'?",
        ),
        ("selfplay.opening_plies={tictactoo=2}", "did you mean 'tictactoe'?"),
        ("selfplay.opponents={mirror=3, mnimax=1}", "did you mean 'minimax'?"),
        ("selfplay.opponents=miror", "did you mean 'mirror'?"),
        ("selfplay.opponents=mirror,randm=2", "did you mean 'random'?"),
        ("evaluation.opponents=['equilibrum']", "did you mean 'equilibrium'?"),
        ("model.path=nanoo", "did you mean 'nano'?"),
        ("selfplay.games={openspiel/liars_dice=1}", "a name that holds / : or ( needs quotes"),
        ("selfplay.opponents={mirror=3, r1/checkpoints/step-000015=1}", "a name that holds / : or ( needs quotes"),
        ("selfplay.opponents={endpoint:local=1}", "a name that holds / : or ( needs quotes"),
        ("selfplay.games={kuhn_poker(hands=1)=1}", "a name that holds / : or ( needs quotes"),
        ("evaluation.games=[tictactoe]", 'as does any text in a list: evaluation.games=["tictactoe"]'),
        ("selfplay.games=tictactoe=much", "got 'tictactoe=much'; expected NAME=NUMBER"),
        ("selfplay.opening_plies=tictactoe=1.5", "expected NAME=NUMBER"),
    ],
)
def test_errors_name_what_was_meant(setting, words, monkeypatch):
    monkeypatch.setattr("spiral.models.hub.hub_answers", lambda: False)
    assert words in refused("train", "nano", "--dry-run", "--set", setting)


def test_a_file_with_a_bare_key_that_needs_quotes(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[selfplay]\ngames = { openspiel/liars_dice = 1 }\n")
    assert "is not valid TOML: " in (line := refused("train", str(file)))
    assert line.endswith("; a name that holds / : or ( needs quotes")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (f"selfplay.episodes_per_step={'9' * 400}", "expected an integer of at most 1,000,000,000"),
        (f"sampling.max_new_tokens={'9' * 400}", "expected an integer of at most 1,000,000,000"),
        (f"cluster.rollout_workers={'9' * 400}", "expected an integer of at most 1,000,000,000"),
        (f"selfplay.opening_plies={{tictactoe={'9' * 400}}}", "expected an integer of at most 1,000,000,000"),
        (f"run.seed={'9' * 400}", "expected an integer of at most 9,223,372,036,854,775,807"),
        (f"learner.epochs={'9' * 5000}", "got '999"),
        ("run.steps=1000000001", "expected an integer of at most 1,000,000,000"),
        ("selfplay.episodes_per_step=1000001", "less than or equal to 1000000"),
        ("evaluation.episodes=10000000", "less than or equal to 1000000"),
        ("cluster.rollout_workers=100000", "less than or equal to 4096"),
        ("selfplay.games={tictactoe=1e-320}", "expected 0 or a number from 1e-30 to 1e+30"),
        ("selfplay.games={tictactoe=1e308, kuhn_poker=1e308}", "expected 0 or a number from 1e-30 to 1e+30"),
        ("selfplay.opponents={mirror=1e-320}", "expected 0 or a number from 1e-30 to 1e+30"),
        ("selfplay.opponents=random=1e308", "expected 0 or a number from 1e-30 to 1e+30"),
        ("selfplay.games={tictactoe=inf}", "expected 0 or a number from 1e-30 to 1e+30"),
        ("learner.learning_rate=1e-300", "expected 0 or a number from 1e-30 to 1e+30"),
        ("loss.kl_coefficient=1e200", "expected 0 or a number from 1e-30 to 1e+30"),
        (f"selfplay.games={{{'a' * 5000}=1}}", "got game 'aaaaaaa"),
        (f"selfplay.games=kuhn_poker(hands={'-' * 20000}1)", "hands"),
        (f"model.path={'x' * 5000}", "there is no"),
        (f"{'k' * 5000}.x=1", "unknown key"),
        (f"learner.{'k' * 5000}=1", "unknown key"),
    ],
)
def test_what_is_out_of_all_proportion_is_refused_in_a_short_line(setting, words, monkeypatch):
    monkeypatch.setattr("spiral.models.hub.hub_answers", lambda: False)
    line = refused("train", "nano", "--dry-run", "--set", setting)
    assert words in line
    assert len(line) < 1600


def test_a_recipe_of_nothing_but_faults_is_one_short_line(tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text("\n".join(f"key_{number} = 1" for number in range(50_000)))
    line = refused("train", str(file))
    assert line.endswith("; and 49,997 more faults")
    assert len(line) < 1500


def test_numbers_at_the_bounds_are_taken():
    settings = ["run.seed=9223372036854775807", "selfplay.episodes_per_step=1000000", "learner.learning_rate=1e-30"]
    recipe = load_recipe("nano", [*settings, "selfplay.games={tictactoe=1e30, kuhn_poker=1e-30}"])
    assert (recipe.run.seed, recipe.selfplay.episodes_per_step) == (2**63 - 1, 1_000_000)
    assert sum(recipe.selfplay.games.values()) < float("inf")


def test_a_name_given_twice_is_refused():
    line = refused("train", "nano", "--dry-run", "--set", "selfplay.games=tictactoe=1,tictactoe=2")
    assert line == "selfplay.games: got 'tictactoe' twice; expected every name once"


@pytest.mark.parametrize("option", ["--run-dir", "--out"])
def test_an_empty_path_is_not_the_current_directory(option):
    command = ["train", "nano"] if option == "--run-dir" else ["evaluate", "random", "--game", "tictactoe"]
    assert "got an empty path; expected one such as '.'" in refused(*command, option, "")


def test_a_file_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('summary = "with a mark"', encoding="utf-8-sig")
    assert load_recipe(str(file)).summary == "with a mark"
