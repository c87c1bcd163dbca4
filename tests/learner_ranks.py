"""Ranks of the learner in processes of their own, which do what a test asks of them, and what tests ask.

Processes are forked from a server that has imported everything, and stay for many tests; a function and its arguments
go to every rank, and every rank's result or error comes back.
"""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import spiral.training.learner
from made_up import random_samples
from spiral.core.metrics import Metrics
from spiral.models.card import ModelCard
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.policies import SamplingConfig
from spiral.text import PromptConfig
from spiral.training.batch import Batch, make_batch
from spiral.training.checkpoint import load_checkpoint, save_checkpoint
from spiral.training.fsdp import shard
from spiral.training.learner import Learner, LearnerConfig, frozen_copy
from spiral.training.lora import LoraConfig
from spiral.training.loss import LossConfig
from spiral.training.process_group import GroupError, free_port, join_group, leave_group

LIMIT = 60.0
"""Seconds that a test waits for the slowest rank; ranks wait for each other for less."""

SHARDED = "sharded"
"""As a precision: sharded as in bfloat16, computed as in float32."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["learner_ranks", "torch._dynamo", "torch.distributed.fsdp", "transformers.models.llama.modeling_llama"]
)


class RankProcesses:
    """Some ranks of one group."""

    def __init__(self, size: int, *, timeout_seconds: float = 30.0) -> None:
        self.port = free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(rank, size, self.port, timeout_seconds, theirs))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, work: Callable[..., Any], *arguments: object, ranks: Sequence[int] | None = None) -> list[Any]:
        """What `work(*arguments)` gives or raises on each rank, or on `ranks` only; None of a rank that has died."""
        chosen = [self._pipes[rank] for rank in (range(len(self._pipes)) if ranks is None else ranks)]
        for pipe in chosen:
            pipe.send((work, arguments))
        return [_answer(pipe) for pipe in chosen]

    def all(self, work: Callable[..., Any], *arguments: object) -> list[Any]:
        """What `work(*arguments)` gives on each rank; raises what a rank raised."""
        answers = self.run(work, *arguments)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.join()


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(LIMIT):
        raise TimeoutError(f"a rank has not answered for {LIMIT:g} s")
    try:
        return pipe.recv()
    except EOFError:
        return None


def _serve(rank: int, size: int, port: int, timeout_seconds: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    join_group(rank, size, port=port, timeout_seconds=timeout_seconds)
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:  # the test has ended without `close`
            return
        try:
            answer = work(*arguments)
        except Exception as error:
            answer = error
        pipe.send(answer)


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of a learner, as keyword arguments of its sections."""

    learner: dict[str, Any] = dataclasses.field(default_factory=dict)
    loss: dict[str, Any] = dataclasses.field(default_factory=dict)
    lora: dict[str, Any] = dataclasses.field(default_factory=dict)
    compute: str = "float32"
    seed: int = 0
    samples: int = 9


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a learner leaves."""

    metrics: list[Metrics]
    weights: dict[str, Tensor]


def learner_of(model: Any, run: Run) -> Learner:
    settings = {"learning_rate": 2e-4, "epochs": 1, "tokens_per_microbatch": 120, **run.learner}
    with not_rounded() if run.compute == SHARDED else nullcontext():
        return Learner(
            copy.deepcopy(model),
            config=LearnerConfig(**settings),
            loss_config=LossConfig(**run.loss),
            sampling=SamplingConfig(max_new_tokens=32),
            total_steps=20,
            seed=run.seed,
            compute="bfloat16" if run.compute == SHARDED else run.compute,
            lora=LoraConfig(**run.lora),
        )


def not_rounded() -> Any:
    """A bfloat16 learner made in here computes its passes in float32, so that nothing but the sharding is left."""
    return mock.patch.multiple(
        spiral.training.learner,
        shard=lambda scorer, _: shard(scorer, torch.float32),
        frozen_copy=lambda model, _, packed: frozen_copy(model, "float32", packed=packed),
    )


def batch_of(run: Run, seed: int) -> Batch:
    return make_batch(random_samples(run.samples, 400, seed))


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in learner.weights()}


def train(model: Any, run: Run, updates: int) -> Trained:
    """Some updates from the model's weights."""
    learner = learner_of(model, run)
    metrics = [learner.update(batch_of(run, seed)) for seed in range(updates)]
    return Trained(metrics, weights_of(learner))


