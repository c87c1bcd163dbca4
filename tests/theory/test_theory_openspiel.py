"""Exact theory agrees with OpenSpiel's on random and pure policies."""

import numpy as np
import pytest

from spiral.games import load_game
from spiral.theory import best_response, equilibrium, expected_returns, information_states, nash_conv, policy_from_table

pyspiel = pytest.importorskip("pyspiel")
exploitability = pytest.importorskip("open_spiel.python.algorithms.exploitability")
responses = pytest.importorskip("open_spiel.python.algorithms.best_response")
scores = pytest.importorskip("open_spiel.python.algorithms.expected_game_score")
policies = pytest.importorskip("open_spiel.python.policy")

GAMES = {name: load_game(name) for name in ("kuhn_poker", "leduc_poker")}


def our_card(name, card):
    """OpenSpiel's Leduc has two suits of each rank."""
    return "JQK"[card if name == "kuhn_poker" else card // 2]


def their_actions(name, state):
    """`{our action: OpenSpiel's number}`: Kuhn passes with 0 and bets with 1, Leduc folds 0, calls 1, raises 2."""
    if name == "kuhn_poker":
        return {action: int(action in ("bet", "call")) for action in state.legal_actions()}
    return {action: ("fold", "call", "raise").index(action) for action in state.legal_actions()}


class Translated(policies.Policy):
    """One of our policies in OpenSpiel's interface; replays OpenSpiel's history here."""

    def __init__(self, name, policy):
        super().__init__(pyspiel.load_game(name), [0, 1])
        self.name = name
        self.policy = policy

    def action_probabilities(self, state, player_id=None):
        ours = GAMES[self.name].initial_state()
        for number in state.history():
            if ours.is_chance:
                ours = ours.apply(our_card(self.name, number))
            else:
                ours = ours.apply({n: action for action, n in their_actions(self.name, ours).items()}[number])
        numbers = their_actions(self.name, ours)
        assert sorted(numbers.values()) == state.legal_actions()
        row = self.policy(ours, ours.current_player)
        return {number: row.get(action, 0.0) for action, number in numbers.items()}


def random_policy(name, seed):
    rng = np.random.default_rng(seed)
    table = {}
    for state, player in information_states(GAMES[name]):
        actions = state.legal_actions()
        table[state.information_state(player)] = dict(zip(actions, rng.dirichlet(np.ones(len(actions))), strict=True))
    return policy_from_table(table)


def pure_policy(index):
    return lambda state, player: {state.legal_actions()[index]: 1.0}


def bold(state, player):
    return {next(action for action in state.legal_actions() if action in ("bet", "call")): 1.0}


SLOW_IN_LEDUC = ("random 2", "last", "equilibrium")
CASES = [
    *((name, f"random {seed}") for name in GAMES for seed in (1, 2)),
    *((name, kind) for name in GAMES for kind in ("first", "last")),
    ("kuhn_poker", "bold"),
    *((name, "equilibrium") for name in GAMES),
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] if name == "leduc_poker" and kind in SLOW_IN_LEDUC else [])
        for name, kind in CASES
    ],
)
def test_same_as_openspiel(name, kind):
    if kind.startswith("random"):
        policy = random_policy(name, int(kind.split()[1]))
    elif kind == "bold":
        policy = bold
    elif kind == "equilibrium":
        policy = equilibrium(GAMES[name])
    else:
        policy = pure_policy({"first": 0, "last": -1}[kind])
    theirs = Translated(name, policy)
    game = pyspiel.load_game(name)
    root = game.new_initial_state()
    assert nash_conv(GAMES[name], policy) == pytest.approx(exploitability.nash_conv(game, theirs), abs=1e-9)
    for player in (0, 1):
        value = responses.BestResponsePolicy(game, player, theirs, root).value(root)
        assert best_response(GAMES[name], policy, player).value == pytest.approx(value, abs=1e-9)
    returns = scores.policy_value(root, [theirs, theirs])
    assert expected_returns(GAMES[name], [policy, policy]) == pytest.approx(tuple(returns), abs=1e-9)
