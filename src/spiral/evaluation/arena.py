"""Evaluation against an opponent: win, draw and loss rates with intervals.

A game is won by the player with the larger return; equal returns are a draw. In a zero-sum game that is the sign of
the return; in other games a player may win with a negative return. With three players or more a game is won by a
return above 0 and lost by one below. Where the players are partners, or all can gain, such rates say little: the mean
return of the policy has an interval as well, Student's over deals.

Games come in groups with the same seed and so the same deal, one game for each player: the policy is player 0 in the
first, player 1 in the second and so on, and the opponent is all other players.
Intervals are Wilson's at 95% (Wilson, 1927). Games that ended by an illegal move are counted separately from those
decided on the board, whichever player made it.

A game is "not played" if a reply could not be obtained (network failure, spend limit, full context). It is neither won
nor lost and is counted separately with the reason. All rates are over the games that were played, even if only one game
of a group was. Long games need more replies and so fail more often: if many games are not played, the rates are less
trustworthy than their intervals say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.core.storage import read_episodes
from spiral.evaluation.results import ResultDirectory, describe_player, endpoint_usage, result_directory
from spiral.evaluation.statistics import Rate, flat_rates, mean_interval, wilson
from spiral.games import Game
from spiral.inference.room import check_room
from spiral.policies import Policy
from spiral.policies.cut_off import CutOff
from spiral.rollout.loop import Match, Watch, play

MAX_FAULTS = 8
"""Distinct reasons listed in a result; the rarer ones are summed as `OTHER_FAULTS`."""
OTHER_FAULTS = "other reasons"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArenaResult:
    """Rates of a policy against an opponent, as shares of the games `played`."""

    game: str
    policy: str
    opponent: str
    seed: int
    episodes: int
    """Number of games requested: `played` plus `not_played`."""
    played: int
    not_played: int
    faults: dict[str, int]
    """Reasons why games were not played, most frequent first, with their counts."""
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
    replies: CutOff
    """The policy's replies and how many of them were cut off; none where no model on this machine wrote them."""
    opponent_replies: CutOff
    mean_return: float
    """The policy's mean return, in the game's units."""
    mean_return_low: float | None
    """Lower end of its 95% interval over deals; None with fewer than two deals, as the upper end."""
    mean_return_high: float | None
    opponent_return: float
    """The opponent's mean return, averaged over its players; minus `mean_return` in a zero-sum game of two, but for
    the penalties of illegal moves."""
    opponent_return_low: float | None
    """Lower end of its 95% interval over deals; None with fewer than two deals, as the upper end."""
    opponent_return_high: float | None
    seat_returns: tuple[float | None, ...]
    """The policy's mean return as each player, in the game's units; None where no game was played."""
    seat_advantage: float
    """Mean return of player 0 minus that of the other players, whichever policy played it."""

    def to_json(self) -> dict[str, object]:
        """Flat keys: each rate with `_low` and `_high`; and the shares of replies that were cut off."""
        flat = flat_rates(self)
        for name, counted in (("replies", self.replies), ("opponent_replies", self.opponent_replies)):
            flat[name] = dataclasses.asdict(counted)
            flat[name.replace("replies", "cut_off")] = counted.share
        return flat


def evaluate(
    policy: Policy, opponent: Policy, game: Game, episodes: int, seed: int, in_flight: int = 256
) -> ArenaResult:
    """Plays `episodes` games, as each player in turn with the same deals.

    Args:
        policy: The policy whose rates are returned.
        opponent: The other policy.
        game: A game of two players or more.
        episodes: Number of games, a multiple of the players.
        seed: Fixes all deals and random draws.
        in_flight: Upper bound on the games being played at once.

    Raises:
        ValueError: `episodes` is not a positive multiple of the players.
        NotPlayedError: None of the games could be played.
    """
    played = play(paired_matches(policy, opponent, game, episodes, seed), in_flight)
    return summarise(played, game, policy.name, opponent.name, seed)


def evaluate_games(
    policy: Policy,
    opponent: Policy,
    game: Game,
    *,
    episodes: int,
    seed: int,
    in_flight: int = 256,
    directory: ResultDirectory | None = None,
    reuse: bool = False,
    watch: Watch | None = None,
) -> tuple[ArenaResult, Sequence[Episode]]:
    """`evaluate` that also returns the episodes and writes both to `directory`.

    With `reuse`, a complete result in `directory` is read instead, except that its games that could not be played are
    tried again. `watch` receives the progress. Raises as `evaluate` does, and `ValueError` if another process writes to
    `directory`.
    """
    matches = paired_matches(policy, opponent, game, episodes, seed)
    kept = _kept_episodes(directory, episodes) if directory is not None and reuse else []
    missing = [index for index, episode in enumerate(kept) if episode.outcome == "not_played"]
    if kept and not missing:
        return summarise(kept, game, policy.name, opponent.name, seed), kept
    with contextlib.nullcontext() if directory is None else directory.locked():
        if missing:
            retried = dict(zip(missing, play([matches[index] for index in missing], in_flight, watch), strict=True))
            played: Sequence[Episode] = [retried.get(index, episode) for index, episode in enumerate(kept)]
        else:
            played = play(matches, in_flight, watch)
        result = summarise(played, game, policy.name, opponent.name, seed)
        if directory is not None:
            directory.write(result.to_json(), episodes=played, endpoints=endpoint_usage(policy, opponent))
    return result, played


