"""What the trackers W&B, trackio and MLflow share: one game of a step as a table, and the name that a resume continues.

Games hold text that models wrote. It is handed on without control characters and shortened, since a page of another
project shows it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import write_text_atomically
from spiral.core.metrics import metric_name
from spiral.core.printable import printable
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed

CLIENTS = {"wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow-skinny sqlalchemy alembic pandas"}
"""Built-in trackers that need a client of their own: what to install for each."""
GAME_KEY = "game"
"""The name under which a tracker gets one game of a step."""
FOLDER = "trackers"
"""Directory in a run for the names that a resume continues."""
MAX_TEXT = 10_000
"""Characters of an observation or a reply that a tracker gets."""


def check_client(tracker: str) -> None:
    """Raises `ValueError` if a built-in tracker's client is not installed. Imports nothing."""
    if tracker in CLIENTS and importlib.util.find_spec(tracker) is None:
        raise ValueError(
            f"run.trackers has {tracker!r}, whose client is not installed; run `pip install {CLIENTS[tracker]}`, or"
            " leave it out"
        )


def load_client(tracker: str) -> Any:
    """The module of a tracker's client. Raises `ValueError` if it is not installed."""
    check_client(tracker)
    with quiet():
        return importlib.import_module(tracker)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context manager in which a client prints nothing; a command may print one JSON object, and errors are raised."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def kept_name(run_dir: Path, tracker: str) -> str | None:
    """What `keep_name` kept for this run; None before that."""
    file = run_dir / FOLDER / f"{tracker}.json"
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["run"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged; remove it to begin a new run of this tracker") from error


def keep_name(run_dir: Path, tracker: str, name: str) -> str:
    """Keeps the name by which a tracker knows the run, so that a resume continues it. Returns the name."""
    (run_dir / FOLDER).mkdir(exist_ok=True)
    write_text_atomically(run_dir / FOLDER / f"{tracker}.json", json.dumps({"run": name}) + "\n")
    return name


def new_name(run_dir: Path) -> str:
    """A name for the run that no other has: that of its directory and eight random digits."""
    return f"{metric_name(run_dir.resolve().name)}-{secrets.token_hex(4)}"


def flat_settings(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The recipe as `section.key` to text, values in JSON; a section with keys of other characters is one value."""
    found: dict[str, str] = {}
    for section, values in recipe.items():
        if isinstance(values, Mapping) and all(metric_name(key) == key for key in values):
            found.update({f"{section}.{key}": _setting(value) for key, value in values.items()})
        else:
            found[section] = _setting(values)
    return found


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def shown_game(step: int, episodes: Sequence[Episode]) -> Episode | None:
    """The game of a step that trackers get: any that was played, drawn by the step; None where none was."""
    played = [episode for episode in episodes if episode.outcome != "not_played"]
    return played[derive_seed("tracked game", step) % len(played)] if played else None


def game_facts(step: int, episode: Episode) -> dict[str, Any]:
    """The game as a whole, as plain values."""
    return {
        "step": step,
        "game": printable(episode.game),
        "seed": episode.seed,
        "policies": [printable(seat.policy) for seat in episode.seats],
        "outcome": episode.outcome,
        "returns": list(episode.returns),
        "rewards": list(episode.rewards),
    }


def game_rows(step: int, episode: Episode) -> list[dict[str, Any]]:
    """One row a turn, with the same columns in every row."""
    rows = []
    for number, turn in enumerate(episode.turns):
        tokens = None if turn.generation is None else len(turn.generation.token_ids)
        rows.append(
            {
                "step": step,
                "game": printable(episode.game),
                "turn": number,
                "player": turn.player,
                "policy": printable(episode.seats[turn.player].policy),
                "observation": safe_text(turn.observation),
                "reply": safe_text(turn.reply),
                "action": "" if turn.action is None else printable(turn.action),
                "legal": turn.action is not None,
                "tokens": tokens,
                "return": episode.returns[turn.player],
                "outcome": episode.outcome,
            }
        )
    return rows


def safe_text(text: str) -> str:
    """Text of a game, shortened and without characters that act on what shows it."""
    shown = printable(text[:MAX_TEXT], max_line=MAX_TEXT * 12)
    left = len(text) - MAX_TEXT
    return shown if left <= 0 else f"{shown} ... ({left:,} more characters)"
