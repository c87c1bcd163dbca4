"""A checkpoint's card, `spiral.json`: how the model was trained and is prompted, wherever the checkpoint is moved.

The sections hold the same keys as those of a recipe. A model that was not trained here has no card. A checkpoint
written before cards held more than the prompt takes the rest from the `config.toml` of its run, while it lies there.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from spiral.core.policy import SamplingConfig
from spiral.core.settings import Section, checked
from spiral.text import PromptConfig

CARD = "spiral.json"


class ModelCard(Section):
    """Model card of a checkpoint; keys that a later version adds are skipped."""

    model_config = ConfigDict(extra="ignore")

    prompt: PromptConfig | None = Field(None, description="How games are put to the model.")
    sampling: dict[str, Any] = Field(default_factory=dict, description="How replies were sampled in training.")
    engine: dict[str, Any] = Field(default_factory=dict, description="What generated the replies.")
    selfplay: dict[str, Any] = Field(default_factory=dict, description="The games and the opponents of the training.")
    evaluation: dict[str, Any] = Field(default_factory=dict, description="How the run evaluated the model.")
    opponent: dict[str, Any] = Field(default_factory=dict, description="Settings of opponents by name.")
    run: str = Field("", description="Name of the run directory; empty for a model of no run.")
    step: int = Field(0, description="Updates that the weights have seen.")
    versions: dict[str, str] = Field(default_factory=dict, description="Python and packages that wrote the checkpoint.")

    @property
    def games(self) -> list[str]:
        """The games that the model was trained on; none where that is not known."""
        games = self.selfplay.get("games", {})
        return list(games) if isinstance(games, dict) else []

    @property
    def evaluation_sampling(self) -> SamplingConfig:
        """The sampling with which the run evaluated the model, or the default."""
        own: dict[str, Any] = {key: self.evaluation[key] for key in ("temperature", "top_p") if key in self.evaluation}
        return checked(SamplingConfig, {**self.sampling, **own})


def training_card(sections: Mapping[str, Any]) -> ModelCard:
    """The card of a run's checkpoints; `sections` are those of its recipe, as dictionaries."""
    wanted = ("prompt", "sampling", "engine", "selfplay", "evaluation", "opponent")
    return ModelCard.model_validate({name: sections[name] for name in wanted if isinstance(sections.get(name), dict)})


def write_card(directory: Path, card: ModelCard) -> None:
    """Writes the card beside a model. What it does not know is left out."""
    values = card.model_dump(mode="json", exclude_defaults=True, exclude={"prompt"})
    prompt = {} if card.prompt is None else {"prompt": card.prompt.model_dump()}
    (directory / CARD).write_text(json.dumps({**prompt, **values}, indent=2) + "\n", encoding="utf-8")


def read_card(directory: str | Path) -> ModelCard:
    """The card of the model in `directory`; an empty one for a model without.

    Raises:
        ValueError: The card, or the `config.toml` that stands in for it, is damaged.
    """
    card = _own_card(Path(directory))
    if card.run:
        return card
    run = Path(directory).absolute().parent.parent
    file = run / "config.toml"
    if Path(directory).absolute().parent.name != "checkpoints" or not file.is_file():
        return card
    try:
        sections = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        found = training_card({name: values for name, values in sections.items() if name != "prompt"})
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return found.model_copy(update={"prompt": card.prompt, "run": run.name})


def _own_card(directory: Path) -> ModelCard:
    file = directory / CARD
    if not file.is_file():
        return ModelCard()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return ModelCard.model_validate({**values, "prompt": values["prompt"]})
    except (OSError, KeyError, TypeError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
        raise ValueError(f"{file} is damaged ({type(error).__name__}); expected {{'prompt': {{...}}}}") from error
