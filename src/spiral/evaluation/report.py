"""One measurement of a policy: games against opponents and exploitability, as a recipe asks for."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from spiral.evaluation.arena import evaluate
from spiral.evaluation.config import EvaluationConfig
from spiral.evaluation.exploitability import measure_exploitability
from spiral.games import Game, load_game
from spiral.policies import scripted_policy
from spiral.policies.language import LanguagePolicy
from spiral.policies.scripted import MinimaxPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Results in the JSON form of `ArenaResult` and `ExploitabilityResult`."""

    arena: tuple[dict[str, Any], ...]
    exploitability: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {"arena": list(self.arena), "exploitability": list(self.exploitability)}

    def metrics(self) -> dict[str, float]:
        """The main figures under flat `evaluation/name` keys."""
        values: dict[str, float] = {}
        for result in self.arena:
            name = f"evaluation/{result['game']} against {result['opponent']}"
            for rate in ("win", "draw", "loss", "illegal"):
                values[f"{name}: {rate}"] = float(result[rate])
        for result in self.exploitability:
            values[f"evaluation/{result['game']}: exploitability"] = float(result["exploitability"])
        return values


def measure(policy: LanguagePolicy, config: EvaluationConfig, episodes: int) -> Report:
    """Plays `episodes` games of every game against every opponent that can play it, and measures exploitability.

    An opponent that cannot play a game (minimax in poker) is left out for that game.
    """
    arena = []
    for spec in config.games:
        game = load_game(spec)
        for name in config.opponents:
            if can_play(name, game):
                opponent = scripted_policy(name, game)
                arena.append(evaluate(policy, opponent, game, episodes, config.seed, config.in_flight).to_json())
    exploitability = [
        measure_exploitability(policy, load_game(spec), seed=config.seed).to_json() for spec in config.exploitability
    ]
    return Report(arena=tuple(arena), exploitability=tuple(exploitability))


def can_play(opponent: str, game: Game) -> bool:
    """Whether a scripted opponent knows a game, found out by letting it try."""
    try:
        player = scripted_policy(opponent, game)
        if isinstance(player, MinimaxPolicy):
            player.choose(game.initial_state(), 0, random.Random(0))
    except ValueError:
        return False
    return True


def read_report(path: Path) -> Report:
    """A report that a run wrote. Raises `ValueError` when the file is damaged."""
    try:
        values = json.loads(path.read_text())
        return Report(arena=tuple(values["arena"]), exploitability=tuple(values["exploitability"]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not an evaluation report ({type(error).__name__}); measure again") from error
