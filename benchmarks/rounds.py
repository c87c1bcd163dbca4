"""What the two sides of self-play against `verifiers` give back. It loads neither torch nor spiral.

Each side is a program of its own, in its own environment and process. It plays `--warmup` rounds of games that do not
count and `--repeats` that do, and writes them as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Some games, all begun at once."""

    seconds: float
    games: int
    turns: int
    prompt_tokens: int
    reply_tokens: int
    illegal: int
    """Games that ended with an illegal move."""


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both sides take."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--model", required=True)
    options.add_argument("--game", required=True)
    options.add_argument("--games", type=int, required=True, help="games of a round")
    options.add_argument("--tokens", type=int, required=True, help="response budget")
    options.add_argument("--temperature", type=float, required=True)
    options.add_argument("--thinking", action="store_true")
    options.add_argument("--warmup", type=int, default=1, help="rounds that do not count (%(default)s)")
    options.add_argument("--repeats", type=int, default=5, help="rounds that count (%(default)s)")
    options.add_argument("--out", type=Path, required=True)
    return options


def seeds(options: argparse.Namespace, number: int) -> range:
    """The numbers of the deals of a round, the same on both sides."""
    return range(number * options.games, (number + 1) * options.games)


def write_rounds(file: Path, rounds: Sequence[Round], versions: dict[str, str]) -> None:
    """Writes the rounds that count."""
    values = {"rounds": [dataclasses.asdict(played) for played in rounds], "versions": versions}
    file.write_text(json.dumps(values, indent=1), encoding="utf-8")


def read_rounds(file: Path) -> tuple[list[Round], dict[str, str]]:
    """What `write_rounds` wrote."""
    values = json.loads(file.read_text(encoding="utf-8"))
    return [Round(**played) for played in values["rounds"]], values["versions"]
