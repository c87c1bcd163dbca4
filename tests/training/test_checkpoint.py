"""A checkpoint holds all that a model's files hold, what is not trained too."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from families import family_model
from spiral.models.card import ModelCard
from spiral.models.files import read_weights
from spiral.policies import SamplingConfig
from spiral.training.checkpoint import save_snapshot
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.lora import LoraConfig
from spiral.training.loss import LossConfig

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("family", "buffer"), [("gemma4-shared", "layer_scalar"), ("deepseek-v3", "correction_bias")])
def test_numbers_that_are_not_trained_are_saved(family, buffer, rank, tokenizer, tmp_path):
    model = family_model(family, len(tokenizer))
    for name, values in model.named_buffers():
        if buffer in name:
            values.uniform_(0.5, 0.9)
    learner = Learner(
        copy.deepcopy(model),
        config=LearnerConfig(layout="auto"),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=8),
        total_steps=1,
        seed=0,
        lora=LoraConfig(rank=rank) if rank else None,
    )
    path = save_snapshot(tmp_path, learner=learner, tokenizer=tokenizer, card=ModelCard(), compute="float32")
    loaded = read_weights(AutoModelForCausalLM, path, "it").state_dict()
    assert any(buffer in name for name in loaded)
    assert {name for name, values in model.state_dict().items() if not torch.equal(values, loaded[name])} == set()
