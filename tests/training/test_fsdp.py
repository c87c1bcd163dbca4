"""Sharding on a device that is not the current one; on CPUs it is tested with the learners that are sharded."""

from types import SimpleNamespace

import pytest
import torch

from spiral.training import fsdp as sharding


@pytest.mark.parametrize(("device", "chosen"), [("cuda:1", ["cuda:1"]), ("cpu", [])])
def test_the_model_s_gpu_is_the_current_one_before_anything_is_sharded(monkeypatch, device, chosen):
    """FSDP2 takes parameters to the current device, which is the first GPU by default."""
    done = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    for name in ("_ensure_process_group", "init_device_mesh"):
        monkeypatch.setattr(sharding, name, lambda *_, name=name: done.append(name) or SimpleNamespace(size=lambda: 1))
    monkeypatch.setattr(sharding, "fully_shard", lambda *_, **__: done.append("fully_shard"))
    monkeypatch.setattr(sharding, "blocks", lambda _model: ["block"])
    scorer = SimpleNamespace(language_model=SimpleNamespace(device=torch.device(device)))
    sharding.shard(scorer, torch.bfloat16)
    assert done == [*chosen, "_ensure_process_group", "init_device_mesh", "fully_shard", "fully_shard"]
