"""Advantages by hand: the baseline is read before it moves, and each game and player has its own."""

import json
import sys
import types
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spiral
from made_up import new_episode, new_turn
from spiral.games.failures import UserCodeError
from spiral.training.advantages import (
    RAE,
    BatchMean,
    CreditConfig,
    PlainReturns,
    RoleBaselines,
    load_estimator,
)


def episodes(*returns, game="tictactoe"):
    """Episodes of one turn for each player."""
    return [new_episode(pair, [new_turn(0), new_turn(1)], game=game) for pair in returns]


def values(advantages):
    return [tuple(array) for array in advantages]


def test_four_episodes_by_hand():
    rae = RAE(decay=0.95)
    played = episodes((1.0, -1.0), (1.0, -1.0), (0.0, 0.0), (-1.5, 0.5))
    # Player 0: b is 0, then 0.05, then 0.0975, then 0.092625; player 1 mirrors it until the illegal move.
    assert values(rae(played)) == [
        pytest.approx((1.0, -1.0), abs=1e-12),
        pytest.approx((0.95, -0.95), abs=1e-12),
        pytest.approx((-0.0975, 0.0975), abs=1e-12),
        pytest.approx((-1.592625, 0.592625), abs=1e-12),
    ]
    assert rae.baseline("tictactoe", 0) == pytest.approx(0.95 * 0.092625 - 0.05 * 1.5, abs=1e-12)
    assert rae.baseline("tictactoe", 1) == pytest.approx(-0.95 * 0.092625 + 0.05 * 0.5, abs=1e-12)


def test_rae_is_at_the_front_door():
    assert spiral.RAE is RAE
    (advantages,) = spiral.RAE()(episodes((1.0, -1.0)))
    assert advantages.tolist() == [1.0, -1.0]


def test_reading_before_updating_makes_the_first_advantage_the_return():
    # Updating first would scale every advantage by the decay.
    assert values(RAE(decay=0.5)(episodes((2.0, -2.0)))) == [(2.0, -2.0)]


def test_every_turn_has_the_advantage_of_its_player():
    turns = [new_turn(ply % 2) for ply in range(3)]
    (advantages,) = RAE()([new_episode((1.0, -0.5), turns)])
    assert advantages.dtype == np.float64
    assert advantages.tolist() == [1.0, -0.5, 1.0]
    assert [array.shape for array in RAE()([new_episode((1.0, -1.0))])] == [(0,)]


def test_turns_of_a_player_that_does_not_learn_have_none():
    turns = [new_turn(0), new_turn(1)]
    rae = RAE()
    assert values(rae([new_episode((1.0, -1.0), turns, trainable=(False, True))])) == [(0.0, -1.0)]
    assert rae.baseline("tictactoe against a", 0) == 0.0
    assert rae.baseline("tictactoe against a", 1) == pytest.approx(-0.05)


@given(
    returns=st.lists(st.floats(-2, 2), min_size=1, max_size=30),
    decay=st.floats(0, 0.99),
)
def test_the_baseline_is_the_discounted_sum_of_past_returns(returns, decay):
    advantages = RAE(decay=decay)(episodes(*((value, -value) for value in returns)))
    for index, (first, second) in enumerate(advantages):
        past = sum((1 - decay) * decay ** (index - 1 - age) * returns[age] for age in range(index))
        assert first == pytest.approx(returns[index] - past, abs=1e-9)
        assert second == pytest.approx(-first, abs=1e-9)


def test_games_and_players_do_not_share_a_baseline():
    rae = RAE(decay=0.5)
    mixed = [
        *episodes((1.0, -1.0)),
        *episodes((2.0, -2.0), game="kuhn_poker"),
        *episodes((1.0, -1.0)),
        *episodes((1.0, -1.0), game="kuhn_poker(hands=5)"),
    ]
    assert values(rae(mixed)) == [(1.0, -1.0), (2.0, -2.0), (0.5, -0.5), (1.0, -1.0)]
    assert rae.baseline("tictactoe", 0) == 0.75
    assert rae.baseline("tictactoe", 1) == -0.75
    assert rae.baseline("kuhn_poker", 0) == 1.0
    assert rae.baseline("connect_four", 0) == 0.0


