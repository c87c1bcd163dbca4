"""What a rollout worker can be given to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from spiral.distributed.game_queue import Chunk
from spiral.distributed.rollout_worker import CHUNKS
from spiral.distributed.weights.base import WeightsHandle


class Task(Protocol):
    """Something for one worker."""

    takes_errors: bool
    """Whether an error of the worker's code is an answer, and no reason to replace the worker."""

    @property
    def limit(self) -> float:
        """Seconds after which its worker is taken for stuck."""
        ...

    @property
    def games(self) -> int | None:
        """How many games it is; None for what a worker does alone."""
        ...

    def begin(self, actor: Any) -> Any:
        """Asks the worker; returns a Ray reference to the answer."""
        ...


@dataclasses.dataclass(kw_only=True, eq=False)
class Play:
    """A chunk to be played."""

    chunk: Chunk
    weights: WeightsHandle
    limit: float
    takes_errors: bool = False

    @property
    def games(self) -> int:
        """How many there are."""
        return len(self.chunk.indices)

    def begin(self, actor: Any) -> Any:
        """Asks the worker."""
        newest = self.chunk.weights is None
        play = actor.play.options(concurrency_group=CHUNKS)
        return play.remote(self.chunk.step, self.chunk.indices, self.weights, newest)

    def __str__(self) -> str:
        return str(self.chunk)


@dataclasses.dataclass(kw_only=True, eq=False)
class Sleep:
    """Giving the device's memory back until there is something to do again."""

    limit: float
    takes_errors: bool = False
    done: bool = False
    games: None = None

    def begin(self, actor: Any) -> Any:
        """Asks the worker."""
        return actor.sleep.remote()

    def __str__(self) -> str:
        return "being put to sleep"


@dataclasses.dataclass(kw_only=True, eq=False)
class Measurement:
    """A function of the policy to be evaluated."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    weights: WeightsHandle
    limit: float
    takes_errors: bool = True
    answer: Any = None
    done: bool = False
    games: None = None

    def begin(self, actor: Any) -> Any:
        """Asks the worker."""
        return actor.measure.remote(self.function, self.arguments, self.weights)

    def __str__(self) -> str:
        return f"the measurement {getattr(self.function, '__name__', self.function)}"
