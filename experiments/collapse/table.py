"""Whether self-play stops learning where no decision that it reaches depends on the private card.

All numbers of a policy are exact, from its probabilities in every information state, which each evaluation keeps. A
position is an information state that self-play reaches; its siblings are the other positions with the same public
history, so that the player is the same and only the private card differs.

Legend, as in `spiral.theory.tree`: N nodes, I information states, A the actions of all information states.
"""

from __future__ import annotations

import runpy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

import spiral
from spiral.experiments.paired import by_seed, by_step, compare, curves
from spiral.experiments.tables import Curves, Entry, Results, Table
from spiral.runs.directory import read_metrics
from spiral.theory.best_response import respond
from spiral.theory.policy import policy_from_table, policy_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree

kuhn = runpy.run_path(str(Path(__file__).parents[1] / "kuhn.py"))
GAMES = {"kuhn": "kuhn_poker", "leduc": "leduc_poker"}
"""The game of the arms that begin with this name."""
PULLS = ("none", "start")
REACHED = 0.01
"""Probability from which on self-play reaches an information state."""
DIFFERENT = 0.1
"""Total variation from which on the policy differs between two information states."""
WORSE = 0.05
"""Chips that an action gives away, from which on it is not a best one."""
COLLAPSED = 0.25
"""Mean advantage, as a share of that at the start, below which there is no more to learn from."""
LEARNED = 0.5
"""Exploitability, as a share of that at the start, up to which a run has learned the game.

Such a run is not judged further: near an equilibrium players are indifferent between actions, so that advantages and
contingent decisions vanish there too."""
LOST = 0.1
"""Share of contingent decisions, weighted by reach, below which a run has lost them."""
WINDOW = 10
"""Steps at the end of a run over which metrics are averaged."""
OUTCOMES = ("learned", "neither", "collapsed alone", "contingency lost alone", "both")
"""Of runs that have not learned the game: whether they collapsed, and whether they lost their contingent decisions."""


class Reading(NamedTuple):
    """What the decisions of one policy in self-play depend on."""

    positions: int
    """Information states that self-play reaches with a probability of `REACHED` or more."""
    varied: float
    """Share of the positions in which the policy differs from that of a sibling by `DIFFERENT` or more."""
    varied_by_reach: float
    """The same, weighted by the probability of reaching a position."""
    contingent: float
    """Share of the positions with a sibling such that no action is a best one in both, against this policy."""
    contingent_by_reach: float
    """The same, weighted by the probability of reaching a position."""
    advantage: float
    """Mean absolute advantage, in chips, of the actions of self-play: each decision by its reach, each action by its
    probability."""


def tables(results: Results) -> list[Table | Curves]:
    """For each game: the pull against none, how many runs collapsed and what they had lost, and curves."""
    found: list[Table | Curves] = []
    for name, game in GAMES.items():
        arms = [f"{name}_{pull}" for pull in PULLS]
        found += compare(results, arms, arms[0], columns(game), f"Self-play in {game}", prefix=f"{name}_")
        found.append(outcomes(results, arms, name))
        series: dict[str, Callable[[Path], Mapping[int, float]]] = {
            "exploitability": partial(by_step, key=exploitability_key(game)),
            **{field: partial(over_steps, game=game, field=field)
               for field in ("contingent_by_reach", "varied_by_reach", "advantage")},
        }  # fmt: skip
        for label, number in series.items():
            title = f"{label.replace('_', ' ').capitalize()} in {game}"
            found.append(curves(results, arms, number, title, name=f"{name}_{label}"))
    return found


