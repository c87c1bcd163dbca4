"""What a run measures of its policy at a step: fully before the first and after the last, lightly in between."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from spiral.core.records import Episode
from spiral.evaluation import Report, measure, measure_benchmarks
from spiral.games import load_game
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy
from spiral.policies.registry import Opponents
from spiral.rollout.loop import Match, play
from spiral.runs.recipe import Recipe


def due(step: int, every: int) -> bool:
    """Whether something that comes every so many steps comes at `step`; never where `every` is 0."""
    return bool(every) and step % every == 0


def measured_at(recipe: Recipe, step: int) -> bool:
    """Whether anything is measured after `step`."""
    return step == recipe.run.steps or due(step, recipe.evaluation.every) or due(step, recipe.benchmark.every)


def evaluate_run(
    policy: LanguagePolicy, recipe: Recipe, step: int, records: Path, opponents: Opponents | None = None
) -> Report:
    """Measures what is due after `step`; keeps what the figures were computed from in the directory `records`.

    `opponents` keeps models and endpoints from one call to the next.
    """
    config, benchmark = recipe.evaluation, recipe.benchmark
    ends = step in (0, recipe.run.steps)
    report = Report()
    if ends or due(step, config.every):
        sampling = policy.sampling.model_copy(update={"temperature": config.temperature, "top_p": config.top_p})
        episodes = config.episodes if ends else config.episodes_between
        with policy.sampled_with(sampling):
            seat = opponents or Opponents(recipe.model.device)
            report = measure(policy, config, episodes, seat=seat, records=records)
    if ends or due(step, benchmark.every):
        report = dataclasses.replace(report, benchmarks=measure_benchmarks(policy, benchmark, records))
    return report


def sample_game(policy: Policy, spec: str, seed: int) -> Episode:
    """One game of the policy against itself."""
    (episode,) = play([Match(game=load_game(spec), seed=seed, policies=(policy, policy), max_turns=100)])
    return episode
