"""A model is loaded whole or not at all: every way in which its files may be wrong is one error with numbers."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from commands import refused, spiral
from spiral.models.files import ModelFilesError, stored_tensors
from spiral.models.loading import NANO_DIRECTORY, ModelConfig, load_language_model
from spiral.models.shapes import empty_model

FILE = "model.safetensors"
SOURCE = Path(__file__).parents[2] / "src" / "spiral"
LAST = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def model(tmp_path):
    """A copy of the built-in model, to be damaged."""
    directory = tmp_path / "model"
    shutil.copytree(NANO_DIRECTORY, directory)
    return directory


def rewrite(directory, change):
    """Saves what `change` makes of the weights."""
    weights = load_file(directory / FILE)
    save_file(change(dict(weights)), directory / FILE, metadata={"format": "pt"})


def set_json(directory, name="config.json", **values):
    """Replaces settings in a file; None removes one."""
    file = directory / name
    kept = (json.loads(file.read_text()) if file.exists() else {}) | values
    file.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def why_not(directory):
    """Why a model does not load: the same from headers alone and with its weights, unless only the weights show it."""
    with pytest.raises(ModelFilesError) as with_weights:
        load_language_model(ModelConfig(path=str(directory), device="cpu"))
    with pytest.raises(ModelFilesError) as without:
        load_language_model(ModelConfig(path=str(directory), device="cpu"), weights=False)
    assert str(with_weights.value) == str(without.value)
    start = f"cannot load model {str(directory)!r}: "
    assert str(without.value).startswith(start)
    return str(without.value).removeprefix(start)


def to_bin(directory, value=None):
    """The weights, or something else, as pytorch_model.bin."""
    torch.save(load_file(directory / FILE) if value is None else value, directory / "pytorch_model.bin")
    (directory / FILE).unlink()


def prefixed(prefix):
    return lambda weights: {prefix + key: value for key, value in weights.items()}


def renamed(pattern, by):
    return lambda weights: {re.sub(pattern, by, key): value for key, value in weights.items()}


def without(part):
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (prefixed("_orig_mod."), ["lack 21 of 21", "begin with '_orig_mod.'", "torch.compile", "save model._orig_mod"]),
        (renamed(r"layers\.(\d)\.", r"layers.\1._orig_mod."), ["lack 18 of 21", "hold '_orig_mod.'", "torch.compile"]),
        (prefixed("module."), ["lack 21 of 21", "'module.'", "DistributedDataParallel", "save model.module"]),
        (prefixed("base_model.model."), ["lack 21 of 21", "PEFT", "merge_and_unload"]),
        (renamed(r"_proj\.", "_proj.base_layer."), ["lack 14 of 21", "PEFT", "merge_and_unload"]),
        (prefixed("_fsdp_wrapped_module."), ["lack 21 of 21", "FSDP"]),
        (prefixed("policy.net."), ["lack 21 of 21", "begin with 'policy.net.'"]),
        (without("layers.1"), ["lack 9 of 21 weights (model.layers.1.input_layernorm.weight, ", ", ...)"]),
        (without(LAST), [f"lack 1 of 21 weights ({LAST})"]),
        (without("embed_tokens"), ["lack 2 of 21 weights (lm_head.weight, model.embed_tokens.weight)"]),
        (lambda weights: {**weights, LAST: torch.ones(64, 10)}, [f"{LAST} is [64, 10], expected [64, 192]"]),
        (
            lambda weights: {**weights, "model.norm.weight": torch.ones(65), LAST: torch.ones(1)},
            ["2 of 21 weights have another shape", ", ...)"],
        ),
        (
            lambda weights: {**without("norm")(weights), LAST: torch.ones(1)},
            ["lack 5 of 21", " and 1 of 21 weights have another shape"],
        ),
        (
            lambda weights: {**weights, LAST: weights[LAST].to(torch.int8)},
            ["1 of its weights are quantised", LAST, "I8"],
        ),
        (
            lambda weights: {key: value.to(torch.float8_e4m3fn) for key, value in weights.items()},
            ["20 of its weights are quantised", "F8_E4M3"],
        ),
    ],
)
def test_weights_that_are_not_the_models(model, change, words):
    rewrite(model, change)
    reason = why_not(model)
    for word in words:
        assert word in reason
    assert "\n" not in reason
    assert len(reason) < 450


def test_a_configuration_of_another_size(model):
    set_json(model, vocab_size=700)
    assert "model.embed_tokens.weight is [651, 64], expected [700, 64]" in why_not(model)
    set_json(model, vocab_size=651, num_hidden_layers=3)
    assert "lack 9 of 30 weights (model.layers.2." in why_not(model)
    set_json(model, num_hidden_layers=2, tie_word_embeddings=False)
    assert "lack 1 of 21 weights (lm_head.weight)" in why_not(model)


def test_extra_weights_pass_and_are_reported(model, caplog):
    rewrite(model, lambda weights: {**weights, "v_head.weight": torch.ones(2), "v_head.bias": torch.ones(2)})
    loaded = load_language_model(ModelConfig(path=str(model), device="cpu"))
    assert loaded.model.num_parameters() == load_language_model(ModelConfig(path="nano")).model.num_parameters()
    assert "its files hold 2 weights more than the model has" in caplog.text
    assert "v_head.bias" in caplog.text


@pytest.mark.parametrize("change", [dict, renamed(r"^model\.", ""), prefixed("")])
def test_names_that_are_rightly_absent_or_left_out_pass(model, change):
    rewrite(model, change)
    loaded = load_language_model(ModelConfig(path=str(model), device="cpu")).model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.model.norm.weight, load_file(NANO_DIRECTORY / FILE)["model.norm.weight"])


def test_a_head_of_its_own_where_it_should_be_tied(model):
    rewrite(model, lambda weights: {**weights, "lm_head.weight": torch.zeros(651, 64)})
    with pytest.raises(ModelFilesError, match=r"tie_word_embeddings is true in its config\.json, and its"):
        load_language_model(ModelConfig(path=str(model), device="cpu"))
    set_json(model, tie_word_embeddings=False)
    assert not load_language_model(ModelConfig(path=str(model), device="cpu")).model.lm_head.weight.any()


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 2), (-float("inf"), 12_288)])
def test_weights_that_are_not_finite(model, value, count):
    def spoil(weights):
        weights[LAST] = weights[LAST].clone()
        weights[LAST].view(-1)[:count] = value
        return weights

    rewrite(model, spoil)
    with pytest.raises(ModelFilesError, match="hold numbers that are not finite") as refusal:
        load_language_model(ModelConfig(path=str(model), device="cpu"))
    assert f"1 of 20 weights hold numbers that are not finite ({LAST}: {count:,} of 12,288)" in str(refusal.value)


def test_large_finite_weights_pass(model):
    rewrite(model, lambda weights: {**weights, LAST: torch.full_like(weights[LAST], 3e38)})
    loaded = load_language_model(ModelConfig(path=str(model), device="cpu"))
    assert (loaded.model.state_dict()[LAST] == torch.tensor(3e38)).all()


def cut(directory, bytes_left):
    content = (directory / FILE).read_bytes()
    (directory / FILE).write_bytes(content[:bytes_left])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: cut(model, -100), ["model.safetensors (", "is damaged, cut short or no weights at all"]),
        (lambda model: cut(model, 20), ["model.safetensors (20 bytes)"]),
        (lambda model: cut(model, 0), ["model.safetensors (0 bytes)"]),
        (
            lambda model: (model / FILE).write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
            ),
            ["is a Git LFS pointer of", "git lfs pull"],
        ),
        (lambda model: (model / FILE).unlink(), ["holds no weights; expected model.safetensors or pytorch_model.bin"]),
        (lambda model: (model / FILE).rename(model / "model.Q4.gguf"), ["holds no weights, only model.Q4.gguf"]),
        (
            lambda model: (model / FILE).rename(model / "model-00001-of-00002.safetensors"),
            ["only model-00001-of-00002.safetensors"],
        ),
    ],
)
def test_files_of_weights_that_cannot_be_read(model, damage, words):
    damage(model)
    with pytest.raises(ModelFilesError) as refusal:
        load_language_model(ModelConfig(path=str(model), device="cpu"))
    for word in words:
        assert word in str(refusal.value)


def sharded(directory):
    """The weights in several files with an index; their names."""
    config = AutoConfig.from_pretrained(directory)
    loaded = AutoModelForCausalLM.from_pretrained(directory, config=config)
    (directory / FILE).unlink()
    loaded.save_pretrained(directory, max_shard_size="100KB")
    return sorted(path.name for path in directory.glob("model-*.safetensors"))


def test_shards(model):
    names = sharded(model)
    assert len(names) > 2
    load_language_model(ModelConfig(path=str(model), device="cpu"))
    (model / names[1]).unlink()
    with pytest.raises(ModelFilesError) as refusal:
        load_language_model(ModelConfig(path=str(model), device="cpu"))
    reason = f"model.safetensors.index.json names {len(names)} files, of which 1 are missing ({names[1]})"
    assert reason in str(refusal.value)
    (model / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(ModelFilesError, match=r"index\.json is damaged; expected a weight_map"):
        load_language_model(ModelConfig(path=str(model), device="cpu"))


def test_a_shard_without_what_the_index_says(model):
    names = sharded(model)
    key = next(iter(stored_tensors(model / names[1])))
    weights = without(key)(load_file(model / names[1]))
    save_file(weights, model / names[1], metadata={"format": "pt"})
    assert f"lack 1 of 21 weights ({key})" in why_not(model)


def test_pickled_weights(model):
    to_bin(model)
    for weights in (True, False):
        load_language_model(ModelConfig(path=str(model), device="cpu"), weights=weights)
    content = (model / "pytorch_model.bin").read_bytes()
    (model / "pytorch_model.bin").write_bytes(content[:-500])
    assert "pytorch_model.bin (" in why_not(model)


class Runs:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_without_advice_to_run_it(model, tmp_path):
    to_bin(model, {"weight": Runs(str(tmp_path / "ran"))})
    reason = why_not(model)
    assert "pytorch_model.bin holds more than tensors" in reason
    assert "expected safetensors" in reason
    assert "weights_only" not in reason
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_inside_a_training_checkpoint(model, key):
    to_bin(model, {key: load_file(model / FILE), "step": 3})
    assert "lack 21 of 21 weights" in why_not(model)
    assert f"keeps the weights under {key!r}" in why_not(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "awq"},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "mxfp4"},
    ],
)
def test_quantised_models(model, settings):
    set_json(model, quantization_config=settings)
    words = f"its weights are quantised ({settings['quant_method']}; quantization_config in config.json)"
    assert words in refused("train", "nano", "--dry-run", "--model", str(model))
    with pytest.raises(ModelFilesError) as refusal:
        load_language_model(ModelConfig(path=str(model), device="cpu"))
    assert words in str(refusal.value)


@pytest.mark.parametrize("whole", [True, False])
def test_adapters(model, whole):
    set_json(model, "adapter_config.json", base_model_name_or_path="org/base", peft_type="LORA")
    if not whole:
        (model / "config.json").unlink()
        (model / FILE).rename(model / "adapter_model.safetensors")
    for command in (
        ["train", "nano", "--dry-run", "--model"],
        ["evaluate", "--game", "tictactoe", "--opponent", "random"],
    ):
        line = refused(*command, str(model))
        assert "holds an adapter (adapter_config.json) for 'org/base', and no whole model; merge it first" in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "t5"}, "'t5' is an encoder-decoder model"),
        ({"model_type": "bart"}, "'bart' is an encoder-decoder model"),
        ({"model_type": "bart", "is_encoder_decoder": False}, "'bart' is an encoder-decoder model"),
        ({"model_type": "mbart", "is_encoder_decoder": False}, "'mbart' is an encoder-decoder model"),
        ({"model_type": "pegasus", "is_encoder_decoder": False}, "'pegasus' is an encoder-decoder model"),
        ({"model_type": "qwen2_5_vl"}, "'qwen2_5_vl' is a vision-language model"),
        ({"model_type": "vit"}, "'vit' is not a language model"),
        ({"model_type": "bert"}, "'bert' reads a whole text at once"),
        ({"model_type": "roberta"}, "'roberta' reads a whole text at once"),
        ({"model_type": "nosuch"}, "does not recognize this architecture"),
    ],
)
def test_models_of_another_kind_in_a_dry_run(tmp_path, settings, words):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    line = refused("train", "nano", "--dry-run", "--model", str(tmp_path))
    assert words in line
    assert len(line) < 600


@pytest.mark.parametrize("kind", ["gemma3", "git", "fuyu"])
def test_a_model_for_images_too_is_refused(kind):
    with pytest.raises(ModelFilesError, match=r"is a model for more than text; expected the model for text alone"):
        empty_model(AutoConfig.for_model(kind))


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "rwkv", "recurrent_gemma", "gpt_neox", "gpt2", "opt", "phi"])
def test_no_kind_of_model_stops_the_planner(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    result = spiral("train", "nano", "--dry-run", "--model", str(tmp_path), "--set", "hardware.memory_gib=200")
    assert "(a bug in spiral" not in result.err
    assert result.status == 2  # for there is no tokenizer, or no attention


def add_token(directory, **options):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<tool>", "<more>"], **options)
    tokenizer.save_pretrained(directory)


@pytest.mark.parametrize("special", [True, False])
def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows(model, special):
    rows = max(AutoTokenizer.from_pretrained(model).get_vocab().values()) + 1
    set_json(model, vocab_size=rows)
    rewrite(
        model, lambda weights: {**weights, "model.embed_tokens.weight": weights["model.embed_tokens.weight"][:rows]}
    )
    load_language_model(ModelConfig(path=str(model), device="cpu"))
    add_token(model, special_tokens=special)
    words = f"ids up to {rows + 1:,} ('<more>'), 2 of them beyond the {rows:,} rows of the model's embedding"
    assert words in why_not(model)
    assert words in refused("train", "nano", "--dry-run", "--model", str(model))


def test_a_model_without_a_tokenizer(model):
    (model / "tokenizer.json").unlink()
    assert "it has no tokenizer: " in why_not(model)


def test_a_damaged_tokenizer(model):
    (model / "tokenizer.json").write_text('{"version": ')
    assert "its tokenizer cannot be read: " in why_not(model)


def test_no_token_that_ends_a_reply(model):
    for name in ("tokenizer.json", "chat_template.jinja"):
        (model / name).write_text((model / name).read_text().replace("<|end|>", "<|fin|>"))
    set_json(model, "tokenizer_config.json", eos_token=None)
    set_json(model, eos_token_id=None)
    template = model / "chat_template.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    for command in (
        ["train", "nano", "--dry-run", "--model"],
        ["evaluate", "--game", "tictactoe", "--opponent", "random"],
    ):
        assert "the model has no token that ends a reply" in refused(*command, str(model))


CODE = "import pathlib; pathlib.Path({mark!r}).touch()\nclass C: pass\n"


@pytest.mark.parametrize("where", ["config", "tokenizer", "both"])
@pytest.mark.parametrize("json_asked", [True, False])
def test_code_that_comes_with_a_model_never_runs(model, tmp_path, where, json_asked):
    mark = tmp_path / "ran"
    (model / "code.py").write_text(CODE.format(mark=str(mark)))
    if where != "tokenizer":
        auto = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.C"}
        set_json(model, model_type="their_own", auto_map=auto)
    if where != "config":
        set_json(
            model, "tokenizer_config.json", tokenizer_class="Theirs", auto_map={"AutoTokenizer": ["code.C", "code.C"]}
        )
    line = ["evaluate", str(model), "--game", "tictactoe", "--opponent", "random", "--episodes", "2"]
    for command in (
        [*line, *(["--json"] if json_asked else [])],
        ["train", "nano", "--dry-run", "--model", str(model)],
    ):
        result = spiral(*command, stdin="y\ny\ny\n")
        assert (result.status, result.out) == (2, "")
        assert "needs its own code (auto_map in " in result.err
        assert "which spiral does not run" in result.err
        assert "trust_remote_code" not in result.err
        assert "[y/N]" not in result.err
    assert not mark.exists()


def test_a_known_kind_of_model_may_bring_code_that_is_left_alone(model, tmp_path):
    mark = tmp_path / "ran"
    (model / "code.py").write_text(CODE.format(mark=str(mark)))
    set_json(model, auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.C"})
    load_language_model(ModelConfig(path=str(model), device="cpu"))
    assert not mark.exists()


def test_every_call_that_could_run_a_models_code_says_that_it_must_not():
    """The whole source: transformers asks on standard input where this is not set."""
    calls = re.compile(
        r"(?:\b(?:AutoConfig|AutoTokenizer|AutoModelForCausalLM|model_class|cls))\.(?:from_pretrained|from_config)\("
    )
    found = 0
    for file in SOURCE.rglob("*.py"):
        text = re.sub(r'"""[\s\S]*?"""', "", file.read_text())
        for match in calls.finditer(text):
            depth, end = 1, match.end()
            while depth:
                depth += {"(": 1, ")": -1}.get(text[end], 0)
                end += 1
            call = text[match.start() : end]
            assert "trust_remote_code=False" in call, f"{file}: {call}"
            found += 1
    assert found >= 4
    others = {file.name for file in SOURCE.rglob("*.py") if re.search(r"\.from_pretrained\(", file.read_text())}
    assert others == {"files.py"}, "from_pretrained is called where its report is read, and nowhere else"


def test_attention_that_pytorch_has_no_kernel_for_is_the_models_own(tmp_path, tokenizer):
    config = AutoConfig.for_model("codegen", vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=4, rotary_dim=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_language_model(ModelConfig(path=str(tmp_path), device="cpu")).model
    assert model.config._attn_implementation == "eager"


def test_experts_of_a_mixture(tmp_path, tokenizer):
    config = AutoConfig.for_model(
        "mixtral", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, num_local_experts=4,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    load_language_model(ModelConfig(path=str(tmp_path), device="cpu"))
    expert = "model.layers.1.block_sparse_moe.experts.3."
    rewrite(tmp_path, without(f"{expert}w3"))
    assert "hold 3 weights model.layers.1.block_sparse_moe.experts.*.w3.weight, expected 4" in why_not(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 5000, "there is no model 'xxx"),
        ("org/" + "x" * 5000, "there is no model 'org/xxx"),
        ("/tmp/" + "x" * 5000, "there is no model '/tmp/xxx"),
        ("a/" * 3000, "there is no model 'a/a/"),
        ("na\nno", r"there is no model or policy 'na\nno'; did you mean 'nano'?"),
        ("\x1b]0;title\x07", "a name has no control characters"),
        ("my\0model", "a name has no control characters"),
    ],
)
def test_names_that_no_model_can_have(name, words):
    for command in (["evaluate", "--game", "tictactoe", "--opponent", "random"], ["train", "nano", "--model"]):
        line = refused(*command, name)
        assert words in line
        assert len(line) < 500
    assert words in refused("train", "nano", "--dry-run", "--model", name)


@pytest.mark.slow
def test_a_result_is_not_repeated_for_weights_that_were_replaced(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_RESULTS", str(tmp_path / "results"))
    line = ["evaluate", str(model), "--game", "tictactoe", "--opponent", "random", "--episodes", "8", "--json"]
    to_bin(model)
    first, again = spiral(*line).json, spiral(*line).json
    assert first["illegal"] < 0.5
    assert {key: again[key] for key in ("win", "draw", "loss")} == {key: first[key] for key in ("win", "draw", "loss")}
    weights = torch.load(model / "pytorch_model.bin")
    torch.save({key: torch.zeros_like(value) for key, value in weights.items()}, model / "pytorch_model.bin")
    zeroed = spiral(*line).json
    assert zeroed["illegal"] == 1.0
    assert len(list((tmp_path / "results").glob("evaluate-*"))) == 2


@pytest.mark.parametrize(
    "architecture",
    ["LlamaForSequenceClassification", "Qwen2ForTokenClassification", "Qwen2ForRewardModel", "InternLM2ForRewardModel"],
)
def test_models_that_score_or_label_a_text_are_refused(model, architecture):
    set_json(model, architectures=[architecture])
    words = f"{architecture} (architectures in its config.json) gives a text a score or a label"
    assert words in why_not(model)
    assert words in refused("train", "nano", "--model", str(model), "--dry-run")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_act": "swiglu2"}, "config.json: hidden_act 'swiglu2' is unknown to transformers "),
        ({"hidden_act": "gelu-x"}, "config.json: hidden_act 'gelu-x' is unknown to transformers "),
        (
            {"rope_parameters": {"rope_type": "su", "rope_theta": 1e4}},
            "config.json: rope_parameters.rope_type 'su' is unknown to transformers ",
        ),
    ],
)
def test_settings_that_transformers_does_not_know(model, settings, words):
    set_json(model, **settings)
    assert words in why_not(model)


def test_an_index_without_metadata(model):
    shutil.move(model / FILE, model / "x.safetensors")
    weights = dict.fromkeys(load_file(model / "x.safetensors"), "x.safetensors")
    (model / f"{FILE}.index.json").write_text(json.dumps({"weight_map": weights}))
    assert "the index of its weights has no metadata; expected one as save_pretrained writes it" in why_not(model)


def test_a_link_to_weights_that_are_not_there(model):
    (model / FILE).unlink()
    (model / FILE).symlink_to("../../blobs/abc")
    with pytest.raises(ModelFilesError, match=r"model.safetensors is a link to ../../blobs/abc, which is not there"):
        load_language_model(ModelConfig(path=str(model), device="cpu"))


def test_a_tokenizer_that_is_a_pointer(model):
    (model / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "tokenizer.json is a Git LFS pointer of " in why_not(model)


def test_a_sentencepiece_model_alone(model, monkeypatch):
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(b"\x0a\x05pieces")
    monkeypatch.setattr("spiral.models.files._lacks", lambda package: package == "sentencepiece")
    assert "its tokenizer is in tokenizer.model alone, which takes the package sentencepiece" in why_not(model)
