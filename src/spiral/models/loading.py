"""From a model's name to weights, tokenizer and the prompt it was trained with.

A name is `nano` or `nano-think` (built in), a local model such as `smollm2` (`spiral models`), a run directory (its
last checkpoint), a checkpoint directory, `RUN@STEP`, or a Hugging Face name or path. A checkpoint carries
`spiral.json`, which says how the model is prompted; other models get the default prompt.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.core.settings import shown
from spiral.core.steps import SNAPSHOTS, latest_checkpoint, models_of_run
from spiral.models.card import read_card
from spiral.models.files import (
    check_unquantised,
    check_vocabulary,
    read_config,
    read_tokenizer,
    read_weights,
)
from spiral.models.hub import hub_model, is_hub_name, local_copy
from spiral.models.kinds import RECURRENT, layer_kinds, setting
from spiral.models.precision import warn_of_slow_bfloat16
from spiral.models.settings import ModelConfig
from spiral.models.store import BUILT_IN, FETCHABLE, NotFetchedError, local_model_directory, weight_files
from spiral.text import ChatCodec, PromptConfig

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LIMITS = ("max_position_embeddings", "max_seq_len", "seq_length")
"""What configurations call the most tokens of a text: most of them, MPT, some of Bloom."""
DISTANCES = ("bloom",)
"""Types of models that know distances between tokens only, of any length, without saying so in their configuration."""
UNLIMITED = 2**20
"""Tokens of a text for a model without a limit: none of its layers knows positions."""
STEP = re.compile(r"@\d{1,9}$")
"""The end of `RUN@STEP`, a run's snapshot or checkpoint of one step."""
NANO_DIRECTORY = BUILT_IN["nano"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A model with its tokenizer, and the prompt it was trained with when it says so."""

    model: Any
    """None where an engine of another process or package holds the weights."""
    tokenizer: Any
    prompt: PromptConfig | None
    declared_ends: tuple[int, ...] = ()
    """Ids that the model's generation configuration lists as ends of sequence."""

    def codec(self, prompt: PromptConfig) -> ChatCodec:
        """The codec for a prompt configuration. Raises `ValueError` when the chat template does not support it."""
        return ChatCodec(self.tokenizer, prompt, self.declared_ends)


def model_directory(name: str) -> str:
    """The directory or hub name behind a MODEL.

    Raises:
        ValueError: a run directory without a checkpoint, or no such model.
        NotFetchedError: the model can be fetched with `spiral models get`.
    """
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"there is no model {shown(name)}: a name has no control characters")
    if name in BUILT_IN:
        return str(BUILT_IN[name])
    local = local_model_directory(name)
    if local is not None:
        return str(local)
    if name in FETCHABLE:
        raise NotFetchedError(name)
    path = Path(name)
    try:
        present = path.exists()
    except OSError as error:  # a name too long for the file system, or a directory that may not be read
        raise ValueError(f"there is no model {shown(name)}: {error.strerror}") from error
    if STEP.search(name) and not present:
        return str(_checkpoint_at(name))
    if (path / "checkpoints").is_dir():
        latest = latest_checkpoint(path / "checkpoints")
        if latest is None or not (latest / "config.json").is_file():
            raise ValueError(f"run directory {name!r} holds no checkpoint yet; expected {path / 'checkpoints/latest'}")
        return str(latest.resolve())
    return name if present else hub_model(name)


def _checkpoint_at(name: str) -> Path:
    """The snapshot or checkpoint that `RUN@STEP` names.

    Raises `ValueError` that lists the run's steps when it has no such one.
    """
    run, _, step = name.rpartition("@")
    if not any((Path(run) / name).is_dir() for name in ("checkpoints", SNAPSHOTS)):
        raise ValueError(f"there is no run directory {run!r}; expected RUN@STEP, such as runs/r1@15")
    steps = models_of_run(Path(run))
    if int(step) not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise ValueError(f"run {run!r} has no checkpoint or snapshot of step {int(step)}; it has: {known}")
    return steps[int(step)]


def is_local_name(name: str) -> bool:
    """Whether a name stands for a model on this machine, present or still to be fetched, and not for one of the hub."""
    if name in BUILT_IN or name in FETCHABLE or local_model_directory(name) is not None:
        return True
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # no path can have this name; `model_directory` reports it
        return False


def local_model(name: str) -> Path | None:
    """The directory of a model on this machine, found without asking the hub; None when it is not here."""
    if is_local_name(name):
        try:
            return Path(model_directory(name))
        except ValueError:
            return None
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json") if is_hub_name(name) else None
    return Path(file).parent if isinstance(file, str) else None


def local_tokenizer(name: str, config: Any) -> Any:
    """The tokenizer of a model on this machine, found without asking the hub; None when it is not here.

    Raises:
        ValueError: The tokenizer, or the names and shapes in the weight files, do not fit `config`.
    """
    directory = local_model(name)
    if directory is None or not (weight_files(directory) or is_local_name(name)):
        return None  # the cache may hold the configuration of a hub's model alone
    check_unquantised(config, name)
    return check_without_weights(str(directory), name, config)


