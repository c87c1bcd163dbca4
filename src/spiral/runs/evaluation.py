"""The evaluations of a run: fully before the first step and after the last, lightly in between.

The records that the results are computed from are written beside them: episodes as Parquet, information states and
attempts as JSONL. The policy evaluated is the one being trained. Every random draw has a separate seed, so an
evaluation never changes what training draws.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiral.core.files import write_jsonl
from spiral.core.progress import shown
from spiral.core.records import Episode
from spiral.core.storage import write_episodes
from spiral.evaluation.arena import evaluate_games, rounded_up
from spiral.evaluation.exploitability import evaluate_theory
from spiral.evaluation.reasoning.runner import load_benchmark, run_benchmark
from spiral.evaluation.reasoning.settings import BenchmarkConfig
from spiral.evaluation.reasoning.shots import shots_of_tasks
from spiral.evaluation.settings import EvaluationConfig
from spiral.games import Game, load_game
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy, able_opponents, scripted_policy
from spiral.policies.opponents import Opponents
from spiral.policies.past_selves import SharedEngine
from spiral.rollout.loop import Match, play
from spiral.runs.evaluation_results import EvaluationResults, opponent_replies, record_name
from spiral.runs.opponents import make_opponents
from spiral.runs.recipe import Recipe
from spiral.training.loop import due

logger = logging.getLogger(__name__)

LoadOpponent = Callable[[str, Game], Policy]


def warn_of_cut_off(results: EvaluationResults, warned: set[str]) -> None:
    """Warns of opponents whose replies were often cut off, unless they are in `warned`, and adds them to it."""
    for result in results.arena:
        name = result["opponent"]
        found = opponent_replies(result).warning(f"the opponent {name} in evaluation", f"opponent.{name}.{{}}")
        if found is not None and name not in warned:
            warned.add(name)
            logger.warning("%s", found)


def evaluated_at(recipe: Recipe, step: int) -> bool:
    """Whether anything is evaluated after `step`."""
    return step == recipe.run.steps or due(step, recipe.evaluation.every) or due(step, recipe.benchmark.every)


def evaluate_run(
    policy: LanguagePolicy,
    recipe: Recipe,
    step: int,
    records: Path,
    opponents: Opponents | None = None,
    shared_engine: SharedEngine | None = None,
) -> EvaluationResults:
    """Evaluates what the recipe wants after `step`.

    Args:
        policy: The policy being trained.
        recipe: Its sections `evaluation` and `benchmark` say what is due.
        step: The step; 0 is before training.
        records: Directory for the records that the results are computed from.
        opponents: Keeps models and endpoints loaded from one call to the next.
        shared_engine: Plays opponents that share the policy's engine.
    """
    config, benchmark = recipe.evaluation, recipe.benchmark
    is_full = step in (0, recipe.run.steps)
    results = EvaluationResults()
    if is_full or due(step, config.every):
        sampling = policy.sampling.model_copy(update={"temperature": config.temperature, "top_p": config.top_p})
        episodes = config.episodes if is_full else config.episodes_between
        load = opponents or make_opponents(recipe)
        with policy.sampled_with(sampling), load.sampled_beside(sampling):
            results = evaluate_policy(
                policy, config, episodes, load_opponent=load, records=records, shared_engine=shared_engine
            )
    if is_full or due(step, benchmark.every):
        results = dataclasses.replace(results, benchmarks=run_benchmarks(policy, benchmark, records))
    return results


def evaluate_policy(
    policy: LanguagePolicy,
    config: EvaluationConfig,
    episodes: int,
    *,
    load_opponent: LoadOpponent = scripted_policy,
    records: Path | None = None,
    shared_engine: SharedEngine | None = None,
) -> EvaluationResults:
    """Plays `episodes` games of every game against every opponent that can play it, and computes exploitability.

    An opponent that cannot play a game (minimax in poker) is left out for that game. `records` is a directory for
    episodes and information states; `shared_engine` plays opponents that share the policy's engine.
    """
    arena, theory, progress = [], [], shown()
    taken: set[str] = set()
    for spec in config.games:
        game = load_game(spec)
        games = rounded_up(episodes, game.num_players)
        for name in able_opponents(config.opponents, game):
            progress.stage(f"{spec} against {name}", games, "games")
            with _players(policy, name, game, load_opponent, shared_engine) as (player, opponent):
                result, played = evaluate_games(
                    player,
                    opponent,
                    game,
                    episodes=games,
                    seed=config.seed,
                    in_flight=config.in_flight,
                    watch=progress.games,
                )
            arena.append(result.to_json())
            if records is not None:
                records.mkdir(parents=True, exist_ok=True)
                label = record_name(f"{spec}-against-{name}", taken)
                write_episodes(records / f"{label}.parquet", played)
    for spec in config.exploitability:
        progress.stage(f"exploitability in {spec}")
        evaluated = evaluate_theory(policy, load_game(spec), seed=config.seed, watch=progress.count)
        theory.append(evaluated.to_json())
        _write_records(records, record_name(f"{spec}-states", taken), evaluated.records())
    return EvaluationResults(arena=tuple(arena), exploitability=tuple(theory))


@contextmanager
def _players(
    policy: LanguagePolicy, name: str, game: Game, load_opponent: LoadOpponent, shared_engine: SharedEngine | None
) -> Iterator[tuple[Policy, Policy]]:
    """The policy and an opponent as they play each other, with the policy's weights in its engine before and after."""
    opponent = None if shared_engine is None else shared_engine.opponent(name)
    if shared_engine is None or opponent is None:
        yield policy, load_opponent(name, game)
        return
    try:
        yield shared_engine.policy, opponent
    finally:
        shared_engine.restore()


def run_benchmarks(
    policy: LanguagePolicy, config: BenchmarkConfig, records: Path | None = None
) -> tuple[dict[str, Any], ...]:
    """The result of every task of the recipe in its JSON form; `records` is a directory for the attempts."""
    results = []
    taken: set[str] = set()
    files = {task: Path(path) for task, path in config.shots_data.items()}
    shots = shots_of_tasks(list(config.tasks), config.shots, files)
    for name, file in config.tasks.items():
        benchmark = load_benchmark(
            name,
            data=Path(file) if file else None,
            limit=config.limit or None,
            samples=config.samples or None,
            protocol=config.protocol,
            **shots[name],
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
        )
        progress = shown()
        progress.stage(f"benchmark {name}", benchmark.attempts, "replies")
        result, attempts = run_benchmark(
            policy, benchmark, policy.name, in_flight=config.in_flight, on_progress=progress.update
        )
        results.append(result.to_json())
        _write_records(records, record_name(name, taken), [dataclasses.asdict(attempt) for attempt in attempts])
    return tuple(results)


def _write_records(records: Path | None, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    if records is not None:
        records.mkdir(parents=True, exist_ok=True)
        write_jsonl(records / f"{name}.jsonl", rows)


def sample_game(policy: Policy, spec: str, seed: int) -> Episode:
    """One game of the policy against itself."""
    game = load_game(spec)
    (episode,) = play([Match(game=game, seed=seed, policies=(policy,) * game.num_players, max_turns=100)])
    return episode
