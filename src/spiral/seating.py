"""From a MODEL on the command line to something that can sit in a seat.

A MODEL is `nano`, a run directory (its last checkpoint), a checkpoint directory, a Hugging Face name or path, or a
scripted policy. A model brings its own prompt when it was trained here (`spiral.json`), and its run's sampling when
the run's `config.toml` is found around it; whatever is asked for on the command line comes first.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from spiral.config import Section
from spiral.games import Game, State
from spiral.learner.checkpoint import MANIFEST, STATE, verify_checkpoint
from spiral.policies import SCRIPTED_NAMES, Policy, SamplingConfig, scripted_policy
from spiral.policies.loading import LanguageModel, ModelConfig, load_language_model, model_directory
from spiral.policies.transformers import TransformersPolicy
from spiral.text import ChatCodec, PromptConfig
from spiral.theory import Minimax, TabularPolicy, kuhn_equilibrium, uniform_policy

Kind = TypeVar("Kind", bound=Section)

KINDS = f"'nano', a run or checkpoint directory, a Hugging Face name or path, or one of {', '.join(SCRIPTED_NAMES)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeatOptions:
    """What the command line asks for; None leaves the model's own choice."""

    template: str | None = None
    observation: str | None = None
    thinking: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    device: str = "auto"
    compute: str = "float32"


DEFAULTS = SeatOptions()


def seat_policy(name: str, game: Game, options: SeatOptions = DEFAULTS) -> Policy:
    """The policy that MODEL `name` stands for in `game`. Raises `ValueError` when there is none."""
    if name in SCRIPTED_NAMES:
        return scripted_policy(name, game)
    return language_policy(name, options)


def exploitable_policy(name: str, game: Game, options: SeatOptions = DEFAULTS) -> TransformersPolicy | TabularPolicy:
    """The same as something whose probabilities can be known: a language model, or a scripted policy's table."""
    if name not in SCRIPTED_NAMES:
        return language_policy(name, options)
    if name == "random":
        return uniform_policy
    if name == "minimax":
        return _minimax_table()
    scripted_policy(name, game)  # refuses games without a known equilibrium
    return kuhn_equilibrium()


def language_policy(name: str, options: SeatOptions) -> TransformersPolicy:
    """A language model that plays under the name it was asked for by."""
    check_model(name)
    where = {"path": name, "device": options.device, "compute": options.compute}
    loaded = load_language_model(_section(ModelConfig, where))
    codec = ChatCodec(loaded.tokenizer, _prompt(name, loaded, options))
    sampling = _with_options(_run_sampling(name), options, ("temperature", "top_p", "max_new_tokens"))
    return TransformersPolicy(loaded.model, codec, sampling, name=name, compute=options.compute)


def check_model(name: str) -> None:
    """Raises `ValueError` for what cannot be a model, and for a training checkpoint that is damaged."""
    try:
        directory = Path(model_directory(name))
    except ValueError as error:
        raise ValueError(f"{error}. A model is {KINDS}") from error
    if directory.exists() and not (directory / "config.json").is_file():
        raise ValueError(f"{name!r} holds no model: there is no {directory / 'config.json'}. A model is {KINDS}")
    if any((directory / name).is_file() for name in (MANIFEST, STATE)):
        verify_checkpoint(directory)


def count_parameters(name: str) -> int:
    """How many parameters a model has, from its configuration alone. Raises `ValueError` when it cannot be read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_model(name)
    try:
        config = AutoConfig.from_pretrained(model_directory(name))
        with torch.device("meta"):
            return int(AutoModelForCausalLM.from_config(config).num_parameters())
    except Exception as error:  # transformers raises many kinds for a missing or damaged configuration
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read the configuration of model {name!r}: {reason}") from error


def _prompt(name: str, loaded: LanguageModel, options: SeatOptions) -> PromptConfig:
    """The prompt the model was trained with, or the default one, with what was asked for on top."""
    own = loaded.prompt
    if own is None and options.template is None and not loaded.tokenizer.chat_template:
        raise ValueError(
            f"model {name!r} has no chat template and does not say how to prompt it; add --template qwen3, r1 or llama"
        )
    return _with_options(own or PromptConfig(), options, ("template", "observation", "thinking"))


def _run_sampling(name: str) -> SamplingConfig:
    """The sampling of the run that the model comes from, or the default."""
    return _section(SamplingConfig, _run_config(name).get("sampling", {}))


def run_games(name: str) -> list[str]:
    """The games that the run a model comes from was trained on; none when it comes from no run."""
    selfplay = {} if name in SCRIPTED_NAMES else _run_config(name).get("selfplay", {})
    games = selfplay.get("games", {}) if isinstance(selfplay, dict) else {}
    return list(games) if isinstance(games, dict) else []


def _run_config(name: str) -> dict[str, Any]:
    """The `config.toml` of the run that the model comes from; empty when it comes from none."""
    checkpoint = Path(model_directory(name)).absolute()
    file = checkpoint.parent.parent / "config.toml"
    if checkpoint.parent.name != "checkpoints" or not file.is_file():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _with_options(section: Kind, options: SeatOptions, fields: tuple[str, ...]) -> Kind:
    """The section with every option that was given in its place, checked."""
    given = {field: getattr(options, field) for field in fields if getattr(options, field) is not None}
    return _section(type(section), {**section.model_dump(), **given})


def _section(kind: type[Kind], values: Mapping[str, object]) -> Kind:
    """A checked configuration section. Raises `ValueError` that names the option."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        option = "-".join(str(part) for part in fault["loc"]).replace("_", "-")
        raise ValueError(f"{option}: got {fault['input']!r}; {fault['msg']}") from error


def _minimax_table() -> TabularPolicy:
    """Uniform over the optimal actions."""
    search = Minimax()

    def policy(state: State, seat: int) -> dict[str, float]:  # noqa: ARG001 - the signature of every policy
        actions = search.optimal_actions(state)
        return dict.fromkeys(actions, 1 / len(actions))

    return policy
