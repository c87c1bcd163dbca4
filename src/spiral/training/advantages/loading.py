"""The estimator that a recipe names, with its options, its output checked, and its state for the checkpoint.

    [credit]
    estimator = "my_module:MyEstimator"
    options = { width = 3 }

A class is constructed with the options; a function `(episodes)` takes them as keyword arguments of every call.
Functions of the earlier form `(episodes, baselines) -> [(advantage of player 0, of player 1), ...]` still work: they
get `RoleBaselines`, which are saved for them.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from spiral.core.metrics import Metrics
from spiral.core.plugins import check_options, resolve
from spiral.core.records import Episode
from spiral.core.settings import Section
from spiral.core.user_values import StateError, in_order, json_copy, number_list
from spiral.games.failures import UserCodeError, describe_error
from spiral.training.advantages.base import (
    AdvantageEstimator,
    Advantages,
    TokenAdvantages,
    TurnAdvantages,
    TurnValues,
    ValueEstimator,
    ValueLearner,
    advantages_by_turn,
)
from spiral.training.advantages.batch_mean import BatchMean
from spiral.training.advantages.delayed_attribution import DelayedAttribution
from spiral.training.advantages.dept import DEPT
from spiral.training.advantages.discounted import DiscountedTurns
from spiral.training.advantages.dr_grpo import DrGRPO
from spiral.training.advantages.gae import GAE
from spiral.training.advantages.grpo import GRPO
from spiral.training.advantages.marshal import Marshal
from spiral.training.advantages.rae import RAE, RoleBaselines
from spiral.training.advantages.reinforce_plus_plus import ReinforcePlusPlus
from spiral.training.advantages.returns import PlainReturns
from spiral.training.advantages.rloo import RLOO
from spiral.training.advantages.shared import SharedBaseline

ESTIMATORS: dict[str, type[AdvantageEstimator] | type[ValueEstimator]] = {
    "rae": RAE,
    "returns": PlainReturns,
    "shared": SharedBaseline,
    "batch_mean": BatchMean,
    "rloo": RLOO,
    "grpo": GRPO,
    "dr_grpo": DrGRPO,
    "reinforce++": ReinforcePlusPlus,
    "marshal": Marshal,
    "discounted": DiscountedTurns,
    "delayed_attribution": DelayedAttribution,
    "dept": DEPT,
    "gae": GAE,
}
"""The built-in estimators by their name in a recipe."""
GROUP_ESTIMATORS = ("rloo", "grpo", "dr_grpo")
"""Those that compare the attempts at one deal, and so need `selfplay.attempts` of at least 2."""
MAX_ADVANTAGE = 1e9
"""Largest advantage that is accepted from an estimator; beyond it float32 gradients overflow."""


class CreditConfig(Section):
    """Settings of the advantage estimator."""

    estimator: str = Field(
        "rae",
        description="One of docs/estimators.md, such as 'rae', 'reinforce++', 'grpo' (needs selfplay.attempts) or 'gae'"
        " (learns values); an entry point of 'spiral.advantages', or 'module:attribute'.",
    )
    options: dict[str, object] = Field(
        {}, description="Options of the estimator by name, such as { decay = 0.95 } for 'rae'."
    )
    value_learning_rate: float = Field(
        3e-2, gt=0, description="Adam step size of the value head, of estimators that learn values."
    )
    value_epochs: int = Field(10, ge=1, description="Passes of the value head over the turns of a step.")
    drop_zero_advantage: bool = Field(
        True, description="Leave samples with advantage zero out of the batch; credit/dropped counts them."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_decay(cls, values: Any) -> Any:
        """Read `credit.decay` of earlier versions as an option of the estimators that used it."""
        if not isinstance(values, dict) or "decay" not in values:
            return values
        kept = {key: value for key, value in values.items() if key != "decay"}
        name, decay = kept.get("estimator", "rae"), values["decay"]
        if name != "rae" and (name in ESTIMATORS or decay == 0.95):  # the default, written out
            return kept
        return {**kept, "options": {**kept.get("options", {}), "decay": decay}}


class Estimator:
    """An estimator as the training loop uses it: what it returns is checked, and its errors carry its name."""

    def __init__(self, name: str, estimate: AdvantageEstimator | ValueEstimator) -> None:
        """Raise `ValueError` if the estimator has only one of `state_dict` and `load_state_dict`."""
        self.name = name
        self._estimate: Any = estimate
        self.needs_values = hasattr(estimate, "value_targets")
        """Whether it is called with the values of turns, and says what they should have been."""
        self.value_head: ValueLearner | None = None
        """Gives and learns the values; to be set where `needs_values`, before the first call."""
        self._values: Sequence[TurnValues] = ()
        self._has_state = hasattr(estimate, "state_dict")
        if self._has_state != hasattr(estimate, "load_state_dict"):
            raise ValueError(f"{name!r} has one of state_dict and load_state_dict; expected both, or neither")

    def __call__(self, episodes: Sequence[Episode]) -> Advantages:
        """Return the advantages of each episode of a step: an array [turns], or for each turn an array [T].

        Raises:
            UserCodeError: The estimator failed, or returned something else. Its state is as before the call.
        """
        if self.needs_values:
            if self.value_head is None:
                raise UserCodeError(f"the advantage estimator {self.name!r} needs a value head, and has none")
            self._values = self.value_head.values(episodes)
        before = self.state_dict()
        try:
            advantages = self._estimated(episodes)
            self.state_dict()  # fails here rather than at a checkpoint many steps away
        except UserCodeError:
            with suppress(Exception, SystemExit):
                self.load_state_dict(before)
            raise
        return advantages

    def learn_values(self, episodes: Sequence[Episode]) -> Metrics:
        """Learn the values of the episodes of the last call; {} where the estimator needs none.

        Raises:
            UserCodeError: The estimator gave something else than a target for each turn.
        """
        if self.value_head is None:
            return {}
        return self.value_head.learn(episodes, self._value_targets(episodes))

    def _estimated(self, episodes: Sequence[Episode]) -> Advantages:
        """Call the estimator and check what it returns."""
        try:
            given = self._estimate(episodes, self._values) if self.needs_values else self._estimate(episodes)
            given = _listed(given, f"one array for each of {len(episodes)} episodes")
            if len(given) != len(episodes):
                raise UserCodeError(f"gave advantages for {len(given)} episodes instead of {len(episodes)}")
            return [_checked(values, episode) for values, episode in zip(given, episodes, strict=True)]
        except (Exception, SystemExit) as error:
            reason = str(error) if type(error) is UserCodeError else f"failed: {describe_error(error)}"
            raise UserCodeError(f"the advantage estimator {self.name!r} {reason}") from error

    def _value_targets(self, episodes: Sequence[Episode]) -> list[TurnValues]:
        """What the values of the last call should have been, [turns] for each episode."""
        try:
            given = _listed(
                self._estimate.value_targets(episodes, self._values), "one array of targets for each episode"
            )
            targets = [np.asarray(of_turns, dtype=np.float64) for of_turns in given]
            shapes = [of_turns.shape for of_turns in targets]
            if shapes != [(len(episode.turns),) for episode in episodes]:
                raise UserCodeError("gave other value targets than one number for each turn of each episode")
            if not all((np.abs(of_turns) <= MAX_ADVANTAGE).all() for of_turns in targets):
                raise UserCodeError(f"gave a value target that is no number within {MAX_ADVANTAGE:g} of zero")
            return targets
        except (Exception, SystemExit) as error:
            reason = str(error) if type(error) is UserCodeError else f"failed: {describe_error(error)}"
            raise UserCodeError(f"the advantage estimator {self.name!r} {reason}") from error

    def baseline(self, game: str, player: int) -> float | None:
        """Return the baseline of `player` in `game` (an `Episode.matchup`); None where the estimator has none."""
        found = getattr(self._estimate, "baseline", None)
        if found is None:
            return None
        try:
            value = float(found(game, player))
            if not math.isfinite(value):
                raise ValueError(f"got {value}; expected a finite number")
            return value
        except (Exception, SystemExit) as error:
            raise UserCodeError(
                f"the advantage estimator {self.name!r} gave no baseline of {game}, player {player}:"
                f" {describe_error(error)}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the estimator's state as a checkpoint holds it; {} when it has none.

        Raises:
            UserCodeError: The state is not a dictionary, or JSON would not give it back as it is.
        """
        if not self._has_state:
            return {}
        try:
            return json_copy(self._estimate.state_dict())
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, StateError) else describe_error(error)
            raise UserCodeError(
                f"the state of the advantage estimator {self.name!r} cannot be saved: {reason}"
            ) from error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the estimator's state by one that `state_dict` returned."""
        if self._has_state:
            self._estimate.load_state_dict(state)

    def restore(self, checkpoint: Mapping[str, Any], source: str = "a checkpoint") -> None:
        """Take the estimator's state out of the state of a checkpoint, where earlier versions call it "baselines".

        Args:
            checkpoint: The state in the checkpoint.
            source: The checkpoint's name, for errors.

        Raises:
            UserCodeError: The estimator cannot load its state.
        """
        state = checkpoint["estimator"] if "estimator" in checkpoint else checkpoint["baselines"]
        try:
            self.load_state_dict(state)
        except (Exception, SystemExit) as error:
            if self.name in ESTIMATORS:
                raise
            raise UserCodeError(
                f"the advantage estimator {self.name!r} cannot load its state from {source}: {describe_error(error)}"
            ) from error


