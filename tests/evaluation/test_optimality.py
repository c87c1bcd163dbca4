"""Optimality by position: known policies exactly, compared with brute force, and language models."""

import dataclasses
import json
from collections import Counter, defaultdict
from typing import ClassVar

import pytest

from spiral.evaluation import evaluate_exploitability, evaluate_optimality, evaluate_theory
from spiral.evaluation.optimality import optimality_of_table, sampled_optimality
from spiral.evaluation.policy_table import PolicyTable, known_table
from spiral.games import CHANCE, TERMINAL, Game, State, load_game
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig, scripted_policy, scripted_table
from spiral.text import ChatCodec, PromptConfig
from spiral.theory import exploitability, uniform_policy

TICTACTOE = load_game("tictactoe")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heap(Game):
    """Players take one or two from a heap of `size`; the one who takes the last wins. A coin may first remove one."""

    name: ClassVar[str] = "heap"
    summary: ClassVar[str] = "one or two from a heap"
    rules: ClassVar[str] = "nim with one heap"
    size: int = 4
    coin: bool = False

    @property
    def enumerable(self):
        return True

    def initial_state(self):
        return HeapState(left=self.size, actor=CHANCE if self.coin else 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeapState(State):
    left: int
    actor: int
    taken: str = ""

    @property
    def current_player(self):
        return self.actor if self.left else TERMINAL

    def legal_actions(self):
        return tuple(str(count) for count in (1, 2) if count <= self.left) if self.current_player >= 0 else ()

    def chance_outcomes(self):
        return (("0", 0.5), ("1", 0.5)) if self.actor == CHANCE else ()

    def apply(self, action):
        return HeapState(
            left=self.left - int(action), actor=0 if self.actor == CHANCE else 1 - self.actor, taken=self.taken + action
        )

    def position_key(self):
        return (self.left, self.actor)

    def observation(self, player, style="full"):
        return f"{self.left} left"

    def information_state(self, player):
        return self.taken

    def returns(self):
        if self.left:
            return (0.0, 0.0)
        return (1.0, -1.0) if self.actor == 1 else (-1.0, 1.0)


def greedy(state, player):
    return {state.legal_actions()[-1]: 1.0}


@pytest.fixture(scope="module")
def positions():
    """Every position of tic-tac-toe with a decision, by brute force: value of every move, random visits."""
    values, found = {}, {}

    def value(state):
        key = state.position_key()
        if key not in values:
            if state.is_terminal:
                values[key] = state.returns()[0]
            else:
                best = max if state.current_player == 0 else min
                values[key] = best(value(state.apply(action)) for action in state.legal_actions())
                found[key] = state
        return values[key]

    value(TICTACTOE.initial_state())
    visits = defaultdict(float, {TICTACTOE.initial_state().position_key(): 1.0})
    for key, state in sorted(found.items(), key=lambda item: len(item[1].moves)):
        for action in state.legal_actions():
            visits[state.apply(action).position_key()] += visits[key] / len(state.legal_actions())
    regrets = {}
    for key, state in found.items():
        sign = 1 if state.current_player == 0 else -1
        regrets[key] = [sign * (values[key] - values[state.apply(a).position_key()]) for a in state.legal_actions()]
    return regrets, visits


def test_perfect_play_of_tictactoe():
    result = evaluate_optimality(scripted_table("minimax", TICTACTOE), TICTACTOE)
    assert (result.method, result.positions, result.all_positions) == ("exact", 4_520, 4_520)
    for played in (result.uniform, result.self_play, result.random_play):
        assert played.share == pytest.approx(1.0, abs=1e-12)
        assert played.top == pytest.approx(1.0, abs=1e-12)
        assert (played.regret, played.illegal) == (0.0, 0.0)


def test_random_play_of_tictactoe_agrees_with_brute_force(positions):
    regrets, visits = positions
    assert len(regrets) == 4_520
    # All nine first moves draw.
    assert regrets[TICTACTOE.initial_state().position_key()] == [0.0] * 9
    result = evaluate_optimality(uniform_policy, TICTACTOE)
    shares = {key: row.count(0.0) / len(row) for key, row in regrets.items()}
    means = {key: sum(row) / len(row) for key, row in regrets.items()}
    assert result.uniform.share == pytest.approx(sum(shares.values()) / 4_520, abs=1e-12)
    assert result.uniform.top == pytest.approx(result.uniform.share, abs=1e-12)
    assert result.uniform.regret == pytest.approx(sum(means.values()) / 4_520, abs=1e-12)
    total = sum(visits[key] for key in regrets)
    share = sum(visits[key] * shares[key] for key in regrets) / total
    regret = sum(visits[key] * means[key] for key in regrets) / total
    # Random play meets in its own games what random play meets.
    for played in (result.self_play, result.random_play):
        assert (played.share, played.regret) == pytest.approx((share, regret), abs=1e-12)


def test_the_first_move_of_tictactoe_is_always_optimal():
    row = known_table(uniform_policy, TICTACTOE).rows[0]
    assert (row.seat, row.information_state, len(row.probabilities)) == (0, "", 9)
    for cell in "048":
        policy = first_moves(cell)
        result = evaluate_optimality(policy, TICTACTOE)
        assert result.self_play.share == pytest.approx(1.0, abs=1e-12)


def first_moves(cell):
    perfect = scripted_table("minimax", TICTACTOE)
    return lambda state, player: perfect(state, player) if state.moves else {cell: 1.0}


def test_a_heap_by_hand():
    # Only 3 is lost for who has to move. What may be left, move by move: 4 | 3 2 | 2 1 | 1, six positions.
    result = evaluate_optimality(greedy, Heap())
    assert result.all_positions == 6
    # Taking two is wrong from 4 (it should leave 3), gives nothing away from 3, and wins from 2; 1 leaves no choice.
    assert result.uniform.share == pytest.approx(5 / 6)
    assert result.uniform.top == pytest.approx(5 / 6)
    assert result.uniform.regret == pytest.approx(2 / 6)
    # Its own games: two from 4, two from 2.
    assert (result.self_play.share, result.self_play.regret) == pytest.approx((1 / 2, 1.0))
    # Random games meet 4 once, 3 and 2 half the time each; then 2 from 3, 1 from 3 or 2; then 1 from 2.
    visits = 1 + (0.5 + 0.5) + (0.25 + 0.5) + 0.125
    assert result.random_play.regret == pytest.approx(2 / visits)


def test_values_average_over_chance():
    # The coin leaves 3 (lost for player 0) or 4 (won): both positions are asked about, and one alone can go wrong.
    result = evaluate_optimality(greedy, Heap(coin=True))
    assert result.self_play.regret == pytest.approx(0.5 * 2 / 2)
    theory = evaluate_exploitability(greedy, Heap(coin=True))
    assert theory.exploitability == pytest.approx(exploitability(Heap(coin=True), greedy), abs=1e-12)


def test_an_illegal_reply_counts_as_the_worst_ending():
    perfect = known_table(scripted_table("minimax", TICTACTOE), TICTACTOE)
    half = [
        dataclasses.replace(row, probabilities={a: p / 2 for a, p in row.probabilities.items()}, illegal=0.5)
        for row in perfect.rows
    ]
    result = optimality_of_table(PolicyTable(game=TICTACTOE, method="scored", rows=tuple(half)))
    assert result.uniform.illegal == pytest.approx(0.5)
    assert result.uniform.share == pytest.approx(0.5)
    assert result.uniform.top == 1.0
    # Self-play: every position it comes to is a draw, so half a reply gives away one half.
    assert result.self_play.regret == pytest.approx(0.5)
    # An illegal reply ends the game: the first position is met once, the next half the time, and so on.
    never = [dataclasses.replace(row, probabilities=dict.fromkeys(row.probabilities, 0.0), illegal=1.0) for row in half]
    result = optimality_of_table(PolicyTable(game=TICTACTOE, method="scored", rows=tuple(never)))
    assert (result.uniform.share, result.uniform.top, result.self_play.regret) == (0.0, 0.0, 1.0)


def test_the_json_form_is_flat_and_records_hold_every_position():
    result = evaluate_theory(uniform_policy, TICTACTOE)
    flat = json.loads(json.dumps(result.to_json()))
    assert flat["exploitability"] == pytest.approx(0.95983, abs=1e-4)
    assert {"game", "nash_conv", "illegal_mass", "method", "optimal_share", "optimal_top"} < set(flat)
    assert {"regret_uniform", "regret_self", "regret_random", "optimal_share_self", "optimal_top_random"} < set(flat)
    assert "states" not in flat
    assert len(result.records()) == 4_520
    assert result.records()[0] == {
        "seat": 0,
        "information_state": "",
        "probabilities": {str(cell): pytest.approx(1 / 9) for cell in range(9)},
        "illegal": 0.0,
    }


def test_hidden_information_has_exploitability_but_no_optimality():
    with pytest.raises(ValueError, match=r"kuhn_poker hides information .* such as tictactoe"):
        evaluate_optimality(uniform_policy, load_game("kuhn_poker"))
    result = evaluate_theory(uniform_policy, load_game("kuhn_poker"))
    assert result.optimality is None
    assert result.to_json() == evaluate_exploitability(uniform_policy, load_game("kuhn_poker")).to_json()
    with pytest.raises(ValueError, match="too large for exact theory"):
        evaluate_theory(uniform_policy, load_game("connect_four"))


# Language models.


def nano_policy(nano, *, thinking=False):
    codec = ChatCodec(nano.tokenizer, PromptConfig(observation="compact", thinking=thinking))
    return TransformersPolicy(nano.model, codec, SamplingConfig(max_new_tokens=48))


@pytest.mark.slow
def test_the_built_in_model_is_scored(nano):
    # It was taught to play uniformly, so it does about what uniform play does.
    result = evaluate_theory(nano_policy(nano), TICTACTOE)
    uniform = evaluate_optimality(uniform_policy, TICTACTOE)
    assert result.exploitability.method == result.optimality.method == "scored"
    assert result.exploitability.exploitability == pytest.approx(0.95983, abs=0.03)
    assert result.optimality.uniform.share == pytest.approx(uniform.uniform.share, abs=0.03)
    assert result.optimality.random_play.regret == pytest.approx(uniform.random_play.regret, abs=0.05)
    assert 0 < result.optimality.uniform.illegal < 0.05
    assert len(result.records()) == 4_520


def test_a_thinking_model_is_sampled(nano):
    policy = nano_policy(nano, thinking=True)
    result = evaluate_optimality(policy, TICTACTOE, positions=32, samples=2, play_episodes=6, seed=1)
    assert (result.method, result.samples, result.all_positions) == ("sampled", 2, 4_520)
    assert 32 < result.positions <= 64
    flat = json.loads(json.dumps(result.to_json()))
    for name in ("optimal_share", "optimal_top", "regret_uniform", "regret_random", "regret_self"):
        assert flat[f"{name}_low"] <= flat[name] <= flat[f"{name}_high"]
    assert "optimal_top_self" not in flat
    # One row per draw; positions that random play often meets are drawn more than once.
    assert len(result.records()) == 64
    assert max(Counter(row.information_state for row in result.states).values()) > 1
    assert result == evaluate_optimality(policy, TICTACTOE, positions=32, samples=2, play_episodes=6, seed=1)
    assert result != evaluate_optimality(policy, TICTACTOE, positions=32, samples=2, play_episodes=6, seed=2)


def test_exploitability_is_unknown_if_positions_are_sampled(nano, monkeypatch):
    monkeypatch.setattr("spiral.evaluation.exploitability.POSITIONS", 10)
    monkeypatch.setattr("spiral.evaluation.exploitability.SELF_PLAY_EPISODES", 4)
    result = evaluate_theory(nano_policy(nano, thinking=True), TICTACTOE, samples=2)
    flat = result.to_json()
    assert (flat["exploitability"], flat["nash_conv"], flat["method"], flat["samples"]) == (None, None, "sampled", 2)
    assert len(result.records()) == 20


def test_sampled_values_agree_with_exact_ones():
    exact = evaluate_optimality(uniform_policy, TICTACTOE).to_json()
    result = sampled_optimality(scripted_policy("random", TICTACTOE), TICTACTOE, 300, 10, 200, 0)
    flat = result.to_json()
    for name in ("optimal_share", "optimal_share_random", "optimal_share_self"):
        assert flat[f"{name}_low"] <= exact[name] <= flat[f"{name}_high"]
        assert flat[f"{name}_high"] - flat[f"{name}_low"] < 0.1
    for name in ("regret_uniform", "regret_random", "regret_self"):
        assert flat[f"{name}_low"] <= exact[name] <= flat[f"{name}_high"]
        assert flat[f"{name}_high"] - flat[f"{name}_low"] < 0.2
