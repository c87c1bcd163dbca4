"""The recipes of a league's agents, when an exploiter is frozen, and what has no league."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spiral.core.locks import LockLostError
from spiral.launch.exploiter import WINDOW, WinRate
from spiral.launch.league import League, LeagueOptions
from spiral.runs.league import exploiter_result, read_league
from spiral.runs.lock import hold_run
from spiral.runs.recipe import load_recipe

OPTIONS = LeagueOptions(exploiter_steps=5, share=0.2)


def league(*settings, options=OPTIONS, recipe="league-nano"):
    return League(load_recipe(recipe, settings), Path("runs/league"), options)


def with_exploiters(made, count):
    made.main = [{"model": f"runs/league/main@{32 * (at + 1)}"} for at in range(count + 1)]
    made.exploiters = [
        {"name": f"exploiter-{at:03d}", "model": f"runs/league/exploiter-{at:03d}@5"} for at in range(1, count + 1)
    ]
    return made


def test_the_main_agent_begins_by_its_recipe_alone():
    made = league()
    assert made.main_recipe() == made.recipe


def test_exploiters_join_the_opponents_of_the_main_agent():
    made = with_exploiters(league("selfplay.opponents={mirror=3, past=1}", "evaluation.games=[]"), 2)
    recipe = made.main_recipe()
    names = ["exploiter-001", "exploiter-002"]
    assert recipe.selfplay.opponents == pytest.approx({"mirror": 0.6, "past": 0.2} | dict.fromkeys(names, 0.1))
    assert recipe.selfplay.opponent_options == {"save_every": 8, "window": 8, "prioritised": names}
    assert {name: table.model_dump() for name, table in recipe.opponent.items()} == {
        name: {"model": f"runs/league/{name}@5", "engine": "shared"} for name in names
    }
    assert recipe.run.steps == 3 * made.recipe.run.steps
    assert recipe.run.seed == made.recipe.run.seed
    assert (recipe.evaluation.games, recipe.evaluation.opponents) == (["kuhn_poker"], names)

    fixed = ("selfplay.opponents={mirror=1}", "selfplay.opponent_sampler=fixed", "selfplay.opponent_options={}")
    recipe = with_exploiters(league(*fixed, "evaluation.opponents=['random']"), 1).main_recipe()
    assert recipe.selfplay.opponents == {"mirror": 0.8, "exploiter-001": 0.2}
    assert recipe.selfplay.opponent_options == {}
    assert recipe.evaluation.opponents == ["random", "exploiter-001"]


def test_an_exploiter_plays_the_newest_main_agent_alone():
    made = with_exploiters(league("evaluation.every=4"), 1)
    recipe = made.exploiter_recipe()
    assert recipe.selfplay.opponents == {"main": 1.0}
    assert (recipe.selfplay.opponent_sampler, recipe.selfplay.opponent_options) == ("fixed", {})
    assert recipe.opponent["main"].model_dump() == {"model": "runs/league/main@64", "engine": "shared"}
    assert (recipe.run.steps, recipe.model.path) == (5, "nano")
    assert (recipe.evaluation.opponents, recipe.evaluation.every) == (["main"], 0)
    assert recipe.selfplay.games == made.recipe.selfplay.games
    seeds = {made.recipe.run.seed, recipe.run.seed, with_exploiters(league(), 2).exploiter_recipe().run.seed}
    assert len(seeds) == 3
    own = LeagueOptions(exploiter_steps=5, exploiter_start="main")
    assert with_exploiters(league(options=own), 1).exploiter_recipe().model.path == "runs/league/main@64"


RESULT = {"games": 8, "win_rate": 0.5, "return": 0.1, "return_low": None, "return_high": None}


def saved_league(path, rounds=1):
    """The file of a league of one round that is half done, as `spiral league` writes it."""
    made = League(load_recipe("league-nano"), path, OPTIONS)
    made.main = [
        {
            "step": 32 * (at + 1), "model": f"{path}/main@{32 * (at + 1)}", "exploitability": {"kuhn_poker": 0.1},
            "exploiters": {f"exploiter-{one:03d}": {"kuhn_poker": RESULT} for one in range(1, at + 1)},
        }
        for at in range(rounds)
    ]  # fmt: skip
    made.exploiters = [
        {
            "name": f"exploiter-{at:03d}", "step": 5, "model": f"{path}/exploiter-{at:03d}@5",
            "against": f"{path}/main@{32 * at}", "won": False, "results": {"kuhn_poker": RESULT},
        }
        for at in range(1, rounds + 1)
    ]  # fmt: skip
    made.save()
    return made


def test_a_league_that_was_moved_goes_on_with_its_own_agents(tmp_path):
    before = saved_league(tmp_path / "one", rounds=2)
    (tmp_path / "one").rename(tmp_path / "two")
    moved = League(before.recipe, tmp_path / "two", OPTIONS)
    moved.load()
    assert [entry["model"] for entry in moved.main] == [f"{tmp_path}/two/main@{step}" for step in (32, 64)]
    assert [one["against"] for one in moved.exploiters] == [entry["model"] for entry in moved.main]
    models = {table.model for table in moved.main_recipe().opponent.values()}
    assert models == {f"{tmp_path}/two/exploiter-001@5", f"{tmp_path}/two/exploiter-002@5"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda found: found.update(options=[]), "options is []"),
        (lambda found: found["options"].pop("share"), "options.share is missing"),
        (lambda found: found.update(main={}), "main is {}"),
        (lambda found: found["main"][0].update(step="32"), "main.0.step is '32'"),
        (lambda found: found["main"][0].pop("model"), "main.0.model is missing"),
        (lambda found: found["main"][0]["exploitability"].update(kuhn_poker=None), "main.0.exploitability.kuhn_poker"),
        (lambda found: found["exploiters"].append(3), "exploiters.1 is 3"),
        (lambda found: found["exploiters"][0].update(won=None), "exploiters.0.won is None"),
        (lambda found: found["exploiters"][0]["results"].update(kuhn_poker={}), "results.kuhn_poker.games is missing"),
        (lambda found: found["exploiters"][0].update(name="main"), "its exploiters are called main; expected exploit"),
        (lambda found: found.update(main=[]), "it has 1 exploiters and 0 entries of the main agent"),
        (lambda found: found.update(exploiters=[], main=2 * found["main"]), "0 exploiters and 2 entries of the main"),
        (lambda found: found.update(recipe=[]), "recipe is []"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_the_place(tmp_path, edit, words):
    made = saved_league(tmp_path)
    found = json.loads((tmp_path / "league.json").read_text())
    edit(found)
    (tmp_path / "league.json").write_text(json.dumps(found))
    for read in (made.load, lambda: read_league(tmp_path)):
        with pytest.raises(ValueError, match=r"league\.json is damaged: .*; put a good copy back, or ") as error:
            read()
        assert words in str(error.value)


def test_a_file_that_holds_no_league_is_refused(tmp_path):
    for text in ("[]", "null", "3", '"league"'):
        (tmp_path / "league.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged: it holds no object"):
            read_league(tmp_path)


@pytest.mark.parametrize("done", [None, 16, 96])
def test_a_main_agent_that_is_not_where_the_league_left_it_is_not_trained(tmp_path, monkeypatch, done):
    """Without its run, or with an older copy, it would begin anew against exploiters of what it was."""
    made = saved_league(tmp_path)
    if done is not None:
        (tmp_path / "main" / "checkpoints" / f"step-{done:06d}").mkdir(parents=True)
        monkeypatch.setattr("spiral.launch.league.checkpoint_state", lambda _path: {"version": done})
    with pytest.raises(ValueError, match=rf"has done {done or 0} steps, and .*league\.json expects 32 to 64; put back"):
        made.train_main()


def test_what_a_kill_has_left_does_not_keep_a_league_from_beginning(tmp_path):
    for name in (".lock", ".lock.owner", ".league.json.123-0a1b2c3d.tmp"):
        (tmp_path / name).write_text("{}")
    made = League(load_recipe("league-nano"), tmp_path, OPTIONS)
    made.begin()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", ".lock.owner", "league.json"]
    with pytest.raises(ValueError, match="already holds a league"):
        made.begin()


def test_a_league_whose_directory_was_taken_over_writes_nothing(tmp_path):
    made = saved_league(tmp_path)
    before = (tmp_path / "league.json").read_bytes()
    made.lock = hold_run(tmp_path)
    made.main = []
    try:
        (tmp_path / ".lock.owner").unlink()
        with pytest.raises(LockLostError):
            made.save()
    finally:
        made.lock.release()
    assert (tmp_path / "league.json").read_bytes() == before


def test_games_are_known_by_the_names_of_their_metrics():
    """A game may be written in several ways, and metrics and evaluations know it by one of them."""
    made = with_exploiters(league("selfplay.games={'kuhn_poker(hands=1)'=1}"), 1)
    assert made.games == ["kuhn_poker"]
    assert made.exploiter_recipe().evaluation.games == ["kuhn_poker"]
    wins = WinRate(made.recipe, 0.7, [step(number, 0.9, 0.7) for number in range(1, 5)])
    assert wins.reached


def step(number, first, second, draw=0.0, games=10, game="kuhn_poker"):
    key = f"against/{game}/main"
    players = {
        f"{key}/player{player}/{name}": value
        for player, won in enumerate((first, second))
        for name, value in (("win", won), ("return", 0.0))
    }
    return {"step": number, f"{key}/games": games, f"{key}/draw": draw, **players}


def test_an_exploiter_is_frozen_when_it_wins_its_share_of_its_last_steps():
    recipe = load_recipe("league-nano")
    wins = WinRate(recipe, 0.7, [])
    assert WINDOW == 4
    assert [wins(number, step(number, 0.9, 0.7)) for number in (1, 2, 3, 4)] == [False, False, False, True]
    assert not wins(5, step(5, 0.0, 0.0)), "0.8 in three steps, and 0 in the last"
    rows = [step(number, 0.9, 0.7) for number in range(1, 5)]
    assert WinRate(recipe, 0.7, rows).reached, "a resumed run knows what its games were"
    assert not WinRate(recipe, 0.81, rows).reached
    drawn = [step(number, 0.5, 0.3, draw=0.6) for number in range(1, 5)]
    assert WinRate(recipe, 0.7, drawn).reached, "a draw is half a win"
    assert not WinRate(recipe, 0.7, [{"step": number} for number in range(1, 5)]).reached


def test_win_rates_in_several_games_count_by_their_games():
    recipe = load_recipe("league-nano", ["selfplay.games={kuhn_poker=1, tictactoe=1}"])
    both = [
        step(number, 0.9, 0.9, games=30) | step(number, 0.1, 0.1, games=10, game="tictactoe") for number in range(1, 5)
    ]
    assert WinRate(recipe, 0.7, both).reached
    assert not WinRate(recipe, 0.71, both).reached


def test_what_an_exploiter_won_is_read_from_either_side():
    row = {
        "played": 40, "win": 0.5, "draw": 0.2, "loss": 0.3, "mean_return": 0.25, "mean_return_low": 0.1,
        "mean_return_high": 0.4, "opponent_return": -0.75, "opponent_return_low": -0.9, "opponent_return_high": -0.6,
    }  # fmt: skip
    own = {"games": 40, "win_rate": 0.6, "return": 0.25, "return_low": 0.1, "return_high": 0.4}
    assert exploiter_result(row, by_exploiter=True) == pytest.approx(own)
    other = {"games": 40, "win_rate": 0.4, "return": -0.75, "return_low": -0.9, "return_high": -0.6}
    assert exploiter_result(row, by_exploiter=False) == pytest.approx(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("selfplay.games={kuhn_poker=1, 'small_games:Echo'=1}", "evaluation.games=[]"),
         "has 1 player; an exploiter can be trained in zero-sum games of two players only"),
        (("selfplay.games={prisoners_dilemma=1}",), "returns that do not sum to zero; an exploiter can be trained in"),
        (("evaluation.opponents=['exploiter-001']", "opponent.exploiter-001.model=nano"),
         "an opponent 'exploiter-001', which is the name of an agent of the league; rename its table"),
        (("selfplay.opponents={past=1, main=1}", "opponent.main.model=nano"), "an opponent 'main', which is"),
        (("selfplay.opponent_sampler=tests.rollout.test_opponent_samplers:LeastBeaten",
          "selfplay.opponents={random=1}", "selfplay.opponent_options={}"),
         "a league gives its sampler new opponents on the way; expected one of fixed, past_selves, pfsp"),
    ],
)  # fmt: skip
def test_what_has_no_league_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        league(*settings)


def test_fine_tuning_has_no_league():
    with pytest.raises(ValueError, match=r"loss\.kind is 'nll', which learns expert games; a league needs"):
        league(recipe="sft-nano")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"win_rate": 0.5}, "got a win rate of 0.5; expected one above 0.5, and at most 1"),
        ({"win_rate": 1.01}, "got a win rate of 1.01"),
        ({"share": 1.0}, "got a share of 1 for exploiters; expected a number between 0 and 1"),
        ({"exploiter_steps": 0}, "got 0 steps for an exploiter; expected 1 or more"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LeagueOptions(**{"exploiter_steps": 5, **options})
