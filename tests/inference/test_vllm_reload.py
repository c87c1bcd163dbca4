"""New weights for vLLM's engine, around a stub of it: what it does not take is named."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from spiral.inference.vllm_reload import MARK, reload


class StubEngine:
    """Copies what it is given by name, as vLLM's in-place reload, and leaves out some."""

    def __init__(self, model, left_out=()):
        self.model, self.left_out, self.given = model, left_out, []

    def apply_model(self, function):
        return [function(self.model)]

    def collective_rpc(self, name, kwargs):
        assert name == "reload_weights"
        whole = kwargs.get("is_checkpoint_format", True)
        parameters = dict(self.model.named_parameters())
        for key, weight in kwargs["weights_iterator"]:
            self.given.append((key, whole))
            if key in parameters and key not in self.left_out:
                parameters[key].data.copy_(weight)


@pytest.fixture
def vllm(monkeypatch):
    """vLLM's version and platform, which a test may change."""
    package, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    package.__version__ = "0.32.0"
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: True)
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    return platforms.current_platform


def blocks():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_not_taken_is_named(vllm, dtype):
    engine, new = StubEngine(blocks().to(dtype)), blocks().to(dtype)
    reload(engine, new.named_parameters(), "llama")
    assert all(
        torch.equal(weight, dict(engine.model.named_parameters())[name]) for name, weight in new.named_parameters()
    )
    engine.left_out = ("1.weight", "1.bias")
    with pytest.raises(
        RuntimeError, match=r"vLLM 0\.32\.0 did not take 2 of the weights of this model of type 'llama', such as '1\.w"
    ):
        reload(engine, new.named_parameters(), "llama")
    assert set(engine.model[1].bias.tolist()) == {MARK}


def test_a_weight_that_is_not_a_number_is_no_weight_left_out(vllm):
    engine, new = StubEngine(blocks()), blocks()
    with torch.no_grad():
        new[0].weight[0, 0] = float("nan")
        new[1].weight[0, 0] = -float("inf")
    reload(engine, new.named_parameters(), "llama")
    assert torch.isnan(engine.model[0].weight[0, 0])


@pytest.mark.parametrize("on_cpu", [True, False])
def test_experts_are_packed_again_on_a_cpu(vllm, on_cpu):
    vllm.is_cpu = lambda: on_cpu
    model = blocks()
    model[0].quant_method = SimpleNamespace(moe_kernel="packed")
    model[1].quant_method = SimpleNamespace()
    reload(StubEngine(model), blocks().named_parameters(), "mixtral")
    assert model[0].quant_method.moe_kernel == (None if on_cpu else "packed")


def test_experts_and_sinks_of_gpt_oss_have_the_names_of_vllms_loader(vllm):
    weights = {
        "model.layers.0.self_attn.sinks": torch.ones(2),
        "model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2),
        "model.layers.0.mlp.experts.gate_up_proj": torch.arange(12.0).reshape(2, 2, 3),
        "model.layers.0.mlp.experts.down_proj_bias": torch.ones(2, 2),
        "model.layers.0.mlp.router.weight": torch.ones(2, 2),
    }
    engine = StubEngine(torch.nn.Sequential())
    reload(engine, weights.items(), "gpt_oss")
    assert engine.given == [
        ("model.layers.0.self_attn.q_proj.weight", True),
        ("model.layers.0.mlp.experts.0.w13_weight", True),
        ("model.layers.0.mlp.experts.1.w13_weight", True),
        ("model.layers.0.mlp.experts.0.w2_bias", True),
        ("model.layers.0.mlp.experts.1.w2_bias", True),
        ("model.layers.0.mlp.router.weight", True),
        ("model.layers.0.attn.sinks", False),
    ]
    engine.given.clear()
    reload(engine, weights.items(), "mixtral")
    assert [name for name, _ in engine.given] == list(weights)
