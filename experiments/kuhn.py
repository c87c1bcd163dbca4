"""Numbers of runs of kuhn.toml for several tables, exact, from the probabilities that each evaluation keeps.

`policies`, `payoff` and `against_random` take another game too, one whose evaluations keep them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import spiral
from spiral.experiments.paired import by_step
from spiral.theory.policy import TablePolicy, policy_from_table, uniform_policy

T = TypeVar("T")
GAME = "kuhn_poker"
EXPLOITABILITY = f"evaluation/{GAME}/exploitability"
Rows = Mapping[str, Mapping[str, float]]
"""Information state to the probability of each legal action; they sum to 1."""


def exploitability(run: Path) -> dict[int, float]:
    """By step of training."""
    return {row["step"]: row[EXPLOITABILITY] for row in spiral.read_metrics(run) if EXPLOITABILITY in row}


def policies(run: Path, game: str = GAME) -> dict[int, Rows]:
    """The policy after each evaluated step, legal actions renormalised."""
    found = {}
    for file in sorted(run.glob(f"evaluation/step-*/{game}-states.jsonl")):
        states = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        step = int(file.parent.name.removeprefix("step-"))
        found[step] = {state["information_state"]: _legal(state["probabilities"]) for state in states}
    return found


def _legal(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Probabilities of the legal actions that sum to 1; equal ones where none is ever chosen."""
    total = sum(probabilities.values())
    return {action: value / total if total else 1 / len(probabilities) for action, value in probabilities.items()}


def late(by_step: Mapping[int, T]) -> list[T]:
    """The evaluations of the second half of a run."""
    return [one for step, one in sorted(by_step.items()) if step * 2 > max(by_step)]


def distance(one: Rows, other: Rows) -> float:
    """Mean total variation over the information states: 0 for the same policy, 1 for opposite ones."""
    return fmean(
        sum(abs(value - other[state][action]) for action, value in row.items()) / 2 for state, row in one.items()
    )


def payoff(one: TablePolicy, other: TablePolicy | None = None, game: str = GAME) -> float:
    """What `one` wins of `other`, or of random play, as each player in turn: the mean in chips a game."""
    rules, opposite = spiral.load_game(game), other or uniform_policy
    first, second = spiral.expected_returns(rules, [one, opposite]), spiral.expected_returns(rules, [opposite, one])
    return (first[0] + second[1]) / 2


def late_exploitability(run: Path) -> float:
    """Mean over the evaluations of the second half."""
    return fmean(late(exploitability(run)))


def last_exploitability(run: Path) -> float:
    """After the last step."""
    return [*exploitability(run).values()][-1]


def exploitability_change(run: Path) -> float:
    """After the last step, less that of the start: below 0 where the run has learned the game."""
    return last_exploitability(run) - by_step(run, EXPLOITABILITY)[0]


def illegal(run: Path) -> float:
    """Share of illegal moves in the last ten steps."""
    return fmean(row["rollout/illegal"] for row in spiral.read_metrics(run)[-10:])


def against_random(run: Path, game: str = GAME) -> float:
    """What the last policy wins of random play."""
    return payoff(policy_from_table([*policies(run, game).values()][-1]), game=game)


def moved(run: Path) -> float:
    """How far the last policy is from the start."""
    found = [*policies(run).values()]
    return distance(found[0], found[-1])


def walked(run: Path) -> float:
    """The way from evaluation to evaluation in the second half."""
    return sum(distance(one, other) for one, other in pairwise(late(policies(run))))


def got_away(run: Path) -> float:
    """How far the second half's last policy is from its first."""
    found = late(policies(run))
    return distance(found[0], found[-1])


def beaten_by_earlier(run: Path) -> float:
    """Share of the pairs of evaluations of the second half whose later policy loses to the earlier one."""
    found = [policy_from_table(rows) for rows in late(policies(run))]
    return fmean(payoff(later, earlier) < 0 for earlier, later in combinations(found, 2))
