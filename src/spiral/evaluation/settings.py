"""The `[evaluation]` section of a recipe."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from spiral.core.policy import computable
from spiral.core.settings import Section


class EvaluationConfig(Section):
    """Games and exact theory evaluated before training, after it, and in between."""

    games: list[str] = Field([], description="Games played against each opponent.")
    opponents: list[str] = Field(
        ["random"], description="'random', 'minimax', 'minimax(depth=4)', 'equilibrium', endpoint:NAME or a MODEL."
    )
    episodes: int = Field(
        400,
        ge=2,
        le=1_000_000,
        description="Games against each opponent, as each player in turn; with three players the next multiple.",
    )
    in_flight: int = Field(256, ge=1, description="Evaluation games being played at once.")
    exploitability: list[str] = Field([], description="Games whose exact exploitability is computed.")
    every: int = Field(0, ge=0, description="Steps between evaluations; 0 evaluates only before and after training.")
    episodes_between: int = Field(
        100, ge=2, le=1_000_000, description="Games against each opponent in evaluations during training."
    )
    temperature: float = Field(1.0, ge=0, description="As sampling.temperature, for evaluation games.")
    top_p: float = Field(1.0, gt=0, le=1, description="As sampling.top_p, for evaluation games.")
    seed: int = Field(1_000_003, ge=0, description="Seed of the evaluation games, independent of the training seed.")

    _computable = field_validator("temperature", "top_p")(computable)

    @model_validator(mode="after")
    def _players_change_places(self) -> Self:
        """The policy plays first in one half of the games and second in the other."""
        for key in ("episodes", "episodes_between"):
            if getattr(self, key) % 2:
                raise ValueError(f"evaluation.{key} is {getattr(self, key)}; expected an even number")
        return self
