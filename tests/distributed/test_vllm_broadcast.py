"""A broadcast into a process in which vLLM runs: neither disturbs the other."""

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor

import torch

from distributed_keeper import context
from spiral.distributed.weights.broadcast import BroadcastReceiver, BroadcastSender, Rendezvous
from turns import random_states, replies_of, requests_for
from vllm_models import new_engine, save, widened, with_vllm

pytestmark = with_vllm

REQUESTS = requests_for(random_states(20, seed=4), seed=1)


def moved(model):
    """The same model with other weights."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.05 * weight.abs().mean() * torch.randn(weight.shape, generator=generator))
    return other


def said(policy):
    return {key: reply.generation.token_ids.tolist() for key, reply in replies_of(policy, REQUESTS).items()}


def test_weights_come_while_vllm_generates_and_are_taken_afterwards(nano, tmp_path):
    old = widened(nano.model)
    new = moved(old)
    sender, receiver = BroadcastSender(context(1, torch.bfloat16)), BroadcastReceiver(60.0)
    address, port = sender.open_store(True, 60.0)
    sender.send(5, new.named_parameters())
    rendezvous = [
        Rendezvous(
            generation=1, rank=rank, size=2, address=address, port=port, local=True, device="cpu", seconds=60.0
        )
        for rank in range(2)
    ]  # fmt: skip
    engine = new_engine(save(old, nano.tokenizer, tmp_path), nano.tokenizer, compute="bfloat16", budget=12)
    with contextlib.closing(engine) as policy, ThreadPoolExecutor(2) as threads:
        before = said(policy)
        sending = threads.submit(sender.broadcast, 5, rendezvous[0])
        receiving = threads.submit(receiver.stage, 5, rendezvous[1])
        assert said(policy) == before
        assert sending.result(60) is receiving.result(60) is None
        policy.load_weights(receiver.take(5).tensors(), 5)
        after = said(policy)
        policy.load_weights(new.named_parameters(), 6)
        assert said(policy) == after != before
        receiver.close()
        sender.close()
        assert said(policy) == after
