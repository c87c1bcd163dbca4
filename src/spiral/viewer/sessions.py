"""Games of a person at the page against a checkpoint. The model is in a process of its own (`opponent`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spiral.core.steps import models_of_run
from spiral.games import Game, game_names
from spiral.viewer.run import ViewedRun

MAX_SESSIONS = 4
"""Games at once: each holds a model in memory."""
IDLE_SECONDS = 900.0
"""A game without a request for this long may be ended to make room for another."""
ANSWER_SECONDS = 2.0
"""Maximum time that a request waits for the model to take a move; after it the page asks again."""
LOADING: Mapping[str, Any] = {
    "ready": False,
    "board": {"kind": "text"},
    "observation": "",
    "legal_actions": [],
    "your_turn": False,
    "over": False,
    "returns": None,
    "outcome": None,
    "log": [],
    "error": None,
}


class TooManyGamesError(RuntimeError):
    """No further game can be begun now."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A game that the page wants."""

    run: str
    step: int
    game: str
    seat: int = 0
    seed: int | None = None
    thinking: bool | None = None
    """Whether the model is asked to think first; None as it was trained."""


class Sessions:
    """The games under way, each with its process."""

    def __init__(self, runs: Mapping[str, ViewedRun], load: Callable[[str, str], Game], *, own_games: bool) -> None:
        """`load` gives the game of a run's spec, or raises `ValueError`."""
        self._runs = runs
        self._load = load
        self._own_games = own_games
        self._sessions: dict[str, _Session] = {}
        self._guard = threading.Lock()

    def choices(self) -> dict[str, Any]:
        """The checkpoints that can be played, the last of each run first, and the games."""
        checkpoints, games = [], dict[str, None]()
        for run in self._runs.values():
            for step, path in sorted(self._models(run).items(), reverse=True):
                checkpoints.append({"run": run.id, "step": step, "path": str(path)})
            games |= dict.fromkeys(run.summary()["games"])
        return {"checkpoints": checkpoints, "games": [*games, *(name for name in game_names() if name not in games)]}

    def begin(self, request: Request) -> str:
        """Starts a game; returns its name.

        Raises:
            LookupError: There is no such run or checkpoint.
            ValueError: The game cannot be played, or has no such player.
            TooManyGamesError: There are too many games already.
        """
        if request.run not in self._runs:
            raise LookupError(f"there is no run {request.run[:80]!r} here")
        run = self._runs[request.run]
        models = self._models(run)
        if request.step not in models:
            raise LookupError(f"run {run.name} has no checkpoint or snapshot of step {request.step} any more")
        game = self._load(request.run, request.game)
        if game.num_players < 2:
            raise ValueError(f"{game.spec} is for one player; choose a game in which the model can be another player")
        if not 0 <= request.seat < game.num_players:
            raise ValueError(f"got seat {request.seat}; {game.spec} has the players 0 to {game.num_players - 1}")
        if request.seed is not None and not 0 <= request.seed < 2**63:
            raise ValueError(f"got seed {request.seed}; expected a whole number from 0")
        with self._guard:
            self._make_room()
            name = secrets.token_urlsafe(9)
            self._sessions[name] = _Session(
                {
                    "model": str(models[request.step].resolve()),
                    "game": game.spec,
                    "seat": request.seat,
                    "seed": secrets.randbelow(2**31) if request.seed is None else request.seed,
                    "thinking": request.thinking,
                },
                own_games=self._own_games,
            )
        return name

    def view(self, name: str) -> dict[str, Any]:
        """A game as it is now. Raises `LookupError` where there is none of this name."""
        return self._session(name).view()

    def move(self, name: str, text: str) -> dict[str, Any]:
        """Makes a move, and returns the game once it is taken or refused.

        Raises:
            LookupError: There is no such game.
            ValueError: It is not the person's turn.
        """
        return self._session(name).move(text)

    def end(self, name: str) -> None:
        """Ends a game and its process. Raises `LookupError` where there is none of this name."""
        self._session(name).close()
        with self._guard:
            self._sessions.pop(name, None)

    def close(self) -> None:
        """Ends all games."""
        with self._guard:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def _session(self, name: str) -> _Session:
        with self._guard:
            if name not in self._sessions:
                raise LookupError("this game has ended; begin another one")
            return self._sessions[name]

    def _models(self, run: ViewedRun) -> dict[int, Path]:
        return {step: path for step, path in models_of_run(run.path).items() if run.inside(path)}

    def _make_room(self) -> None:
        """Ends what is over or forgotten when there are too many games."""
        for name in sorted(self._sessions, key=lambda name: self._sessions[name].asked):
            if len(self._sessions) < MAX_SESSIONS:
                return
            if self._sessions[name].over or time.monotonic() - self._sessions[name].asked > IDLE_SECONDS:
                self._sessions.pop(name).close()
        if len(self._sessions) >= MAX_SESSIONS:
            raise TooManyGamesError(f"{MAX_SESSIONS} games are under way, each with a model in memory; end one first")


class _Session:
    """One game and its process."""

    def __init__(self, request: Mapping[str, Any], *, own_games: bool) -> None:
        self.asked = time.monotonic()
        self._view: dict[str, Any] = dict(LOADING)
        self._changed = threading.Condition()
        self._changes = 0
        # Without -P a module in the working directory would come before installed ones.
        safe = [] if own_games else ["-P"]
        self._process = subprocess.Popen(
            [sys.executable, *safe, "-m", "spiral.viewer.opponent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},  # the model is on this disk
        )
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()
        self._say(request)

    @property
    def over(self) -> bool:
        """Whether the game has ended."""
        with self._changed:
            return bool(self._view["over"])

    def view(self) -> dict[str, Any]:
        """The game as it is now."""
        with self._changed:
            self.asked = time.monotonic()
            return dict(self._view)

    def move(self, text: str) -> dict[str, Any]:
        """Hands a move on and waits until it is taken or refused."""
        with self._changed:
            self.asked = time.monotonic()
            if not self._view["your_turn"]:
                raise ValueError("it is not your turn; wait for the model's move, or begin another game")
            self._view = {**self._view, "your_turn": False, "error": None}
            before = self._changes
        self._say({"text": text})
        with self._changed:
            self._changed.wait_for(lambda: self._changes != before, ANSWER_SECONDS)
            return dict(self._view)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(2.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not written yet is lost, as meant
                    stream.close()

    def _say(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            self._show({"over": True, "error": self._reason()})

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._show(json.loads(line))
            except ValueError:
                continue
        self._process.wait()
        if not self.over:
            self._show({"over": True, "your_turn": False, "error": self._reason()})

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors = [*self._errors[-4:], line.strip()]

    def _reason(self) -> str:
        last = next((line for line in reversed(self._errors) if line), "")
        return f"the process of the model has ended{f': {last}' if last else ''}"

    def _show(self, view: Mapping[str, Any]) -> None:
        with self._changed:
            self._view = {**self._view, **view}
            self._changes += 1
            self._changed.notify_all()