def load_language_model(config: ModelConfig, *, weights: bool = True, cast: bool = False) -> LanguageModel:
    """Loads a model with its tokenizer. Weights are float32.

    Args:
        config: Which model, where it goes, and in what precision.
        weights: Whether to load the weights. Without them, names and shapes in files that are here are checked.
        cast: For a model that is not trained: cast the weights to `config.compute` before they reach the device.

    Raises:
        ValueError: The model is not found, or `model_files` says what is wrong with it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    directory = model_directory(config.path)
    if not Path(directory).is_dir():
        directory = local_copy(directory, weights=weights)
    described = read_config(directory, config.path)
    model = None
    if weights:
        check_unquantised(described, config.path)
        tokenizer = read_tokenizer(directory, config.path)
        model = read_weights(AutoModelForCausalLM, directory, config.path)
        check_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], config.path)
        if cast:
            cast_parameters(model, getattr(torch, config.compute))
        model = model.to(_device(config.device)).eval()
        _make_savable(model)
        if config.compute == "bfloat16":
            warn_of_slow_bfloat16(model.device.type)
    else:
        _device(config.device)
        tokenizer = check_without_weights(directory, config.path, described)
    return LanguageModel(
        model=model, tokenizer=tokenizer, prompt=read_card(directory).prompt, declared_ends=declared_ends(directory)
    )


def _make_savable(model: Any) -> None:
    """Leaves only the token ids of a generation configuration that transformers loads and then refuses to save.

    Such as one with a temperature and without `do_sample`, which would lose a run at its first checkpoint.
    """
    given = model.generation_config
    try:
        given.validate(strict=True)
    except ValueError:
        ids = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = type(given)(**ids)


def declared_ends(directory: str) -> tuple[int, ...]:
    """The ids that end a sequence by a model's `generation_config.json`, or else by its `config.json`.

    Read from the files, since a configuration without them has defaults that mean nothing to the model's tokenizer.

    Raises:
        ValueError: one of the files is damaged.
    """
    from transformers.utils import cached_file

    for name in ("generation_config.json", "config.json"):
        file = cached_file(
            directory,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        ends = () if file is None else _ends_in(Path(file))
        if ends:
            return ends
    return ()


def _ends_in(file: Path) -> tuple[int, ...]:
    """The ids in a configuration file's `eos_token_id`, which is one id or a list."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        ends = values.get("eos_token_id", (values.get("text_config") or {}).get("eos_token_id"))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}); expected a JSON object") from error
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in ends):
        raise ValueError(f"{file}: eos_token_id is {ends}; expected a token's id, or a list of ids")
    return tuple(ends)


def check_without_weights(directory: str, name: str, config: Any) -> Any:
    """The tokenizer of a model that is here, after all has been checked that shows before weights are read.

    Raises `ValueError` that says what is wrong. Quantised weights are left to the engine.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = read_tokenizer(directory, name, config.get_text_config().vocab_size)
    if weight_files(Path(directory)) and not getattr(config, "quantization_config", None):
        read_weights(AutoModelForCausalLM, directory, name, meta=True)
    return tokenizer


def cast_parameters(model: Any, dtype: torch.dtype) -> None:
    """Casts every parameter in place. Buffers stay: the frequencies of rotary embeddings need float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def context_limit(config: Any, who: str) -> int:
    """The most tokens of prompt and reply together. Raises `ValueError` that says `who` has to know it.

    Where all rotary factors change once a text is longer than some length (longrope, as in Phi-3), that length is the
    limit: a token sampled before the change would have another probability after it.
    """
    limit = next((found for name in LIMITS if (found := getattr(config, name, None))), None)
    recurrent = all(kind in RECURRENT for kind in layer_kinds(config))
    if not limit and (recurrent or getattr(config, "model_type", None) in DISTANCES):
        return UNLIMITED
    if not limit or limit < 0:
        raise ValueError(
            f"{who} has to know how many tokens a model takes; the configuration of this model of type"
            f" {getattr(config, 'model_type', None)!r} has no max_position_embeddings; add what the model takes to its"
            " config.json"
        )
    return min([int(limit), *_rope_switches(config)])


def usable_context(config: Any, requested: int | None, who: str) -> int:
    """The context that an engine sets up: the `requested` one, or the model's limit.

    Raises `ValueError` for one in which the model's rotary factors would change.
    """
    limit, switches = context_limit(config, who), _rope_switches(config)
    if requested and requested > limit and switches:
        raise ValueError(
            f"a context of {requested:,} tokens (engine.context, --context) was requested, but this model of type"
            f" {config.model_type!r} has other rotary factors for the whole text once it is longer than {limit:,}"
            f" tokens, which changes the probability of tokens already sampled; set it to at most {limit}, or 0"
        )
    if not requested and switches and limit < int(config.max_position_embeddings):
        logger.warning(
            "the context is limited to %s of the model's %s tokens; its rotary factors change for a longer text",
            f"{limit:,}",
            f"{int(config.max_position_embeddings):,}",
        )
    return min(requested or limit, limit)


def length_switches(config: Any) -> dict[str, int]:
    """The lengths, in tokens, from which on a model computes differently, by what changes there."""
    found = {}
    rope = _rope_switches(config)
    if rope:
        found["rotary factors"] = min(rope)
    for name, what in (("sliding_window", "window"), ("attention_chunk_size", "attention chunk")):
        length = setting(config, name)
        if isinstance(length, int) and length > 0:
            found[what] = length
    return found


def _rope_switches(config: Any) -> list[int]:
    """The lengths at which longrope changes its factors, one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]
    given = getattr(config, "original_max_position_embeddings", None)
    return [
        int(kind.get("original_max_position_embeddings") or given or config.max_position_embeddings)
        for kind in kinds
        if kind.get("rope_type", kind.get("type")) == "longrope"
    ]


def _device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA if available, else the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.device is {name!r}, which this machine does not have: {reason}") from error
    return device
