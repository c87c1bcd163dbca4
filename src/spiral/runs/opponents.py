"""The opponents of a run: which of them are models, and how these are loaded."""

from __future__ import annotations

from pathlib import Path

from spiral.models.loading import model_directory
from spiral.policies.opponents import SHARED, Opponents, opponent_model
from spiral.policies.past_selves import EngineShare
from spiral.policies.registry import PolicyOptions, PolicySettings, is_language_model, vocabulary
from spiral.rollout.opponents.base import OWN
from spiral.rollout.opponents.loading import plays_past_selves
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
    """Return the opponents with engines of their own on this machine, and whether they play in training.

    The others play in evaluations alone. A sampler of the user's own may name further models at any time.
    """
    shared = shared_opponents(recipe)
    return {
        name: trains
        for name, trains in _opponents(recipe).items()
        if name not in shared and is_language_model(opponent_model(name, recipe.opponent))
    }


def shared_opponents(recipe: Recipe) -> dict[str, str]:
    """Return the models of the opponents that play with the policy's engine, by the opponents' names."""
    return {
        name: opponent_model(name, recipe.opponent)
        for name in _opponents(recipe)
        if name in recipe.opponent and recipe.opponent[name].engine == SHARED
    }


def engine_share(recipe: Recipe, run: Path) -> EngineShare | None:
    """Return the opponents that play in the policy's engine, in the run in a directory; None without any.

    Raises:
        ValueError: The model of an opponent that shares it is not there, or has other tokens.
    """
    models = shared_opponents(recipe)
    if not models and not plays_past_selves(recipe.selfplay):
        return None
    own = vocabulary(recipe.model.path) if models else {}
    for name, model in models.items():
        if vocabulary(model) != own:
            raise ValueError(
                f"opponent.{name}.engine is {SHARED!r}, but {model} has other tokens than {recipe.model.path}; expected"
                " a model that was trained from the same one, or another engine"
            )
    return EngineShare(
        run=run, weights={name: Path(model_directory(model)).absolute() for name, model in models.items()}
    )


def _opponents(recipe: Recipe) -> dict[str, bool]:
    """The names of all opponents but the policy itself, and whether they play in training."""
    training = [name for name, weight in recipe.selfplay.opponents.items() if weight and name not in OWN]
    evaluation = recipe.evaluation.opponents if recipe.evaluation.games else []
    return {name: name in training for name in dict.fromkeys((*training, *evaluation))}
