"""A run directory written down by hand: settings, metrics, evaluations and games, without a model."""

from __future__ import annotations

import dataclasses
import json

import tomli_w

from made_up import new_episode, new_turn
from spiral.core.storage import write_episodes
from spiral.runs.recipe import load_recipe


def made_run(path, *, steps=12, reply="r"):
    """A run of tic-tac-toe with metrics, two evaluations and the games of its last step."""
    recipe = load_recipe("nano", ["selfplay.games={tictactoe=1}", "run.steps=20", "selfplay.opening_plies={}"])
    path.mkdir()
    (path / "config.toml").write_text(tomli_w.dumps(recipe.model_dump()), encoding="utf-8")
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "rollout/turns": 400.0, "thinking/length": 50.0, "thinking/empty": 0.1}
        row |= {"time/step_s": 2.0, "selfplay/tictactoe/games": 64.0, "selfplay/tictactoe/draw": 0.0}
        row |= {"sampler/gap_mean": 0.01, "sampler/gap_warning": 0.0, "loss/entropy": 1.0 / step}
        for player, illegal in ((0, 0.01), (1, 0.6)):
            key = f"selfplay/tictactoe/player{player}"
            row |= {f"{key}/return": 0.5 - player, f"{key}/win": 0.6 - 0.3 * player, f"{key}/illegal": illegal}
            row |= {f"{key}/thinking_length": 50.0}
        rows.append(row)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (path / "evaluation").mkdir()
    for step, loss in ((0, 0.5), (steps, 0.25)):
        arena = {"game": "tictactoe", "opponent": "random", "illegal": 0.0, "episodes": 100}
        for name, value in (("win", 1 - loss), ("draw", 0.0), ("loss", loss), ("not_lost", 1 - loss)):
            arena |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
        values = {"arena": [arena], "exploitability": []}
        (path / "evaluation" / f"step-{step:06d}.json").write_text(json.dumps(values), encoding="utf-8")
    (path / "episodes").mkdir()
    turns = [new_turn(player % 2, action=str(player)) for player in range(7)]
    turns[6] = dataclasses.replace(turns[6], reply=reply)
    games = [new_episode((-1.5, 0.5), turns[:1], outcome="illegal_move"), new_episode((1.0, -1.0), turns)]
    write_episodes(path / "episodes" / f"step-{steps:06d}.parquet", games)
    return path
