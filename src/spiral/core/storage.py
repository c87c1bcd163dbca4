"""Episodes as Parquet: one row a turn, readable with pyarrow, pandas, DuckDB or `datasets`.

Columns that belong to the whole game repeat in each of its rows; `policies`, `trainable`, `returns` and `rewards` have
one item for each player. The file's metadata carries the schema version. Files of earlier versions are read too, and
the columns that they lack get their defaults.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spiral.core.files import write_atomically
from spiral.core.records import SCHEMA_VERSION, Episode, FloatArray, Generation, Seat, Turn

VERSION_KEY = b"spiral_schema_version"
READ_VERSIONS = tuple(str(version) for version in range(1, SCHEMA_VERSION + 1))

ADDED_IN = {
    "thinking_tokens": 2,
    "has_thought": 2,
    "fault": 3,
    "budget": 4,
    "reward": 5,
    "attempt": 6,
    "rewards": 7,
    "advantages": 8,
    "learner_logprobs": 8,
    "history_turns": 9,
}
"""The version that added a column, for columns that version 1 does not have."""

SCHEMA = pa.schema(
    [
        ("episode", pa.int32()),
        ("turn", pa.int32()),
        ("game", pa.string()),
        ("seed", pa.int64()),
        ("policies", pa.list_(pa.string())),
        ("trainable", pa.list_(pa.bool_())),
        ("actions", pa.list_(pa.string())),
        ("returns", pa.list_(pa.float64())),
        ("rewards", pa.list_(pa.float64())),
        ("outcome", pa.string()),
        ("fault", pa.string()),
        ("player", pa.int8()),
        ("observation", pa.string()),
        ("reply", pa.string()),
        ("action", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("stop_reason", pa.string()),
        ("policy_version", pa.int32()),
        ("budget", pa.int32()),
        ("thinking_tokens", pa.int32()),
        ("has_thought", pa.bool_()),
        ("reward", pa.float64()),
        ("attempt", pa.int32()),
        ("advantages", pa.list_(pa.float32())),
        ("learner_logprobs", pa.list_(pa.float32())),
        ("history_turns", pa.int32()),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write episodes to one Parquet file, atomically."""
    rows = [_row(number, episode, index, turn) for number, episode in enumerate(episodes)
            for index, turn in enumerate(episode.turns)]  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    write_table(path, pa.table(columns, schema=SCHEMA))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table to one Parquet file, atomically, with a checksum of every page."""
    write_atomically(
        path, lambda temporary: pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    )


TOKENS = ("prompt_ids", "token_ids", "logprobs", "advantages", "learner_logprobs")
"""The columns of token ids and their numbers, most of a file."""


def read_episodes(path: Path, *, tokens: bool = True, only: int | None = None) -> list[Episode]:
    """Read the episodes of a file.

    Args:
        path: The file.
        tokens: Whether to read token ids and log-probabilities too. Without them reading takes a fraction of the time
            and memory; turns have no `prompt_ids`, advantages and numbers of the learner, and the arrays of their
            generations are empty.
        only: The number of one episode, to read it alone; the list is empty where the file does not have it.

    Raises:
        ValueError: The file cannot be read, is damaged, or has an unknown version.
    """
    try:
        names = None if tokens else [name for name in pq.read_schema(path).names if name not in TOKENS]
        table = pq.read_table(path, columns=names, page_checksum_verification=True)
        if only is not None:
            table = table.filter(pc.equal(table["episode"], only))
        version = (table.schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot read episodes from {path}: {str(error).splitlines()[0]}") from error
    if version not in READ_VERSIONS:
        raise ValueError(f"{path} has schema version {version}; this spiral reads {', '.join(READ_VERSIONS)}")
    for field in SCHEMA:
        known = int(version) >= ADDED_IN.get(field.name, 1) and (tokens or field.name not in TOKENS)
        if known and (field.name not in table.schema.names or table.schema.field(field.name).type != field.type):
            raise ValueError(f"{path} is damaged: it has no column {field.name!r} of {field.type}")
    try:
        grouped = itertools.groupby(table.to_pylist(), key=lambda row: row["episode"])
        return [_episode(list(rows)) for _, rows in grouped]
    except (pa.ArrowException, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _row(number: int, episode: Episode, index: int, turn: Turn) -> dict[str, Any]:
    generation = turn.generation
    return {
        "episode": number,
        "turn": index,
        "game": episode.game,
        "seed": episode.seed,
        "policies": [seat.policy for seat in episode.seats],
        "trainable": [seat.trainable for seat in episode.seats],
        "actions": list(episode.actions),
        "returns": list(episode.returns),
        "rewards": list(episode.rewards),
        "outcome": episode.outcome,
        "fault": episode.fault,
        "player": turn.player,
        "observation": turn.observation,
        "reply": turn.reply,
        "action": turn.action,
        "prompt_ids": turn.prompt_ids,
        "token_ids": generation.token_ids if generation else None,
        "logprobs": generation.logprobs if generation else None,
        "stop_reason": generation.stop_reason if generation else None,
        "policy_version": generation.policy_version if generation else None,
        "budget": generation.budget if generation else None,
        "thinking_tokens": generation.thinking_tokens if generation else None,
        "has_thought": generation.has_thought if generation else None,
        "reward": turn.reward,
        "attempt": episode.attempt,
        "advantages": turn.advantages,
        "learner_logprobs": turn.learner_logprobs,
        "history_turns": turn.history_turns,
    }


def _episode(rows: list[dict[str, Any]]) -> Episode:
    first = rows[0]
    seats = [Seat(policy=p, trainable=t) for p, t in zip(first["policies"], first["trainable"], strict=True)]
    for paid in ("returns", "rewards"):
        if len(first.get(paid, seats)) != len(seats):
            raise ValueError(f"an episode has {len(seats)} players and {len(first[paid])} {paid}")
    return Episode(
        game=first["game"],
        seed=first["seed"],
        seats=tuple(seats),
        turns=tuple(_turn(row) for row in rows),
        actions=tuple(first["actions"]),
        returns=tuple(first["returns"]),
        rewards=tuple(first.get("rewards", ())),
        outcome=first["outcome"],
        fault=first.get("fault", ""),
        attempt=first.get("attempt", 0),
    )


def _turn(row: dict[str, Any]) -> Turn:
    generation = None
    if row["stop_reason"] is not None:
        generation = Generation(
            token_ids=np.asarray(row.get("token_ids", ()), dtype=np.int64),
            logprobs=np.asarray(row.get("logprobs", ()), dtype=np.float32),
            stop_reason=row["stop_reason"],
            policy_version=row["policy_version"],
            budget=row.get("budget", 0),
            thinking_tokens=row.get("thinking_tokens", 0),
            has_thought=row.get("has_thought", False),
        )
    prompt_ids = None if row.get("prompt_ids") is None else np.asarray(row["prompt_ids"], dtype=np.int64)
    return Turn(
        player=row["player"],
        observation=row["observation"],
        reply=row["reply"],
        action=row["action"],
        prompt_ids=prompt_ids,
        history_turns=row.get("history_turns"),
        generation=generation,
        reward=row.get("reward", 0.0),
        advantages=_floats(row.get("advantages")),
        learner_logprobs=_floats(row.get("learner_logprobs")),
    )


def _floats(values: Sequence[float] | None) -> FloatArray | None:
    return None if values is None else np.asarray(values, dtype=np.float32)
