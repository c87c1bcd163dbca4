"""Rewards: what the players are paid for an episode, and so what they learn from.

A reward is a function of a finished episode that gives one number a player. A recipe names a built-in one, one of an
installed package (entry points of the group `spiral.rewards`), or one of your own by "module:function":

    def quick_wins(episode, *, discount=0.95):
        return [value * discount ** len(episode.turns) for value in episode.returns]

    [selfplay]
    reward = "my_module:quick_wins"
    reward_options = { discount = 0.9 }

`episode.returns` holds what the game itself pays, or the penalty of an illegal move. Games that could not be played
get no reward.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from spiral.core.contract import MAX_RETURN
from spiral.core.plugins import check_call, check_options, resolve
from spiral.core.records import Episode
from spiral.core.user_values import number_list
from spiral.games.failures import UserCodeError, describe_error

Reward = Callable[[Episode], Sequence[float]]

ILLEGAL_MOVE_RETURN = -1.5
"""Return of a player that makes an illegal move."""
ILLEGAL_MOVE_RETURN_OTHERS = 0.5
"""Total return of the other players, split equally."""


def returns(episode: Episode) -> tuple[float, ...]:
    """Return the game's own returns, in its units."""
    return episode.returns


def sign(episode: Episode) -> tuple[float, ...]:
    """Return 1 for a return above 0, -1 for one below and 0 for 0. Illegal moves cost the same as under `returns`."""
    if episode.outcome == "illegal_move":
        return episode.returns
    return tuple(float((value > 0) - (value < 0)) for value in episode.returns)


REWARDS: Mapping[str, Reward] = {"returns": returns, "sign": sign}


def load_reward(name: str, options: Mapping[str, object] | None = None) -> Reward:
    """Return the reward that a recipe names, with its options bound.

    Raises:
        ValueError: There is no such reward, or it does not take these options.
    """
    reward = resolve("rewards", name, REWARDS)
    check_call(name, reward, "episode")
    check_options(name, reward, options or {}, positional=1)
    return reward if name in REWARDS else functools.partial(_call_reward, name, reward, options or {})


def illegal_move_returns(num_players: int, offender: int) -> tuple[float, ...]:
    """Return what an illegal move of `offender` pays: [num_players]."""
    share = ILLEGAL_MOVE_RETURN_OTHERS / max(1, num_players - 1)
    return tuple(ILLEGAL_MOVE_RETURN if player == offender else share for player in range(num_players))


def with_reward(episode: Episode, reward: Reward) -> Episode:
    """Return the episode with the returns that `reward` gives it; a game that was not played stays as it is."""
    if reward is returns or episode.outcome == "not_played":
        return episode
    return dataclasses.replace(episode, returns=tuple(reward(episode)))


def _call_reward(
    name: str, reward: Callable[..., Sequence[float]], options: Mapping[str, object], episode: Episode
) -> tuple[float, ...]:
    """Call a user's reward and check what it gives."""
    where = f"for an episode of {episode.game} (seed {episode.seed})"
    try:
        given = reward(episode, **options)
        given = list(given) if isinstance(given, Iterator) else given
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"the reward {name!r} failed {where}: {describe_error(error)}") from error
    try:
        paid = tuple(value.item() for value in number_list(given))
    except (TypeError, ValueError, OverflowError):
        paid = ()
    if len(paid) != len(episode.seats) or not all(math.isfinite(value) and abs(value) <= MAX_RETURN for value in paid):
        raise UserCodeError(
            f"the reward {name!r} gave {given!r} {where}; expected {len(episode.seats)} finite numbers,"
            " one for each player"
        )
    return paid
