"""Loads the policy of a MODEL's name.

A MODEL is `nano`, `nano-think` or another local model (`spiral models`), a run directory (its last checkpoint), a
checkpoint directory, a Hugging Face name or path, a scripted policy, or `endpoint:NAME`. A model that was trained here
has its prompt and its run's sampling in its card (`spiral.json`); options of the command line take precedence.
"""

from __future__ import annotations

import dataclasses
import difflib
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from spiral.core.policy import Answerer
from spiral.core.settings import Kind, checked, shortened
from spiral.core.steps import MANIFEST
from spiral.games import Game, load_game
from spiral.inference.room import check_room
from spiral.inference.settings import EngineConfig, resolved, vllm_installed
from spiral.models.card import ModelCard, read_card
from spiral.models.files import check_no_adapter
from spiral.models.hub import NotHereError
from spiral.models.loading import LanguageModel, load_language_model, local_model, model_directory
from spiral.models.settings import ModelConfig
from spiral.models.shapes import count_parameters, known_config, model_config
from spiral.models.store import BUILT_IN, FETCHABLE, NotFetchedError
from spiral.policies import (
    SCRIPTED_NAMES,
    Policy,
    SamplingConfig,
    check_scripted,
    is_scripted,
    scripted_policy,
    scripted_table,
)
from spiral.policies.endpoint.config import ENDPOINT, LENGTH, EndpointConfig, find_endpoint, load_endpoint
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.text import PromptConfig
from spiral.theory import TabularPolicy
from spiral.training.checkpoint import STATE, verify_checkpoint

if TYPE_CHECKING:
    from spiral.inference.base import LanguagePolicy

logger = logging.getLogger(__name__)

MODELS = (
    f"a name that `spiral models` lists ({', '.join([*BUILT_IN, *FETCHABLE])}), a run or checkpoint directory, or a"
    " Hugging Face name or path"
)
"""Names of models, for messages."""
POLICIES = MODELS.replace(", or a Hugging", ", a Hugging") + f", or one of {', '.join(SCRIPTED_NAMES)}"
"""Names of policies, for messages."""
PROMPT_OPTIONS = ("template", "observation", "thinking", "example", "system", "history", "history_thoughts")
SAMPLING_OPTIONS = ("temperature", "top_p", "max_new_tokens")
MIN_CONTEXT = 16384
"""Tokens that vLLM reserves for prompt and reply by default. It is enough for benchmarks and games, and the same for
two models under comparison; the own limit of many models would need more memory than there is."""
PROMPT_ROOM = 4096
"""Tokens that the default context leaves for the prompt."""
MAX_TOTAL_SHARE = 0.85
"""Upper bound on vLLM's share of a GPU when no learner uses it."""
MAX_FREE_SHARE = 0.95
"""Upper bound on vLLM's share of the GPU memory that is free."""
MAX_CPU_PARAMETERS = 2_000_000_000
"""Parameters of a model that a CPU can pass a few hundred tokens through in seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """How a policy plays, for opponents that have no settings of their own."""

    model: str
    """The MODEL that the policy is, or that it is trained from."""
    prompt: PromptConfig
    sampling: SamplingConfig
    engine: EngineConfig | None = None
    """The engine of a run, beside which the opponent's engine works; None where there is no learner."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Options of the command line for one policy; None keeps the model's own setting."""

    template: str | None = None
    observation: str | None = None
    thinking: bool | None = None
    example: bool | None = None
    system: str | None = None
    history: str | None = None
    history_thoughts: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    device: str = "auto"
    compute: str = "float32"
    engine: str = "transformers"
    tensor_parallel: int | None = None
    """vLLM: devices that share out the model; None takes those of the run that the model comes from."""
    context: int | None = None
    """Maximum tokens of prompt and reply together; None leaves room for the usual lengths, up to the model's limit."""
    reply_tokens: int = 0
    """Another response budget that needs room, such as that of a benchmark."""
    alone: bool = True
    """Whether no other model is loaded at the same time."""
    card: ModelCard | None = None
    """The card of another model, to use instead of this one's."""
    memory_share: float | None = None
    """vLLM's share of the device's memory; None takes most of it when `alone`, or else the engine's."""
    name: str | None = None
    """The policy's name in records; None takes that of the MODEL."""
    beside: PolicySettings | None = None
    """The policy that this one plays against; a model without a card is prompted and sampled as that one is."""
    setting: str = "--{}"
    """How the user sets an option, for messages: `--temperature`, or `opponent.NAME.temperature` of a recipe."""

    def setting_of(self, field: str) -> str:
        """The name of an option for messages."""
        return self.setting.format(field.replace("_", "-") if self.setting.startswith("--") else field)


