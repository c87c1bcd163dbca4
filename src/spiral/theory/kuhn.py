"""The equilibria of Kuhn poker in closed form (Kuhn, 1950).

The player who acts first has a family of equilibrium strategies, one for each `alpha` from 0 to 1/3; the other player
has one. The value for the first player is -1/18 chips. In a game of several hands the policy plays every hand
independently: that is an equilibrium in chips, not in games won.
"""

from __future__ import annotations

import functools

from spiral.games import State, load_game
from spiral.games.kuhn_poker import KuhnPokerState
from spiral.theory.policy import TabularPolicy


def kuhn_equilibrium(alpha: float = 1 / 3) -> TabularPolicy:
    """The equilibrium in which the first player bets J with probability `alpha`, and K with three times that."""
    if not 0.0 <= alpha <= 1 / 3:
        raise ValueError(f"got alpha={alpha!r}; expected a number from 0 to 1/3")
    return functools.partial(_play, alpha)


def kuhn_quantities(policy: TabularPolicy) -> dict[str, float]:
    """The probabilities in which the first player's equilibria differ.

    They are the bluff with J, the bet with K, and the call with Q after a check: in equilibrium alpha, 3 alpha and
    alpha + 1/3.
    """
    deals = {card: load_game("kuhn_poker").initial_state().apply(card) for card in "JQK"}
    queen = deals["Q"].apply("J").apply("check").apply("bet")
    return {
        "bet_with_j": policy(deals["J"].apply("Q"), 0).get("bet", 0.0),
        "bet_with_k": policy(deals["K"].apply("Q"), 0).get("bet", 0.0),
        "call_with_q": policy(queen, 0).get("call", 0.0),
    }


def _play(alpha: float, state: State, player: int) -> dict[str, float]:
    """The equilibrium's probabilities in `state`; a module-level function, so that the policy can be pickled."""
    if not isinstance(state, KuhnPokerState) or state.current_player != player:
        raise ValueError(f"got {state!r} for player {player}; expected a state of kuhn_poker in which that player acts")
    if state.deck != "JQK":
        raise ValueError(
            f"the closed form is for the deck J, Q, K, and this one is {state.deck}; use equilibrium(game)"
        )
    # Probability of adding a chip (bet or call) with each card, by the actions of the hand so far.
    chip_in = {
        (): {"J": alpha, "Q": 0.0, "K": min(1.0, 3 * alpha)},
        ("check",): {"J": 1 / 3, "Q": 0.0, "K": 1.0},
        ("bet",): {"J": 0.0, "Q": 1 / 3, "K": 1.0},
        ("check", "bet"): {"J": 0.0, "Q": alpha + 1 / 3, "K": 1.0},
    }
    probability = chip_in[state.actions][state.cards[player]]
    return {action: probability if action in ("bet", "call") else 1 - probability for action in state.legal_actions()}
