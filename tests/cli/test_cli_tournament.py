"""`spiral tournament`: fields, files, what people and programs see, and what is refused before anything is played."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from commands import refused, spiral
from small_games import OddOneOut
from spiral.cli.tournament import history
from spiral.core.storage import read_episodes
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies import ScriptedPolicy, TurnReply, scripted_policy


class Shared(OddOneOut):
    """A game of two whose returns need not sum to zero."""

    num_players = 2
    zero_sum = False


KEYS = {
    "game", "seed", "episodes", "players", "labels", "payoff", "payoff_low", "payoff_high", "score", "elo", "elo_low",
    "elo_high", "alpharank", "nash", "cycles", "history", "games", "illegal", "not_played", "files", "notes",
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A directory of its own for results/, and few draws of what is slow."""
    monkeypatch.setattr("spiral.evaluation.standings.RANKING_DRAWS", 10)
    monkeypatch.delenv("SPIRAL_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path):
    """A run directory as training leaves it, with checkpoints that are all the built-in model."""
    path = tmp_path / "run"
    for step in (1, 2, 3, 10):
        shutil.copytree(NANO_DIRECTORY, path / "checkpoints" / f"step-{step:06d}")
    (path / "checkpoints" / "latest").symlink_to("step-000010")
    (path / "checkpoints" / "step-000011").mkdir()  # without a model
    (path / "config.toml").write_text("[selfplay.games]\nkuhn_poker = 1.0\n")
    return path


def tournament(*arguments, drawn=False):
    """The JSON of `spiral tournament`, which is all that it prints."""
    result = spiral("tournament", *arguments, "--json", drawn=drawn)
    assert result.status == 0, result.err
    return result.json


@pytest.mark.parametrize(
    ("game", "problem"),
    [
        ("tests.cli.test_cli_tournament:Shared", "has returns that do not sum to zero"),
        ("tests.small_games:OddOneOut", "has 3 players"),
        ("tests.small_games:Echo", "has 1 player"),
    ],
)
def test_games_that_give_no_ratings_are_refused(game, problem, tmp_path):
    line = refused(
        "tournament", "random", "random(2)", "--game", "tictactoe", "--game", game, "--out", str(tmp_path / "out")
    )
    assert problem in line
    assert "the ratings of a tournament are for zero-sum games of two players only" in line
    assert not (tmp_path / "out").exists()


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_what_programs_see():
    result = tournament("random", "minimax", "--game", "tictactoe", "--episodes", "60", "--seed", "5")
    assert set(result) >= KEYS
    assert (result["game"], result["seed"], result["episodes"]) == ("tictactoe", 5, 60)
    assert result["players"] == result["labels"] == ["random", "minimax"]
    assert result["payoff_low"][1][0] <= result["payoff"][1][0] <= result["payoff_high"][1][0]
    assert result["payoff"][1][0] > 0.7
    assert result["payoff"][0][1] == -result["payoff"][1][0]
    assert result["score"][0][1] + result["score"][1][0] == 1
    assert result["elo"][0] == 0 < result["elo_low"][1] <= result["elo"][1] <= result["elo_high"][1]
    assert sum(result["alpharank"]) == pytest.approx(1)
    assert result["nash"] == [0, 1]
    assert (result["games"], result["not_played"]) == ([[0, 60], [60, 0]], [[0, 0], [0, 0]])
    assert (result["cycles"]["triples"], result["history"], result["notes"]) == (0, None, [])


def test_the_files():
    result = tournament("random", "equilibrium", "--game", "kuhn_poker", "--episodes", "20", "--seed", "2", drawn=True)
    files = {kind: Path(file) for kind, file in result["files"].items()}
    assert files["tournament"] == Path("results/tournament-kuhn_poker-2/tournament.json")
    written = json.loads(files["tournament"].read_text())
    assert {key: written[key] for key in result} == result
    assert "spiral-selfplay" in written["versions"]
    payoffs = [float(row["payoff"]) for row in rows_of(files["payoffs"])]
    assert payoffs == [result["payoff"][0][1], result["payoff"][1][0]]
    assert [row["player"] for row in rows_of(files["ratings"])] == ["random", "equilibrium"]
    assert files["heatmap"].read_bytes().startswith(b"\x89PNG")
    (games,) = files["episodes"].iterdir()
    returns = np.array([episode.returns for episode in read_episodes(games)])
    assert np.mean([returns[::2, 0].mean(), returns[1::2, 1].mean()]) == pytest.approx(result["payoff"][0][1])


def test_the_same_command_gives_the_same_files(tmp_path):
    arguments = ("random", "equilibrium", "--game", "kuhn_poker", "--episodes", "20", "--out", str(tmp_path / "out"))
    first = tournament(*arguments, drawn=True)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()}
    assert tournament(*arguments, drawn=True) == first
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()} == before
    assert set(before) == {"tournament.json", "payoffs.csv", "ratings.csv", "heatmap.png", ".lock"}


