"""Standings of synthetic results, and round robins with real games."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys

import numpy as np
import pytest

from spiral.core.records import Episode, Seat, Turn
from spiral.core.storage import read_episodes
from spiral.evaluation.standings import Estimates, standings
from spiral.evaluation.statistics import bootstrap_weights
from spiral.evaluation.tournament import Pairing, PolicyCache, check_players, pairing, parameter_bytes, round_robin
from spiral.evaluation.tournament_files import draw_heatmap, open_directory, save_games, save_standings, short_names
from spiral.games import load_game
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies import ScriptedPolicy
from spiral.policies.registry import load_policy
from spiral.theory.metagame import elo

TICTACTOE, KUHN = load_game("tictactoe"), load_game("kuhn_poker")
CIRCLE = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
"""Rock, paper, scissors."""
LADDER = np.subtract.outer([3.0, 2.0, 0.0, -1.0], [3.0, 2.0, 0.0, -1.0])


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Few draws, for speed."""
    monkeypatch.setattr("spiral.evaluation.standings.RANKING_DRAWS", 20)


# Standings of results that are made up.


def made_pairings(payoffs, deals=6, spread=0.0, seed=0):
    """All pairings with these payoffs, the same from both sides except for noise."""
    rng = np.random.default_rng(seed)
    pairs = []
    for row, column in itertools.combinations(range(len(payoffs)), 2):
        first = payoffs[row, column] + spread * rng.normal(size=(deals, 2))
        returns = np.stack([first, -first], axis=-1)
        pairs.append(Pairing(row=row, column=column, returns=returns, illegal=(0, 0), not_played=0))
    return pairs


def test_standings_of_a_cycle():
    result = standings("made_up", ("rock", "paper", "scissors"), made_pairings(CIRCLE), seed=0)
    assert result.payoff.value == pytest.approx(CIRCLE)
    assert result.payoff.low == pytest.approx(CIRCLE)
    assert result.score.value == pytest.approx((CIRCLE + 1) / 2)
    assert result.games.tolist() == [[0, 12, 12], [12, 0, 12], [12, 12, 0]]
    assert result.elo.value == pytest.approx(np.zeros(3))
    assert result.alpharank.value == pytest.approx(np.full(3, 1 / 3))
    assert result.nash.value == pytest.approx(np.full(3, 1 / 3))
    assert (result.cycles.cyclic_triples, result.cycles.cyclic_part) == (1, 1.0)
    assert (result.episodes, result.history, result.notes) == (12, None, ())


def test_standings_of_ordered_checkpoints():
    climbing = made_pairings(-LADDER, spread=0.1)
    result = standings("made_up", ("a", "b", "c", "random"), climbing, seed=0, checkpoints=3)
    assert (result.history.better, result.history.worse, result.history.undecided) == (3, 0, 0)
    assert result.nash.value == pytest.approx([0, 0, 0, 1])
    assert result.elo.value[3] == 0
    assert result.elo.low[3] == result.elo.high[3] == 0
    assert np.all(result.elo.value[:3] < 0)
    falling = standings("made_up", ("a", "b", "c", "d"), made_pairings(LADDER, spread=3.0), seed=0, checkpoints=4)
    assert falling.history.better == 0
    assert falling.history.worse + falling.history.undecided == 6
    assert falling.history.undecided > 0
    assert falling.elo.value.mean() == pytest.approx(0)


def test_intervals_resample_whole_deals():
    # Four deals worth 1, 0, 0, 0 to the first player: of 256 equal draws 81 have mean 0, 12 have 0.75 and 1 has 1.
    returns = np.zeros((4, 2, 2))
    returns[0] = [[1.0, -1.0], [1.0, -1.0]]
    pair = Pairing(row=0, column=1, returns=returns, illegal=(0, 0), not_played=0)
    result = standings("made_up", ("a", "b"), [pair], seed=0)
    assert result.payoff.value[0, 1] == 0.25
    assert (result.payoff.low[0, 1], result.payoff.high[0, 1]) == (0.0, 0.75)
    assert result.score.value[0, 1] == 0.625
    assert result.score.value[1, 0] == 0.375
    # Eight games, and one imagined draw.
    assert result.elo.value[0] - result.elo.value[1] == pytest.approx(400 * math.log10(5.5 / 3.5))


