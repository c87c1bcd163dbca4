"""The curriculum that a recipe names in `[curriculum]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import Field

from spiral.core.plugins import construct, resolve
from spiral.core.settings import Section
from spiral.rollout.curriculum.base import Curriculum
from spiral.rollout.curriculum.fixed import FixedWeights
from spiral.rollout.curriculum.learning_progress import LearningProgress
from spiral.rollout.curriculum.regret import Regret

CURRICULA: Mapping[str, type[Curriculum]] = {
    "fixed": FixedWeights,
    "learning_progress": LearningProgress,
    "regret": Regret,
}
"""The built-in curricula by their name in a recipe."""


class CurriculumConfig(Section):
    """What shares out the games of a step among the kinds of games."""

    kind: str = Field(
        "fixed",
        description="'fixed' by the weights of selfplay.games, 'learning_progress', 'regret', or 'module:Class'.",
    )
    options: dict[str, object] = Field({}, description="Options of the curriculum, such as { rate = 0.1 }.")


def find_curriculum(name: str) -> Callable[..., object]:
    """Return the class or function called `name`. Raise `ValueError` where there is none."""
    return resolve("curricula", name, CURRICULA)


def make_curriculum(config: CurriculumConfig, games: Mapping[str, float]) -> Curriculum:
    """Return the curriculum of a recipe, in its first state, for the weights of its games.

    Raises:
        ValueError: There is no such curriculum, or it does not take its options.
    """
    return construct(
        "curriculum",
        config.kind,
        find_curriculum(config.kind),
        Curriculum,  # type: ignore[type-abstract]
        ("games", games),
        config.options,
        "curriculum.kind",
    )
