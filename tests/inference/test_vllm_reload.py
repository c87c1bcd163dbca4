"""New weights for vLLM, around a stub of its engine: what is not taken is named, and each process gets its part."""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from spiral.inference import vllm_parallel
from spiral.inference.vllm_parallel import parts_of
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


class Worker:
    """One process of an engine over two devices, which holds its half of the rows of every weight."""

    vllm_config = SimpleNamespace(model_config="the model's")

    def __init__(self, rank, model, left_out):
        self.rank, self.left_out, self.calls = rank, left_out, []
        self.model = torch.nn.Module()
        for name, weight in model.named_parameters():
            owner = self.model
            for part in name.split(".")[:-1]:
                owner.add_module(part, getattr(owner, part, torch.nn.Module()))
                owner = getattr(owner, part)
            owner.register_parameter(name.rpartition(".")[2], torch.nn.Parameter(self.half(weight)))
        self.model.load_weights = self.load

    def half(self, weight):
        return weight.detach().chunk(2)[self.rank].clone()

    def get_model(self):
        return self.model

    def load(self, weights):
        weights = list(weights)
        self.calls.append([name for name, _ in weights])
        for name, weight in weights:
            if name not in self.left_out:
                self.model.get_parameter(name).data.copy_(self.half(weight))


class ParallelEngine:
    """An engine whose processes are `Worker`s; functions and arguments reach them as vLLM sends them."""

    def __init__(self, model, left_out=((), ())):
        self.workers = [Worker(rank, model, left_out[rank]) for rank in range(2)]
        self.files = []

    def apply_model(self, function):
        return [function(worker.get_model()) for worker in self.workers]

    def collective_rpc(self, function, args=()):
        if args:
            self.files.append(args[0])
        for worker in self.workers:
            Worker.working = worker
            function(worker, *args)


@pytest.fixture
def layerwise(vllm, monkeypatch):
    """The parts of vLLM that read a checkpoint in parts."""
    for name in ("vllm.config", "vllm.distributed", "vllm.model_executor.model_loader.reload"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.config"].set_current_vllm_config = contextlib.nullcontext
    sys.modules["vllm.distributed"].get_tensor_model_parallel_rank = lambda: Worker.working.rank
    reload_parts = sys.modules["vllm.model_executor.model_loader.reload"]
    reload_parts.initialize_layerwise_reload = lambda model: Worker.working.calls.append("begin")
    reload_parts.finalize_layerwise_reload = lambda model, config: Worker.working.calls.append(f"finish {config}")


def whole(engine):
    """The weights that the workers of an engine hold together."""
    first, second = (dict(worker.model.named_parameters()) for worker in engine.workers)
    return {name: torch.cat([weight, second[name]]) for name, weight in first.items()}


@pytest.mark.usefixtures("layerwise")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_process_takes_its_half_from_parts_of_the_weights(dtype, monkeypatch):
    monkeypatch.setattr(vllm_parallel, "CHUNK_BYTES", 100)
    engine, new = ParallelEngine(blocks().to(dtype)), blocks().to(dtype)
    reload(engine, new.named_parameters(), "llama", processes=2)
    assert all(torch.equal(weight, whole(engine)[name]) for name, weight in new.named_parameters())
    parts = [["0.weight", "0.bias", "1.weight", "1.bias"]]
    if dtype == torch.float32:  # 48, 16, 32 and 8 bytes
        parts = [["0.weight", "0.bias", "1.weight"], ["1.bias"]]
    for worker in engine.workers:
        assert worker.calls == ["begin", *parts, "finish the model's"]
    assert len(set(engine.files)) == len(parts)
    assert not any(Path(file).parent.exists() for file in engine.files)


@pytest.mark.usefixtures("layerwise")
def test_a_weight_that_one_process_has_not_taken_is_named():
    engine = ParallelEngine(blocks(), left_out=((), ("1.weight",)))
    with pytest.raises(RuntimeError, match=r"did not take 1 of the weights .* such as '1\.weight'"):
        reload(engine, blocks().named_parameters(), "llama", processes=2)


@pytest.mark.usefixtures("layerwise")
def test_an_error_of_the_weights_leaves_no_file_behind(monkeypatch):
    monkeypatch.setattr(vllm_parallel, "CHUNK_BYTES", 1)

    def broken():
        yield from list(blocks().named_parameters())[:2]
        raise ValueError("2 weights are missing")

    engine = ParallelEngine(blocks())
    with pytest.raises(ValueError, match="2 weights are missing"):
        reload(engine, broken(), "llama", processes=2)
    assert engine.workers[0].calls == ["begin", ["0.weight"]]
    assert not Path(engine.files[0]).parent.exists()


@pytest.mark.usefixtures("layerwise")
def test_sinks_of_gpt_oss_are_shared_out_by_rank():
    layer = torch.nn.Module()
    layer.sinks = torch.nn.Parameter(torch.zeros(4))
    engine = ParallelEngine(torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"attn": layer})}))
    reload(engine, [("block.self_attn.sinks", torch.arange(4.0))], "gpt_oss", processes=2)
    assert [worker.model.block.attn.sinks.tolist() for worker in engine.workers] == [[0.0, 1.0], [2.0, 3.0]]


def test_parts_are_copies_in_order_and_no_larger_than_they_may_be(monkeypatch):
    monkeypatch.setattr(vllm_parallel, "CHUNK_BYTES", 40)
    large, small = torch.arange(20.0), torch.arange(12.0).reshape(3, 4)
    given = [("a", small[:, 1]), ("b", small[0]), ("large", large), ("tied", small[0]), ("z", small[1])]
    parts = list(parts_of(given))
    assert [list(part) for part in parts] == [["a", "b"], ["large"], ["tied", "z"]]
    small.zero_()
    assert parts[0]["a"].tolist() == [1.0, 5.0, 9.0]
    assert all(weight.is_contiguous() and weight.untyped_storage().nbytes() == weight.nbytes
               for part in parts for weight in part.values())  # fmt: skip
    assert list(parts_of([])) == []


def test_a_part_is_on_the_disk_where_shared_memory_is_full_and_refused_where_both_are(monkeypatch, tmp_path):
    rooms = {vllm_parallel.SHARED_MEMORY: 10_000, str(tmp_path): 10_000}
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda name: SimpleNamespace(free=rooms[name]))
    part = {"weight": torch.ones(100)}
    for full, place in ((None, vllm_parallel.SHARED_MEMORY), (vllm_parallel.SHARED_MEMORY, str(tmp_path))):
        rooms |= {full: 400} if full else {}
        with vllm_parallel._file_of(part) as path:
            assert path.startswith(f"{place}/spiral-weights-")
            with safe_open(path, framework="pt") as stored:
                assert stored.get_tensor("weight").sum() == 100
    rooms[str(tmp_path)] = 0
    with (
        pytest.raises(RuntimeError, match=r"no room for 0 MiB of new weights in /dev/shm and .*set by --shm-size"),
        vllm_parallel._file_of(part),
    ):
        pass
