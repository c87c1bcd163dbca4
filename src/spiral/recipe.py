"""A recipe: the configuration of one complete run, from a TOML file and the command line.

    recipe = load_recipe("nano", overrides=["learner.epochs=3"])

A recipe is a built-in name (`spiral recipes`) or a TOML file. Unknown keys, wrong types and impossible values are
errors that name the key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from spiral.config import Section
from spiral.credit import CreditConfig, load_estimator
from spiral.evaluation import EvaluationConfig
from spiral.games import load_game
from spiral.learner.learner import LearnerConfig
from spiral.learner.loss import LossConfig
from spiral.policies import SamplingConfig
from spiral.policies.loading import ModelConfig
from spiral.rollout import SelfPlayConfig
from spiral.text import PromptConfig
from spiral.train import RunConfig

RECIPES = Path(__file__).parent / "recipes"


class Recipe(Section):
    """All sections of a run."""

    summary: str = Field("", description="One line for `spiral recipes`.")
    run: RunConfig = Field(default_factory=RunConfig, description="Length, seed and what to keep.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The model that is trained.")
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How games are put to the model.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How replies are sampled.")
    selfplay: SelfPlayConfig = Field(default_factory=SelfPlayConfig, description="Which games, and how many.")
    credit: CreditConfig = Field(default_factory=CreditConfig, description="From returns to advantages.")
    loss: LossConfig = Field(default_factory=LossConfig, description="What is minimised.")
    learner: LearnerConfig = Field(default_factory=LearnerConfig, description="How weights are updated.")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured before and after."
    )


def recipe_names() -> tuple[str, ...]:
    """The built-in recipes."""
    return tuple(sorted(file.stem for file in RECIPES.glob("*.toml")))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or in the TOML file `name`, with `section.key=value` overrides applied in order.

    Raises `ValueError` with one line that names the fault and how to mend it.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = recipe_names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no recipe {name!r}.{hint} Known: {', '.join(known)}; or give a .toml file")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _override(values, override)
    return validate_recipe(values, str(path))


def validate_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Checks every key, and that the games and the estimator exist. Raises `ValueError` with one line."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{source}: {'; '.join(_fault(item) for item in error.errors())}") from error
    if sum(recipe.selfplay.games.values()) <= 0 or min(recipe.selfplay.games.values()) < 0:
        raise ValueError(f"{source}: selfplay.games got weights {recipe.selfplay.games}; expected some above zero")
    for game in [*recipe.selfplay.games, *recipe.evaluation.games, *recipe.evaluation.exploitability]:
        load_game(game)
    load_estimator(recipe.credit.estimator)
    return recipe


def _override(values: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value`; the value is read as TOML, and as plain text when it is none."""
    key, equals, text = override.partition("=")
    section, dot, field = key.strip().partition(".")
    if not equals or not dot or not field:
        raise ValueError(f"got --set {override!r}; expected section.key=value, such as learner.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        value = text
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ValueError(f"got --set {override!r}; {section!r} is not a section")
    table[field] = value


def _fault(item: Any) -> str:
    """One pydantic fault as `section.key: what is wrong`."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        section = Recipe.model_fields.get(str(item["loc"][0]))
        known = list(Recipe.model_fields)
        if len(item["loc"]) > 1 and section is not None and isinstance(section.annotation, type):
            known = list(section.annotation.model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {where!r}; {hint}"
    return f"{where}: got {item['input']!r}; {item['msg'][0].lower()}{item['msg'][1:]}"