def test_what_people_see():
    result = spiral("tournament", "random", "minimax", "--game", "tictactoe", "--episodes", "40")
    assert result.status == 0
    assert "tictactoe: 40 games for each pair of players, seed 0" in result.out
    assert "0 (0 to 0)" in result.out
    assert "1.00 (1.00 to 1.00)" in result.out
    assert "Mean return to the row player, in the game's units; * where the 95% interval leaves out 0:" in result.out
    assert "Files: results/tournament-tictactoe-0" in result.out


def test_several_games():
    games = ("--game", "tictactoe", "--game", "kuhn_poker")
    result = tournament("random", "equilibrium", *games, "--episodes", "4")
    assert result["seed"] == 0
    assert [one["game"] for one in result["games"]] == ["tictactoe", "kuhn_poker"]
    assert [one["files"]["heatmap"] for one in result["games"]] == [
        "results/tournament-tictactoe-0/heatmap.png",
        "results/tournament-kuhn_poker-0/heatmap.png",
    ]


def test_a_runs_own_history(run, one_thread):
    result = tournament(str(run), "--episodes", "8", "--most", "2")
    # The game is the one trained, and the field the first and the last checkpoint, which are equal here, and random.
    assert result["game"] == "kuhn_poker"
    assert result["labels"] == ["step-000001", "step-000010", "random"]
    assert result["players"][:2] == [str(run / "checkpoints" / name) for name in result["labels"][:2]]
    assert result["history"] == {"better": 0, "worse": 0, "undecided": 1}
    assert result["payoff"][0][1] == 0
    assert result["elo"][2] == 0
    kept = run / "results" / "tournament-kuhn_poker-0"
    assert Path(result["files"]["tournament"]) == kept / "tournament.json"
    assert sorted(path.name for path in (kept / "episodes").iterdir()) == [
        "000_step-000001_step-000010.parquet",
        "001_step-000001_random.parquet",
        "002_step-000010_random.parquet",
    ]
    written = json.loads((kept / "tournament.json").read_text())
    assert len(written["models"][0]["weights_sha256"]) == 64


@pytest.mark.parametrize(("most", "steps"), [(8, [1, 2, 3, 10]), (4, [1, 2, 3, 10]), (3, [1, 3, 10]), (2, [1, 10])])
def test_checkpoints_are_thinned_evenly(run, most, steps):
    names = [Path(name).name for name in history(run, most)]
    assert names == [*(f"step-{step:06d}" for step in steps), "random"]