DEFAULTS = PolicyOptions()


def load_policy(name: str, game: str | Game, options: PolicyOptions = DEFAULTS, **changed: Any) -> Policy:
    """Loads the policy of a MODEL's name: a scripted policy, a model, a run, or `endpoint:NAME`.

    Args:
        name: As on the command line, such as "minimax", "nano", "runs/r1" or "runs/r1@15".
        game: The game that the policy will play.
        options: How a model is loaded, prompted and sampled.
        changed: Fields of `PolicyOptions` that replace those of `options`, such as `temperature=0.0`.

    Raises:
        ValueError: There is no such policy, or the game's first prompt leaves no room for a reply.
    """
    game = load_game(game) if isinstance(game, str) else game
    options = dataclasses.replace(options, **changed)
    if is_scripted(name):
        return scripted_policy(name, game)
    if name.startswith(ENDPOINT):
        return _endpoint_policy(name, options)
    policy = load_language_policy(name, options)
    try:
        check_room(policy, game)
    except BaseException:
        policy.close()
        raise
    return policy


def _endpoint_policy(name: str, options: PolicyOptions) -> EndpointPolicy:
    """The policy of an endpoint, with the settings of its table in `endpoints.toml`."""
    config, file = find_endpoint(name.removeprefix(ENDPOINT))
    config = with_options(config, options, ("temperature", "top_p", "max_new_tokens"))
    prompt = _with_prompt_options(config.prompt, options)
    given = {"temperature": options.temperature, "top_p": options.top_p, LENGTH: options.max_new_tokens}
    policy = EndpointPolicy(
        checked(EndpointConfig, {**config.model_dump(), "prompt": prompt.model_dump()}),
        name=name,
        required=frozenset(parameter for parameter, value in given.items() if value is not None),
        source="" if file is None else str(file),
    )
    policy.name = options.name or name
    return policy


def load_answerer(name: str, options: PolicyOptions) -> Answerer:
    """The language model or endpoint called `name`, for questions outside of games.

    Raises:
        ValueError: The name is a scripted policy, which writes no text.
    """
    if is_scripted(name):
        raise ValueError(f"got {name!r}, which plays games only; expected a language model or endpoint:NAME")
    return _endpoint_policy(name, options) if name.startswith(ENDPOINT) else load_language_policy(name, options)


def load_exploitable_policy(name: str, game: Game, options: PolicyOptions = DEFAULTS) -> LanguagePolicy | TabularPolicy:
    """A policy with known action probabilities: a language model, or the table of a scripted policy."""
    return scripted_table(name, game) if is_scripted(name) else load_language_policy(name, options)


def is_language_model(name: str) -> bool:
    """Whether a name is a language model that runs here, not a scripted policy or an endpoint."""
    return not is_scripted(name) and not name.startswith(ENDPOINT)


def load_language_policy(name: str, options: PolicyOptions) -> LanguagePolicy:
    """Loads a language model as a policy that is called `name`."""
    from spiral.agreement import run_check  # loads torch, and so does the next
    from spiral.inference.engines import Weights, load_for_engine, make_policy

    check_model(name, ())
    where = checked(ModelConfig, {"path": name, "device": options.device, "compute": options.compute})
    sampling = effective_sampling(options.card or model_card(name), options)
    engine = engine_settings(name, options, max(sampling.max_new_tokens, options.reply_tokens))
    loaded = load_for_engine(where, engine)
    prompt = _prompt(name, loaded, options)
    policy = make_policy(engine, where, loaded, prompt, sampling, weights=Weights.FIXED, name=options.name or name)
    policy.source = name
    directory = model_directory(name)
    settings = {
        "device": where.device,
        "head": where.head,
        "tensor_parallel": engine.tensor_parallel,
        "prompt": prompt.model_dump(),
    }
    try:
        run_check(policy, lambda: loaded.model or _plain_model(where), directory, where.compute, settings, kept=True)
    except BaseException:
        policy.close()
        raise
    return policy


