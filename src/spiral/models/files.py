"""Reading a model's directory: whole and as it was saved, or one error that says what is wrong.

transformers makes up whatever weights it does not find, builds tokenizers out of nothing, and offers to run code that
comes with a model. Here every such case is a `ValueError` with numbers. Code that comes with a model never runs.

Not checked: whether the weights compute what they should; that takes a forward pass.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import logging
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spiral.models.store import WEIGHTS, index_parts, weight_files
from spiral.text.tokens import vocabulary

ADAPTER = "adapter_config.json"
TOKENIZERS = ("tokenizer.json", "vocab*", "*.model", "tekken.json", "*.tiktoken")
"""Files that a tokenizer can be read from."""
LFS_POINTER = b"version https://git-lfs"
WRAPPERS = {
    "_orig_mod.": "which torch.compile adds: save model._orig_mod in place of the compiled model",
    "module.": "which DistributedDataParallel adds: save model.module in place of the wrapped model",
    "_fsdp_wrapped_module.": "which FSDP adds: save the state dict that FSDP.state_dict_type gives for the whole model",
    "_checkpoint_wrapped_module.": "which checkpoint_wrapper adds: save the model without it",
    "base_model.model.": "which PEFT adds: save model.merge_and_unload() in place of the model with adapters",
    "base_layer.": "which PEFT adds: save model.merge_and_unload() in place of the model with adapters",
}
"""Parts that training code adds to the names of weights, and how to save a model without them."""
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "weights", "params")
"""Keys under which training code keeps the weights among other things."""
QUANTISED = ("I8", "U8", "I4", "U4", "F4", "F6", "F8", "int8", "uint8", "float8", "float4")
"""Prefixes of the number types whose weights need a scale."""
QUANTISED_NAMES = ("weight", "qweight", "weight_packed")
CAUSAL_ANYWAY = ("gpt_neox", "gpt_neox_japanese")
"""Kinds of model with a setting `is_decoder` that they do not read."""
ENCODER_DECODERS = ("bart", "mbart", "plbart", "pegasus", "blenderbot", "blenderbot-small", "marian", "bigbird_pegasus")
"""Model types whose decoder transformers offers as a causal model, but without support for cached keys and values."""
OTHER_HEADS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"),
    *("RewardModel", "ForReward", "ValueModel", "ForValue"),
)
"""Suffixes of architectures whose head does not predict tokens."""
MAX_NAMED = 3
MAX_REASON = 300

logger = logging.getLogger(__name__)


class ModelFilesError(ValueError):
    """A model's files cannot be used; the message names the model and says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot load model {name!r}: {reason}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Shape and dtype of one stored tensor."""

    shape: tuple[int, ...]
    dtype: str


def read_config(directory: str | Path, name: str) -> Any:
    """The transformers configuration in a model's directory, or of a hub's model.

    Args:
        directory: Where the model is.
        name: What errors call it.

    Raises:
        ModelFilesError: There is none, it cannot be read, it needs code that comes with the model, or it is not that
            of a model that continues a text.
    """
    from transformers import AutoConfig

    check_no_adapter(Path(directory), name)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a missing or damaged configuration
        raise ModelFilesError(name, _why(error, Path(directory))) from error
    check_kind(config, name)
    return config


