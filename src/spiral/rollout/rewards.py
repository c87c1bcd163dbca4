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

Three built-in rewards know nothing of who won. They are controls: what a run learns under one of them, it did not learn
from the game (spurious rewards, arXiv 2506.10947).

| reward | a game that ends by the rules | an illegal move | what it can teach |
|---|---|---|---|
| `coin` | +1 or -1 by a coin that the episode's seed and attempt fix | -1.5, as ever | legal moves, nothing else |
| `legality` | 1 for each player | -1.5; 1 for the others, whose moves were legal | legal moves |
| `format` | 1 for a player whose every reply had its box, else -1.5 | 1 where it was in a box, else -1.5 | the box |

The coin keeps the price of an illegal move because it is there to exchange the result for noise and nothing else. With
free illegal moves a run would lose the legal moves as well, and what it then fails to learn would prove nothing.
`legality` is `coin` without the noise. In a zero-sum game the coins sum to zero: one player, drawn by lot, gets 1 and
the others share -1, or all signs are the other way around; in other games every player has a coin of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from spiral.core.contract import MAX_RETURN
from spiral.core.metrics import is_unboxed
from spiral.core.plugins import check_call, check_options, resolve
from spiral.core.records import Episode, Turn
from spiral.core.seeds import derive_seed
from spiral.core.user_values import number_list
from spiral.games import Game
from spiral.games.failures import UserCodeError, describe_error

Reward = Callable[[Episode], Sequence[float]]

ILLEGAL_MOVE_RETURN = -1.5
"""Return of a player that makes an illegal move, as a multiple of the game's largest payoff (the paper's number)."""
ILLEGAL_MOVE_RETURN_OTHERS = 0.5
"""Total return of the other players of a zero-sum game, split equally; on the same scale. In other games they get 0: a
partner must not gain by leading another player into an illegal move."""
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


def illegal_move_returns(
    num_players: int, offender: int, payoff: float = 1.0, *, zero_sum: bool = True
) -> tuple[float, ...]:
    """Return what an illegal move of `offender` pays in a game whose largest payoff is `payoff`: [num_players]."""
    share = ILLEGAL_MOVE_RETURN_OTHERS * payoff / max(1, num_players - 1) if zero_sum else 0.0
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


def sign(episode: Episode, *, zero_sum: bool = True) -> tuple[float, ...]:
    """Return 1 for a return above 0, 0 for 0, -1 for one below, and -1.5 for an illegal move."""
    if episode.outcome == "illegal_move":
        return _illegal_move(episode, zero_sum=zero_sum)
    return tuple(float((value > 0) - (value < 0)) for value in episode.returns)


def coin(episode: Episode, *, zero_sum: bool = True) -> tuple[float, ...]:
    """Return +1 or -1 by a coin that only the seed and the attempt of the episode fix, and -1.5 for an illegal move."""
    players = len(episode.seats)
    if episode.outcome == "illegal_move":
        return _illegal_move(episode, zero_sum=zero_sum)
    rng = random.Random(derive_seed(episode.seed, "coin", episode.attempt))
    if not zero_sum or players == 1:
        return tuple(rng.choice((1.0, -1.0)) for _ in range(players))
    side, drawn = rng.choice((1.0, -1.0)), rng.randrange(players)
    return tuple(side if player == drawn else -side / (players - 1) for player in range(players))


def legality(episode: Episode) -> tuple[float, ...]:
    """Return 1 for a player all of whose moves were legal, and -1.5 for one that made an illegal move."""
    return tuple(_all_turns(episode, player, lambda turn: turn.action is not None) for player in _players(episode))


def formatted(episode: Episode) -> tuple[float, ...]:
    """Return 1 for a player all of whose replies had a box after their thought, and else -1.5, whatever was in it."""
    return tuple(_all_turns(episode, player, _has_box) for player in _players(episode))


def _illegal_move(episode: Episode, *, zero_sum: bool) -> tuple[float, ...]:
    return illegal_move_returns(len(episode.seats), episode.turns[-1].player, zero_sum=zero_sum)


def _players(episode: Episode) -> range:
    return range(len(episode.seats))


def _all_turns(episode: Episode, player: int, test: Callable[[Turn], bool]) -> float:
    passed = all(test(turn) for turn in episode.turns if turn.player == player)
    return 1.0 if passed else ILLEGAL_MOVE_RETURN


def _has_box(turn: Turn) -> bool:
    """Whether a reply has the form that was asked for; players without a model write no boxes, only moves."""
    return turn.action is not None if turn.generation is None else not is_unboxed(turn)


REWARDS: Mapping[str, Callable[..., Sequence[float]]] = {
    "normalised": normalised,
    "returns": returns,
    "sign": sign,
    "coin": coin,
    "legality": legality,
    "format": formatted,
}
BY_SUM = ("sign", "coin")
"""Rewards that pay differently in games that are not zero-sum."""


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
    if name in BY_SUM and not game.zero_sum:
        return functools.partial(REWARDS[name], zero_sum=False)
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
        returns=illegal_move_returns(len(episode.seats), player, largest_payoff(game), zero_sum=game.zero_sum),
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
