"""Evaluation in games of one player, such as problems: the share of episodes with the highest return, and the mean.

Every episode has another deal, so that they are independent; the deals follow from the seed alone. The share has
Wilson's interval, the mean return Student's, both at 95%. An illegal move (for a problem: a reply without a box) ends
the episode and is not among the best; the mean return counts it as training does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.evaluation.arena import count_faults
from spiral.evaluation.results import ResultDirectory, describe_player, endpoint_usage, result_directory
from spiral.evaluation.statistics import Estimate, Rate, flat_rates, mean_interval, wilson
from spiral.games import Game
from spiral.games.playout import draw
from spiral.inference.room import check_room
from spiral.policies import Policy
from spiral.rollout.loop import Match, Watch, play

TRIES = 50
"""Seeds that are tried for each episode to find another deal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoloResult:
    """The results of a policy in a game of one player, over the episodes `played`."""

    game: str
    policy: str
    seed: int
    episodes: int
    """Number of episodes requested: `played` plus `not_played`."""
    played: int
    not_played: int
    faults: dict[str, int]
    """Reasons why games were not played, most frequent first, with their counts."""
    best: Rate
    """Share with the game's highest return: of problems, the accuracy."""
    mean_return: Estimate
    """In the game's units, illegal-move penalties included."""
    illegal: float
    """Share that ended with an illegal move: of problems, replies without a box."""
    truncated: float
    """Share of the turns whose reply ran into its budget."""
    response_length: float
    """Mean tokens per turn; 0 for a policy without tokens."""

    def to_json(self) -> dict[str, object]:
        """Flat keys: each rate with `_low` and `_high`."""
        return flat_rates(self)


def evaluate_alone(
    policy: Policy,
    game: Game,
    *,
    episodes: int,
    seed: int,
    in_flight: int = 256,
    directory: ResultDirectory | None = None,
    watch: Watch | None = None,
) -> tuple[SoloResult, Sequence[Episode]]:
    """Plays `episodes` games of one player, each from another deal, and writes them to `directory`.

    Raises:
        ValueError: The game is not for one player or states no highest return, there are not as many deals, or the
            policy's context is too short for the game.
        NotPlayedError: None of the games could be played.
    """
    check_room(policy, game)
    matches = [
        Match(game=game, seed=deal, policies=(policy,), max_turns=game.max_turns)
        for deal in different_deals(game, episodes, seed)
    ]
    with contextlib.nullcontext() if directory is None else directory.locked():
        played = play(matches, in_flight, watch)
        result = summarise_alone(played, game, policy.name, seed)
        if directory is not None:
            directory.write(result.to_json(), episodes=played, endpoints=endpoint_usage(policy))
    return result, played


def solo_directory(policy: Policy, game: Game, *, episodes: int, seed: int, out: Path | None = None) -> ResultDirectory:
    """The result directory for games that a policy plays alone."""
    player = describe_player(policy.name, policy)
    settings = {"model": player, "game": game.spec, "episodes": episodes, "seed": seed}
    label = f"{game.spec}-{Path(policy.name).name}"
    return result_directory("evaluate", label, settings, model=policy.name, out=out)


def different_deals(game: Game, count: int, seed: int) -> list[int]:
    """Seeds of `count` episodes whose chance deals differ from each other before the first turn.

    Raises `ValueError` for a game that is not for one player or states no highest return, and where there are fewer
    deals.
    """
    if game.num_players != 1 or game.max_return is None:
        raise ValueError(f"{game.spec} has {game.num_players} players; expected a game of one with a highest return")
    if count < 2:
        raise ValueError(f"got {count} episodes; expected at least 2")
    found: dict[tuple[str, ...], int] = {}
    for number in range(TRIES * count):
        episode = derive_seed(seed, "alone", number)
        found.setdefault(_deal(game, episode), episode)
        if len(found) == count:
            return list(found.values())
    raise ValueError(
        f"{game.spec} has some {len(found)} different deals; expected at most as many episodes, not {count}"
    )


def summarise_alone(episodes: Sequence[Episode], game: Game, policy: str, seed: int) -> SoloResult:
    """The results of the episodes of `different_deals`. Raises `NotPlayedError` if none of them was played."""
    faults = count_faults(episodes)
    played = [episode for episode in episodes if episode.outcome != "not_played"]
    if len(played) < 2:
        reason = next(iter(faults), "there are none")
        raise NotPlayedError(f"{len(played)} of {len(episodes)} games of {game.spec} could be played: {reason}")
    assert game.max_return is not None
    best = [episode.outcome == "finished" and episode.returns[0] >= game.max_return for episode in played]
    generations = [turn.generation for episode in played for turn in episode.turns if turn.generation is not None]
    return SoloResult(
        game=game.spec,
        policy=policy,
        seed=seed,
        episodes=len(episodes),
        played=len(played),
        not_played=len(episodes) - len(played),
        faults=faults,
        best=wilson(sum(best), len(played)),
        mean_return=mean_interval([episode.returns[0] for episode in played]),
        illegal=float(np.mean([episode.outcome == "illegal_move" for episode in played])),
        truncated=float(np.mean([generation.stop_reason != "stop" for generation in generations] or [False])),
        response_length=float(np.mean([len(generation.token_ids) for generation in generations] or [0])),
    )


def _deal(game: Game, seed: int) -> tuple[str, ...]:
    """What chance does before the first turn of the episode from a seed."""
    state, rng, actions = game.initial_state(), random.Random(derive_seed(seed, "chance")), []
    while state.is_chance:
        actions.append(draw(state.chance_outcomes(), rng))
        state = state.apply(actions[-1])
    return tuple(actions)