def _plain_model(where: ModelConfig) -> Any:
    """The plain model, to compare vLLM with; None when it would take too long or too much memory."""
    import torch

    parameters = count_parameters(where.path)
    room = 1.2 * parameters * getattr(torch, where.compute).itemsize
    device = "cpu"
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > room:
        device = where.device
    elif parameters > MAX_CPU_PARAMETERS:
        logger.warning(
            "%s: skipped comparing vLLM with the plain forward pass: the model is too large for the free GPU memory"
            " or the CPU",
            where.path,
        )
        return None
    return load_language_model(where.model_copy(update={"device": device}), cast=True).model


def engine_settings(name: str, options: PolicyOptions, reply_tokens: int) -> EngineConfig:
    """Settings of the engine that `--engine` names: those of the run that the model comes from, without a learner.

    An opponent in a run gets those of the run's engine instead. Only vLLM needs a context in advance, because it
    reserves memory for it.
    """
    *kinds, last = get_args(EngineConfig.model_fields["kind"].annotation)
    if options.engine not in (*kinds, last):
        raise ValueError(f"--engine: got {options.engine!r}; expected {', '.join(kinds)} or {last}")
    run = None if options.beside is None else options.beside.engine
    saved = {**model_card(name).engine, "sleep": False} if run is None else run.model_dump()
    if options.tensor_parallel is not None:
        saved["tensor_parallel"] = options.tensor_parallel
    elif options.engine == "transformers" or (options.engine == "auto" and not vllm_installed()):
        saved["tensor_parallel"] = 1  # the run's own engine may have been vLLM
    engine = resolved(checked(EngineConfig, {**saved, "kind": options.engine}))
    context = options.context or 0
    if options.context is None and engine.kind == "vllm":
        own = engine.context if options.card is None else int(options.card.engine.get("context", 0))
        context = max(MIN_CONTEXT, own, reply_tokens + PROMPT_ROOM)
    share = options.memory_share or (_memory_share(engine) if options.alone else engine.memory_share)
    return checked(EngineConfig, {**engine.model_dump(), "context": context, "memory_share": share})


def _memory_share(engine: EngineConfig) -> float:
    """The share of GPU memory for vLLM: most of it, because no learner uses it. A CPU keeps the configured share."""
    import torch

    if engine.kind != "vllm" or not torch.cuda.is_available():
        return engine.memory_share
    gc.collect()
    torch.cuda.empty_cache()  # memory of a model that was closed
    free, total = torch.cuda.mem_get_info()
    return min(MAX_TOTAL_SHARE, MAX_FREE_SHARE * free / total)


def check_policy_name(name: str, others: Sequence[str] = ()) -> None:
    """Checks that a name is a policy, without loading it.

    Args:
        name: The name.
        others: Further names that are valid in the same setting, for the message.

    Raises:
        ValueError: There is no such policy, or its settings are wrong.
    """
    if is_scripted(name):
        check_scripted(name)
    elif name.startswith(ENDPOINT):
        load_endpoint(name.removeprefix(ENDPOINT))
    else:
        check_model(name, others)


def check_model(name: str, others: Sequence[str] | None = None) -> None:
    """Checks that a name is a model, without loading it.

    Args:
        name: The name.
        others: Names of other policies that are valid in the same setting; None when only a model is.

    Raises:
        ValueError: There is no such model, or its checkpoint is damaged.
    """
    kinds = MODELS if others is None else POLICIES
    try:
        directory = Path(model_directory(name))
    except NotFetchedError:
        raise
    except (ValueError, OSError) as error:  # OSError: the name is too long for a file
        policies = [] if others is None else [*SCRIPTED_NAMES, *others]
        known = [] if "/" in name else [*BUILT_IN, *FETCHABLE, *policies]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if near and near[0] != name:
            raise ValueError(f"there is no model or policy {name!r}; did you mean {near[0]!r}?") from error
        if isinstance(error, NotHereError) and others is None:
            raise
        kind = NotHereError if isinstance(error, NotHereError) else ValueError
        raise kind(f"{shortened(str(error), 400)}. A model is {kinds}") from error
    if directory.exists() and not (directory / "config.json").is_file():
        check_no_adapter(directory, name)
        raise ValueError(f"{name!r} is not a model, because {directory / 'config.json'} is missing. A model is {kinds}")
    if any((directory / name).is_file() for name in (MANIFEST, STATE)):
        verify_checkpoint(directory)