def test_one_deal_has_no_interval():
    result = standings("made_up", ("a", "b"), made_pairings(LADDER[:2, :2], deals=1), seed=0)
    assert result.payoff.value[0, 1] == 1
    assert np.isnan(result.payoff.low[0, 1])
    assert np.isnan(result.elo.high).all()
    values = json.loads(json.dumps(result.to_json()))
    assert (values["payoff"], values["payoff_low"]) == ([[0, 1], [-1, 0]], [[0, None], [None, 0]])
    assert values["elo_low"] == values["nash_low"] == [None, None]


def test_elo_intervals_cover_the_truth():
    rng, truth = np.random.default_rng(0), np.array([100.0, 0.0, -100.0])
    chances = 1 / (1 + 10 ** (-np.subtract.outer(truth, truth) / 400))
    held = []
    for _ in range(60):
        wins = np.triu(rng.random((80, 3, 3)) < chances, 1)
        wins = (wins + np.tril(1.0 - np.swapaxes(wins, 1, 2), -1)).reshape(80, -1)
        draws = elo((bootstrap_weights(80, rng, 400) @ wins).reshape(-1, 3, 3))
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        held.append((low <= truth) & (truth <= high))
    assert np.mean(held) == pytest.approx(0.94, abs=0.05)


# Reading games.


def episode(returns, outcome="finished", player=0):
    """A game of one turn."""
    turn = Turn(player=player, observation="", action=None if outcome == "illegal_move" else "0")
    seats = (Seat(policy="a", trainable=False), Seat(policy="b", trainable=False))
    return Episode(game="tictactoe", seed=0, seats=seats, turns=(turn,), returns=returns, outcome=outcome)


def test_pairings_hold_both_sides():
    games = [
        episode((1.0, -1.0)),
        episode((0.0, 0.0)),
        episode((-1.5, 0.5), "illegal_move", player=0),  # row had player 0
        episode((-1.5, 0.5), "illegal_move", player=0),  # column had player 0
        episode((0.5, -1.5), "illegal_move", player=1),  # column had player 1
        episode((-1.0, 1.0)),
    ]
    pair = pairing(2, 5, games)
    assert (pair.row, pair.column, pair.illegal, pair.not_played) == (2, 5, (1, 2), 0)
    assert pair.returns.tolist() == [
        [[1.0, -1.0], [0.0, 0.0]],
        [[-1.5, 0.5], [0.5, -1.5]],
        [[0.5, -1.5], [1.0, -1.0]],
    ]


def test_a_deal_with_an_unplayed_game_does_not_count():
    games = [episode((1.0, -1.0)), episode((0.0, 0.0), "not_played"), episode((1.0, -1.0)), episode((-1.0, 1.0))] * 2
    pair = pairing(0, 1, games)
    assert pair.not_played == 2
    assert np.isnan(pair.returns).all(axis=(1, 2)).tolist() == [True, False, True, False]
    result = standings("tictactoe", ("a", "b"), [pair], seed=0)
    # The other game of the deal is left out with it: both sides would not count equally.
    assert (result.payoff.value[0, 1], result.games[0, 1], result.not_played[1, 0]) == (1.0, 4, 2)
    assert result.score.value[1, 0] == 0.0


