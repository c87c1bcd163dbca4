"""A person at the page plays against a model in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiral.viewer import sessions
from spiral.viewer.sessions import LOADING, _Session
from viewed_runs import made_run, viewing

NANO = Path(sessions.__file__).parents[1] / "models" / "nano"
REQUEST = {"model": "minimax", "game": "tictactoe", "seat": 0, "seed": 3, "thinking": None}


def until(ask, wanted, seconds=120):
    """The first answer of `ask` for which `wanted` holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        view = ask()
        if wanted(view):
            return view
        time.sleep(0.02)
    raise AssertionError(view)


def my_turn(view):
    return view["your_turn"] or view["over"]


@pytest.fixture
def session():
    made = []

    def make(**changes):
        made.append(_Session({**REQUEST, **changes}, own_games=False))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_whole_game_with_a_mistake_in_it(session):
    game = session()
    assert set(game.view()) == set(LOADING)
    with pytest.raises(ValueError, match="it is not your turn"):
        game.move("4")
    view = until(game.view, my_turn)
    assert (view["ready"], view["error"], view["legal_actions"]) == (True, None, list("012345678"))
    assert "You are X" in view["observation"]
    view = until(lambda: game.move("nine"), my_turn)
    assert view["your_turn"]
    assert "'nine'" in view["error"]
    assert view["log"] == []
    view = until(lambda: game.move("\\boxed{4}"), lambda _: True)
    view = until(game.view, my_turn)
    assert view["error"] is None
    assert view["board"]["cells"][4] == "X"
    assert [entry["player"] for entry in view["log"]] == [0, 1]
    while not view["over"]:
        game.move(view["legal_actions"][0])
        view = until(game.view, my_turn)
    assert view["outcome"] == "finished"
    assert view["returns"][0] <= 0  # minimax does not lose
    assert "Result: " in view["observation"]
    assert (view["your_turn"], view["legal_actions"]) == (False, [])


def test_the_other_player_s_card_is_hidden_until_it_is_shown(session):
    game = session(model="equilibrium", game="kuhn_poker", seat=1, seed=5)
    view = until(game.view, my_turn)
    mine, theirs = view["board"]["players"][1], view["board"]["players"][0]
    assert mine["card"] in set("JQK")
    assert theirs["card"] is None
    assert f"Your card: {mine['card']}" in view["observation"]
    while not view["over"]:
        game.move("call" if "call" in view["legal_actions"] else "check")
        view = until(game.view, my_turn)
    assert view["board"]["players"][0]["card"] in set("JQK") - {mine["card"]}


def test_a_model_that_cannot_be_loaded_is_said(session, tmp_path):
    game = session(model=str(tmp_path))
    view = until(game.view, lambda view: view["over"])
    assert (view["ready"], view["your_turn"]) == (False, False)
    assert "config.json is missing" in view["error"]


def test_the_process_ends_with_the_viewer(tmp_path):
    code = (
        "import os, signal, sys; from spiral.viewer.sessions import _Session;"
        f"game = _Session({REQUEST!r}, own_games=False);"
        "print(game._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    child = int(done.stdout)
    end = time.monotonic() + 60

    def alive():
        try:
            return "spiral.viewer.opponent" in Path(f"/proc/{child}/cmdline").read_text()
        except OSError:
            return False

    while alive() and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive()


def test_what_cannot_be_played_is_refused(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", steps=1, episodes=1)
    (tmp_path / "elsewhere").mkdir()
    (run / "snapshots").mkdir()
    (run / "snapshots" / "step-000001").symlink_to(tmp_path / "elsewhere")
    shutil.copytree(NANO, run / "snapshots" / "step-000000")
    monkeypatch.setattr(sessions, "_Session", lambda *_, **__: pytest.fail("a process was started"))
    with viewing(run) as client:
        choices = client.get("/api/play/choices")
        assert [(found["run"], found["step"]) for found in choices["checkpoints"]] == [("0", 0)]
        assert choices["games"][:2] == ["tictactoe", "kuhn_poker"]
        assert "connect_four" in choices["games"]
        wanted = {"run": "0", "step": 0, "game": "tictactoe"}

        def refusal(**changes):
            return client.error("/api/play", method="POST", body={**wanted, **changes})

        assert refusal(step=1) == (404, "run run has no checkpoint or snapshot of step 1 any more")
        assert refusal(run="../..")[0] == 404
        assert refusal(seat=2) == (400, "got seat 2; tictactoe has the players 0 to 1")
        assert refusal(game="chess")[0] == 400
        status, message = refusal(game="antigravity:Game")
        assert (status, "--own-games" in message) == (400, True)
        assert refusal(seed=-1)[0] == 400
        assert client.error("/api/play/none") == (404, "this game has ended; begin another one")
        assert client.error("/api/play/none/move", method="POST", body={"text": "1"})[0] == 404
        assert client.error("/api/play/none/move", method="POST", body={})[0] == 400


def test_games_are_few_and_forgotten_ones_make_room(monkeypatch, tmp_path):
    closed = []

    class Stub:
        over = False

        def __init__(self, request, own_games):
            self.name, self.asked = request["seed"], time.monotonic()

        def close(self):
            closed.append(self.name)

    monkeypatch.setattr(sessions, "_Session", Stub)
    run = made_run(tmp_path / "run", steps=1, episodes=1)
    shutil.copytree(NANO, run / "snapshots" / "step-000000")
    wanted = {"run": "0", "step": 0, "game": "tictactoe"}
    with viewing(run) as client:
        names = []
        for seed in range(sessions.MAX_SESSIONS):
            status, _, body = client.ask("/api/play", method="POST", body={**wanted, "seed": seed})
            assert status == 200
            names.append(body)
        status, message = client.error("/api/play", method="POST", body={**wanted, "seed": 99})
        assert (status, message.split(" games")[0]) == (429, str(sessions.MAX_SESSIONS))
        monkeypatch.setattr(sessions, "IDLE_SECONDS", 0.0)
        assert client.ask("/api/play", method="POST", body={**wanted, "seed": 99})[0] == 200
        assert closed == [0]
    assert sorted(closed) == [0, 1, 2, 3, 99]  # with the server


@pytest.mark.slow
def test_the_built_in_model_plays_a_whole_game_through_the_page(tmp_path):
    run = made_run(tmp_path / "run", steps=1, episodes=1)
    shutil.copytree(NANO, run / "snapshots" / "step-000000")
    with viewing(run) as client:
        body = {"run": "0", "step": 0, "game": "kuhn_poker", "seat": 0, "seed": 1}
        _, _, answer = client.ask("/api/play", method="POST", body=body)
        name = answer.decode().split('"')[3]
        view = until(lambda: client.get(f"/api/play/{name}"), my_turn)
        while not view["over"]:
            action = view["legal_actions"][0]
            client.get(f"/api/play/{name}/move", method="POST", body={"text": action})
            view = until(lambda: client.get(f"/api/play/{name}"), my_turn)
        assert view["outcome"] in ("finished", "illegal_move")
        assert any(entry["player"] == 1 and "boxed" in entry["reply"] for entry in view["log"])
        assert client.ask(f"/api/play/{name}", method="DELETE")[0] == 200
        assert client.error(f"/api/play/{name}")[0] == 404