def scores(model: Any, run: Run, *, split: bool) -> Any:
    """The log-probabilities of a batch's action tokens, after an update."""
    learner = learner_of(model, run)
    learner.update(batch_of(run, 0))
    return learner.score(batch_of(run, 1), split=split)


def split_scores(model: Any, run: Run) -> Any:
    """The same with the work shared by the ranks."""
    return scores(model, run, split=True)


def train_and_save(model: Any, run: Run, root: Path, updates: int) -> Trained:
    """The same, with a checkpoint at the end."""
    learner = learner_of(model, run)
    metrics = [learner.update(batch_of(run, seed)) for seed in range(updates)]
    save_checkpoint(
        root,
        learner=learner,
        tokenizer=build_tokenizer(),
        card=ModelCard(prompt=PromptConfig(template="qwen3")),
        state={"step": updates},
        keep=1,
    )
    return Trained(metrics, weights_of(learner))


def go_on(model: Any | None, run: Run, path: Path, updates: int) -> Trained:
    """More updates from a checkpoint, and with LoRA from the model that the run began with."""
    learner = learner_of(model or AutoModelForCausalLM.from_pretrained(path), run)
    first = load_checkpoint(path, learner)["step"]
    metrics = [learner.update(batch_of(run, seed)) for seed in range(first, first + updates)]
    return Trained(metrics, weights_of(learner))


def seconds_of_updates(model: Any, run: Run, updates: int) -> float:
    """How long an update takes, the first one left out."""
    learner, batch = learner_of(model, run), batch_of(run, 0)
    learner.update(batch)
    start = time.perf_counter()
    for _ in range(updates):
        learner.update(batch)
    return (time.perf_counter() - start) / updates


def join_another(port: int, timeout_seconds: float) -> None:
    """The same rank in another group of two."""
    rank = int(os.environ["RANK"])
    leave_group()
    join_group(rank, 2, port=port, timeout_seconds=timeout_seconds)


def rank_number() -> int:
    return torch.distributed.get_rank()


def train_with_own_seed(model: Any, run: Run) -> Trained:
    """Ranks that do not agree on the seed."""
    return train(model, dataclasses.replace(run, seed=rank_number()), 1)


def train_own_model(model: Any, run: Run) -> Trained:
    """Ranks that do not agree on one weight, by its last bit."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight[0] *= 1 + rank_number() * 2.0**-23
    return train(other, run, 1)


def train_on_own_batch(model: Any, run: Run) -> Trained:
    """Ranks that do not agree on the samples."""
    learner = learner_of(model, run)
    return Trained([learner.update(batch_of(run, rank_number()))], weights_of(learner))


def train_on_harmed(model: Any, run: Run, advantages: Sequence[dict[int, float]]) -> Trained:
    """One update for each of `advantages`, which replace those of single samples."""
    learner = learner_of(model, run)
    metrics = []
    for changes in advantages:
        batch = batch_of(run, 0)
        for sample, advantage in changes.items():
            batch.advantages_A[batch.action_sample_A == sample] = advantage
        metrics.append(learner.update(batch))
    return Trained(metrics, weights_of(learner))


def update_without(
    model: Any, run: Run, lost: int, seconds: float | None, before: str = ""
) -> tuple[str, float, float]:
    """After one update a rank dies, or does nothing for some seconds. The error of the others and when it came."""
    learner = learner_of(model, run)
    learner.update(batch_of(run, 0))
    if rank_number() == lost:
        if seconds is None:
            os._exit(9)
        time.sleep(seconds)
        return "", 0.0, time.time()
    start = time.perf_counter()
    try:
        if before == "score":
            learner.score(batch_of(run, 1), split=True)
        if before == "weights":
            list(learner.weights())
        learner.update(batch_of(run, 1))
    except GroupError as error:
        return str(error), time.perf_counter() - start, time.time()
    return "no error", 0.0, 0.0


def listening_addresses() -> set[str]:
    """The IPv4 and IPv6 addresses at which this process listens, in hexadecimal as the kernel writes them."""
    sockets = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            sockets.add(os.readlink(file))
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
