"""How good was a move? The value of every action at one decision, against perfect play or in equilibrium.

In games of perfect information without chance, by minimax: the player's return when both play perfectly afterwards. In
games with hidden information whose whole tree is small, by an equilibrium: the expected return of the action at the
player's information state, over what it cannot see as the equilibrium's opponent would have got there, when both play
the equilibrium afterwards. Where the other player's equilibrium never gets there, the states are weighed as if it had
erred once with a very small probability in each of its decisions.

A match of Kuhn poker over many hands is too large; its moves are judged as those of a single hand, in chips.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping
from typing import Literal

import numpy as np

from spiral.games import Game, State, load_game
from spiral.games.kuhn_poker import KuhnPokerState
from spiral.theory.cfr import CLOSE_ENOUGH, equilibrium
from spiral.theory.minimax import Minimax
from spiral.theory.policy import policy_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree

MAX_MOVES = 60_000
"""Moves that a search for one decision may try, about half a second in Python: its positions times its actions."""
MAX_KEPT = 200_000
"""Positions of a game whose values are kept from one move to the next."""
ERROR = 1e-6
"""Probability of each action that the equilibrium's opponent is taken to add by mistake."""
_searching = threading.RLock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """The value of every legal action to the player to act, in the game's units, or in chips of a `hand`."""

    method: Literal["minimax", "equilibrium"]
    values: Mapping[str, float]
    best: tuple[str, ...]
    """The actions with the largest value, those within the precision of an approximate equilibrium included."""
    hand: bool = False
    """Whether the values are those of the hand alone, in chips, and not of the match."""

    def regret(self, action: str) -> float:
        """What the player gives away by an action; 0 for the best ones."""
        return 0.0 if action in self.best else max(self.values.values()) - self.values[action]


def judge_decision(game: Game, state: State) -> Judgement | None:
    """The value of every action at a decision; None where the game is too large, or theory does not cover it.

    Searches of one game share what they find, so judge a game's last decision first.
    """
    if game.num_players != 2 or not game.zero_sum or game.free_text or state.current_player < 0:
        return None
    with _searching:
        try:
            return _by_minimax(game, state)
        except ValueError:  # hidden information, chance, or too many positions
            pass
        try:
            if isinstance(state, KuhnPokerState) and not game.exact_theory:
                hand = load_game("kuhn_poker", cards=len(state.deck))
                return _by_equilibrium(hand, _one_hand(state), hand=True)
            return _by_equilibrium(game, state) if game.exact_theory else None
        except ValueError:
            return None


@functools.lru_cache(maxsize=8)
def _search(game: Game) -> Minimax:  # noqa: ARG001 (what the search is kept for)
    return Minimax()


def _by_minimax(game: Game, state: State) -> Judgement:
    search = _search(game)
    if search.positions > MAX_KEPT:
        _search.cache_clear()
    search.max_positions = MAX_MOVES // max(1, len(state.legal_actions()))
    search.value(state)  # refuses hidden information
    sign = 1.0 if state.current_player == 0 else -1.0
    values = {action: sign * search.value(state.apply(action)) for action in state.legal_actions()}
    return _judgement("minimax", values, 1e-9)


def _by_equilibrium(game: Game, state: State, *, hand: bool = False) -> Judgement:
    tree, value_N, slots = _solved(game)
    player = state.current_player
    number, reach_N = slots[player, state.information_state(player)], _others_reach(game, player)
    infoset = tree.infosets[number]
    edges = np.flatnonzero(
        (tree.slot_E >= infoset.first_slot) & (tree.slot_E < infoset.first_slot + len(infoset.actions))
    )
    weight_E = reach_N[tree.source_E[edges]]
    sign = 1.0 if player == 0 else -1.0
    values = {}
    for index, action in enumerate(infoset.actions):
        mine = tree.slot_E[edges] == infoset.first_slot + index
        values[action] = sign * float(np.average(value_N[tree.target_E[edges[mine]]], weights=weight_E[mine]))
    exact = game.spec == "kuhn_poker"
    tolerance = 10 * ERROR if exact else 10 * CLOSE_ENOUGH * float(np.abs(tree.payoff_N).max())
    return _judgement("equilibrium", values, tolerance, hand=hand)


def _judgement(
    method: Literal["minimax", "equilibrium"], values: Mapping[str, float], tolerance: float, *, hand: bool = False
) -> Judgement:
    top = max(values.values())
    best = tuple(action for action, value in values.items() if value >= top - tolerance)
    return Judgement(method=method, values=values, best=best, hand=hand)


@functools.lru_cache(maxsize=4)
def _solved(game: Game) -> tuple[GameTree, Floats, Mapping[tuple[int, str], int]]:
    """The tree, the value of every node to player 0 in equilibrium, and the information states by player and name."""
    tree = build_tree(game)
    probability_A = _equilibrium_of(game, tree)
    slots = {(infoset.player, infoset.name): number for number, infoset in enumerate(tree.infosets)}
    return tree, tree.values(tree.edge_weights(probability_A)), slots


@functools.lru_cache(maxsize=8)
def _others_reach(game: Game, player: int) -> Floats:
    """The probability that chance and the other player, who errs a little, lead to every node, [N]."""
    tree = build_tree(game)
    uniform_A = 1.0 / np.bincount(tree.infoset_A)[tree.infoset_A]
    erring_A = (1 - ERROR) * _equilibrium_of(game, tree) + ERROR * uniform_A
    return tree.reach(tree.edge_weights(np.where(tree.player_A == player, 1.0, erring_A)))


def _equilibrium_of(game: Game, tree: GameTree) -> Floats:
    policy = equilibrium(game)
    return policy_probabilities(tree, [policy, policy])


def _one_hand(state: KuhnPokerState) -> State:
    """The current hand of a match as a game of one hand, in which the first to act is player 0."""
    first = (state.current_player - len(state.actions)) % 2
    cards = state.cards if first == 0 else state.cards[::-1]
    return KuhnPokerState(hands=1, deck=state.deck, cards=cards, actions=state.actions)
