"""The configuration and size of a model without its weights, and the shapes of the models that recipes name.

With those shapes a run can be planned where no hub is reachable. Each file in `configs/` is a model's configuration in
Hugging Face form, reduced to what fixes its shape and its special tokens, written from its model card:

    https://huggingface.co/Qwen/Qwen3-0.6B-Base           https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct
    https://huggingface.co/Qwen/Qwen3-1.7B-Base           https://huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
    https://huggingface.co/Qwen/Qwen3-4B-Base             https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
    https://huggingface.co/Qwen/Qwen3-8B-Base

Other models of the same families are listed by their differences, from the same sources.

Not included: weights and tokenizers. A model with random weights can be made from such a shape:

    AutoModelForCausalLM.from_config(known_config("Qwen/Qwen3-4B-Base"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.models.files import check_text_only, read_config
from spiral.models.hub import local_copy
from spiral.models.loading import is_local_name, local_model, model_directory

DIRECTORY = Path(__file__).parent / "configs"
MAX_EMPTY_MODELS = 8
_empty_models: dict[tuple[type, str], Any] = {}
"""The last models without weights, by their configurations."""

KNOWN_MODELS = (
    "Qwen/Qwen3-0.6B-Base",
    "Qwen/Qwen3-1.7B-Base",
    "Qwen/Qwen3-4B-Base",
    "Qwen/Qwen3-8B-Base",
    "meta-llama/Llama-3.1-8B-Instruct",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
)
ALIASES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}

_QWEN3 = {"max_position_embeddings": 40960, "eos_token_id": 151645}
_QWEN3_2507 = {"max_position_embeddings": 262144, "rope_theta": 5000000.0, "eos_token_id": 151645}
_QWEN3_14B = {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40, "num_attention_heads": 40}
_QWEN3_32B = {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64}
_LLAMA32 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LLAMA32_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
    "tie_word_embeddings": True, "rope_scaling": {"rope_type": "llama3", **_LLAMA32},
}  # fmt: skip
_LLAMA32_3B = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "tie_word_embeddings": True, "rope_scaling": {"rope_type": "llama3", **_LLAMA32},
}  # fmt: skip
_BASE = {"eos_token_id": 128001}


def _qwen2(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, context: int = 32768, eos: int = 151643
) -> dict[str, Any]:
    """A smaller or larger Qwen2.5: up to 3B with tied embeddings over fewer rows."""
    small = hidden < 3584
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": context,
        "vocab_size": 151936 if small else 152064, "tie_word_embeddings": small, "rope_theta": 1000000.0,
        "eos_token_id": eos,
    }  # fmt: skip


def _smollm2(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **ends: int) -> dict[str, Any]:
    """A larger SmolLM2; only the largest has other rotary frequencies."""
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "rope_theta": 130000.0 if hidden == 2048 else 100000.0, **ends,
    }  # fmt: skip


_SMOL_BASE = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_QWEN2_CHAT = {"eos": 151645}
_R1_LLAMA = {"eos_token_id": 128001}
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen3-0.6B": ("Qwen/Qwen3-0.6B-Base", _QWEN3),
    "Qwen/Qwen3-1.7B": ("Qwen/Qwen3-1.7B-Base", _QWEN3),
    "Qwen/Qwen3-4B": ("Qwen/Qwen3-4B-Base", _QWEN3),
    "Qwen/Qwen3-4B-Instruct-2507": ("Qwen/Qwen3-4B-Base", _QWEN3_2507),
    "Qwen/Qwen3-4B-Thinking-2507": ("Qwen/Qwen3-4B-Base", _QWEN3_2507),
    "Qwen/Qwen3-8B": ("Qwen/Qwen3-8B-Base", _QWEN3),
    "Qwen/Qwen3-14B-Base": ("Qwen/Qwen3-8B-Base", _QWEN3_14B),
    "Qwen/Qwen3-14B": ("Qwen/Qwen3-8B-Base", _QWEN3_14B | _QWEN3),
    "Qwen/Qwen3-32B": ("Qwen/Qwen3-8B-Base", _QWEN3_32B | _QWEN3),
    "meta-llama/Llama-3.1-8B": ("meta-llama/Llama-3.1-8B-Instruct", _BASE),
    "meta-llama/Llama-3.2-1B": ("meta-llama/Llama-3.1-8B-Instruct", _LLAMA32_1B | _BASE),
    "meta-llama/Llama-3.2-1B-Instruct": ("meta-llama/Llama-3.1-8B-Instruct", _LLAMA32_1B),
    "meta-llama/Llama-3.2-3B": ("meta-llama/Llama-3.1-8B-Instruct", _LLAMA32_3B | _BASE),
    "meta-llama/Llama-3.2-3B-Instruct": ("meta-llama/Llama-3.1-8B-Instruct", _LLAMA32_3B),
    "OctoThinker/OctoThinker-8B-Hybrid-Base": ("meta-llama/Llama-3.1-8B-Instruct", _BASE),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": ("meta-llama/Llama-3.1-8B-Instruct", _R1_LLAMA),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        _qwen2(1536, 8960, 28, 12, 2, 131072) | {"tie_word_embeddings": False, "rope_theta": 10000.0},
    ),
    "HuggingFaceTB/SmolLM2-135M": ("HuggingFaceTB/SmolLM2-135M-Instruct", _SMOL_BASE),
    **{
        f"HuggingFaceTB/SmolLM2-{size}{kind}": ("HuggingFaceTB/SmolLM2-135M-Instruct", _smollm2(*figures) | ends)
        for size, figures in {"360M": (960, 2560, 32, 15, 5), "1.7B": (2048, 8192, 24, 32, 32)}.items()
        for kind, ends in {"": _SMOL_BASE, "-Instruct": {}}.items()
    },
    **{
        f"Qwen/Qwen2.5-{size}{kind}": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", _qwen2(*figures, **ends))
        for size, figures in {
            "0.5B": (896, 4864, 24, 14, 2), "1.5B": (1536, 8960, 28, 12, 2), "3B": (2048, 11008, 36, 16, 2),
            "7B": (3584, 18944, 28, 28, 4), "14B": (5120, 13824, 48, 40, 8), "32B": (5120, 27648, 64, 40, 8),
        }.items()
        for kind, ends in {"": {}, "-Instruct": _QWEN2_CHAT}.items()
    },
}  # fmt: skip
"""Models with the architecture of a known one, and the settings in which they differ from it."""


def known_config(name: str) -> Any:
    """The transformers configuration of the model called `name`, or None for a model that is not known here."""
    name = ALIASES.get(name, name)
    base, changes = VARIANTS.get(name, (name, {}))
    if base not in KNOWN_MODELS:
        return None
    from transformers import CONFIG_MAPPING

    file = DIRECTORY / f"{base.partition('/')[2]}.json"
    values = json.loads(file.read_text(encoding="utf-8")) | changes
    return CONFIG_MAPPING[values["model_type"]].from_dict(values)


def model_config(name: str) -> Any:
    """The transformers configuration of a model, for counting and planning, without its weights.

    It comes from the model on this machine, or else from the known shapes, or else from the hub: planning a known model
    never waits for a network.

    Raises:
        ValueError: There is no such model, or its configuration cannot be read.
    """
    local = local_model(name)
    known = known_config(name) if local is None else None
    if known is not None:
        return known
    directory = model_directory(name if local is None or is_local_name(name) else str(local))
    return read_config(directory if Path(directory).is_dir() else local_copy(directory, weights=False), name)


def empty_model(config: Any) -> Any:
    """A model without weights (on the meta device). Raises `ValueError` for anything but a causal language model.

    The last few are kept, since the recipes of an experiment have their models in common: leave it as it is.
    """
    import torch
    from transformers import AutoModelForCausalLM

    described = (type(config), config.to_json_string(use_diff=False))
    if described in _empty_models:
        return _empty_models[described]
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for settings that do not fit together
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot build a model of the kind {config.model_type!r}: {reason}") from error
    check_text_only(model, config.model_type)
    if len(_empty_models) >= MAX_EMPTY_MODELS:
        del _empty_models[next(iter(_empty_models))]
    _empty_models[described] = model
    return model


def count_parameters(name: str) -> int:
    """The number of parameters of a model, from its configuration. Raises `ValueError` as `model_config`."""
    return int(empty_model(model_config(name)).num_parameters())