def test_splitting_a_batch_changes_nothing():
    played = episodes((1.0, -1.0), (0.0, 0.0), (-1.0, 1.0), (0.5, -1.5))
    whole, parts = RAE(), RAE()
    assert values(whole(played)) == [pair for episode in played for pair in values(parts([episode]))]
    assert whole.state_dict() == parts.state_dict()


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2, float("nan"), "much"])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="expected a number with 0 <= decay < 1"):
        RAE(decay=decay)


def test_state_survives_json():
    rae = RAE(decay=0.9)
    rae(episodes((1.0, -1.0), (0.3, -0.3)))
    rae(episodes((1.0, 0.5), game="kuhn_poker"))
    other = RAE()
    other(episodes((1.0, -1.0), game="leduc_poker"))
    other.load_state_dict(json.loads(json.dumps(rae.state_dict())))
    assert other.state_dict() == rae.state_dict()
    assert other.state_dict()["decay"] == 0.9
    assert other.baseline("leduc_poker", 0) == 0.0
    assert values(other(episodes((1.0, -1.0)))) == values(rae(episodes((1.0, -1.0))))


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"decay": 0.9},
        {"decay": 1.5, "values": []},
        {"decay": "high", "values": []},
        {"decay": 0.9, "values": 3},
        {"decay": 0.9, "values": [["tictactoe", 0]]},
        {"decay": 0.9, "values": [["tictactoe", "first", 1.0]]},
        {"decay": 0.9, "values": [["tictactoe", 0, "much"]]},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damaged):
    rae = RAE(decay=0.5)
    rae(episodes((1.0, 0.0)))
    with pytest.raises(ValueError, match="as the state of the baselines; expected"):
        rae.load_state_dict(damaged)
    assert rae.state_dict() == {"decay": 0.5, "values": [["tictactoe", 0, 0.5], ["tictactoe", 1, 0.0]]}


def test_batch_mean_is_per_game_and_player():
    played = [*episodes((1.0, -1.0), (0.0, 0.0)), *episodes((2.0, -2.0), game="kuhn_poker")]
    assert values(BatchMean()(played)) == [(0.5, -0.5), (-0.5, 0.5), (0.0, 0.0)]


def test_plain_returns_have_no_baseline():
    assert values(PlainReturns()(episodes((1.0, -1.0), (1.0, -1.0)))) == [(1.0, -1.0), (1.0, -1.0)]


def test_built_in_estimators_by_name():
    played = episodes((1.0, -1.0), (0.5, -1.0))
    for name, estimator in (("rae", RAE()), ("batch_mean", BatchMean()), ("returns", PlainReturns())):
        assert values(load_estimator(name)(played)) == values(estimator(played))
    assert load_estimator("rae", {"decay": 0.5}).state_dict()["decay"] == 0.5
    assert load_estimator("spiral.training.advantages:RAE", {"decay": 0.5}).baseline("tictactoe", 0) == 0.0
    assert load_estimator("returns").baseline("tictactoe", 0) is None
    assert load_estimator("returns").state_dict() == {}


class Scaled:
    """Scales the return by an option, and counts its episodes."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.seen: dict[str, int] = {}

    def __call__(self, episodes):
        for episode in episodes:
            self.seen[episode.game] = self.seen.get(episode.game, 0) + 1
        if self.factor < 0:
            raise ArithmeticError("negative")
        return [[self.factor * episode.returns[turn.player] for turn in episode.turns] for episode in episodes]

    def state_dict(self):
        return self.seen

    def load_state_dict(self, state):
        self.seen = dict(state)


def clipped(episodes, *, bound=0.5):
    return [np.clip([e.returns[turn.player] for turn in e.turns], -bound, bound) for e in episodes]


def pairs(episodes, baselines):
    baselines.update("tictactoe", 0, 1.0)
    return [(0.5, -0.5) for _ in episodes]


@pytest.fixture
def mine(monkeypatch):
    """A module of a user's own."""
    module = types.ModuleType("mine")
    module.Scaled, module.clipped, module.pairs = Scaled, clipped, pairs
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_a_custom_class_with_options_and_state(mine):
    estimator = load_estimator("mine:Scaled", {"factor": 3.0})
    assert values(estimator(episodes((1.0, -1.0)))) == [(3.0, -3.0)]
    assert estimator.state_dict() == {"tictactoe": 1}
    other = load_estimator("mine:Scaled")
    other.restore({"step": 1, "estimator": estimator.state_dict()})
    other(episodes((1.0, -1.0)))
    assert other.state_dict() == {"tictactoe": 2}
    assert estimator.state_dict() == {"tictactoe": 1}


