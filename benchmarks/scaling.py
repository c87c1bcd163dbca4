"""On paper: how far the three schedules scale, for 1 to 1,024 rollout workers and models of 4B to 70B.

    python -m benchmarks.scaling

No model runs and no GPU is needed: `scaling_model` gives the cost of every part of a step in closed form,
`scaling_simulation` who waits for whom, `scaling_checks` compares both with measurements, here and by others. The page
about it is `docs/scaling.md`. What the tables hold:

- checks: the model beside values measured here, and beside those that others published.
- sweep: one row a model and number of workers, all schedules on the same games. A step's games stay the same.
- joining: the same with workers that play one chunk after the other, as before, beside workers whose games join.
- sensitivity: where overlap ends when one assumption is another.
- ends: the most workers at which a GPU does at least half as much as at best; and how many times as fast the next size
  would be with one cost taken away.
- changes: the same cluster with something done differently.
- patience: async that allows turns to be more updates behind, and weights that change within replies.
- tails: the same cluster with replies of more or less even length, in games of many turns and of one.
- growing: as many more games a step as there are workers.

Every schedule has the learner that its games need. "async" allows turns one update behind, "async 4" four.
Tokens a second are tokens learned from, prompts included.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ROOT, Row, record
from benchmarks.scaling_cases import Case
from benchmarks.scaling_checks import driver_checks, measured_here, published
from benchmarks.scaling_inputs import DEVICES, QWEN3_8B, SHAPES, Shape, Workload
from benchmarks.scaling_pictures import draw_sweep, draw_tails
from benchmarks.scaling_tables import (
    LONG_BUDGET,
    PATIENT,
    PLANS,
    Points,
    all_plans,
    change_rows,
    end_row,
    joining_row,
    patience_rows,
    point,
    sensitivity_rows,
    sweep_row,
    tail_rows,
)
from spiral.games import load_game
from spiral.plan.tokens import EXPECTED_SHARE, survey_games
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.runs.recipe import Recipe, load_recipe

WORKERS = tuple(2**power for power in range(11))
GAMES_SURVEYED = 200
CHANGED_WORKERS = 64
PATIENT_WORKERS = (16, 64, 256)
GAMES_A_WORKER = 16
TAIL_STEPS = 8
ALLOWED = (1, 2, 4)
"""Updates behind, in the table about patience."""


def recipe_workload(recipe: Recipe, games: int, tail: float) -> Workload:
    """The games of a recipe, `games` a step: turns of random play, and replies of the length that plans expect."""
    kinds = survey_games(recipe, None)
    turns: list[int] = []
    policy = RandomPolicy()
    for kind in kinds:
        count = max(1, round(GAMES_SURVEYED * kind.episodes / recipe.selfplay.episodes_per_step))
        matches = [Match(game=load_game(kind.game), seed=seed, policies=(policy, policy)) for seed in range(count)]
        turns += [len(episode.turns) for episode in play(matches)]
    weights = [kind.episodes * kind.turns for kind in kinds]
    return Workload(
        games=games,
        turns=tuple(sorted(turns)),
        prompt=sum(weight * kind.prompt for weight, kind in zip(weights, kinds, strict=True)) / sum(weights),
        reply=EXPECTED_SHARE * recipe.sampling.max_new_tokens,
        budget=recipe.sampling.max_new_tokens,
        tail=tail,
        epochs=recipe.learner.epochs,
    )


def _former(points: Points) -> Points:
    """The same cases with one chunk after the other."""
    return {plan: point(each.case.as_before(), plan) for plan, each in points.items() if plan != PATIENT}


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How far the schedules scale, on paper.")
    parser.add_argument("--recipe", default="kuhn-qwen3-4b", help="whose games and budgets (%(default)s)")
    parser.add_argument("--games", type=int, default=1024, help="a step (%(default)s)")
    parser.add_argument(
        "--tail", type=float, default=1.0, help="sigma of the logarithm of a reply's length (%(default)s)"
    )
    parser.add_argument("--device", choices=sorted(DEVICES), default="h100", help="(%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), help="(1 to 1,024)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs", help="where pictures go (docs)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Works out every table, records it and draws the pictures."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _options(given)
    recipe = load_recipe(options.recipe)
    workload = recipe_workload(recipe, options.games, options.tail)
    rows = recipe.selfplay.in_flight
    device = DEVICES[options.device]
    settings = {
        "device": device.name, "games a step": workload.games, "turns a game": f"{workload.mean_turns:.1f}",
        "prompt tokens": round(workload.prompt), "reply tokens": round(workload.reply), "budget": workload.budget,
        "tail": workload.tail, "epochs": workload.epochs, "in flight": rows, "seed": options.seed,
    }  # fmt: skip

    def case(shape: Shape, workers: int, games: Workload = workload) -> Case:
        return Case(shape=shape, device=device, workers=workers, workload=games, rows=rows, seed=options.seed)

    def keep(table: str, found: Sequence[Row], **about: object) -> None:
        record("scaling", " ".join(["python -m benchmarks.scaling", *given]), {"table": table, **about}, found)

    keep("checks", [check.row() for check in (*measured_here(), *driver_checks(), *published())])
    sweep = [all_plans(case(shape, workers)) for shape in SHAPES for workers in options.workers]
    keep("sweep", [sweep_row(points) for points in sweep], **settings)
    every_other = [points for points in sweep if points["sync"].case.workers in options.workers[::2]]
    former = [_former(points) for points in every_other]
    keep("joining", [joining_row(*pair) for pair in zip(former, every_other, strict=True)], **settings)
    sensitivity = list(sensitivity_rows(case(QWEN3_8B, 1), options.workers[2:9] or options.workers))
    keep("sensitivity", sensitivity, **{**settings, "model": QWEN3_8B.name, "schedule": "overlap"})
    of_shape = {shape: [points for points in sweep if points["sync"].case.shape == shape] for shape in SHAPES}
    ends = [end_row(plan, [points[plan] for points in of_shape[shape]]) for shape in SHAPES for plan in PLANS]
    keep("ends", ends, **settings)
    changes = [row for shape in SHAPES for row in change_rows(case(shape, CHANGED_WORKERS))]
    keep("changes", changes, workers=CHANGED_WORKERS, **settings)
    patience = [row for workers in PATIENT_WORKERS for row in patience_rows(case(QWEN3_8B, workers), ALLOWED)]
    keep("patience", patience, **{**settings, "model": QWEN3_8B.name})
    tails = list(tail_rows(dataclasses.replace(case(QWEN3_8B, CHANGED_WORKERS), steps=TAIL_STEPS)))
    keep("tails", tails, **{**settings, "model": QWEN3_8B.name, "workers": CHANGED_WORKERS, "budget": LONG_BUDGET})
    growing = [
        case(QWEN3_8B, workers, dataclasses.replace(workload, games=GAMES_A_WORKER * workers))
        for workers in options.workers[::2]
    ]
    about = {**settings, "games a step": f"{GAMES_A_WORKER} a worker"}
    keep("growing", [sweep_row(all_plans(each)) for each in growing], **about)
    draw_sweep(sweep, former, options.pictures / "scaling_workers.png")
    draw_tails(tails, options.pictures / "scaling_tails.png")


if __name__ == "__main__":
    main()