def _prompt(name: str, loaded: LanguageModel, options: PolicyOptions) -> PromptConfig:
    """The prompt of the model or of `options.card`, or the default, with the command line's options applied."""
    own = loaded.prompt if options.card is None else options.card.prompt
    if own is None and options.beside is not None:
        own = _prompt_beside(name, loaded, options.beside)
    prompt = _with_prompt_options(own or PromptConfig(), options)
    if prompt.template == "chat" and not loaded.tokenizer.chat_template:
        setting = options.setting_of("template")
        how = f"add {setting}" if setting.startswith("--") else f"set {setting} to"
        raise ValueError(f"model {name!r} has no chat template and no saved prompt; {how} qwen3, r1 or llama")
    return prompt


def _prompt_beside(name: str, loaded: LanguageModel, beside: PolicySettings) -> PromptConfig:
    """The prompt of an opponent without a card.

    A model that reads the policy's tokens is prompted as the policy is. Another one gets its own chat template, if it
    has one, and observations in words, since templates and the compact form are for the models that know them.
    """
    if name == beside.model or loaded.tokenizer.get_vocab() == vocabulary(beside.model):
        return beside.prompt
    template = "chat" if loaded.tokenizer.chat_template else beside.prompt.template
    return beside.prompt.model_copy(update={"template": template, "observation": "full"})


def vocabulary(model: str) -> dict[str, int]:
    """The tokens of a model with their ids."""
    found: dict[str, int] = load_language_model(ModelConfig(path=model), weights=False).tokenizer.get_vocab()
    return found


def checked_model_config(name: str) -> Any:
    """`model_config` of a model, after `check_model` unless it is a known model that is not on this machine."""
    if local_model(name) is not None or known_config(name) is None:
        check_model(name)
    return model_config(name)


def effective_prompt(card: ModelCard, options: PolicyOptions) -> PromptConfig:
    """The prompt of a card, or the default, with the command line's options applied."""
    return _with_prompt_options(card.prompt or PromptConfig(), options)


def effective_sampling(card: ModelCard, options: PolicyOptions) -> SamplingConfig:
    """The sampling of a card's evaluation with the command line's options applied.

    A model without a card is sampled as the policy that it plays against. No opponent has a smaller response budget
    than that policy, so that it is not cut off where the policy is not.
    """
    own = card.evaluation_sampling
    if options.beside is not None:
        beside = options.beside.sampling
        budget = max(own.max_new_tokens, beside.max_new_tokens)
        own = (own if card.sampling else beside).model_copy(update={"max_new_tokens": budget})
    return with_options(own, options, SAMPLING_OPTIONS)


def run_games(name: str) -> list[str]:
    """The games that a model was trained on; empty when its card does not list them."""
    return [] if is_scripted(name) else model_card(name).games


def model_card(name: str) -> ModelCard:
    """The card of the model `name`; empty for a model without one."""
    return read_card(model_directory(name))


def _with_prompt_options(prompt: PromptConfig, options: PolicyOptions) -> PromptConfig:
    """The prompt with the given options applied; one without a history has no thoughts of earlier replies to keep."""
    if options.history == "observation" and options.history_thoughts is None:
        prompt = prompt.model_copy(update={"history_thoughts": "drop"})
    return with_options(prompt, options, PROMPT_OPTIONS)


def with_options(section: Kind, options: PolicyOptions, fields: tuple[str, ...]) -> Kind:
    """The section with the given options applied, validated."""
    given = {field: getattr(options, field) for field in fields if getattr(options, field) is not None}
    return checked(type(section), {**section.model_dump(), **given})