def check_kind(config: Any, name: str) -> None:
    """Raises `ModelFilesError` for a configuration that is not that of a model that continues a text."""
    from transformers import AutoModelForCausalLM

    kind = config.model_type
    heads = [str(architecture) for architecture in getattr(config, "architectures", None) or []]
    if heads and all(head.endswith(OTHER_HEADS) for head in heads):
        raise ModelFilesError(
            name,
            f"{heads[0]} (architectures in its config.json) gives a text a score or a label and cannot continue one;"
            " expected a model for text (ForCausalLM), such as Qwen or Llama",
        )
    if getattr(config, "is_encoder_decoder", False) or kind in ENCODER_DECODERS:
        raise ModelFilesError(
            name, f"{kind!r} is an encoder-decoder model; expected a decoder-only model, such as Qwen or Llama"
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        what = "a vision-language model" if hasattr(config, "vision_config") else "not a language model"
        raise ModelFilesError(
            name, f"{kind!r} is {what}; expected a model for text (ForCausalLM), such as Qwen or Llama"
        )
    declared = inspect.get_annotations(type(config))
    if "is_decoder" in declared and not config.is_decoder and kind not in CAUSAL_ANYWAY:
        raise ModelFilesError(
            name,
            f"{kind!r} reads a whole text at once (is_decoder is false in its config.json) and cannot continue one;"
            " expected a decoder-only model, such as Qwen or Llama",
        )


def check_text_only(model: Any, name: str) -> None:
    """Raises `ModelFilesError` for a model with parts for images or sound. Models on the meta device will do."""
    config = model.config
    if config.get_text_config() is not config or getattr(config, "vision_config", None) is not None:
        raise ModelFilesError(
            name,
            f"{type(model).__name__} is a model for more than text; expected the model for text alone"
            f" (such as {type(model).__name__.removesuffix('ForConditionalGeneration')}ForCausalLM)",
        )


def check_unquantised(config: Any, name: str) -> None:
    """Raises `ModelFilesError` for quantised weights, which cannot be trained."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return
    values = settings if isinstance(settings, Mapping) else vars(settings)
    method = values.get("quant_method") or next((key for key in values if key.startswith("load_in_")), "unknown")
    raise ModelFilesError(
        name,
        f"its weights are quantised ({getattr(method, 'value', method)}; quantization_config in config.json), and are"
        " trained and sampled from in float32 or bfloat16 here; expected the model that they were quantised from",
    )


def read_tokenizer(directory: str | Path, name: str, rows: int | None = None) -> Any:
    """The tokenizer in a model's directory.

    Args:
        directory: Where the model is.
        name: What errors call it.
        rows: Rows of the model's embedding; None where they are not known.

    Raises:
        ModelFilesError: There is none, it cannot be read, it needs code that comes with the model, or it has ids for
            which the embedding has no row.
    """
    from transformers import AutoTokenizer

    where = Path(directory)
    for file in sorted(where.glob("tokenizer*.json")) if where.is_dir() else ():
        if size := pointer_bytes(file):
            raise ModelFilesError(
                name,
                f"{file.name} is a Git LFS pointer of {size} bytes in place of the tokenizer; to fetch it, run git lfs"
                " pull",
            )
    if where.is_dir() and not any(any(where.glob(pattern)) for pattern in TOKENIZERS):
        raise ModelFilesError(name, f"it has no tokenizer: {where} holds none of {', '.join(TOKENIZERS)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # as above
        pieces = next(iter(sorted(where.glob("*.model"))), None)
        if pieces is not None and not (where / "tokenizer.json").exists() and _lacks("sentencepiece"):
            raise ModelFilesError(
                name,
                f"its tokenizer is in {pieces.name} alone, which takes the package sentencepiece to read; run pip"
                " install sentencepiece, or save the tokenizer with its tokenizer.json",
            ) from error
        raise ModelFilesError(name, f"its tokenizer cannot be read: {_why(error, where)}") from error
    if rows is not None:
        check_vocabulary(tokenizer, rows, name)
    return tokenizer


def check_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Raises `ModelFilesError` where the tokenizer has ids beyond the rows of the model's embedding."""
    above = {token: id_ for token, id_ in vocabulary(tokenizer).items() if id_ >= rows}
    if above:
        token = max(above, key=lambda token: above[token])
        raise ModelFilesError(
            name,
            f"its tokenizer has ids up to {above[token]:,} ({token!r}), {_count(len(above), 'of them')} beyond the"
            f" {rows:,} rows of the model's embedding; expected the tokenizer that the model was trained with, or call"
            " resize_token_embeddings, train the new rows, and save both again",
        )


def read_weights(model_class: Any, directory: str | Path, name: str, *, meta: bool = False) -> Any:
    """A model with all its weights, in float32.

    Args:
        model_class: What has `from_pretrained`.
        directory: Where the model is.
        name: What errors call it.
        meta: Leave the numbers where they are; names and shapes are checked all the same.

    Raises:
        ModelFilesError: Weights are missing, of another shape, damaged, quantised, or not finite.
    """
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    where = Path(directory)
    stored = check_files(where, name)
    place: dict[str, Any] = {"device_map": "meta"} if meta else {}
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        model, report = model_class.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation=attention_of(_class_of(model_class, config), config),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported like the others, with numbers
            **place,
        )
    except Exception as error:  # as above
        uneven = _uneven(stored)
        reason = f"{uneven} ({type(error).__name__})" if uneven else _why(error, where)
        raise ModelFilesError(name, reason) from error
    check_text_only(model, name)
    _check_report(model, report, name)
    if not meta:
        _check_tied(model, name)
        _check_finite(model, name)
    return model