def test_players_without_a_common_deal():
    pairs = made_pairings(CIRCLE)
    empty = Pairing(row=0, column=1, returns=np.full((6, 2, 2), np.nan), illegal=(0, 0), not_played=12)
    result = standings("made_up", ("a", "b", "c"), [empty, *pairs[1:]], seed=0)
    values = result.to_json()
    assert values["payoff"][0] == [0.0, None, 1.0]
    assert (values["alpharank"], values["nash"], values["cycles"]) == (None, None, None)
    assert "some two players have no deal in common" in values["notes"][0]
    assert np.isfinite(result.elo.value).all()
    assert result.elo.value[0] > result.elo.value[2] > result.elo.value[1]


def test_notes_list_the_rankings_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_spiel.python.egt", None)
    result = standings("made_up", ("a", "b", "c"), made_pairings(CIRCLE), seed=0)
    assert result.alpharank is None
    assert result.nash is not None
    (note,) = result.notes
    assert note.startswith("alpha-rank is left out")
    assert "pip install open_spiel scipy" in note


# Who plays.


class Weighty(ScriptedPolicy):
    """Random play with a model of a few megabytes."""

    def __init__(self, name, numbers):
        super().__init__()
        import torch

        self.name = name
        self.model = torch.nn.Linear(numbers, 1, bias=False)

    def choose(self, state, player, rng):
        return rng.choice(state.legal_actions())


def test_the_cache_drops_models_beyond_its_size():
    loaded = []

    def load(name, game):
        loaded.append(name)
        return Weighty(name, 1000)  # 4,000 bytes

    cache = PolicyCache(load, max_bytes=8000)
    assert parameter_bytes(cache.get("a", TICTACTOE)) == 4000
    cache.get("b", TICTACTOE, keep="a")
    cache.get("a", TICTACTOE, keep="b")
    cache.get("c", TICTACTOE, keep="b")  # a was asked for last, but b is needed
    assert loaded == ["a", "b", "c"]
    cache.get("b", TICTACTOE)
    cache.get("a", TICTACTOE, keep="b")
    assert loaded == ["a", "b", "c", "a"]
    generous = PolicyCache(load)
    names = [f"player {number}" for number in range(6)]
    list(round_robin(names, [TICTACTOE, KUHN], generous, 2, seed=0))
    assert sorted(loaded[4:]) == names


def test_the_cache_holds_two_models_of_any_size():
    loaded = []

    def load(name, game):
        loaded.append(name)
        return Weighty(name, 1000)

    cache = PolicyCache(load, max_bytes=1)
    pairs = [(pair.row, pair.column) for _, pair, _ in round_robin("abcd", [TICTACTOE], cache, 2, seed=0)]
    assert sorted(pairs) == list(itertools.combinations(range(4), 2))
    # Each pair but the first finds one of its two still there, as the rows run to and fro.
    assert len(loaded) <= 2 + 5 + 2


def test_scripted_players_are_checked_with_a_first_move():
    cache = PolicyCache(load_policy)
    check_players(["random", "minimax"], [TICTACTOE], cache)
    check_players(["random", "equilibrium"], [KUHN], cache)
    with pytest.raises(ValueError, match="minimax"):
        check_players(["random", "minimax"], [TICTACTOE, KUHN], cache)


# Playing.


def played(players, game, episodes, seed):
    cache = PolicyCache(load_policy)
    pairs = [pair for _, pair, _ in round_robin(players, [game], cache, episodes, seed)]
    return standings(game.spec, players, pairs, seed=seed)


def test_random_and_perfect_play():
    result = played(("random", "minimax"), TICTACTOE, 40, seed=1)
    assert result.payoff.value[0, 1] == -result.payoff.value[1, 0]
    assert result.payoff.low[1, 0] > 0.7
    assert result.elo.value[0] == 0
    assert result.elo.low[1] > 200
    assert result.alpharank.value == pytest.approx([0, 1], abs=1e-5)
    assert result.nash.value == pytest.approx([0, 1])
    assert result.illegal.sum() == result.not_played.sum() == 0


