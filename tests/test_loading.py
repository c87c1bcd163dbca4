"""Models that cannot be computed rightly are refused by what their configuration says."""

import pytest
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, MptConfig

from spiral.plan.memory import model_shape
from spiral.policies import SamplingConfig
from spiral.policies.loading import check_architecture, context_limit
from spiral.policies.parameters import ParameterNames
from spiral.policies.transformers import TransformersPolicy
from spiral.text import ChatCodec, PromptConfig

BLOOM = BloomConfig(vocab_size=300, hidden_size=16, n_layer=1, n_head=2)
WHY = (
    " has to know how many tokens a model takes; the configuration of this model of type 'bloom' has no"
    " max_position_embeddings; expected a model with a limit, such as Qwen or Llama"
)


@pytest.mark.parametrize("config", [BLOOM, MptConfig()])
def test_a_model_without_a_limit_is_refused(config):
    with pytest.raises(ValueError, match=rf"^the learner has to know .* '{config.model_type}' has no max_position_emb"):
        check_architecture(config, "the learner")


def test_the_limit_under_another_name_is_known():
    assert context_limit(GPT2Config(n_positions=77), "anybody") == 77


def test_everybody_who_asks_for_the_limit_says_so(tokenizer):
    model = AutoModelForCausalLM.from_config(BLOOM)
    for who, ask in (
        (
            "the transformers engine",
            lambda: TransformersPolicy(model, ChatCodec(tokenizer, PromptConfig()), SamplingConfig()),
        ),
        ("the vLLM engine", lambda: ParameterNames(model)),
        ("a plan", lambda: model_shape(BLOOM)),
    ):
        with pytest.raises(ValueError, match="max_position_embeddings") as refused:
            ask()
        assert str(refused.value) == who + WHY