def test_one_checkpoint_and_random(run):
    for step in (2, 3, 10):
        shutil.rmtree(run / "checkpoints" / f"step-{step:06d}")
    assert [Path(name).name for name in history(run, 8)] == ["step-000001", "random"]


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_spiel.python.egt", None)
    monkeypatch.setitem(sys.modules, "scipy.linalg", None)
    arguments = ("tournament", "random", "equilibrium", "--game", "kuhn_poker", "--episodes", "4")
    result = spiral(*arguments, "--json")
    assert (result.status, result.err) == (0, "")
    assert (result.json["alpharank"], result.json["nash"]) == (None, None)
    assert len(result.json["notes"]) == 2
    assert "Note: alpha-rank is left out: alpha-rank needs OpenSpiel and SciPy; pip install" in spiral(*arguments).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["random"], "got one player, 'random'; expected two or more"),
        (["random", "minimax", "random"], "got 'random' twice; expected every player once"),
        (["minimax(depth=2)", "minimax( depth = 2 )"], "are the same model"),
        (["nano", str(NANO_DIRECTORY)], "are the same model"),
        (["random", "minimax", "--episodes", "7"], "got --episodes 7; expected an even number"),
        (["random", "minimax", "--episodes", "0"], "got --episodes 0; expected an even number"),
        (["random", "nowhere/to/be/found"], "nowhere/to/be/found"),
        (["random", "minimax", "--most", "1"], "--most"),
        (["random", "nano", "--temperature", "-1"], "temperature: got"),
    ],
)
def test_wrong_input(arguments, words):
    assert words in refused("tournament", *arguments, "--game", "tictactoe")
    assert not Path("results").exists()


def test_games_that_a_player_cannot_play():
    assert "minimax" in refused("tournament", "random", "minimax", "--game", "tictactoe", "--game", "kuhn_poker")
    assert "equilibrium" in refused("tournament", "random", "equilibrium", "--game", "connect_four")
    assert not Path("results").exists()


def test_without_a_game(run):
    assert "Missing option '--game'" in refused("tournament", "random", "minimax")
    (run / "config.toml").unlink()
    assert "Missing option '--game'" in refused("tournament", str(run))


def test_the_same_model_by_two_names(run):
    line = refused("tournament", str(run), str(run / "checkpoints" / "step-000010"), "--game", "tictactoe")
    assert line.endswith("which are the same model; expected every player once")


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert "holds no checkpoint yet" in refused("tournament", str(tmp_path / "empty"), "--game", "tictactoe")


def test_files_are_not_written_into_a_run(run):
    arguments = ["random", "minimax", "--game", "tictactoe", "--out", str(run)]
    assert "holds a run, which has its own episodes" in refused("tournament", *arguments)


class Absent(ScriptedPolicy):
    """Gives no replies in the games with some of the seeds."""

    name = "endpoint:absent"

    def __init__(self, always):
        super().__init__()
        self.always = always

    def choose(self, state, player, rng):
        return state.legal_actions()[0]

    def _reply(self, request):
        if self.always or request.seed % 5 == 1:
            return TurnReply(key=request.key, observation="", reply="", action=None, fault="HTTP 503")
        return super()._reply(request)


def absent(monkeypatch, always):
    def load(name, game, options):
        return scripted_policy(name, game) if name == "random" else Absent(always)

    monkeypatch.setattr("spiral.policies.registry.load_policy", load)
    return ("tournament", "random", "endpoint:absent", "--game", "kuhn_poker", "--episodes", "40")


def test_games_that_were_not_played_count_as_nothing(monkeypatch):
    arguments = absent(monkeypatch, always=False)
    result = spiral(*arguments, "--json").json
    missing = result["not_played"][0][1]
    assert 0 < missing < 40
    assert result["faults"] == {"HTTP 503": missing}
    assert 0 < result["games"][0][1] <= 40 - missing
    assert result["illegal"] == [[0, 0], [0, 0]]
    assert f"Games that could not be played and are not counted: {missing} (HTTP 503)." in spiral(*arguments).out


def test_endpoints_without_replies(monkeypatch):
    result = spiral(*absent(monkeypatch, always=True))
    assert (result.status, result.out) == (1, "")
    assert result.err == "spiral: none of the games of kuhn_poker could be played: HTTP 503\n"
