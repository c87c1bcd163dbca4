"""Past selves, and opponents that share the policy's engine: it plays with several sets of weights in turn.

The policy and its past selves differ in their weights alone, and so does an opponent that was trained from the same
model, such as an exploiter of a league. So they share an engine: turns wait until those under way with other weights
are finished, then the weights of the turns that wait longest are copied into it. Games against many of them cost a copy
for each in every round of turns, and no memory but one copy of the policy's own weights in main memory, from which the
engine gets them back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spiral.core.files import remove
from spiral.core.policy import Policy, TurnReply, TurnRequest
from spiral.core.records import past_self, past_step
from spiral.core.steps import checkpoints_in, models_of_run
from spiral.games import Game
from spiral.inference.base import LanguagePolicy
from spiral.training.checkpoint import verify_checkpoint

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineShare:
    """Who shares the policy's engine; picklable, for the workers of a cluster."""

    run: Path
    """The directory of the run, which keeps the past selves."""
    weights: Mapping[str, Path]
    """The directories of the models of other opponents, by the opponents' names."""


class SharedPolicy:
    """Plays with one set of weights of a shared engine."""

    def __init__(self, engine: SharedEngine, name: str, find: Callable[[], Path] | None, version: int = 0) -> None:
        """Take part in `engine`.

        Args:
            engine: The engine.
            name: The policy's name.
            find: Returns the directory of the weights when they are needed; None for the current policy.
            version: The version that replies are said to be of.
        """
        self.name = name
        self.find = find
        self.version = version
        self.waiting: list[TurnRequest] = []
        self._engine = engine

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Queue turns."""
        self.waiting.extend(requests)

    def poll(self) -> list[TurnReply]:
        """Work until a turn is done; empty while turns with other weights go first."""
        return self._engine.poll(self)

    def cancel(self) -> None:
        """Drop every pending turn."""
        self.waiting.clear()
        self._engine.cancel(self)


class SharedEngine:
    """Plays with the weights of the policy, of its past selves and of other opponents, one set at a time."""

    def __init__(self, engine: LanguagePolicy, share: EngineShare) -> None:
        """Share out an engine.

        Args:
            engine: The engine; from now on it gets the policy's weights through `load_weights` of this object.
            share: The run that keeps the past selves, and the opponents that share the engine.
        """
        self.engine = engine
        self.run = share.run
        self.policy = SharedPolicy(self, engine.name, None)
        """The current policy."""
        self._past: dict[int, SharedPolicy] = {}
        self._others = {
            name: SharedPolicy(self, name, functools.partial(Path, directory))
            for name, directory in share.weights.items()
        }
        self._loaded = self.policy
        self._under_way = 0
        self._own: list[tuple[str, Tensor]] = []
        """The policy's weights, in main memory and in the engine's precision."""
        self._version = engine.version

    def past_self(self, name: str) -> Policy | None:
        """Return the past self called `name`; None for a name of anything else.

        Raises:
            ValueError: The run has not kept it.
        """
        step = past_step(name)
        if step is None:
            return None
        if step not in self._past:
            find = functools.partial(past_self_directory, self.run, step)
            find()
            self._past[step] = SharedPolicy(self, name, find, step)
        return self._past[step]

    def opponent(self, name: str) -> Policy | None:
        """Return the opponent called `name` if it shares the engine with its weights; None for any other."""
        return self._others.get(name)

    def opponents(self, others: Callable[[str, Game], Policy]) -> Callable[[str, Game], Policy]:
        """Return what loads an opponent by name and game: one that shares the engine, or what `others` gives."""

        def load(name: str, game: Game) -> Policy:
            return self.past_self(name) or self.opponent(name) or others(name, game)

        return load

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take new weights of the policy. Turns with other weights may be under way, those of the policy may not."""
        import torch

        dtype = torch.bfloat16 if self.engine.precision.startswith("bfloat16") else torch.float32
        own: list[tuple[str, Tensor]] = []

        def noted() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                own.append((name, weight.detach().to("cpu", dtype, copy=True)))
                yield name, weight

        if self._loaded is self.policy:
            self.engine.load_weights(noted(), version)
        else:
            for _ in noted():
                pass
        self._own, self._version = own, version

    def restore(self) -> None:
        """Put the policy's weights back into the engine. Drops turns that are under way."""
        if self._loaded is self.policy:
            return
        self.engine.cancel()
        self._under_way = 0
        self._use(self.policy)

    def poll(self, policy: SharedPolicy) -> list[TurnReply]:
        """Work on the turns of a policy, if those with the loaded weights are done."""
        if self._loaded is not policy:
            if self._under_way or self._loaded.waiting or not policy.waiting:
                return []
            self._use(policy)
        waiting, policy.waiting = policy.waiting, []
        self.engine.submit(waiting)
        self._under_way += len(waiting)
        replies = self.engine.poll()
        self._under_way -= len(replies)
        return replies

    def cancel(self, policy: SharedPolicy) -> None:
        """Drop the turns of a policy that are under way."""
        if self._loaded is policy:
            self.engine.cancel()
            self._under_way = 0

    def _use(self, policy: SharedPolicy) -> None:
        if policy.find is None:
            self.engine.load_weights(self._own, self._version)
        else:
            self.engine.load_weights(_weights_in(policy.find()), policy.version)
        self._loaded = policy


def past_self_directory(run: Path, step: int) -> Path:
    """Return where a run has the weights of a step: among its past selves, or as a checkpoint or snapshot.

    Raises:
        ValueError: It has not kept them.
    """
    found = models_of_run(run)
    if step in found:
        return found[step]
    known = ", ".join(map(str, found)) or "none"
    raise ValueError(
        f"{past_self(step)} is to play, but {run} holds no weights of step {step} (past_selves/, checkpoints/ or"
        f" snapshots/; it has those of: {known}); put {run / 'past_selves'} back, which must be on a disk that every"
        " worker reaches, resume from a checkpoint whose past selves are there, or start a new run"
    )


def _weights_in(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Read the weights of a model, file by file."""
    from safetensors.torch import load_file

    for file in sorted(directory.glob("model*.safetensors")):
        yield from load_file(file).items()


def prune_past_selves(directory: Path, names: Iterable[str]) -> None:
    """Remove the past selves that are in `directory` and not among `names`."""
    wanted = {past_step(name) for name in names}
    for step, path in checkpoints_in(directory):
        if step not in wanted:
            remove(path)


def check_past_selves(run: Path, names: Iterable[str]) -> None:
    """Check that a run has all of these past selves, undamaged.

    Raises:
        ValueError: One is gone or damaged.
    """
    for name in names:
        step = past_step(name)
        if step is not None:
            verify_checkpoint(past_self_directory(run, step))
