"""Perfect play: known values of tic-tac-toe, late positions of connect four, and errors."""

import pytest

from spiral.games import load_game
from spiral.theory import Minimax, minimax_actions, minimax_value
from spiral.theory.minimax import optimal_values
from spiral.theory.tree import build_tree

START = load_game("tictactoe").initial_state()


def after(state, moves):
    for action in moves:
        state = state.apply(action)
    return state


def test_tictactoe_is_a_draw_whatever_the_first_move():
    search = Minimax()
    assert search.value(START) == 0.0
    assert search.optimal_actions(START) == tuple("012345678")


@pytest.mark.parametrize(
    ("moves", "value", "actions"),
    [
        ("4", 0.0, "0268"),  # only a corner holds the centre
        ("0", 0.0, "4"),  # only the centre holds a corner
        ("01", 1.0, "346"),  # an edge beside the corner loses to two threats at once
        ("0314", 1.0, "2"),  # complete the row
        ("0487", 0.0, "1"),  # block the column
        ("30481", 1.0, "2567"),  # O cannot stop both the row and the column: every reply is as bad
    ],
)
def test_tictactoe_positions(moves, value, actions):
    state = after(START, moves)
    assert minimax_value(state) == value
    assert minimax_actions(state) == tuple(actions)


def brute_force(state):
    """Minimax in three lines, without a table."""
    if state.is_terminal:
        return state.returns()[0]
    values = [brute_force(state.apply(action)) for action in state.legal_actions()]
    return max(values) if state.current_player == 0 else min(values)


@pytest.mark.parametrize("moves", ["012", "048", "485", "1357", "0264"])
def test_same_as_brute_force(moves):
    state = after(START, moves)
    search = Minimax()
    assert search.value(state) == brute_force(state)
    expected = tuple(a for a in state.legal_actions() if brute_force(state.apply(a)) == brute_force(state))
    assert search.optimal_actions(state) == expected


def test_finished_games_have_a_value_and_no_optimal_action():
    won = after(START, "03142")
    assert minimax_value(won) == 1.0
    with pytest.raises(ValueError, match="the game is over"):
        minimax_actions(won)


@pytest.mark.parametrize(
    ("moves", "actions"),
    [("53314202053034204525626326666304", "1"), ("55551125300412566434261332160061", "04")],
)
def test_late_connect_four(moves, actions):
    state = after(load_game("connect_four").initial_state(), moves)
    search = Minimax()
    assert search.value(state) == brute_force(state) == 1.0
    assert search.optimal_actions(state) == tuple(actions)


def test_too_many_positions_are_refused():
    with pytest.raises(ValueError, match="more than 1,000 positions follow"):
        minimax_value(START, max_positions=1_000)
    # 5,478 positions, of which 958 are final and need no search.
    assert minimax_value(START, max_positions=5_478 - 958) == 0.0
    with pytest.raises(ValueError, match="more than 4,519 positions follow"):
        minimax_value(START, max_positions=5_478 - 958 - 1)


def test_the_error_suggests_a_depth_limit():
    with pytest.raises(ValueError, match=r"too many for exact search; use minimax\(depth=4\)"):
        minimax_value(load_game("connect_four").initial_state(), max_positions=500)


def test_values_of_all_positions_at_once():
    tree = build_tree(load_game("tictactoe"), True)
    value_N = optimal_values(tree)
    search = Minimax()
    nodes = {int(infoset): node for node, infoset in enumerate(tree.infoset_N) if infoset >= 0}
    assert len(nodes) == 4_520
    assert all(value_N[nodes[index]] == search.value(infoset.state) for index, infoset in enumerate(tree.infosets))


def test_perfect_play_as_a_policy():
    search = Minimax()
    assert search.policy(START, 0) == {str(cell): 1 / 9 for cell in range(9)}
    assert search.policy(after(START, "0"), 1) == {"4": 1.0}


def test_chance_is_refused():
    with pytest.raises(ValueError, match="without chance"):
        minimax_value(load_game("kuhn_poker").initial_state())


def test_hidden_information_is_refused():
    dealt = load_game("kuhn_poker").initial_state().apply("Q").apply("K")
    with pytest.raises(ValueError, match="the players know different things"):
        minimax_value(dealt)
