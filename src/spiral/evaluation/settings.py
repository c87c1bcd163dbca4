"""What is measured before and after training."""

from __future__ import annotations

from pydantic import Field

from spiral.core.settings import Section


class EvaluationConfig(Section):
    """What is measured before training, after it, and in between."""

    games: list[str] = Field([], description="Games played against each opponent.")
    opponents: list[str] = Field(
        ["random"], description="'random', 'minimax', 'minimax(depth=4)', 'equilibrium', endpoint:NAME or a MODEL."
    )
    episodes: int = Field(
        400, ge=2, le=1_000_000, description="Games against each opponent, half of them from each seat."
    )
    in_flight: int = Field(256, ge=1, description="Evaluation games under way at once.")
    exploitability: list[str] = Field([], description="Games whose exact exploitability is measured.")
    every: int = Field(0, ge=0, description="Also measure every so many steps; 0 measures only before and after.")
    episodes_between: int = Field(100, ge=2, le=1_000_000, description="Games against each opponent in between.")
    temperature: float = Field(1.0, ge=0, description="As sampling.temperature, for the games measured.")
    top_p: float = Field(1.0, gt=0, le=1, description="As sampling.top_p, for the games measured.")
    seed: int = Field(1_000_003, ge=0, description="Seed of the evaluation games, apart from the training's.")
