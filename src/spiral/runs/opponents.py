"""The opponents of a run: which of them are models, and how these are loaded."""

from __future__ import annotations

from spiral.policies.opponents import Opponents, opponent_model
from spiral.policies.registry import PolicyOptions, PolicySettings, is_language_model
from spiral.rollout.opponents.base import OWN
from spiral.runs.recipe import Recipe


def make_opponents(recipe: Recipe) -> Opponents:
    """Return what loads the opponents of a run, in training and in evaluation."""
    return Opponents(opponent_defaults(recipe), recipe.opponent, planned_opponents(recipe))


def opponent_defaults(recipe: Recipe) -> PolicyOptions:
    """Return the options of opponents without settings of their own: as the policy plays."""
    return PolicyOptions(
        device=recipe.model.device,
        compute=recipe.model.compute,
        engine=recipe.engine.kind,
        alone=False,
        setting="opponent.NAME.{}",
        beside=PolicySettings(
            model=recipe.model.path, prompt=recipe.prompt, sampling=recipe.sampling, engine=recipe.engine
        ),
    )


def planned_opponents(recipe: Recipe) -> dict[str, bool]:
    """Return the opponents that are language models on this machine, and whether they play in training.

    The others play in evaluations alone. A sampler of the user's own may name further models at any time.
    """
    training = [name for name, weight in recipe.selfplay.opponents.items() if weight and name not in OWN]
    evaluation = recipe.evaluation.opponents if recipe.evaluation.games else []
    names = dict.fromkeys((*training, *evaluation))
    return {name: name in training for name in names if is_language_model(opponent_model(name, recipe.opponent))}
