"""A checkpoint of a trained model in other hands: plain transformers and a fresh vLLM say the same with it."""

import contextlib
import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from made_up import random_samples
from spiral.models.card import ModelCard
from spiral.policies import SamplingConfig
from spiral.text import PromptConfig
from spiral.text.turn_ends import stop_token_ids
from spiral.training.batch import make_batch
from spiral.training.checkpoint import load_checkpoint, save_checkpoint
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.lora import LoraConfig
from spiral.training.loss import LossConfig
from turns import random_states, replies_of, requests_for
from vllm_models import new_engine, untied, widened, with_vllm

pytestmark = with_vllm

BUDGET = 24


def new_learner(model, lora=None, compute="float32"):
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(learning_rate=1e-3, epochs=1, layout="packed"),
        loss_config=LossConfig(kl_coefficient=0.1),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=0,
        compute=compute,
        lora=lora,
    )


@pytest.mark.parametrize("kind", ["tied", "untied", "lora"])
def test_greedy_tokens_agree(kind, nano, tmp_path):
    model = widened(nano.model)
    model = untied(model) if kind == "untied" else model
    lora = LoraConfig(rank=4) if kind == "lora" else None
    compute = "float32" if kind == "untied" else "bfloat16"
    learner = new_learner(model, lora, compute)
    for seed in range(3):
        learner.update(make_batch(random_samples(10, 400, seed)))
    prompt = PromptConfig(template="qwen3", observation="compact", thinking=False)
    path = save_checkpoint(
        tmp_path, learner=learner, tokenizer=nano.tokenizer, card=ModelCard(prompt=prompt), state={"step": 3}
    )
    assert load_checkpoint(path, new_learner(model, lora, compute)) == {"version": 3, "step": 3}

    plain, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    requests = requests_for(random_states(12, seed=2))
    with contextlib.closing(new_engine(str(path), tokenizer, compute="float32")) as engine:
        engine.sampling = SamplingConfig(temperature=0.0, max_new_tokens=BUDGET)
        replies = replies_of(engine, requests)
    stops = sorted(stop_token_ids(tokenizer))
    assert len(replies) == 12
    for reply in replies.values():
        ids = torch.from_numpy(reply.prompt_ids)[None]
        said = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=BUDGET, eos_token_id=stops
        )[0, ids.shape[1] :]
        assert reply.generation.token_ids.tolist() == said.tolist()
    moved = [(a - b).abs().max() for (_, a), (_, b) in zip(learner.weights(), model.named_parameters(), strict=True)]
    assert max(moved) > 1e-4