def test_the_same_seed_gives_the_same_tournament():
    first = played(("random", "equilibrium"), KUHN, 60, seed=3).to_json()
    assert played(("random", "equilibrium"), KUHN, 60, seed=3).to_json() == first
    assert played(("random", "equilibrium"), KUHN, 60, seed=4).to_json()["payoff"] != first["payoff"]


def test_a_model_against_itself(tmp_path, one_thread):
    # Both games of a deal share every draw, so what player 0 wins in one it loses in the other.
    copies = [str(shutil.copytree(NANO_DIRECTORY, tmp_path / name)) for name in ("one", "two")]
    result = played((*copies, "random"), TICTACTOE, 20, seed=0)
    assert result.payoff.value[0, 1] == -result.illegal[0, 1] / 20
    assert result.illegal[0, 1] == result.illegal[1, 0]
    assert (result.score.value[0, 1], result.score.low[0, 1], result.score.high[0, 1]) == (0.5, 0.5, 0.5)
    # All pairs play the same deals.
    assert result.payoff.value[0, 2] == result.payoff.value[1, 2]
    assert result.elo.value[0] == pytest.approx(result.elo.value[1])


# Files.


def test_short_names(tmp_path):
    for name in ("a/checkpoints/step-000001", "b/checkpoints/step-000001", "b/checkpoints/step-000002"):
        (tmp_path / name).mkdir(parents=True)
    one, two = (str(tmp_path / "b" / "checkpoints" / name) for name in ("step-000001", "step-000002"))
    assert short_names((one, two, "random")) == ("step-000001", "step-000002", "random")
    assert short_names((str(tmp_path / "a"), "org/model")) == ("a", "org/model")
    other = str(tmp_path / "a" / "checkpoints" / "step-000001")
    assert short_names((one, other)) == ("b/checkpoints/step-000001", "a/checkpoints/step-000001")


def test_files(tmp_path):
    players, directory = ("random", "equilibrium"), tmp_path / "out"
    cache = PolicyCache(load_policy)
    ((_, pair, games),) = round_robin(players, [KUHN], cache, 10, seed=0)
    result = standings("kuhn_poker", players, [pair], seed=0)
    with open_directory(directory):
        save_games(directory, players, 0, pair, games)
        values = save_standings(directory, result, players, cache.descriptions, {"faults": {}})
    written = json.loads((directory / "tournament.json").read_text())
    assert written == {**written, **values}
    assert written["models"] == [{"name": "random"}, {"name": "equilibrium"}]
    assert {"python", "numpy"} < set(written["versions"])
    (file,) = (directory / "episodes").iterdir()
    assert file.name == "000_random_equilibrium.parquet"
    assert len(read_episodes(file)) == 10
    assert [row.split(",")[:2] for row in (directory / "payoffs.csv").read_text().splitlines()] == [
        ["row", "column"],
        ["random", "equilibrium"],
        ["equilibrium", "random"],
    ]
    header, row, _ = (line.split(",") for line in (directory / "ratings.csv").read_text().splitlines())
    assert dict(zip(header, row, strict=True))["elo"] == "0.0"
    assert (directory / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    with open_directory(directory):
        assert list((directory / "episodes").iterdir()) == []


def test_unusable_directories_are_refused(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds a run"), open_directory(tmp_path / "run"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose another directory with --out"), open_directory(tmp_path / "file"):
        pass
    out = tmp_path / "out"
    with open_directory(out), pytest.raises(ValueError, match="is writing to"), open_directory(out):
        pass


@pytest.mark.parametrize("count", [2, 12])
def test_heatmaps(tmp_path, count):
    payoffs = np.subtract.outer(np.arange(count), np.arange(count)) / count
    payoffs[0, 1] = np.nan
    names = [f"a player with the number {number}" for number in range(count)]
    estimates = Estimates(value=payoffs, low=payoffs - 0.3, high=payoffs + 0.3)
    draw_heatmap(tmp_path / "heatmap.png", names, estimates, "a title")
    header = (tmp_path / "heatmap.png").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    assert 300 < height <= width < 2000
