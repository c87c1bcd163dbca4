"""Rewards: what the players are paid for an episode, and so what they learn from.

A reward is a function of a finished episode that gives one number a player. A recipe names a built-in one, one of an
installed package (entry points of the group `spiral.rewards`), or one of your own by "module:function":

    def quick_wins(episode, *, discount=0.95):
        return [value * discount ** len(episode.turns) for value in episode.returns]

    [selfplay]
    reward = "my_module:quick_wins"
    reward_options = { discount = 0.9 }

`episode.returns` is in the game's own units, and an illegal move costs `ILLEGAL_MOVE_RETURN` times the game's largest
payoff, which is more than any legal way to lose; `episode.turns[-1].player` made it where `episode.outcome` is
"illegal_move". What a reward gives becomes `episode.rewards`. Games that could not be played get no reward.

A reward of your own that pays a legal move less than an illegal one in its place would teach illegal moves: losing by
the rules would cost more than leaving the game. So every finished game is also shown to it as if the last move of each
player had been illegal, and the run stops with both numbers where that would have paid more.
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
from spiral.games import Game
from spiral.games.failures import UserCodeError, describe_error

Reward = Callable[[Episode], Sequence[float]]

ILLEGAL_MOVE_RETURN = -1.5
"""Return of a player that makes an illegal move, as a multiple of the game's largest payoff (the paper's number)."""
ILLEGAL_MOVE_RETURN_OTHERS = 0.5
"""Total return of the other players, split equally; on the same scale."""
ASSUMED_PAYOFF = 1.0
"""Largest payoff of a game that does not state the bounds of its returns."""
ROUNDING = 1e-6


class CheapIllegalMoveError(UserCodeError):
    """A reward pays more for an illegal move than for a legal game."""


def largest_payoff(game: Game) -> float:
    """Return the largest absolute return that a game can pay, in its units.

    Where `min_return` or `max_return` is None, `ASSUMED_PAYOFF` stands in its place; `check_worth` finds games in which
    that is too little.

    Raises:
        UserCodeError: A bound is not a finite number.
    """
    bounds = [ASSUMED_PAYOFF if bound is None else abs(bound) for bound in (game.min_return, game.max_return)]
    if not all(bound <= MAX_RETURN for bound in bounds):
        raise UserCodeError(
            f"game {game.spec} states min_return {game.min_return} and max_return {game.max_return}; expected numbers"
            f" within {MAX_RETURN:g} of zero"
        )
    return max(bounds) or ASSUMED_PAYOFF


def illegal_move_returns(num_players: int, offender: int, payoff: float = 1.0) -> tuple[float, ...]:
    """Return what an illegal move of `offender` pays in a game whose largest payoff is `payoff`: [num_players]."""
    share = ILLEGAL_MOVE_RETURN_OTHERS * payoff / max(1, num_players - 1)
    return tuple(ILLEGAL_MOVE_RETURN * payoff if player == offender else share for player in range(num_players))


def check_worth(game: Game, paid: Sequence[float]) -> None:
    """Raise `ValueError` where the returns of a legal game [num_players] are no better than an illegal move's.

    Only a game that states no bounds can pay so.
    """
    illegal = ILLEGAL_MOVE_RETURN * largest_payoff(game)
    for player, value in enumerate(paid):
        if value <= illegal:
            raise ValueError(
                f"gave player {player} the return {value:g}, and an illegal move gives {illegal:g}, since no bounds are"
                " stated; let the game's min_return and max_return bound every return, so that an illegal move is worse"
            )


def normalised(episode: Episode, payoff: float) -> tuple[float, ...]:
    """Return the game's returns divided by its largest payoff: from -1 to 1, and -1.5 for an illegal move."""
    return tuple(value / payoff for value in episode.returns)


def returns(episode: Episode) -> tuple[float, ...]:
    """Return the game's own returns, in its units."""
    return episode.returns


def sign(episode: Episode) -> tuple[float, ...]:
    """Return 1 for a return above 0, 0 for 0, -1 for one below, and -1.5 for an illegal move."""
    if episode.outcome == "illegal_move":
        return illegal_move_returns(len(episode.seats), episode.turns[-1].player)
    return tuple(float((value > 0) - (value < 0)) for value in episode.returns)


REWARDS: Mapping[str, Callable[..., Sequence[float]]] = {"normalised": normalised, "returns": returns, "sign": sign}


def check_reward(name: str, options: Mapping[str, object]) -> None:
    """Raise `ValueError` where there is no such reward, or it does not take these options."""
    reward = resolve("rewards", name, REWARDS)
    if name in REWARDS:
        check_options(name, returns, options, positional=1)
    else:
        check_call(name, reward, "episode")
        check_options(name, reward, options, positional=1)


def load_reward(name: str, game: Game, options: Mapping[str, object] | None = None) -> Reward:
    """Return the reward that a recipe names, for one game and with its options bound.

    Raises:
        ValueError: There is no such reward, or it does not take these options.
        UserCodeError: The game's bounds are not finite.
    """
    check_reward(name, options or {})
    if name == "normalised":
        return functools.partial(normalised, payoff=largest_payoff(game))
    if name in REWARDS:
        return REWARDS[name]
    return functools.partial(_own_reward, name, resolve("rewards", name, REWARDS), options or {}, game)


def with_reward(episode: Episode, reward: Reward) -> Episode:
    """Return the episode with what `reward` pays in `rewards`; a game that was not played stays as it is."""
    if reward is returns or episode.outcome == "not_played":
        return episode
    return dataclasses.replace(episode, rewards=tuple(reward(episode)))


def _own_reward(
    name: str, reward: Callable[..., Sequence[float]], options: Mapping[str, object], game: Game, episode: Episode
) -> tuple[float, ...]:
    """Call a user's reward, and refuse one that pays more for an illegal move in place of a player's last move."""
    paid = _call_reward(name, reward, options, episode)
    if episode.outcome == "finished":
        for player in episode.learning_players:
            other = _with_illegal_move(episode, game, player)
            if other is None:
                continue
            illegal = _call_reward(name, reward, options, other)[player]
            if paid[player] < illegal - ROUNDING:
                raise CheapIllegalMoveError(
                    f"the reward {name!r} pays player {player} {paid[player]:g} for an episode of {episode.game} (seed"
                    f" {episode.seed}) that ended by the rules, and {illegal:g} had its last move been illegal; pay"
                    " less for an illegal move (where episode.outcome is 'illegal_move'), or the policy learns to make"
                    " them"
                )
    return paid


def _with_illegal_move(episode: Episode, game: Game, player: int) -> Episode | None:
    """The episode as it would be if the last move of `player` had been illegal; None where it made no move."""
    last = max((index for index, turn in enumerate(episode.turns) if turn.player == player), default=None)
    if last is None:
        return None
    state, decisions = game.initial_state(), []
    for index, action in enumerate(episode.actions):
        if not state.is_chance:
            decisions.append(index)
        state = state.apply(action)
    illegal = dataclasses.replace(episode.turns[last], action=None, reward=0.0)
    return dataclasses.replace(
        episode,
        turns=(*episode.turns[:last], illegal),
        actions=episode.actions[: decisions[len(decisions) - len(episode.turns) + last]],
        returns=illegal_move_returns(len(episode.seats), player, largest_payoff(game)),
        rewards=(),
        outcome="illegal_move",
    )


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
