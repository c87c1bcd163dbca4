"""The shapes of the models that recipes name, so that a run can be planned where no hub is reachable.

Each file in `known_configs/` is a model's configuration in Hugging Face form, reduced to what fixes its shape and its
special tokens, written from the figures of its model card:

    https://huggingface.co/Qwen/Qwen3-0.6B-Base           https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct
    https://huggingface.co/Qwen/Qwen3-1.7B-Base           https://huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
    https://huggingface.co/Qwen/Qwen3-4B-Base             https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
    https://huggingface.co/Qwen/Qwen3-8B-Base

Left out: weights and tokenizers. Nothing is trained from these files unless somebody asks for random weights:

    AutoModelForCausalLM.from_config(known_config("Qwen/Qwen3-4B-Base"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "known_configs"

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


def known_config(name: str) -> Any:
    """The transformers configuration of the model called `name`, or None for a model that is not known here."""
    full_name = ALIASES.get(name, name)
    if full_name not in KNOWN_MODELS:
        return None
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(DIRECTORY / f"{full_name.partition('/')[2]}.json"))