def columns(game: str) -> dict[str, Callable[[Path], float | None]]:
    """The numbers of a run, those of its policy after the last step."""
    key = exploitability_key(game)
    fields = {
        "mean advantage": "advantage",
        "positions reached": "positions",
        "policy depends on the card": "varied",
        "policy depends, by reach": "varied_by_reach",
        "best action depends on the card": "contingent",
        "best action depends, by reach": "contingent_by_reach",
    }
    return {
        "exploitability": lambda run: last(by_step(run, key)),
        "exploitability, less the start": lambda run: last(by_step(run, key)) - first(by_step(run, key)),
        "what it wins of random play": partial(kuhn["against_random"], game=game),
        "illegal moves, last ten steps": partial(late_mean, key="rollout/illegal"),
        "zero advantages, last ten steps": partial(late_mean, key="credit/zero_advantage"),
        "entropy of player 0, last ten steps": partial(late_mean, key=f"selfplay/{game}/player0/entropy"),
        "entropy of player 1, last ten steps": partial(late_mean, key=f"selfplay/{game}/player1/entropy"),
        **{title: partial(last_reading, game=game, field=field) for title, field in fields.items()},
    }


def outcomes(results: Results, arms: Sequence[str], name: str) -> Table:
    """How many runs of each arm collapsed, lost their contingent decisions, or both."""
    entries = []
    for arm in arms:
        found = [*by_seed(results, arm, partial(outcome, game=GAMES[name])).values()]
        for kind in OUTCOMES:
            count = found.count(kind) if found else None
            entries.append(Entry(row=arm, column=kind, value=count, n=len(found) or None))
    return Table(
        name=f"{name}_outcomes", title=f"Runs in {GAMES[name]} by their outcome", entries=entries, form="{:.0f}",
        note=f"After the last step. Learned: exploitability at most {LEARNED:.0%} of the start. Of the others,"
        f" collapsed: mean advantage below {COLLAPSED:.0%} of the start; contingency lost: the best action depends on"
        f" the card in less than {LOST:.0%} of the decisions.",
    )  # fmt: skip


def outcome(run: Path, game: str) -> str:
    """Which of `OUTCOMES` a run came to, by its weights after the last step."""
    exploitability, advantage = by_step(run, exploitability_key(game)), over_steps(run, game, "advantage")
    if last(exploitability) <= LEARNED * first(exploitability):
        return "learned"
    collapsed = last(advantage) < COLLAPSED * first(advantage)
    if last_reading(run, game, "contingent_by_reach") < LOST:
        return "both" if collapsed else "contingency lost alone"
    return "collapsed alone" if collapsed else "neither"


def exploitability_key(game: str) -> str:
    """The metric of a run's exploitability in a game."""
    return f"evaluation/{game}/exploitability"


def first(by_step: Mapping[int, float]) -> float:
    """Before the first step of training."""
    return by_step[min(by_step)]


def last(by_step: Mapping[int, float]) -> float:
    """After the last step."""
    return by_step[max(by_step)]


def late_mean(run: Path, key: str) -> float | None:
    """The mean of a metric over the last ten steps; None where none of them has it."""
    found = [row[key] for row in read_metrics(run)[-WINDOW:] if key in row]
    return fmean(found) if found else None


def over_steps(run: Path, game: str, field: str) -> dict[int, float]:
    """A field of the reading of each evaluated policy, by step; 0 is before training."""
    return {step: getattr(reading(rows, game), field) for step, rows in kuhn["policies"](run, game).items()}


def last_reading(run: Path, game: str, field: str) -> float:
    """A field of the reading of the policy after the last step."""
    return float(getattr(reading([*kuhn["policies"](run, game).values()][-1], game), field))