def load_estimator(name: str, options: Mapping[str, object] | None = None) -> Estimator:
    """Return a new estimator: a built-in one, an entry point of "spiral.advantages" or "module:attribute".

    Raises:
        ValueError: There is no such estimator, or it does not take these options.
    """
    found: Callable[..., Any] = resolve("advantages", name, ESTIMATORS)
    options = dict(options or {})
    if isinstance(found, type):
        check_options(name, found, options)
        try:
            return Estimator(name, found(**options))
        except (Exception, SystemExit) as error:
            reason = str(error) if name in ESTIMATORS else describe_error(error)
            raise ValueError(f"{name!r} cannot be made with the options {options}: {reason}") from error
    if _required_arguments(found) == 2:
        baselines = RoleBaselines(options.pop("decay", 0.95))  # type: ignore[arg-type]
        check_options(name, found, options, positional=2)
        return Estimator(name, _FromPairs(functools.partial(found, **options), baselines))
    check_options(name, found, options, positional=1)
    estimate: AdvantageEstimator = functools.partial(found, **options)
    return Estimator(name, estimate)


def _required_arguments(function: Callable[..., object]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a function written in C
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)


class _FromPairs:
    """A function of the earlier form, which returns the advantages of both players of every episode."""

    def __init__(
        self, function: Callable[[Sequence[Episode], RoleBaselines], Sequence[Any]], baselines: RoleBaselines
    ) -> None:
        self._function = function
        self._baselines = baselines
        self.baseline = baselines.value
        self.state_dict = baselines.state_dict
        self.load_state_dict = baselines.load_state_dict

    def __call__(self, episodes: Sequence[Episode]) -> list[TurnAdvantages]:
        pairs = _listed(self._function(episodes, self._baselines), "one pair of advantages for each episode")
        if len(pairs) != len(episodes):
            raise UserCodeError(f"gave {len(pairs)} pairs of advantages for {len(episodes)} episodes")
        return [
            advantages_by_turn(episode, _checked_pair(pair, episode))
            for pair, episode in zip(pairs, episodes, strict=True)
        ]


