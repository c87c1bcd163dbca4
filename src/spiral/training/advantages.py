"""From returns to advantages: who gets how much credit for a game's result.

Role-conditioned advantage estimation (RAE, arXiv 2506.24119, section 3.3) keeps one baseline b for every game and
seat, an exponential moving average of the returns seen there:

    A = R - b        with b read before it is updated
    b <- decay * b + (1 - decay) * R

Every turn of that seat gets the same A. The two seats of a game may have different chances (the first to move in
tic-tac-toe, the second to act in Kuhn poker); a shared baseline would pay a seat for its chair. So it is with games
against somebody else, where one seat learns: they have baselines of their own for every opponent, under
`Episode.matchup`, and the other seat has none. Baselines are explicit state: they are saved with a checkpoint.

An estimator is a function `(episodes, baselines) -> one (advantage, advantage) per episode`. A recipe names a
built-in one or any other as "module:function". A game that was not played has no return to learn from: its
advantages are zero, it moves no baseline, and its turns give no samples.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence

from pydantic import Field

from spiral.core.records import Episode
from spiral.core.settings import Section
from spiral.games.failures import UserCodeError, describe_error

Advantages = list[tuple[float, float]]
MAX_ADVANTAGE = 1e9
"""Largest advantage that is accepted from an estimator; beyond it float32 gradients overflow."""


class CreditConfig(Section):
    """How returns become advantages."""

    estimator: str = Field(
        "rae", description="'rae', 'batch_mean', 'returns', or 'module:function' for an estimator of your own."
    )
    decay: float = Field(0.95, ge=0, lt=1, description="Decay of the RAE baselines; 0.95 remembers some 20 games.")
    drop_zero_advantage: bool = Field(
        True, description="Leave samples with advantage zero out of the batch; credit/dropped counts them."
    )


class RoleBaselines:
    """One moving average of returns for every (game, seat), starting at zero; `game` is an `Episode.matchup`."""

    def __init__(self, decay: float = 0.95) -> None:
        """Raises `ValueError` unless 0 <= decay < 1."""
        if not 0 <= decay < 1:
            raise ValueError(f"got decay {decay!r}; expected a number with 0 <= decay < 1")
        self.decay = decay
        self._values: dict[tuple[str, int], float] = {}

    def value(self, game: str, seat: int) -> float:
        """The baseline of `seat` in `game`, in the game's units; 0 before the first game."""
        return self._values.get((game, seat), 0.0)

    def update(self, game: str, seat: int, value: float) -> None:
        """Moves the baseline of `seat` in `game` towards one return. Raises `ValueError` for one that is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"the baseline of {game}, player {seat}, got the return {value}; expected a finite number")
        self._values[game, seat] = self.decay * self.value(game, seat) + (1 - self.decay) * value

    def state_dict(self) -> dict[str, object]:
        """Plain JSON-ready state."""
        values = [[game, seat, value] for (game, seat), value in sorted(self._values.items())]
        return {"decay": self.decay, "values": values}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Takes the state of `state_dict`. Raises `ValueError` when it is not one."""
        try:
            decay, values = state["decay"], state["values"]
            loaded = {(str(game), int(seat)): float(value) for game, seat, value in values}  # type: ignore[attr-defined]
            if not isinstance(decay, float | int) or not 0 <= decay < 1:
                raise ValueError(f"decay is {decay!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"got {state!r} as the state of the baselines; expected {{'decay': d, 'values': [[game, seat, value]]}}"
            ) from error
        self.decay, self._values = float(decay), loaded


def role_conditioned_advantages(episodes: Sequence[Episode], baselines: RoleBaselines) -> Advantages:
    """RAE: `(A of seat 0, A of seat 1)` for every episode, in order; updates the baselines episode by episode."""
    advantages: Advantages = []
    for episode in episodes:
        game = episode.matchup
        advantages.append(_less(episode, {seat: baselines.value(game, seat) for seat in (0, 1)}))
        _follow(baselines, episode)
    return advantages


