"""Agreement with OpenSpiel (Lanctot et al., 2019), action by action, and the sizes of trees."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Hashable
from typing import Any

import pytest

from spiral.games import Game, State, load_game

pyspiel = pytest.importorskip("pyspiel")

CELLS = {str(cell): cell for cell in range(9)}
KUHN = {"check": 0, "fold": 0, "bet": 1, "call": 1}
LEDUC = {"fold": 0, "call": 1, "raise": 2}
NUM_PLAYOUTS = 1000


@dataclasses.dataclass(frozen=True)
class Pair:
    """A game here and there; `cards_per_rank` of OpenSpiel's chance outcomes are one of ours."""

    name: str
    other: str
    actions: dict[str, int]
    cards_per_rank: int = 1

    def load(self) -> tuple[Game, Any]:
        return load_game(self.name), pyspiel.load_game(self.other)


PAIRS = [
    Pair("tictactoe", "tic_tac_toe", CELLS),
    Pair("kuhn_poker", "kuhn_poker", KUHN),
    Pair("leduc_poker", "leduc_poker", LEDUC, cards_per_rank=2),
    Pair("connect_four", "connect_four", CELLS),
]


def same_chance(pair: Pair, state: State, other: Any) -> bool:
    """Whether both deal the same ranks with the same probabilities."""
    theirs: dict[str, float] = {}
    for card, probability in other.chance_outcomes():
        rank = "JQK"[card // pair.cards_per_rank]
        theirs[rank] = theirs.get(rank, 0) + probability
    return dict(state.chance_outcomes()) == pytest.approx(theirs)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_random_games_agree_with_openspiel(pair: Pair) -> None:
    game, other_game = pair.load()
    rng = random.Random(pair.name)
    for _ in range(NUM_PLAYOUTS):
        state, other = game.initial_state(), other_game.new_initial_state()
        while not other.is_terminal():
            assert state.current_player == other.current_player(), str(other)
            if other.is_chance_node():
                assert same_chance(pair, state, other), str(other)
                card = rng.choice(other.legal_actions())
                state = state.apply("JQK"[card // pair.cards_per_rank])
                other.apply_action(card)
                continue
            assert sorted(pair.actions[action] for action in state.legal_actions()) == other.legal_actions()
            action = rng.choice(state.legal_actions())
            state = state.apply(action)
            other.apply_action(pair.actions[action])
        assert state.is_terminal, str(other)
        assert list(state.returns()) == other.returns(), str(other)


def tree_size(state: State) -> int:
    actions = [name for name, _ in state.chance_outcomes()] or state.legal_actions()
    return 1 + sum(tree_size(state.apply(action)) for action in actions)


def openspiel_tree_size(state: Any) -> int:
    return 1 + sum(openspiel_tree_size(state.child(action)) for action in state.legal_actions())


@pytest.mark.parametrize(
    ("name", "other", "nodes"),
    [("kuhn_poker", "kuhn_poker", 58), ("leduc_poker", "leduc_poker(suit_isomorphism=True)", 1939)],
)
def test_tree_sizes_agree_with_openspiel(name: str, other: str, nodes: int) -> None:
    assert tree_size(load_game(name).initial_state()) == nodes
    assert openspiel_tree_size(pyspiel.load_game(other).new_initial_state()) == nodes


def test_the_two_hand_kuhn_match_has_3537_nodes() -> None:
    """One root, and for each starter thirty finished lines, each with another hand's tree of 58."""
    assert 1 + 2 * ((58 - 30) + 30 * 58) == 3537
    assert tree_size(load_game("kuhn_poker", hands=2).initial_state()) == 3537


def test_tictactoe_has_5478_positions_and_549946_histories() -> None:
    states: dict[Hashable, State] = {}

    @functools.cache
    def histories(key: Hashable) -> int:
        state = states[key]
        total = 1
        for action in state.legal_actions():
            child = state.apply(action)
            states.setdefault(child.position_key(), child)
            total += histories(child.position_key())
        return total

    root = load_game("tictactoe").initial_state()
    states[root.position_key()] = root
    assert histories(root.position_key()) == 549_946
    assert len(states) == 5_478


def test_connect_four_has_the_known_number_of_positions_at_each_ply() -> None:
    """1, 7, 49, 238, 1120, 4263: counted by John Tromp; OEIS A212693."""
    layer: dict[Hashable, State] = {None: load_game("connect_four").initial_state()}
    sizes = []
    for _ in range(6):
        sizes.append(len(layer))
        children = [state.apply(action) for state in layer.values() for action in state.legal_actions()]
        layer = {child.position_key(): child for child in children}
    assert sizes == [1, 7, 49, 238, 1120, 4263]
