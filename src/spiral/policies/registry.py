"""From a MODEL on the command line to something that can sit in a seat.

A MODEL is `nano` or another local model (`spiral models`), a run directory (its last checkpoint), a checkpoint
directory, a Hugging Face name or path, a scripted policy, or `endpoint:NAME`. A model brings its own prompt when it
was trained here (`spiral.json`), and its run's sampling when the run's `config.toml` is found around it; whatever is
asked for on the command line comes first.
"""

from __future__ import annotations

import dataclasses
import difflib
import gc
import logging
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from spiral.core.policy import Answerer
from spiral.core.settings import Kind, checked, shortened
from spiral.games import Game
from spiral.inference.room import check_room
from spiral.inference.settings import EngineConfig, resolved
from spiral.models.files import check_no_adapter, check_text_only, check_unquantised, read_config
from spiral.models.hub import NotHereError, is_hub_name, local_copy
from spiral.models.loading import (
    LanguageModel,
    check_without_weights,
    load_language_model,
    model_directory,
    saved_prompt,
)
from spiral.models.settings import ModelConfig
from spiral.models.shapes import known_config
from spiral.models.store import FETCHABLE, NotFetchedError, local_model_directory, weight_files
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
from spiral.training.checkpoint import MANIFEST, STATE, verify_checkpoint

if TYPE_CHECKING:
    from spiral.inference.base import LanguagePolicy

MODELS = (
    f"a name that `spiral models` lists (nano, {', '.join(FETCHABLE)}), a run or checkpoint directory, or a Hugging"
    " Face name or path"
)
PLAYERS = MODELS.replace(", or a Hugging", ", a Hugging") + f", or one of {', '.join(SCRIPTED_NAMES)}"


