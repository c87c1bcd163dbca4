"""Policies as functions: `(state, player)` to a probability for each action.

A policy must depend only on what the player can observe. Exact theory enforces this: it queries a policy once per
information state, with one of its states, and uses the answer in all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from spiral.games import State
from spiral.theory.tree import Floats, GameTree, InformationState

TabularPolicy = Callable[[State, int], Mapping[str, float]]
"""`(state, player) -> {action: probability}`; legal actions left out have probability zero."""

SUM_TOLERANCE = 1e-6
"""Probabilities off by no more than this (single precision) are rescaled, others are refused."""


def uniform_policy(state: State, player: int) -> dict[str, float]:  # noqa: ARG001 - the signature of every policy
    """Every legal action with the same probability."""
    actions = state.legal_actions()
    return {action: 1.0 / len(actions) for action in actions}


def information_key(state: State, player: int) -> Hashable:
    """The player's information state."""
    return state.information_state(player)


def player_and_information_key(state: State, player: int) -> Hashable:
    """The player and its information state, for games that give both players the same text."""
    return (player, state.information_state(player))


def position_key(state: State, player: int) -> Hashable:
    """The player and the position, regardless of the moves before it."""
    return (player, state.position_key())


@dataclasses.dataclass(frozen=True, kw_only=True)
class TablePolicy:
    """A policy read from a table: `rows[key(state, player)]` holds the probabilities."""

    rows: Mapping[Hashable, Mapping[str, float]]
    key: Callable[[State, int], Hashable] = information_key

    def __call__(self, state: State, player: int) -> Mapping[str, float]:
        """The row of the table for `player` in `state`."""
        key = self.key(state, player)
        if key not in self.rows:
            raise ValueError(
                f"the policy has no row for {key!r}; it has {len(self.rows)}, and needs one for each information state"
            )
        return self.rows[key]


def policy_from_table(table: Mapping[str, Mapping[str, float]]) -> TablePolicy:
    """A policy from `{information state: {action: probability}}`."""
    rows: dict[Hashable, Mapping[str, float]] = dict(table.items())
    return TablePolicy(rows=rows)


def table_from_probabilities(tree: GameTree, probability_A: Floats, players: Sequence[int] = (0, 1)) -> TablePolicy:
    """The policy with probability `probability_A[slot]` at the information states of `players`."""
    key = position_key if tree.merged else player_and_information_key
    rows: dict[Hashable, Mapping[str, float]] = {}
    for infoset in tree.infosets:
        if infoset.player in players:
            row = probability_A[infoset.first_slot : infoset.first_slot + len(infoset.actions)]
            rows[key(infoset.state, infoset.player)] = dict(zip(infoset.actions, row.tolist(), strict=True))
    return TablePolicy(rows=rows, key=key)


def policy_probabilities(tree: GameTree, policies: Sequence[TabularPolicy | None]) -> Floats:
    """Both players' policies as one array, [A]; each is called once for each of its player's information states.

    A player whose policy is None gets probability one everywhere, which drops it from products of probabilities.
    """
    probability_A = np.ones(len(tree.infoset_A))
    for infoset in tree.infosets:
        policy = policies[infoset.player]
        if policy is not None:
            last_slot = infoset.first_slot + len(infoset.actions)
            probability_A[infoset.first_slot : last_slot] = _checked_row(infoset, policy(infoset.state, infoset.player))
    return probability_A


def _checked_row(infoset: InformationState, given: Mapping[str, float]) -> list[float]:
    """The probability of each legal action, in order. Raises `ValueError` for an invalid policy."""
    where = f"information state {infoset.name!r} of player {infoset.player}"
    if not isinstance(given, Mapping):
        raise ValueError(f"the policy gave {given!r} at {where}; expected a mapping from action to probability")
    row = [float(given.get(action, 0.0)) for action in infoset.actions]
    illegal = {action: given[action] for action in given if action not in infoset.actions and given[action] != 0}
    if illegal:
        raise ValueError(
            f"the policy gave illegal actions {illegal} at {where}; legal there: {', '.join(infoset.actions)}."
            " Move their probability to legal actions first"
        )
    if not all(math.isfinite(probability) and probability >= 0.0 for probability in row):
        raise ValueError(f"the policy gave {dict(given)} at {where}; expected finite probabilities of at least zero")
    total = sum(row)
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"the policy gave {dict(given)} at {where}, which sums to {total:.9g}; expected a sum of 1")
    return [probability / total for probability in row]