def test_a_failed_call_leaves_the_state(mine):
    estimator = load_estimator("mine:Scaled", {"factor": -1.0})
    with pytest.raises(UserCodeError, match=r"the advantage estimator 'mine:Scaled' failed: ArithmeticError: negative"):
        estimator(episodes((1.0, -1.0)))
    assert estimator.state_dict() == {}


def test_a_custom_function_with_options(mine):
    assert values(load_estimator("mine:clipped")(episodes((1.0, -0.25)))) == [(0.5, -0.25)]
    assert values(load_estimator("mine:clipped", {"bound": 0.75})(episodes((1.0, -0.25)))) == [(0.75, -0.25)]


def test_advantages_by_token(mine):
    mine.tokens = lambda episodes: [[[0.5, -0.5], 1.0] for _ in episodes]
    ((first, second),) = load_estimator("mine:tokens")(episodes((1.0, -1.0)))
    assert first.tolist() == [0.5, -0.5]
    assert second == 1.0
    mine.tokens = lambda episodes: np.ones((1, 2, 2))
    ((first, second),) = load_estimator("mine:tokens")(episodes((1.0, -1.0)))
    assert (first.tolist(), second.tolist()) == ([1.0, 1.0], [1.0, 1.0])


def test_a_function_of_pairs_and_baselines_still_loads(mine):
    estimator = load_estimator("mine:pairs")
    turns = [new_turn(0), new_turn(1), new_turn(0)]
    assert values(estimator([new_episode((1.0, -1.0), turns)])) == [(0.5, -0.5, 0.5)]
    assert estimator.baseline("tictactoe", 0) == pytest.approx(0.05)
    restored = load_estimator("mine:pairs")
    restored.restore({"baselines": estimator.state_dict()})
    assert restored.state_dict() == estimator.state_dict()
    assert load_estimator("mine:pairs", {"decay": 0.5}).state_dict()["decay"] == 0.5


def test_checkpoints_of_earlier_versions_hold_the_baselines():
    baselines = RoleBaselines(decay=0.9)
    baselines.update("tictactoe", 0, 1.0)
    estimator = load_estimator("rae")
    estimator.restore({"baselines": baselines.state_dict()})
    assert estimator.baseline("tictactoe", 0) == pytest.approx(0.1)
    load_estimator("batch_mean").restore({"baselines": baselines.state_dict()})


