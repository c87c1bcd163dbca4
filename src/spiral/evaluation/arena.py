"""Playing against an opponent: win, draw and loss rates with intervals.

Games come in pairs: the same seed, so the same deal, once from each seat. Both seats count equally. Intervals are
Wilson's at 95% (Wilson, 1927). Games ended by an illegal move are counted apart from those decided on the board,
whoever made it.

A game for which a reply was not to be had (a network that is down, a spend limit, a full context) was not played:
nobody has won or lost it, and it is counted apart with the reason. All rates are over the games that were played, also
where only one game of a pair was. Long games ask for more replies and so fail more often; a large share of games not
played makes the rates less trustworthy than their intervals say.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence

from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.evaluation.statistics import Rate, wilson
from spiral.games import Game
from spiral.inference.room import check_room
from spiral.policies import Policy
from spiral.rollout.loop import Match, play

MOST_REASONS = 8
OTHER_REASONS = "other reasons"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArenaResult:
    """How a policy did against an opponent. Shares are of the games `played`."""

    game: str
    policy: str
    opponent: str
    seed: int
    episodes: int
    """Games asked for: `played` and `not_played` together."""
    played: int
    not_played: int
    faults: dict[str, int]
    """Why games were not played, the commonest reason first, and how many each."""
    win: Rate
    draw: Rate
    loss: Rate
    not_lost: Rate
    """Wins and draws together."""
    win_on_board: Rate
    """Wins by the rules of the game."""
    win_by_illegal: Rate
    """Wins by an illegal move of the opponent; the other wins are `win_on_board`."""
    loss_on_board: Rate
    """Losses by the rules of the game; the other losses are `illegal`."""
    illegal: float
    """Share of games that the policy ended with an illegal move."""
    opponent_illegal: float
    seat_returns: tuple[float | None, float | None]
    """The policy's mean return from seat 0 and from seat 1, in the game's units; None where no game was played."""
    seat_advantage: float
    """What sitting in seat 0 is worth here: its mean return less that of seat 1, over the games of both players."""

    def to_json(self) -> dict[str, object]:
        """Flat keys: each rate with `_low` and `_high`."""
        flat: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Rate):
                flat |= {field.name: value.value, f"{field.name}_low": value.low, f"{field.name}_high": value.high}
            else:
                flat[field.name] = list(value) if isinstance(value, tuple) else value
        return flat


def evaluate(
    policy: Policy, opponent: Policy, game: Game, episodes: int, seed: int, in_flight: int = 256
) -> ArenaResult:
    """Plays `episodes` games, an even number, half from each seat with the same deals.

    Raises `ValueError` for an odd or non-positive number of games, and `NotPlayedError` when none could be played.
    """
    played = play(paired_matches(policy, opponent, game, episodes, seed), in_flight)
    return summarise(played, game, policy.name, opponent.name, seed)


def paired_matches(policy: Policy, opponent: Policy, game: Game, episodes: int, seed: int) -> list[Match]:
    """`episodes` matches, an even number: two by two with the same seed, `policy` first in seat 0 and then in seat 1.

    Raises `ValueError` for an odd or non-positive number of games, and for a model without room for a first prompt.
    """
    if episodes < 2 or episodes % 2:
        raise ValueError(f"got {episodes} episodes; expected an even number of at least 2, half for each seat")
    for player in (policy, opponent):
        check_room(player, game)
    matches = []
    for pair in range(episodes // 2):
        pair_seed = derive_seed(seed, "arena", pair)
        matches.append(Match(game=game, seed=pair_seed, policies=(policy, opponent)))
        matches.append(Match(game=game, seed=pair_seed, policies=(opponent, policy)))
    return matches


def summarise(episodes: Sequence[Episode], game: Game, policy: str, opponent: str, seed: int) -> ArenaResult:
    """Counts the games of `paired_matches` from the policy's side: seat 0 in even games and seat 1 in odd ones.

    Raises `NotPlayedError` when none of them was played.
    """
    faults = count_faults(episodes)
    own = [(episode, index % 2) for index, episode in enumerate(episodes) if episode.outcome != "not_played"]
    if not own:
        raise NotPlayedError(
            f"none of {len(episodes)} games of {game.spec} between {policy} and {opponent} could be played:"
            f" {next(iter(faults), 'there are none')}"
        )
    returns = [(episode.returns[seat], seat) for episode, seat in own]
    total, wins = len(own), sum(value > 0 for value, _ in returns)
    losses = sum(value < 0 for value, _ in returns)
    offenders = [episode.turns[-1].player == seat for episode, seat in own if episode.outcome == "illegal_move"]
    illegal = sum(offenders)
    opponent_illegal = len(offenders) - illegal
    return ArenaResult(
        game=game.spec,
        policy=policy,
        opponent=opponent,
        seed=seed,
        episodes=len(episodes),
        played=total,
        not_played=len(episodes) - total,
        faults=faults,
        win=wilson(wins, total),
        draw=wilson(total - wins - losses, total),
        loss=wilson(losses, total),
        not_lost=wilson(total - losses, total),
        win_on_board=wilson(wins - opponent_illegal, total),
        win_by_illegal=wilson(opponent_illegal, total),
        loss_on_board=wilson(losses - illegal, total),
        illegal=illegal / total,
        opponent_illegal=opponent_illegal / total,
        seat_returns=(
            _mean([value for value, seat in returns if seat == 0]),
            _mean([value for value, seat in returns if seat == 1]),
        ),
        seat_advantage=statistics.fmean(episode.returns[0] - episode.returns[1] for episode, _ in own),
    )


def count_faults(episodes: Sequence[Episode]) -> dict[str, int]:
    """Why games were not played, the commonest reason first; beyond the `MOST_REASONS` commonest they are summed."""
    counts = Counter(episode.fault for episode in episodes if episode.outcome == "not_played").most_common()
    faults = dict(counts[:MOST_REASONS])
    rest = sum(count for _, count in counts[MOST_REASONS:])
    return faults | ({OTHER_REASONS: rest} if rest else {})


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