def attention_of(kind: Any, config: Any) -> str:
    """The implementation of attention that computes models of a class rightly: PyTorch's, or else the class's own.

    PyTorch's knows neither sinks (gpt-oss) nor capped scores (Gemma 2), which transformers leaves out without a word.
    """
    own = not getattr(kind, "_supports_sdpa", False) or getattr(config, "attn_logit_softcapping", None)
    return "eager" if own else "sdpa"


def _class_of(model_class: Any, config: Any) -> Any:
    """The class of a model that is loaded with `model_class`, which may be one that chooses among many."""
    return model_class._model_mapping[type(config)] if hasattr(model_class, "_model_mapping") else model_class


def check_files(directory: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of the weight files in a directory, by name; no weights are read.

    Raises `ModelFilesError` for files that are missing, damaged or quantised.
    """
    check_no_adapter(directory, name)
    files = weight_files(directory)
    if not files:
        raise ModelFilesError(name, _no_weights(directory))
    stored: dict[str, StoredTensor] = {}
    for file in files:
        try:
            stored |= stored_tensors(file)
        except Exception as error:  # safetensors, zipfile, pickle and torch each raise their own types
            raise ModelFilesError(name, _why_unreadable(file, error)) from error
    packed = [
        key
        for key, tensor in stored.items()
        if tensor.dtype.startswith(QUANTISED) and key.rpartition(".")[2] in QUANTISED_NAMES
    ]
    if packed:
        raise ModelFilesError(
            name,
            f"{_count(len(packed), 'of its weights')} are quantised ({_names(packed)}: {stored[packed[0]].dtype}), and"
            " are trained and sampled from in float32 or bfloat16 here; expected the model that they were quantised"
            " from",
        )
    return stored


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """Shapes and types of the tensors in a .safetensors or .bin file, by name; their numbers are not read.

    Of a .bin file that holds anything else under a key, that key has no shape and the type of what is there.
    """
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (it is no mapping)
            return {
                key: StoredTensor(shape=tuple(part.get_shape()), dtype=part.get_dtype()) for key, part in slices.items()
            }
    import torch

    values = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(values, Mapping):
        raise ValueError(f"it contains a {type(values).__name__}; expected a mapping from weight names to tensors")
    return {
        str(key): StoredTensor(shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))
        if isinstance(value, torch.Tensor)
        else StoredTensor(shape=(), dtype=type(value).__name__)
        for key, value in values.items()
    }


def check_no_adapter(directory: Path, name: str) -> None:
    """Raises `ModelFilesError` for an adapter, beside which transformers would load the adapter's base model."""
    file = directory / ADAPTER
    if not file.is_file():
        return
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = "its base model"
    raise ModelFilesError(
        name,
        f"{directory} holds an adapter ({ADAPTER}) for {base!r}, and no whole model; merge it first:"
        " AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT), and save the tokenizer"
        " there too",
    )


def _no_weights(directory: Path) -> str:
    """Why `weight_files` found none."""
    for weights in WEIGHTS:
        index = directory / f"{weights}.index.json"
        if not index.is_file():
            continue
        parts = index_parts(index)
        absent = [part for part in parts if not (directory / part).is_file()]
        if not parts:
            return f"{index} is damaged; expected a weight_map from names of weights to files"
        return f"{index.name} names {_count(len(parts), 'file')}, of which {len(absent)} are missing ({_names(absent)})"
    for weights in WEIGHTS:
        link = directory / weights
        if link.is_symlink() and not link.exists():
            return f"{weights} is a link to {os.readlink(link)}, which is not there; fetch or copy the weights again"
    others = sorted(
        file.name for pattern in ("*.gguf", "*.safetensors", "*.bin", "*.pt") for file in directory.glob(pattern)
    )
    beside = f", only {_names(others)}" if others else ""
    return f"{directory} holds no weights{beside}; expected {' or '.join(WEIGHTS)}, which save_pretrained writes"


def _why_unreadable(file: Path, error: Exception) -> str:
    """Why a weight file cannot be opened."""
    if size := pointer_bytes(file):
        return (
            f"{file.name} is a Git LFS pointer of {size} bytes in place of the weights; to fetch them, run git lfs pull"
        )
    size = file.stat().st_size if file.is_file() else 0
    if type(error).__name__ == "UnpicklingError" and "weights_only" in str(error).lower().replace(" ", "_"):
        return (
            f"{file.name} holds more than tensors: loading it would run code that comes with it, which spiral does not;"
            " expected safetensors, which save_pretrained writes"
        )
    kind = "damaged, cut short" if isinstance(error, SafetensorError | RuntimeError | OSError | EOFError) else "damaged"
    return f"{file.name} ({size:,} bytes) is {kind} or no weights at all: {_reason(error)}; fetch or save it again"


def pointer_bytes(file: Path) -> int:
    """Size of a Git LFS pointer file; 0 for any other file."""
    size = file.stat().st_size if file.is_file() else 0
    return size if size < 1024 and file.is_file() and file.read_bytes().startswith(LFS_POINTER) else 0


def _lacks(package: str) -> bool:
    """Whether a package is not installed."""
    return importlib.util.find_spec(package) is None


def _check_report(model: Any, report: Mapping[str, Any], name: str) -> None:
    """Raises `ModelFilesError` for weights that were made up; warns of those that the model does not use."""
    missing = sorted(report["missing_keys"])
    unexpected = sorted(report["unexpected_keys"])
    wrong = sorted(report["mismatched_keys"])
    total = len(model.state_dict())
    said = []
    if missing:
        said.append(f"its files lack {len(missing)} of {total} weights ({_names(missing)})")
    if wrong:
        key, found, expected = wrong[0]
        said.append(
            f"{len(wrong)} of {total} weights have another shape than config.json says ({key} is {list(found)},"
            f" expected {list(expected)}{', ...' if len(wrong) > 1 else ''})"
        )
    if said:
        hint = _hint(missing, unexpected) if missing else ""
        raise ModelFilesError(name, " and ".join(said) + hint)
    if unexpected:
        logger.warning(
            "model %r: its files hold %s more than the model has, which are left out (%s)",
            name,
            _count(len(unexpected), "weight"),
            _names(unexpected),
        )


def _hint(missing: list[str], unexpected: list[str]) -> str:
    """A hint, from the weight names, of how the files were saved; empty if there is none."""
    wanted = set(missing)
    for wrapper, why in WRAPPERS.items():
        freed = {key.replace(wrapper, "") for key in unexpected if wrapper in key}
        if wanted & freed:
            where = "begin with" if any(key.startswith(wrapper) for key in unexpected) else "hold"
            return f"; its names {where} {wrapper!r}, {why}"
    if len(unexpected) <= len(CONTAINERS) + MAX_NAMED and (inside := wanted_container(unexpected)):
        return f"; its file keeps the weights under {inside!r}; save that mapping alone"
    prefixes = Counter(
        key.removesuffix(want) for key in unexpected for want in missing if key.endswith(f".{want}")
    ).most_common(1)
    if prefixes:
        return f"; its names begin with {prefixes[0][0]!r}, which this model's do not: rename them and save them again"
    if unexpected:
        return f"; instead it has {_count(len(unexpected), 'name')} that the model does not ({_names(unexpected)})"
    return ""


def wanted_container(unexpected: Iterable[str]) -> str | None:
    """The key that holds the weights, where a file keeps them among other things."""
    return next((key for key in CONTAINERS if key in set(unexpected)), None)


def _uneven(stored: Mapping[str, StoredTensor]) -> str:
    """Which weights of a mixture's experts are too few or of other shapes, when they cannot be joined; else empty."""
    groups: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for key, tensor in stored.items():
        if match := re.fullmatch(r"(.*\bexperts)\.\d+\.(.*)", key):
            groups.setdefault((match[1], match[2]), []).append(tensor.shape)
    if not groups:
        return ""
    usual = Counter(len(shapes) for shapes in groups.values()).most_common(1)[0][0]
    few = [(".*.".join(group), len(shapes)) for group, shapes in groups.items() if len(shapes) != usual]
    if few:
        return f"its files hold {few[0][1]} weights {few[0][0]}, expected {usual}, one for each expert"
    other = [".*.".join(group) for group, shapes in groups.items() if len(set(shapes)) > 1]
    return f"the experts' weights {other[0]} have different shapes in its files" if other else ""


def _check_tied(model: Any, name: str) -> None:
    """Refuses files with a separate head where the configuration ties it: engines treat such files differently."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    if getattr(head, "weight", None) is not embedding.weight:
        raise ModelFilesError(
            name,
            "tie_word_embeddings is true in its config.json, and its files hold an output head that differs from the"
            " embedding; expected false there, or no weights of the head",
        )


def _check_finite(model: Any, name: str) -> None:
    """Raises `ModelFilesError` for weights that are not finite."""
    import torch

    found = {}
    for key, parameter in model.named_parameters():
        values = parameter.detach()
        # A sum is quick and needs no memory; where it is not finite, the weights themselves decide.
        if not torch.isfinite(values.sum(dtype=torch.float32)):
            number = int((~torch.isfinite(values)).sum())
            if number:
                found[key] = f"{number:,} of {values.numel():,}"
    if found:
        key = next(iter(found))
        total = sum(1 for _ in model.parameters())
        raise ModelFilesError(
            name,
            f"{len(found)} of {total} weights hold numbers that are not finite ({key}: {found[key]}"
            f"{', ...' if len(found) > 1 else ''}); expected a checkpoint from before training diverged",
        )


def _why(error: Exception, directory: Path) -> str:
    """The reason for an error of transformers, without its advice to run code that comes with a model."""
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"it needs its own code ({_auto_map(directory)}), which spiral does not run; expected a model type that"
            " transformers supports"
        )
    if isinstance(error, KeyError):  # a table of transformers lacks what a setting names
        return _unknown(error, directory)
    return _reason(error)


def _unknown(error: KeyError, directory: Path) -> str:
    """Names the setting whose value transformers does not know, if the files show it."""
    import transformers

    word = error.args[0] if error.args else ""
    if word == "metadata":
        return "the index of its weights has no metadata; expected one as save_pretrained writes it, with total_size"
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        try:
            values = json.loads((directory / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if setting := _setting_of(values, word):
            return f"{file}: {setting} {word!r} is unknown to transformers {transformers.__version__}"
    return f"transformers {transformers.__version__} misses {word!r} in its files"


def _setting_of(values: Any, word: Any) -> str:
    """The dotted name of the setting with a value, empty where there is none."""
    if not isinstance(values, dict):
        return ""
    for key, value in values.items():
        if value == word:
            return str(key)
        if inner := _setting_of(value, word):
            return f"{key}.{inner}"
    return ""


def _auto_map(directory: Path) -> str:
    """Where a model names its code."""
    for file in ("config.json", "tokenizer_config.json"):
        try:
            values = json.loads((directory / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(values, dict) and values.get("auto_map"):
            return f"auto_map in {file}"
    return "auto_map in its configuration"


def _reason(error: Exception) -> str:
    """The message of an error, in one line of bounded length."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else text[:MAX_REASON].rpartition(" ")[0] + " ..."


def _names(names: list[str]) -> str:
    """The first few."""
    return ", ".join([*names[:MAX_NAMED], *(["..."] if len(names) > MAX_NAMED else [])])


def _count(number: int, what: str) -> str:
    """A number and its noun."""
    return f"{number:,} {what}{'' if number == 1 or ' ' in what else 's'}"
