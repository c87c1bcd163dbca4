"""Models that cannot be computed rightly are refused by what their configuration says."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    Phi3Config,
)  # fmt: skip

from families import family_model
from spiral.inference.base import PromptRequest
from spiral.inference.parameters import ParameterNames
from spiral.inference.transformers import TransformersPolicy
from spiral.models.loading import UNLIMITED, context_limit, usable_context
from spiral.plan.memory import model_shape
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig

NO_LIMIT = LlamaConfig(
    vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=-1,
)  # fmt: skip
WHY = (
    " has to know how many tokens a model takes; the configuration of this model of type 'llama' has no"
    " max_position_embeddings; add what the model takes to its config.json"
)


def test_a_model_without_a_limit_is_refused():
    with pytest.raises(ValueError, match=r"^the learner has to know .* 'llama' has no max_position_emb"):
        context_limit(NO_LIMIT, "the learner")


def test_the_limit_under_another_name_is_known():
    assert context_limit(GPT2Config(n_positions=77), "anybody") == 77


def test_errors_without_a_context_limit_name_the_caller(tokenizer):
    model = AutoModelForCausalLM.from_config(NO_LIMIT)
    for who, ask in (
        (
            "the transformers engine",
            lambda: TransformersPolicy(model, ChatCodec(tokenizer, PromptConfig()), SamplingConfig()),
        ),
        ("the vLLM engine", lambda: ParameterNames(model)),
        ("training", lambda: model_shape(NO_LIMIT)),
    ):
        with pytest.raises(ValueError, match="max_position_embeddings") as refused:
            ask()
        assert str(refused.value) == who + WHY


def long_rope(original=70, *, context=512, where="both"):
    """A configuration whose rotary factors change after `original` tokens, which families keep under different keys."""
    kind = LlamaConfig if where == "rope" else Phi3Config
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
    if where != "config":
        rope["original_max_position_embeddings"] = original
    own = {} if where == "rope" else {"original_max_position_embeddings": original}
    return kind(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
        rope_parameters=rope, pad_token_id=0, **own,
    )  # fmt: skip


@pytest.mark.parametrize("where", ["both", "config", "rope"])
def test_the_context_ends_where_rotary_factors_change(where, caplog):
    config = long_rope(where=where)
    assert context_limit(config, "anybody") == 70
    assert usable_context(config, None, "anybody") == 70
    assert "limited to 70 of the model's 512 tokens" in caplog.text
    assert usable_context(config, 64, "anybody") == 64
    with pytest.raises(ValueError, match=r"a context of 71 .* once it is longer than 70 tokens.*at most 70, or 0"):
        usable_context(config, 71, "anybody")


def test_a_context_that_cannot_change_factors_is_the_models_own(caplog):
    assert usable_context(long_rope(512), None, "anybody") == 512
    assert usable_context(GPT2Config(n_positions=77), 100, "anybody") == 77
    assert not caplog.text


def test_a_prompt_is_not_padded_beyond_the_models_positions(tokenizer):
    """GPT-2 has one vector for every position, and none beyond; 95 tokens would be padded to 96."""
    model = family_model("gpt2", len(tokenizer))
    model.config.n_positions = 95
    model.transformer.wpe = torch.nn.Embedding.from_pretrained(model.transformer.wpe.weight[:95])
    policy = TransformersPolicy(model, ChatCodec(tokenizer, PromptConfig(template="llama")), SamplingConfig())
    prompt = np.arange(94) % len(tokenizer)
    policy.submit_prompts([PromptRequest(key=0, prompt_ids=prompt, seed=0)])
    (reply,) = policy.poll()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(prompt)[None]).logits[0, -1]
    assert reply.generation.logprobs[0] == pytest.approx(
        float(logits.log_softmax(-1)[reply.generation.token_ids[0]]), abs=1e-5
    )


def test_a_limit_below_zero_is_none():
    with pytest.raises(ValueError, match="has no max_position_embeddings"):
        context_limit(GPT2Config(n_positions=-1), "training")


def test_a_model_without_positions_has_no_limit():
    assert context_limit(MambaConfig(num_hidden_layers=2), "training") == UNLIMITED
    assert usable_context(MambaConfig(num_hidden_layers=2), 300, "training") == 300
    assert context_limit(BloomConfig(n_layer=2), "training") == UNLIMITED


def test_a_limit_has_several_names():
    assert context_limit(MptConfig(max_seq_len=300), "training") == 300
    assert context_limit(BloomConfig(n_layer=2, seq_length=200), "training") == 200
