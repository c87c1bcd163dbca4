"""Measurements that are kept: the same measurement of the same weights is found again instead of made again.

Games keep their episodes and exploitability its information states, so that every figure can be computed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.records import Episode
from spiral.core.storage import read_episodes
from spiral.evaluation.arena import ArenaResult, paired_matches, summarise
from spiral.evaluation.optimality import measure_theory
from spiral.evaluation.probabilities import TheoryWatch, unwatched
from spiral.evaluation.results import ResultDirectory, asked_of, describe_player, read_result, result_directory
from spiral.games import Game
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy
from spiral.rollout.loop import Watch, play
from spiral.theory import TabularPolicy


def games_directory(
    policy: Policy, opponent: Policy, game: Game, *, episodes: int, seed: int, out: Path | None = None
) -> ResultDirectory:
    """Where the games of a policy against an opponent are kept."""
    settings = {
        "model": describe_player(policy.name, policy),
        "opponent": describe_player(opponent.name, opponent),
        "game": game.spec,
        "episodes": episodes,
        "seed": seed,
    }
    label = f"{game.spec}-{Path(policy.name).name}-against-{Path(opponent.name).name}"
    return result_directory("evaluate", label, settings, model=policy.name, out=out)


def measure_games(
    policy: Policy,
    opponent: Policy,
    game: Game,
    *,
    episodes: int,
    seed: int,
    in_flight: int = 256,
    place: ResultDirectory | None = None,
    reuse: bool = False,
    watch: Watch | None = None,
) -> tuple[ArenaResult, Sequence[Episode]]:
    """Plays the games, half from each seat with the same deals, and keeps them in `place`.

    With `reuse`, games that are there already are read instead, and those of them that could not be played then are
    played now. `watch` receives the progress of the games. Raises as `evaluate` does, and `ValueError` when another
    process measures in `place`.
    """
    matches = paired_matches(policy, opponent, game, episodes, seed)
    kept = _kept_games(place, episodes) if place is not None and reuse else []
    missing = [number for number, episode in enumerate(kept) if episode.outcome == "not_played"]
    if kept and not missing:
        return summarise(kept, game, policy.name, opponent.name, seed), kept
    with contextlib.nullcontext() if place is None else place.measuring():
        if missing:
            again = dict(zip(missing, play([matches[number] for number in missing], in_flight, watch), strict=True))
            played: Sequence[Episode] = [again.get(number, episode) for number, episode in enumerate(kept)]
        else:
            played = play(matches, in_flight, watch)
        result = summarise(played, game, policy.name, opponent.name, seed)
        if place is not None:
            place.write(result.to_json(), episodes=played, endpoints=asked_of(policy, opponent))
    return result, played


def _kept_games(place: ResultDirectory, episodes: int) -> Sequence[Episode]:
    """All games of a measurement that was completed, in their order; none when it was not."""
    complete = place.result_file.exists() and place.episodes_file.exists()
    kept = read_episodes(place.episodes_file) if complete else []
    return kept if len(kept) == episodes else []


def theory_directory(
    name: str,
    policy: LanguagePolicy | TabularPolicy,
    game: Game,
    *,
    samples: int | None,
    seed: int,
    out: Path | None = None,
) -> ResultDirectory:
    """Where the exploitability of a policy is kept."""
    settings = {"model": describe_player(name, policy), "game": game.spec, "samples": samples, "seed": seed}
    return result_directory("exploitability", f"{game.spec}-{Path(name).name}", settings, model=name, out=out)


def measure_kept_theory(
    policy: LanguagePolicy | TabularPolicy,
    game: Game,
    *,
    samples: int | None,
    seed: int,
    place: ResultDirectory,
    reuse: bool = False,
    watch: TheoryWatch = unwatched,
) -> Mapping[str, Any]:
    """Exploitability, and where nothing is hidden optimality, in their JSON form; kept in `place`.

    `watch` receives the stage and its progress. Raises `ValueError` when another process measures in `place`.
    """
    if reuse and place.result_file.exists():
        return dict(read_result(place.path)["result"])
    with place.measuring():
        measured = measure_theory(policy, game, samples=samples, seed=seed, watch=watch)
        result = measured.to_json()
        place.write(result, items=measured.records())
    return result
