"""Run directories step by step: games of every kind, and text that is hostile to a page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from spiral.core.records import Episode, Generation
from spiral.core.storage import write_episodes
from viewed_runs import played

CONFIG = """\
[run]
steps = 4

[model]
path = "nano"

[selfplay]
games = { %s = 1.0 }
"""
SCRIPT = '<script>window.hacked = true</script><img src="x" onerror="window.hacked = true"><b id="injected">bold</b>'
ANSI = "\x1b[31mred\x1b[0m \x1b]0;title\x07"
BIDI = "abc \u202edesrever\u202c \u2066isolate\u2069 def"
HIDDEN = "zero\u200bwidth\ufeff\u2060 soft\u00adhyphen tag\U000e0041"
ZALGO = "z" + "\u0301" * 60 + "algo"
HOSTILE = "\n".join((SCRIPT, ANSI, BIDI, HIDDEN, ZALGO, "line\u2028separator", "javascript:alert(1)"))
MEGABYTE = "a long reply " * 80_660
"""1,048,580 characters."""


def with_replies(episode: Episode, replies: dict[int, str]) -> Episode:
    """The episode with other text in some turns."""
    turns = tuple(
        dataclasses.replace(
            turn, reply=replies.get(index, turn.reply), observation=replies.get(index, turn.observation)
        )
        for index, turn in enumerate(episode.turns)
    )
    return dataclasses.replace(episode, turns=turns)


def sampled(episode: Episode, tokens: int) -> Episode:
    """The episode as if a model had sampled its replies; the ids belong to no tokenizer."""
    ids = np.arange(tokens) % 200
    generation = Generation(
        token_ids=ids,
        logprobs=-np.linspace(0.0, 5.0, tokens, dtype=np.float32),
        stop_reason="stop",
        policy_version=3,
        budget=tokens,
    )
    turns = tuple(dataclasses.replace(turn, generation=generation, prompt_ids=ids[:4]) for turn in episode.turns)
    return dataclasses.replace(episode, turns=turns)


def make_run(path: Path, episodes: dict[int, list[Episode]], games: str = "tictactoe") -> Path:
    """A run directory with these episodes by step, and metrics of its steps."""
    (path / "episodes").mkdir(parents=True)
    (path / "config.toml").write_text(CONFIG % games)
    for step, games_of_step in episodes.items():
        write_episodes(path / "episodes" / f"step-{step:06d}.parquet", games_of_step)
        add_step(path, step)
    return path


def add_step(path: Path, step: int, **metrics: float) -> None:
    """Append a step to the metrics, as training does."""
    row = {"step": step, "rollout/illegal": 0.5 / step, "rollout/games": 8.0, "loss/entropy": 1.0 / step, **metrics}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def game_of_every_kind(path: Path) -> Path:
    """One step a kind of board: 1 tic-tac-toe of size 4, 2 Connect Four, 3 Leduc, 4 negotiation, 5 hostile text."""
    tictactoe = played("tictactoe", 1)[0]
    named = dataclasses.replace(tictactoe.seats[0], policy=SCRIPT)
    return make_run(path, {
        1: played("tictactoe(size=4, line=4)", 2),
        2: played("connect_four", 2),
        3: played("leduc_poker", 4, opponent="equilibrium"),
        4: played("simple_negotiation", 2),
        5: [
            with_replies(tictactoe, {0: HOSTILE, 1: MEGABYTE}),
            dataclasses.replace(tictactoe, seats=(named, tictactoe.seats[1])),
        ],
    })  # fmt: skip
