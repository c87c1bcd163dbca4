"""How good was a move? The value of every action at one decision, against perfect play or in equilibrium.

In games of perfect information without chance, by minimax: the player's return when both play perfectly afterwards. In
games with hidden information whose whole tree is small, by an equilibrium: the expected return of the action at the
player's information state, over the states that it cannot tell apart, weighted by how an equilibrium opponent reaches
them, when both play the equilibrium afterwards. Where that opponent never does, it is taken to err with a very small
probability in each of its decisions.

The time can be bounded: a search keeps what it has found, and an equilibrium is solved in a thread that goes on.

A match of Kuhn poker over many hands is too large; its moves are judged as those of a single hand, in chips.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
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
MAX_SOLUTIONS = 4
"""Games whose equilibria are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Solution:
    """The tree of a game and an equilibrium of it."""

    tree: GameTree
    value_N: Floats
    """The value of every node to player 0, [N]."""
    others_reach_N: tuple[Floats, Floats]
    """By player, the probability that chance and the other player, who errs a little, lead to every node, [N]."""
    numbers: Mapping[tuple[int, str], int]
    """The information states by player and name."""


_searching = threading.Lock()
_solving = threading.Lock()
_solutions: dict[Game, Future[_Solution]] = {}
"""In the order in which they were last asked for."""


class TimeUpError(Exception):
    """The time was up; asking again goes on with what was found so far."""


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


def judge_decision(game: Game, state: State, *, until: float | None = None) -> Judgement | None:
    """The value of every action at a decision; None where the game is too large, or theory does not cover it.

    Searches of one game share what they find, so judge a game's last decision first.

    Args:
        game: The game.
        state: Where the player has to decide.
        until: When to give up, by `time.monotonic()`; None never does.

    Raises:
        TimeUpError: `until` has come.
    """
    if game.num_players != 2 or not game.zero_sum or game.free_text or state.current_player < 0:
        return None
    if not _searching.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic())):
        raise TimeUpError
    try:
        return _by_minimax(game, state, until)
    except ValueError:  # hidden information, chance, or too many positions
        pass
    finally:
        _searching.release()
    try:
        if isinstance(state, KuhnPokerState) and not game.exact_theory:
            hand = load_game("kuhn_poker", cards=len(state.deck))
            return _by_equilibrium(hand, _one_hand(state), until, hand=True)
        return _by_equilibrium(game, state, until) if game.exact_theory else None
    except ValueError:
        return None


@functools.lru_cache(maxsize=8)
def _search(game: Game) -> Minimax:  # noqa: ARG001 (what the search is kept for)
    return Minimax()


def _by_minimax(game: Game, state: State, until: float | None) -> Judgement:
    def stop() -> None:
        if until is not None and time.monotonic() > until:
            raise TimeUpError

    search = _search(game)
    search.stop = stop
    if search.positions > MAX_KEPT:
        _search.cache_clear()
    search.max_positions = MAX_MOVES // max(1, len(state.legal_actions()))
    search.value(state)  # refuses hidden information
    sign = 1.0 if state.current_player == 0 else -1.0
    values = {action: sign * search.value(state.apply(action)) for action in state.legal_actions()}
    return _judgement("minimax", values, 1e-9)


def _by_equilibrium(game: Game, state: State, until: float | None, *, hand: bool = False) -> Judgement:
    solution = _solution(game, until)
    tree, value_N = solution.tree, solution.value_N
    player = state.current_player
    reach_N = solution.others_reach_N[player]
    infoset = tree.infosets[solution.numbers[player, state.information_state(player)]]
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


def _solution(game: Game, until: float | None) -> _Solution:
    """The solution of a game, solved in a thread of its own that ends with the process; kept for the last games asked.

    Raises:
        TimeUpError: The thread still works when `until` has come.
        ValueError: The game is too large.
    """
    with _solving:
        found = _solutions.pop(game, None)
        if found is None:
            found = Future[_Solution]()
            name = f"equilibrium of {game.spec}"
            threading.Thread(target=_solve_into, args=(found, game), name=name, daemon=True).start()
        _solutions[game] = found
        for old in list(_solutions)[:-MAX_SOLUTIONS]:
            del _solutions[old]
    try:
        return found.result(None if until is None else max(0.0, until - time.monotonic()))
    except TimeoutError as error:
        raise TimeUpError from error


def _solve_into(future: Future[_Solution], game: Game) -> None:
    try:
        future.set_result(_solve(game))
    except Exception as error:
        future.set_exception(error)


def _solve(game: Game) -> _Solution:
    tree = build_tree(game)
    policy = equilibrium(game)
    probability_A = policy_probabilities(tree, [policy, policy])
    uniform_A = 1.0 / np.bincount(tree.infoset_A)[tree.infoset_A]
    erring_A = (1 - ERROR) * probability_A + ERROR * uniform_A
    first_N, second_N = (
        tree.reach(tree.edge_weights(np.where(tree.player_A == player, 1.0, erring_A))) for player in (0, 1)
    )
    return _Solution(
        tree=tree,
        value_N=tree.values(tree.edge_weights(probability_A)),
        others_reach_N=(first_N, second_N),
        numbers={(infoset.player, infoset.name): number for number, infoset in enumerate(tree.infosets)},
    )


def _one_hand(state: KuhnPokerState) -> State:
    """The current hand of a match as a game of one hand, in which the first to act is player 0."""
    first = (state.current_player - len(state.actions)) % 2
    cards = state.cards if first == 0 else state.cards[::-1]
    return KuhnPokerState(hands=1, deck=state.deck, cards=cards, actions=state.actions)