PROMPT_OPTIONS = ("template", "observation", "thinking", "example", "system")
SAMPLING_OPTIONS = ("temperature", "top_p", "max_new_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedSettings:
    """How a model says that it is asked: by its checkpoint and its run's recipe."""

    prompt: PromptConfig | None
    """None where it does not say."""
    sampling: SamplingConfig
    context: int
    """Of its run's engine; 0 where that says nothing."""
    from_run: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """What the command line asks for; None leaves the model's own choice."""

    template: str | None = None
    observation: str | None = None
    thinking: bool | None = None
    example: bool | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    device: str = "auto"
    compute: str = "float32"
    engine: str = "transformers"
    context: int | None = None
    """Most tokens of prompt and reply together; None leaves room for any that is likely, up to the model's limit."""
    reply_tokens: int = 0
    """A budget of replies beside `max_new_tokens` for which there has to be room, as a benchmark's."""
    alone: bool = True
    """Whether no other model is loaded beside it."""
    saved: SavedSettings | None = None
    """How another model is asked, in place of what this one says; what the command line asks for comes first."""


MIN_CONTEXT, PROMPT_ROOM = 16384, 4096
"""What vLLM sets aside for prompt and reply when nobody says: enough for benchmarks and games, and the same for two
models that are compared, where many a model's own limit would take more memory than there is."""

MAX_TOTAL_SHARE = 0.85
"""vLLM's share of a GPU that it has for itself."""

MAX_FREE_SHARE = 0.95
"""The most of a GPU's free memory that vLLM may have, for others may hold some of it already."""

MAX_CPU_PARAMETERS = 2_000_000_000
"""Parameters of a model that a CPU can pass a few hundred tokens through in seconds."""

logger = logging.getLogger(__name__)

DEFAULTS = PolicyOptions()


class Opponents:
    """Those who sit opposite in training and its measurements; a model or an endpoint is made once for all games."""

    def __init__(self, device: str = "auto") -> None:
        """`device` is where models run."""
        self._options = PolicyOptions(device=device)
        self._known: dict[str, Policy] = {}

    def __call__(self, name: str, game: Game) -> Policy:
        """Who plays `game` under a name. Raises `ValueError` when there is nobody."""
        if is_scripted(name):
            return scripted_policy(name, game)
        if name not in self._known:
            self._known[name] = load_policy(name, game, self._options)
        check_room(self._known[name], game, first=True)
        return self._known[name]


def load_policy(name: str, game: Game, options: PolicyOptions = DEFAULTS) -> Policy:
    """The policy that MODEL `name` stands for in `game`.

    Raises `ValueError` when there is none, or when the game's first prompt leaves it no room for an answer.
    """
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
    """Somebody else's model, asked as its table in `endpoints.toml` says."""
    config, file = find_endpoint(name.removeprefix(ENDPOINT))
    config = with_options(config, options, ("temperature", "top_p", "max_new_tokens"))
    prompt = with_options(config.prompt, options, PROMPT_OPTIONS)
    asked = {"temperature": options.temperature, "top_p": options.top_p, LENGTH: options.max_new_tokens}
    return EndpointPolicy(
        checked(EndpointConfig, {**config.model_dump(), "prompt": prompt.model_dump()}),
        name=name,
        required=frozenset(parameter for parameter, value in asked.items() if value is not None),
        source="" if file is None else str(file),
    )


def load_answerer(name: str, options: PolicyOptions) -> Answerer:
    """Who answers questions outside games under a name: a language model or an endpoint.

    Raises `ValueError` for scripted players, who write nothing.
    """
    if is_scripted(name):
        raise ValueError(f"got {name!r}, which plays games only; expected a language model or endpoint:NAME")
    return _endpoint_policy(name, options) if name.startswith(ENDPOINT) else load_language_policy(name, options)


def load_exploitable_policy(name: str, game: Game, options: PolicyOptions = DEFAULTS) -> LanguagePolicy | TabularPolicy:
    """The same as something whose probabilities can be known: a language model, or a scripted policy's table."""
    return scripted_table(name, game) if is_scripted(name) else load_language_policy(name, options)


def is_language_model(name: str) -> bool:
    """Whether a MODEL writes replies, rather than being scripted or somebody else's endpoint."""
    return not is_scripted(name) and not name.startswith(ENDPOINT)


def load_language_policy(name: str, options: PolicyOptions) -> LanguagePolicy:
    """A language model that plays under the name it was asked for by."""
    from spiral.agreement import run_check  # loads torch, and so does the next
    from spiral.inference.engines import make_policy

    check_model(name, ())
    where = checked(ModelConfig, {"path": name, "device": options.device, "compute": options.compute})
    sampling = effective_sampling(saved_settings(name) if options.saved is None else options.saved, options)
    engine = _engine(name, options, max(sampling.max_new_tokens, options.reply_tokens))
    loaded = load_language_model(where, weights=engine.kind == "transformers", cast=True)
    codec = loaded.codec(_prompt(name, loaded, options))
    directory = model_directory(name)
    policy = make_policy(
        engine,
        loaded,
        directory,
        codec,
        sampling,
        compute=where.compute,
        head=where.head,
        device=where.device,
        name=name,
        shared=False,
        trained=False,
    )
    settings = {"device": where.device, "head": where.head, "prompt": codec.config.model_dump()}
    try:
        run_check(policy, lambda: loaded.model or _plain_model(where), directory, where.compute, settings, kept=True)
    except BaseException:
        policy.close()
        raise
    return policy


def _plain_model(where: ModelConfig) -> Any:
    """The model beside a vLLM that holds the device; None where it would take too long or too much memory."""
    import torch

    parameters = count_parameters(where.path)
    room = 1.2 * parameters * getattr(torch, where.compute).itemsize
    device = "cpu"
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > room:
        device = where.device
    elif parameters > MAX_CPU_PARAMETERS:
        logger.warning("%s: no room to compare vLLM with the plain forward pass", where.path)
        return None
    return load_language_model(where.model_copy(update={"device": device}), cast=True).model


def _engine(name: str, options: PolicyOptions, reply_tokens: int) -> EngineConfig:
    """The engine that `--engine` names, set up as in the run that the model comes from, but with nobody who trains.

    Only vLLM has to be told a context, since it sets memory aside for one.
    """
    *most, last = get_args(EngineConfig.model_fields["kind"].annotation)
    if options.engine not in (*most, last):
        raise ValueError(f"--engine: got {options.engine!r}; expected {', '.join(most)} or {last}")
    run = run_config(name)
    engine = resolved(checked(EngineConfig, {**run.get("engine", {}), "kind": options.engine, "sleep": False}))
    context = options.context or 0
    if options.context is None and engine.kind == "vllm":
        own = engine.context if options.saved is None else options.saved.context
        context = max(MIN_CONTEXT, own, reply_tokens + PROMPT_ROOM)
    share = _memory_share(engine) if options.alone else engine.memory_share
    return checked(EngineConfig, {**engine.model_dump(), "context": context, "memory_share": share})


def _memory_share(engine: EngineConfig) -> float:
    """Most of a GPU, for nobody trains beside the engine; what is there on a CPU, whose memory is everybody's."""
    import torch

    if engine.kind != "vllm" or not torch.cuda.is_available():
        return engine.memory_share
    gc.collect()
    torch.cuda.empty_cache()  # what is left of a model that was closed
    free, total = torch.cuda.mem_get_info()
    return min(MAX_TOTAL_SHARE, MAX_FREE_SHARE * free / total)


def check_policy_name(name: str, others: Sequence[str] = ()) -> None:
    """Raises `ValueError` for what cannot sit in a seat, as far as that shows before it is loaded.

    `others` are names that mean something where this one was found, for the error to suggest.
    """
    if is_scripted(name):
        check_scripted(name)
    elif name.startswith(ENDPOINT):
        load_endpoint(name.removeprefix(ENDPOINT))
    else:
        check_model(name, others)


def check_model(name: str, others: Sequence[str] | None = None) -> None:
    """Raises `ValueError` for what cannot be a model, and for a training checkpoint that is damaged.

    `others` are names that are no models and could stand in its place; None where only a model will do.
    """
    kinds = MODELS if others is None else PLAYERS
    try:
        directory = Path(model_directory(name))
    except NotFetchedError:
        raise
    except (ValueError, OSError) as error:  # the system refuses names that are too long
        players = [] if others is None else [*SCRIPTED_NAMES, *others]
        known = [] if "/" in name else ["nano", *FETCHABLE, *players]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if near and near[0] != name:
            raise ValueError(f"there is no player or model {name!r}; did you mean {near[0]!r}?") from error
        if isinstance(error, NotHereError) and others is None:
            raise
        kind = NotHereError if isinstance(error, NotHereError) else ValueError
        raise kind(f"{shortened(str(error), 400)}. A model is {kinds}") from error
    if directory.exists() and not (directory / "config.json").is_file():
        check_no_adapter(directory, name)
        raise ValueError(f"{name!r} holds no model: there is no {directory / 'config.json'}. A model is {kinds}")
    if any((directory / name).is_file() for name in (MANIFEST, STATE)):
        verify_checkpoint(directory)


def count_parameters(name: str) -> int:
    """How many parameters a model has, from its configuration alone. Raises `ValueError` when it cannot be read."""
    return int(empty_model(model_config(name)).num_parameters())


def model_config(name: str) -> Any:
    """The transformers configuration of a model, for counting and planning; its weights may be far away.

    A copy that is here comes first, then the shape of a known model (`known_models.py`), then the hub: nobody waits
    for a network to plan a known model. Raises `ValueError` when there is none of them.
    """
    local = local_model(name)
    known = known_config(name) if local is None else None
    if known is not None:
        return known
    where = name if local is None or _is_here(name) else str(local)
    check_model(where)
    directory = model_directory(where)
    return read_config(directory if Path(directory).is_dir() else local_copy(directory, weights=False), name)


def empty_model(config: Any) -> Any:
    """A model without weights, to be counted. Raises `ValueError` for what is not a causal language model."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for settings that do not fit together
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot build a model of the kind {config.model_type!r}: {reason}") from error
    check_text_only(model, config.model_type)
    return model


def local_model(name: str) -> Path | None:
    """The directory of a model that is on this machine, found without asking the hub; None when it is not."""
    if _is_here(name):
        try:
            return Path(model_directory(name))
        except ValueError:
            return None
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json") if is_hub_name(name) else None
    return Path(file).parent if isinstance(file, str) else None


def _is_here(name: str) -> bool:
    """Whether a name stands for something of this machine alone, there or not yet, and never for a hub's model."""
    if name == "nano" or name in FETCHABLE or local_model_directory(name) is not None:
        return True
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no path can be called that; `model_directory` says so
        return False


def local_tokenizer(name: str, config: Any) -> Any:
    """The tokenizer of a model that is on this machine, found without asking the hub; None when it is not here.

    All that shows of the model without reading its weights is checked. Raises `ValueError` that says what is wrong.
    """
    directory = local_model(name)
    if directory is None or not (weight_files(directory) or _is_here(name)):
        return None  # of a hub's model the configuration alone may be here
    check_unquantised(config, name)
    return check_without_weights(str(directory), name, config)


def _prompt(name: str, loaded: LanguageModel, options: PolicyOptions) -> PromptConfig:
    """The prompt the model was trained with, or another's, or the default one, with what was asked for on top."""
    own = loaded.prompt if options.saved is None else options.saved.prompt
    prompt = with_options(own or PromptConfig(), options, PROMPT_OPTIONS)
    if prompt.template == "chat" and not loaded.tokenizer.chat_template:
        raise ValueError(
            f"model {name!r} has no chat template and does not say how to prompt it; add --template qwen3, r1 or llama"
        )
    return prompt


def saved_settings(name: str) -> SavedSettings:
    """How the model `name` was asked in its training, as far as its files say."""
    run = run_config(name)
    return SavedSettings(
        prompt=saved_prompt(model_directory(name)),
        sampling=_run_sampling(name),
        context=int(run.get("engine", {}).get("context", 0)),
        from_run=bool(run),
    )


def effective_prompt(asked: SavedSettings, options: PolicyOptions) -> PromptConfig:
    """The prompt, with what the command line asks for on top."""
    return with_options(asked.prompt or PromptConfig(), options, PROMPT_OPTIONS)


def effective_sampling(asked: SavedSettings, options: PolicyOptions) -> SamplingConfig:
    """The sampling, with what the command line asks for on top."""
    return with_options(asked.sampling, options, SAMPLING_OPTIONS)


def _run_sampling(name: str) -> SamplingConfig:
    """The sampling with which the run that the model comes from measures itself, or the default."""
    config = run_config(name)
    evaluation = config.get("evaluation", {})
    measured = {key: evaluation[key] for key in ("temperature", "top_p") if key in evaluation}
    return checked(SamplingConfig, {**config.get("sampling", {}), **measured})


def run_games(name: str) -> list[str]:
    """The games that the run a model comes from was trained on; none when it comes from no run."""
    selfplay = {} if is_scripted(name) else run_config(name).get("selfplay", {})
    games = selfplay.get("games", {}) if isinstance(selfplay, dict) else {}
    return list(games) if isinstance(games, dict) else []


def run_config(name: str) -> dict[str, Any]:
    """The `config.toml` of the run that the model comes from; empty when it comes from none."""
    checkpoint = Path(model_directory(name)).absolute()
    file = checkpoint.parent.parent / "config.toml"
    if checkpoint.parent.name != "checkpoints" or not file.is_file():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def with_options(section: Kind, options: PolicyOptions, fields: tuple[str, ...]) -> Kind:
    """The section with every option that was given in its place, checked."""
    given = {field: getattr(options, field) for field in fields if getattr(options, field) is not None}
    return checked(type(section), {**section.model_dump(), **given})
