"""Models that can be planned without a network, by the shape of a known one."""

import re
import tomllib
from pathlib import Path

import pytest

from commands import spiral
from spiral.models.shapes import KNOWN_MODELS, VARIANTS, count_parameters, known_config

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "Qwen/Qwen3-4B-Thinking-2507": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B-Base": 14_768_307_200,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "OctoThinker/OctoThinker-8B-Hybrid-Base": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": 8_030_261_248,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    **dict.fromkeys(("HuggingFaceTB/SmolLM2-360M", "HuggingFaceTB/SmolLM2-360M-Instruct"), 361_821_120),
    **dict.fromkeys(("HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B-Instruct"), 1_711_376_384),
    **dict.fromkeys(("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct"), 494_032_768),
    **dict.fromkeys(("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct"), 1_543_714_304),
    **dict.fromkeys(("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct"), 3_085_938_688),
    **dict.fromkeys(("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"), 7_615_616_512),
    **dict.fromkeys(("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-14B-Instruct"), 14_770_033_664),
    **dict.fromkeys(("Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-32B-Instruct"), 32_763_876_352),
}
"""The numbers of parameters on the model cards."""


@pytest.fixture(autouse=True)
def away(monkeypatch, tmp_path):
    """No hub, no local copies, and no request allowed."""
    monkeypatch.setattr("spiral.models.hub.hub_fault", lambda: pytest.fail("the hub was asked for"))
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


@pytest.mark.slow
def test_every_variant_has_the_published_number_of_parameters():
    assert {name: count_parameters(name) for name in VARIANTS} == PUBLISHED
    assert all(base in KNOWN_MODELS for base, _ in VARIANTS.values())


def test_variants_have_their_own_context_and_ends():
    limits = {name: known_config(name).max_position_embeddings for name in VARIANTS}
    assert limits["Qwen/Qwen3-0.6B"] == 40_960
    assert limits["Qwen/Qwen3-4B-Instruct-2507"] == 262_144
    assert limits["Qwen/Qwen2.5-0.5B"] == 32_768
    assert limits["meta-llama/Llama-3.2-1B"] == 131_072
    assert known_config("Qwen/Qwen3-0.6B").eos_token_id == 151_645
    assert known_config("Qwen/Qwen3-0.6B-Base").eos_token_id == 151_643
    assert known_config("HuggingFaceTB/SmolLM2-135M").eos_token_id == 0
    assert len(known_config("Qwen/Qwen3-14B").layer_types) == 40


def recipes_printed(file):
    """The whole recipes that a document shows: blocks of TOML with a model."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    return [block for block in blocks if "path" in tomllib.loads(block).get("model", {})]


@pytest.mark.parametrize(
    ("file", "number"),
    [("README.md", 0), ("docs/guides/add_an_estimator.md", 0), ("docs/guides/add_an_opponent.md", 0)],
)
def test_recipes_of_the_documents_are_planned(file, number, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = recipes_printed(file)
    assert len(blocks) == 1
    # Modules that the reader writes beside the recipe.
    block = re.sub(r'estimator = "(?!rae)[^"]*"', 'estimator = "rae"', blocks[number])
    block = re.sub(r'reward = "my_.*"\nreward_options = .*', 'reward = "normalised"', block)
    block = re.sub(r'opponent_sampler = "my_.*"\nopponent_options = .*', 'opponent_sampler = "fixed"', block)
    block = re.sub(r'"(?:my_[a-z_]*|add_a_game):[A-Za-z_]*"', '"tictactoe"', block)
    (tmp_path / "my.toml").write_text(block)
    result = spiral("train", str(tmp_path / "my.toml"), "--dry-run", "--set", "hardware.memory_gib=200")
    assert result.status == 0, result.err
    assert result.out.startswith("# Qwen/Qwen3-0.6B: 596,049,920 parameters\n# Memory of ")


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("qwen3-0.6b-1gpu", "Qwen/Qwen3-0.6B"),
        ("smollm2-cpu", "HuggingFaceTB/SmolLM2-135M"),
        ("qwen3-0.6b-1gpu", "Qwen/Qwen2.5-0.5B"),
        ("qwen3-0.6b-1gpu", "meta-llama/Llama-3.2-1B-Instruct"),
    ],
)
def test_known_models_are_planned(recipe, model):
    result = spiral("train", recipe, "--model", model, "--dry-run", "--set", "hardware.memory_gib=80")
    assert result.status == 0, result.err
    assert result.out.startswith(f"# {model}: {count_parameters(model):,} parameters\n# Memory of ")


def test_small_runs_are_planned_in_mib():
    lines = spiral("train", "nano", "--dry-run", "--set", "hardware.memory_gib=2").out.splitlines()
    start = lines.index("# Memory of one device, in MiB:")
    assert lines[start + 1] == f"#     {4 * 148_480 / 2**20:.2f}  weights (float32)"
    assert not [line for line in lines if line.startswith("#     0.00") and "shared with" not in line]
    assert "#  1945.60  usable: 2048.00 (hardware.memory_gib) less 5%" in lines