def reading(rows: Mapping[str, Mapping[str, float]], game: str) -> Reading:
    """What the decisions of a policy in self-play depend on.

    Args:
        rows: The policy: for each information state the probability of each legal action; they sum to 1.
        game: Kuhn or Leduc poker, whose information states begin with the private card.

    Raises:
        ValueError: The policy lacks an information state.
    """
    tree, policy = build_tree(spiral.load_game(game)), policy_from_table(rows)
    probability_A = policy_probabilities(tree, [policy, policy])
    reach_N = tree.reach(tree.edge_weights(probability_A))
    decided = tree.infoset_N >= 0
    reach_I = np.bincount(tree.infoset_N[decided], reach_N[decided], len(tree.infosets))
    siblings = siblings_of(tree, reach_I)
    varies = [any(variation(tree, probability_A, one, other) >= DIFFERENT for other in siblings[one])
              for one in siblings]  # fmt: skip
    loss_A = losses(tree, probability_A, reach_N)
    depends = [any(loss_of_one_action(tree, loss_A, one, other) >= WORSE for other in siblings[one])
               for one in siblings]  # fmt: skip
    weights = reach_I[[*siblings]]
    return Reading(
        positions=len(siblings),
        varied=fmean(varies),
        varied_by_reach=float(np.average(varies, weights=weights)),
        contingent=fmean(depends),
        contingent_by_reach=float(np.average(depends, weights=weights)),
        advantage=mean_advantage(tree, probability_A, reach_N, reach_I),
    )


def siblings_of(tree: GameTree, reach_I: Floats) -> dict[int, list[int]]:
    """The positions, by their number, and the siblings of each: other private cards, the same public history."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number in np.flatnonzero(reach_I >= REACHED).tolist():
        _private, _colon, public = tree.infosets[number].name.partition(":")
        groups[public].append(number)
    return {one: [other for other in group if other != one] for group in groups.values() for one in group}


def variation(tree: GameTree, probability_A: Floats, one: int, other: int) -> float:
    """Total variation between the policy in two information states with the same actions."""
    return float(np.abs(row(tree, probability_A, one) - row(tree, probability_A, other)).sum() / 2)


def loss_of_one_action(tree: GameTree, loss_A: Floats, one: int, other: int) -> float:
    """What the action that suits two information states best gives away in the worse of them, in chips."""
    return float(np.maximum(row(tree, loss_A, one), row(tree, loss_A, other)).min())


def row(tree: GameTree, value_A: Floats, number: int) -> Floats:
    """The values of the actions of one information state."""
    infoset = tree.infosets[number]
    return value_A[infoset.first_slot : infoset.first_slot + len(infoset.actions)]


def losses(tree: GameTree, probability_A: Floats, reach_N: Floats) -> Floats:
    """What each action gives away to the best one, in chips, against the policy and with best play afterwards, [A]."""
    best_A = np.zeros(len(probability_A))
    for player in (0, 1):
        _value, response_A = respond(tree, probability_A, player)
        best_A = np.where(tree.player_A == player, action_values(tree, response_A, reach_N), best_A)
    most_I = np.maximum.reduceat(best_A, [infoset.first_slot for infoset in tree.infosets])
    return most_I[tree.infoset_A] - best_A


def mean_advantage(tree: GameTree, probability_A: Floats, reach_N: Floats, reach_I: Floats) -> float:
    """The mean absolute advantage of the actions of self-play over the policy itself, in chips."""
    value_A = action_values(tree, probability_A, reach_N)
    own_I = np.bincount(tree.infoset_A, probability_A * value_A)
    weight_A = reach_I[tree.infoset_A] * probability_A
    return float(np.average(np.abs(value_A - own_I[tree.infoset_A]), weights=weight_A))


def action_values(tree: GameTree, weight_A: Floats, reach_N: Floats) -> Floats:
    """The expected return of each action to its player, in chips, [A]; 0 where the information state is not reached.

    Args:
        tree: The game.
        weight_A: Both players' probabilities after the action, [A].
        reach_N: The probability of each node, by which those of an information state are weighted, [N].
    """
    value_N = tree.values(tree.edge_weights(weight_A))
    decided_E = tree.slot_E >= 0
    source_E, target_E, slot_E = tree.source_E[decided_E], tree.target_E[decided_E], tree.slot_E[decided_E]
    sign_E = np.where(tree.actor_N[source_E] == 0, 1.0, -1.0)
    reach_A = np.bincount(slot_E, reach_N[source_E], len(weight_A))
    sum_A = np.bincount(slot_E, reach_N[source_E] * sign_E * value_N[target_E], len(weight_A))
    return np.divide(sum_A, reach_A, out=np.zeros(len(weight_A)), where=reach_A > 0)