def test_an_entry_point(mine, monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint(name="scaled", value="mine:Scaled", group="spiral.advantages")
    monkeypatch.setattr("spiral.core.plugins.entry_points", lambda group: [point] if group == point.group else [])
    assert values(load_estimator("scaled", {"factor": 2.0})(episodes((1.0, -1.0)))) == [(2.0, -2.0)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1.0]], r"gave 1 advantages to an episode of tictactoe \(seed 0\); expected one for each of 2 turns"),
        ([[1.0, [1.0, 2.0, 3.0]]], r"gave advantages of shape \[3\] to turn 2 of .* expected a number, or \[2\]"),
        ([[[0.5, float("nan")], 1.0]], "gave player 0 of an episode of tictactoe .* the advantage nan"),
        ([3.0], "gave 3.0 to an episode of tictactoe"),
        ([[1.0, None]], "gave .* expected a number for each of 2 turns|the advantage nan"),
        ([[1.0, float("inf")]], "gave player 1 of an episode of tictactoe .* the advantage inf"),
        ([[1.0, 2e9]], r"expected a number within 1e\+09 of zero"),
        ([], "gave advantages for 0 episodes instead of 1"),
        (None, "gave None; expected a list with one array for each of 1 episodes"),
        ({0: [1.0, -1.0]}, "gave a dict; expected a list with one array for each of 1 episodes"),
        ({"a"}, "gave a set; expected a list"),
        ("1", "gave a str; expected a list"),
        ([{0: 1.0, 1: -1.0}], "gave {0: 1.0, 1: -1.0} to .* expected a number for each of 2 turns"),
        ([{1.0, -1.0}], "expected a number for each of 2 turns"),
        (["12"], "gave '12' to .* expected a number for each of 2 turns"),
        ([b"12"], "gave b'12' to .* expected a number for each of 2 turns"),
        ([["1.5", "1.5"]], "expected a number for each of 2 turns"),
        ([[1.0, "1.5"]], "expected a number for each of 2 turns"),
        ([[1.0, np.array(["1.5", "1.5"])]], "expected a number for each of 2 turns"),
        ([np.ones(2, dtype=complex)], "expected a number for each of 2 turns"),
        ([[1.0, {0: 1.0}]], "expected a number for each of 2 turns"),
        ([np.array(["2020-01-01"] * 2, dtype="M8[s]")], "expected a number for each of 2 turns"),
    ],
)
def test_what_an_estimator_may_not_return(given, message, mine):
    mine.wrong = lambda episodes: given
    with pytest.raises(UserCodeError, match=message) as caught:
        load_estimator("mine:wrong")(episodes((1.0, -1.0)))
    assert str(caught.value).startswith("the advantage estimator 'mine:wrong' ")


@pytest.mark.parametrize(
    "numbers",
    [
        [2, True],
        np.array([2, 1], dtype=np.int8),
        np.float32([2.0, 1.0]),
        [Fraction(2), Decimal(1)],
        torch.tensor([2.0, 1.0], dtype=torch.bfloat16, requires_grad=True),
    ],
    ids=str,
)
def test_numbers_of_every_kind_are_advantages(numbers, mine):
    mine.numbers = lambda episodes: (numbers for _ in episodes)
    assert values(load_estimator("mine:numbers")(episodes((1.0, -1.0)))) == [(2.0, 1.0)]


@pytest.mark.parametrize("pair", [{0: 1.0, 1: -1.0}, {1.0, -1.0}, "19", ("1", "9"), np.ones(2, dtype=complex)])
def test_pairs_are_two_numbers(pair, mine):
    def wrong(episodes, baselines):
        return [pair for _ in episodes]

    mine.wrong = wrong
    with pytest.raises(UserCodeError, match="expected two numbers, one for each player"):
        load_estimator("mine:wrong")(episodes((1.0, -1.0)))
    mine.wrong = lambda episodes, baselines: {0: pair}
    with pytest.raises(UserCodeError, match="gave a dict; expected a list with one pair"):
        load_estimator("mine:wrong")(episodes((1.0, -1.0)))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seen": np.zeros(2)}, r"\['seen'\] is of type ndarray; expected a number, text, list or dictionary"),
        ({"b": {0: 0.5}}, r"the dictionary at \['b'\] has the key 0 of type int, which JSON does not keep"),
        ({"b": {"x": [{True: 1}]}}, r"the dictionary at \['b'\]\['x'\]\[0\] has the key True of type bool"),
        ({("tictactoe", 0): 0.5}, r"it has the key \('tictactoe', 0\) of type tuple"),
        ({"b": [0.5, float("nan")]}, r"\['b'\]\[1\] is nan; expected a finite number"),
        ({"b": float("-inf")}, r"\['b'\] is -inf; expected a finite number"),
        ({"b": (1, 2)}, r"\['b'\] is a tuple, which JSON gives back as a list; save a list"),
        ({"b": {1, 2}}, r"\['b'\] is of type set"),
        (None, r"state_dict\(\) gave a NoneType; expected a dictionary"),
    ],
)
def test_a_state_that_json_would_change_is_refused(state, message, mine, monkeypatch):
    estimator = load_estimator("mine:Scaled")
    monkeypatch.setattr(Scaled, "state_dict", lambda self: state)
    named = "the state of the advantage estimator 'mine:Scaled' cannot be saved: "
    with pytest.raises(UserCodeError, match=named + message):
        estimator.state_dict()


