"""Result directories: games that are reused or played again, and one process at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import refused, spiral
from lock_holder import held_elsewhere
from spiral.core.locks import locked
from spiral.core.policy import NotPlayedError
from spiral.core.storage import read_episodes
from spiral.evaluation.arena import evaluate_games, games_directory
from spiral.evaluation.results import LOCK
from spiral.games import load_game
from spiral.policies import ScriptedPolicy, TurnReply, scripted_policy

KUHN = load_game("kuhn_poker")
GAMES = {"episodes": 20, "seed": 3}


class Absent(ScriptedPolicy):
    """Takes the first legal action; while it is `down` it leaves some or all requests without a reply."""

    name = "absent"

    def __init__(self, down):
        super().__init__()
        self.down, self.asked = down, 0

    def choose(self, state, player, rng):
        return state.legal_actions()[0]

    def _reply(self, request):
        self.asked += 1
        if self.down == "always" or (self.down == "sometimes" and request.seed % 3 == 1):
            return TurnReply(key=request.key, observation="", reply="", action=None, fault="HTTP 503")
        return super()._reply(request)


def evaluated(policy, tmp_path):
    other = scripted_policy("random", KUHN)
    directory = games_directory(policy, other, KUHN, out=tmp_path, **GAMES)
    return *evaluate_games(policy, other, KUHN, directory=directory, reuse=True, **GAMES), directory


def test_unplayed_games_are_played_again(tmp_path):
    first, games, directory = evaluated(Absent("sometimes"), tmp_path)
    assert 0 < first.not_played < 20
    back = Absent("never")
    result, played, _ = evaluated(back, tmp_path)
    assert (result.not_played, result.played, result.faults) == (0, 20, {})
    # Only those are played again, and all is as if nothing had failed.
    assert [new for new, old in zip(played, games, strict=True) if old.outcome != "not_played"] == [
        game for game in games if game.outcome != "not_played"
    ]
    whole = Absent("never")
    assert (result, played) == evaluated(whole, tmp_path / "elsewhere")[:2]
    assert 0 < back.asked < whole.asked
    kept = json.loads(directory.result_file.read_text())["result"]
    assert (kept["not_played"], kept["win"]) == (0, result.win.value)
    assert [game.outcome for game in read_episodes(directory.episodes_file)] == ["finished"] * 20


def test_complete_games_are_reused(tmp_path):
    first, games, directory = evaluated(Absent("never"), tmp_path)
    written = directory.episodes_file.stat().st_mtime_ns
    absent = Absent("always")
    again, read, _ = evaluated(absent, tmp_path)
    assert (again, read, absent.asked) == (first, games, 0)
    assert directory.episodes_file.stat().st_mtime_ns == written


def test_games_that_fail_again_stay_unplayed(tmp_path):
    first, games, _ = evaluated(Absent("sometimes"), tmp_path)
    still = Absent("always")
    again, played, _ = evaluated(still, tmp_path)
    assert 0 < still.asked <= first.not_played
    assert again.not_played == first.not_played
    assert [game.outcome for game in played] == [game.outcome for game in games]
    with pytest.raises(NotPlayedError, match="none of 20 games"):
        evaluated(Absent("always"), tmp_path / "elsewhere")


def test_a_second_process_is_refused_while_the_first_writes(tmp_path):
    arguments = ("evaluate", "random", "--game", "kuhn_poker", "--opponent", "random", "--episodes", "4")
    directory = spiral(*arguments, "--out", str(tmp_path), "--json").json["files"]
    with held_elsewhere(Path(directory) / LOCK) as process:
        line = refused(*arguments, "--out", str(tmp_path))
    assert line.startswith(f"process {process.pid} on ")
    assert (
        f"is writing to {directory} right now; wait until it is done, or choose another directory with --out DIR"
        in line
    )
    assert spiral(*arguments, "--out", str(tmp_path), "--json").json["files"] == directory


@pytest.mark.parametrize(
    "arguments",
    [
        ("exploitability", "equilibrium", "--game", "kuhn_poker"),
        ("benchmark", "nano", "--task", "gsm8k", "--data", "one.jsonl", "--samples", "1"),
        ("tournament", "random", "equilibrium", "--game", "kuhn_poker", "--episodes", "4"),
        ("compare", "random", "equilibrium", "--game", "kuhn_poker", "--episodes", "4"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_locks_its_results(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    arguments = (*arguments, "--max-new-tokens", "4", "--out", str(tmp_path))
    before = spiral(*arguments, "--json").json
    found = before["files"]
    directory = tmp_path if isinstance(found, dict) else Path(found)
    with locked(directory / LOCK):
        assert f"is writing to {directory} right now" in refused(*arguments)
    assert spiral(*arguments, "--json").json == before