def _listed(given: Any, expected: str) -> list[Any]:
    """What an estimator returned as a list. Raises `UserCodeError` when it has no order, as a dictionary by episode."""
    if not in_order(given):
        what = "None" if given is None else f"a {type(given).__name__}"
        raise UserCodeError(f"gave {what}; expected a list with {expected}")
    return list(given)


def _checked(values: Any, episode: Episode) -> TurnAdvantages | TokenAdvantages:
    """The advantages of an episode: an array [turns], or for each turn an array [T]."""
    turns = episode.turns
    try:
        by_turn = number_list(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserCodeError(
            f"gave {values!r} to {_name(episode)}; expected a number for each of {len(turns)} turns"
        ) from error
    if len(by_turn) != len(turns):
        raise UserCodeError(
            f"gave {len(by_turn)} advantages to {_name(episode)}; expected one for each of {len(turns)} turns"
        )
    for number, (turn, advantages) in enumerate(zip(turns, by_turn, strict=True), 1):
        tokens = 0 if turn.generation is None else len(turn.generation.token_ids)
        if advantages.shape not in ((), (tokens,)):
            raise UserCodeError(
                f"gave advantages of shape {list(advantages.shape)} to turn {number} of {_name(episode)};"
                f" expected a number, or [{tokens}] for its action tokens"
            )
        for advantage in advantages.flat:
            _check_size(float(advantage), turn.player, episode)
    if all(advantages.ndim == 0 for advantages in by_turn):
        return np.array(by_turn, dtype=np.float64)
    return by_turn


def _checked_pair(pair: Any, episode: Episode) -> dict[int, float]:
    """The advantages of both players of an episode."""
    try:
        first, second = (value.item() for value in number_list(pair))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserCodeError(f"gave {pair!r} to {_name(episode)}; expected two numbers, one for each player") from error
    for player, advantage in enumerate((first, second)):
        _check_size(advantage, player, episode)
    return {0: first, 1: second}


def _check_size(advantage: float, player: int, episode: Episode) -> None:
    if not abs(advantage) <= MAX_ADVANTAGE:
        raise UserCodeError(
            f"gave player {player} of {_name(episode)}, with rewards {episode.rewards}, the advantage {advantage};"
            f" expected a number within {MAX_ADVANTAGE:g} of zero"
        )


def _name(episode: Episode) -> str:
    return f"an episode of {episode.game} (seed {episode.seed})"