def batch_mean_advantages(episodes: Sequence[Episode], baselines: RoleBaselines) -> Advantages:
    """The return minus the mean return of the same game and seat in this batch; the baselines follow along."""
    totals: dict[tuple[str, int], list[float]] = {}
    for episode in filter(_has_result, episodes):
        for seat in episode.learning_players:
            totals.setdefault((episode.matchup, seat), []).append(episode.returns[seat])
        _follow(baselines, episode)
    mean = {key: sum(values) / len(values) for key, values in totals.items()}
    return [_less(episode, {seat: mean.get((episode.matchup, seat), 0.0) for seat in (0, 1)}) for episode in episodes]


def plain_returns(episodes: Sequence[Episode], baselines: RoleBaselines) -> Advantages:
    """No baseline: the advantage is the return. The setting in which the paper sees thinking collapse."""
    for episode in episodes:
        _follow(baselines, episode)
    return [_less(episode, {0: 0.0, 1: 0.0}) for episode in episodes]


def _less(episode: Episode, baseline: Mapping[int, float]) -> tuple[float, float]:
    """The returns less a baseline; nothing for a seat that does not learn, and for games without a result."""
    first, second = (
        episode.returns[seat] - baseline[seat] if _has_result(episode) and seat in episode.learning_players else 0.0
        for seat in (0, 1)
    )
    return first, second


def _follow(baselines: RoleBaselines, episode: Episode) -> None:
    """Moves the baselines of the seats that learn."""
    for seat in episode.learning_players if _has_result(episode) else ():
        baselines.update(episode.matchup, seat, episode.returns[seat])


def _has_result(episode: Episode) -> bool:
    """False for a game that could not be played to its end."""
    return episode.outcome != "not_played"


Estimator = Callable[[Sequence[Episode], RoleBaselines], Advantages]

ESTIMATORS: dict[str, Estimator] = {
    "rae": role_conditioned_advantages,
    "batch_mean": batch_mean_advantages,
    "returns": plain_returns,
}


def load_estimator(name: str) -> Estimator:
    """The estimator called `name`: a built-in one or "module:function", which is held to its contract at every call.

    Raises `ValueError` when there is none.
    """
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"credit.estimator is {name!r}; expected one of {', '.join(ESTIMATORS)}, or 'module:function'")
    try:
        found: Estimator = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module may raise anything when it is imported
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"credit.estimator is {name!r}, but it cannot be imported: {reason}") from error
    if not callable(found):
        raise ValueError(f"credit.estimator is {name!r}; expected a function, found {type(found).__name__}")
    return functools.partial(_call_estimator, name, found)


def _call_estimator(
    name: str, estimator: Estimator, episodes: Sequence[Episode], baselines: RoleBaselines
) -> Advantages:
    """What a user's estimator gives, as plain floats. Raises `UserCodeError` where that cannot be learned from.

    The baselines are then as they were before the call.
    """
    before = baselines.state_dict()
    try:
        given = list(estimator(episodes, baselines))
        if len(given) != len(episodes):
            raise UserCodeError(f"gave {len(given)} pairs of advantages for {len(episodes)} episodes")
        return [_checked_pair(pair, episode) for pair, episode in zip(given, episodes, strict=True)]
    except (Exception, SystemExit) as error:
        baselines.load_state_dict(before)
        what = str(error) if type(error) is UserCodeError else f"failed: {describe_error(error)}"
        raise UserCodeError(f"the advantage estimator {name!r} {what}") from error


def _checked_pair(pair: object, episode: Episode) -> tuple[float, float]:
    """The advantages of both players of an episode."""
    where = f"an episode of {episode.game} (seed {episode.seed})"
    try:
        first, second = (float(value) for value in pair)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserCodeError(f"gave {pair!r} to {where}; expected two numbers, one for each player") from error
    for player, value in enumerate((first, second)):
        if not abs(value) <= MAX_ADVANTAGE:
            raise UserCodeError(
                f"gave player {player} of {where}, with returns {episode.returns}, the advantage {value};"
                f" expected a number within {MAX_ADVANTAGE:g} of zero"
            )
    return first, second