def games_directory(
    policy: Policy, opponent: Policy, game: Game, *, episodes: int, seed: int, out: Path | None = None
) -> ResultDirectory:
    """The result directory for games of a policy against an opponent."""
    settings = {
        "model": describe_player(policy.name, policy),
        "opponent": describe_player(opponent.name, opponent),
        "game": game.spec,
        "episodes": episodes,
        "seed": seed,
    }
    label = f"{game.spec}-{Path(policy.name).name}-against-{Path(opponent.name).name}"
    return result_directory("evaluate", label, settings, model=policy.name, out=out)


def paired_matches(policy: Policy, opponent: Policy, game: Game, episodes: int, seed: int) -> list[Match]:
    """`episodes` matches in groups with the same seed, in which `policy` is each of the players in turn.

    Raises `ValueError` for a number of games that the players do not divide, a game of one player, and a model whose
    context is too short for the game's first prompt.
    """
    players = game.num_players
    if players == 1:
        raise ValueError(f"{game.spec} has 1 player; only games of two players or more have an opponent")
    if episodes < players or episodes % players:
        expected = "an even number of at least 2, half as each player"
        if players > 2:
            near = rounded_up(max(episodes, 1), players)
            expected = f"a multiple of its {players} players, such as {near}: the policy is each of them as often"
        raise ValueError(f"got {episodes} episodes; expected {expected}")
    for participant in (policy, opponent):
        check_room(participant, game)
    return [
        Match(
            game=game,
            seed=derive_seed(seed, "arena", group),
            policies=tuple(policy if player == own else opponent for player in range(players)),
        )
        for group in range(episodes // players)
        for own in range(players)
    ]


def rounded_up(episodes: int, players: int) -> int:
    """The least multiple of the players that is at least `episodes`."""
    return -(-episodes // players) * players


def summarise(episodes: Sequence[Episode], game: Game, policy: str, opponent: str, seed: int) -> ArenaResult:
    """The policy's rates in the games of `paired_matches`, where it is each player in turn.

    Raises `NotPlayedError` if none of them was played.
    """
    faults = count_faults(episodes)
    players = game.num_players
    played = [(episode, index % players) for index, episode in enumerate(episodes) if episode.outcome != "not_played"]
    if not played:
        raise NotPlayedError(
            f"none of {len(episodes)} games of {game.spec} between {policy} and {opponent} could be played:"
            f" {next(iter(faults), 'there are none')}"
        )
    returns = [(episode.returns[player], player) for episode, player in played]
    total, wins = len(played), sum(episode.result(player) > 0 for episode, player in played)
    losses = sum(episode.result(player) < 0 for episode, player in played)
    by_policy = [episode.turns[-1].player == player for episode, player in played if episode.outcome == "illegal_move"]
    illegal = sum(by_policy)
    turns = [(turn, turn.player == index % players) for index, episode in enumerate(episodes) for turn in episode.turns]
    opponent_illegal = len(by_policy) - illegal
    own_returns, opponent_returns = _returns_by_deal(episodes, players)
    low, high = _interval(own_returns)
    opponent_low, opponent_high = _interval(opponent_returns)
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
        replies=CutOff.of(turn for turn, own in turns if own),
        opponent_replies=CutOff.of(turn for turn, own in turns if not own),
        mean_return=statistics.fmean(value for value, _ in returns),
        mean_return_low=low,
        mean_return_high=high,
        opponent_return=statistics.fmean(value for values in opponent_returns for value in values),
        opponent_return_low=opponent_low,
        opponent_return_high=opponent_high,
        seat_returns=tuple(_mean([value for value, player in returns if player == own]) for own in range(players)),
        seat_advantage=statistics.fmean(
            episode.returns[0] - sum(episode.returns[1:]) / (players - 1) for episode, _ in played
        ),
    )


def _returns_by_deal(episodes: Sequence[Episode], players: int) -> tuple[list[list[float]], list[list[float]]]:
    """Returns of the policy, and of its opponent averaged over its players, in the played games of each deal."""
    own, opponent = dict[int, list[float]](), dict[int, list[float]]()
    for index, episode in enumerate(episodes):
        if episode.outcome != "not_played":
            value = episode.returns[index % players]
            own.setdefault(index // players, []).append(value)
            opponent.setdefault(index // players, []).append((sum(episode.returns) - value) / (players - 1))
    return [*own.values()], [*opponent.values()]


def _interval(returns: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """The 95% interval of a mean over deals; None at both ends with fewer than two."""
    if len(returns) < 2:
        return None, None
    found = mean_interval([statistics.fmean(values) for values in returns])
    return found.low, found.high


def count_faults(episodes: Sequence[Episode]) -> dict[str, int]:
    """Reasons why games were not played, most frequent first; those beyond `MAX_FAULTS` are summed."""
    counts = Counter(episode.fault for episode in episodes if episode.outcome == "not_played").most_common()
    faults = dict(counts[:MAX_FAULTS])
    rest = sum(count for _, count in counts[MAX_FAULTS:])
    return faults | ({OTHER_FAULTS: rest} if rest else {})


def _kept_episodes(directory: ResultDirectory, episodes: int) -> Sequence[Episode]:
    """All episodes of a complete result in their order, or none if it is incomplete."""
    complete = directory.result_file.exists() and directory.episodes_file.exists()
    kept = read_episodes(directory.episodes_file) if complete else []
    return kept if len(kept) == episodes else []


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