def test_a_state_that_contains_itself_is_refused(mine, monkeypatch):
    state = {"b": []}
    state["b"].append(state)
    monkeypatch.setattr(Scaled, "state_dict", lambda self: state)
    with pytest.raises(UserCodeError, match="more than 100 deep"):
        load_estimator("mine:Scaled").state_dict()


def test_a_state_is_checked_in_the_step_that_spoils_it(mine):
    class Counts(Scaled):
        def __call__(self, episodes):
            self.seen[len(self.seen)] = 1
            return super().__call__(episodes)

    mine.Counts = Counts
    estimator = load_estimator("mine:Counts")
    with pytest.raises(UserCodeError, match="'mine:Counts' cannot be saved: it has the key 0 of type int"):
        estimator(episodes((1.0, -1.0)))
    assert estimator.state_dict() == {}


def test_a_state_that_is_not_taken_back_is_named(mine):
    class Refusing(Scaled):
        def load_state_dict(self, state):
            self.seen = state["old_key"]

    mine.Refusing = Refusing
    estimator = load_estimator("mine:Refusing", {"factor": -1.0})
    named = "the advantage estimator 'mine:Refusing' "
    raised = r"KeyError: 'old_key' \(test_advantages.py, line \d+, in load_state_dict\)"
    with pytest.raises(UserCodeError, match=f"{named}cannot load its state from step-000001: {raised}"):
        estimator.restore({"estimator": {"seen": 1}}, "step-000001")
    with pytest.raises(UserCodeError, match=f"{named}failed: Arith"):  # the first error, not that of putting back
        estimator(episodes((1.0, -1.0)))


def test_a_baseline_that_is_no_number_is_named(mine):
    for found, message in ((lambda *_: None, "TypeError"), (lambda *_: float("nan"), "ValueError: got nan; expected")):
        mine.Based = type("Based", (Scaled,), {"baseline": found})
        with pytest.raises(UserCodeError, match=f"'mine:Based' gave no baseline of tictactoe, player 1: {message}"):
            load_estimator("mine:Based").baseline("tictactoe", 1)


def test_a_class_with_half_of_a_state_is_refused(mine, monkeypatch):
    monkeypatch.delattr(Scaled, "load_state_dict")
    with pytest.raises(ValueError, match="has one of state_dict and load_state_dict"):
        load_estimator("mine:Scaled")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gea", {}, "there is no 'gea' among the advantages; did you mean 'gae'?"),
        ("no_such_module:f", {}, "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("spiral.training.advantages:nothing", {}, "cannot be imported: .*has no attribute 'nothing'"),
        ("spiral.training.advantages:", {}, "cannot be imported"),
        (":plain_returns", {}, "cannot be imported"),
        (".credit:plain_returns", {}, "cannot be imported"),
        ("spiral.training.advantages:SEED", {}, "cannot be imported"),
        ("rae", {"dekay": 0.9}, "'rae' has no option 'dekay'; did you mean 'decay'?"),
        ("rae", {"decay": 2.0}, "got decay 2.0; expected a number with 0 <= decay < 1"),
        ("returns", {"decay": 0.9}, "'returns' has no option 'decay'; it has none"),
        ("mine:clipped", {"limit": 1.0}, "'mine:clipped' has no option 'limit'; its options: bound"),
        ("mine:pairs", {"limit": 1.0}, "'mine:pairs' has no option 'limit'; it has none"),
    ],
)
def test_estimators_and_options_that_do_not_exist(name, options, message, mine):
    with pytest.raises(ValueError, match=message) as error:
        load_estimator(name, options)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({}, {}),
        ({"decay": 0.9}, {"decay": 0.9}),
        ({"estimator": "rae", "decay": 0.9, "options": {"decay": 0.5}}, {"decay": 0.9}),
        ({"estimator": "batch_mean", "decay": 0.9}, {}),
        ({"estimator": "mine:pairs", "decay": 0.95}, {}),
        ({"estimator": "mine:pairs", "decay": 0.9}, {"decay": 0.9}),
    ],
)
def test_the_decay_of_earlier_recipes_is_an_option(values, options):
    assert CreditConfig.model_validate(values).options == options
