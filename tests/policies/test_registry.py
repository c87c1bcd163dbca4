"""Policies by name."""

from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.policies.opponents import Opponents
from spiral.policies.registry import PolicyOptions


def test_models_are_loaded_once_for_all_games():
    policies = Opponents(PolicyOptions(device="cpu"))
    tictactoe, kuhn = load_game("tictactoe"), load_game("kuhn_poker")
    assert policies("nano", tictactoe) is policies("nano", kuhn)
    assert policies("random", tictactoe).name == scripted_policy("random", tictactoe).name
