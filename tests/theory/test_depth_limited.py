"""Depth-limited search: tactics, reproducible choices, and errors."""

import random

import pytest

from cpu_time import computing
from spiral.evaluation import evaluate
from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.theory import DepthLimited, Minimax

CONNECT_FOUR = load_game("connect_four")
TICTACTOE = load_game("tictactoe")


def after(game, moves):
    state = game.initial_state()
    for action in moves:
        state = state.apply(action)
    return state


@pytest.mark.parametrize(
    ("moves", "depth", "actions"),
    [
        ("001122", 1, "3"),  # X makes four at once
        ("001122", 4, "3"),  # and takes none of the slower wins
        ("0010204", 2, "0"),  # O completes its column rather than stop the row
        ("16263", 2, "0123456"),  # O cannot stop the row at both ends: every reply loses as soon
        ("0101024", 2, "0"),  # O has to stop the column
        ("3041", 3, "5"),  # X makes three with both ends free
        ("3041", 2, "0123456"),  # which two moves ahead cannot be seen
    ],
)
def test_connect_four_tactics(moves, depth, actions):
    assert DepthLimited(depth).best_actions(after(CONNECT_FOUR, moves)) == tuple(actions)


def test_to_the_end_it_is_minimax():
    perfect = Minimax()
    rng = random.Random(0)
    for _ in range(60):
        state = random_position(rng)
        best = set(DepthLimited(9).best_actions(state))
        assert best
        assert best <= set(perfect.optimal_actions(state))
        if perfect.value(state) == 0.0:
            assert best == set(perfect.optimal_actions(state))


def random_position(rng):
    """A position of tic-tac-toe with a player to move, after three moves or more."""
    while True:
        state = TICTACTOE.initial_state()
        for _ in range(rng.randrange(3, 8)):
            if not state.is_terminal:
                state = state.apply(rng.choice(state.legal_actions()))
        if not state.is_terminal:
            return state


def brute_force(state, ply, depth):
    """The same value without pruning."""
    if state.is_terminal:
        return state.returns()[0] * (1 - ply / 1000)
    if ply == depth:
        return 0.0
    values = [brute_force(state.apply(action), ply + 1, depth) for action in state.legal_actions()]
    return max(values) if state.current_player == 0 else min(values)


def test_pruning_changes_nothing():
    rng = random.Random(1)
    for depth in (1, 2, 3):
        for _ in range(25):
            state = CONNECT_FOUR.initial_state()
            for _ in range(rng.randrange(6, 30)):
                following = state.apply(rng.choice(state.legal_actions()))
                state = state if following.is_terminal else following
            sign = 1 if state.current_player == 0 else -1
            values = {a: sign * brute_force(state.apply(a), 1, depth) for a in state.legal_actions()}
            expected = tuple(action for action, value in values.items() if value == max(values.values()))
            assert DepthLimited(depth).best_actions(state) == expected


def test_the_draw_decides_between_equals_and_the_seed_decides_the_draw():
    state = CONNECT_FOUR.initial_state()
    search = DepthLimited(2)
    chosen = [search.choose(state, random.Random(seed)) for seed in range(12)]
    assert chosen == [DepthLimited(2).choose(state, random.Random(seed)) for seed in range(12)]
    assert len(set(chosen)) > 1
    # Random games know that the middle is worth more than the edge.
    assert sum(action in "234" for action in chosen) > sum(action in "06" for action in chosen)


def test_it_beats_random_play_in_connect_four_and_is_quick():
    policy = scripted_policy("minimax(depth=3)", CONNECT_FOUR)
    result = evaluate(policy, scripted_policy("random", CONNECT_FOUR), CONNECT_FOUR, episodes=12, seed=0)
    assert result.win.value >= 0.9
    assert result.policy == "minimax(depth=3)"
    with computing() as seconds:
        for seed in range(3):
            DepthLimited(4).choose(CONNECT_FOUR.initial_state(), random.Random(seed))
        assert seconds() / 3 < 0.2


def test_looking_further_is_better(monkeypatch):
    monkeypatch.setattr("spiral.theory.depth_limited.PLAYOUTS", 8)
    deep, shallow = (scripted_policy(f"minimax(depth={depth})", CONNECT_FOUR) for depth in (3, 1))
    result = evaluate(deep, shallow, CONNECT_FOUR, episodes=16, seed=0)
    assert result.win.value >= 0.75


@pytest.mark.parametrize("depth", [0, -1, 51])
def test_depths_out_of_range_are_refused(depth):
    with pytest.raises(ValueError, match=f"got depth={depth}; expected a whole number from 1 to 50"):
        DepthLimited(depth)


def test_what_cannot_be_searched_is_refused():
    kuhn = load_game("kuhn_poker").initial_state()
    with pytest.raises(ValueError, match="without chance"):
        DepthLimited(2).best_actions(kuhn)
    with pytest.raises(ValueError, match="the players know different things"):
        DepthLimited(2).best_actions(kuhn.apply("Q").apply("K"))
    with pytest.raises(ValueError, match="the game is over"):
        DepthLimited(2).best_actions(after(TICTACTOE, "03142"))
    with pytest.raises(ValueError, match=r"more than 500 positions are within 6 moves; .* minimax\(depth=5\)"):
        DepthLimited(6, max_positions=500).best_actions(CONNECT_FOUR.initial_state())
