"""Simple negotiation against TextArena's own environment: the same deals and turns give the same gains and winners."""

from __future__ import annotations

import random
from typing import Any

import pytest

from spiral.games import State, load_game
from spiral.games.adapters.textarena.engine import deal
from spiral.games.offers import Offer, goods_text
from spiral.games.simple_negotiation import SimpleNegotiationState

pytest.importorskip("textarena")

TURNS = 11
"""TextArena plays one turn more than its `max_turns`, which is 10."""


def random_offer(state: SimpleNegotiationState, rng: random.Random) -> Offer:
    """An offer of up to three resources on each side, which may ask for more than the other player holds."""
    give, ask = [0] * 5, [0] * 5
    for side, most in ((give, state.holdings(state.current_player)), (ask, (12,) * 5)):
        held = [kind for kind in range(5) if most[kind]]
        for kind in rng.sample(held, min(len(held), rng.randint(1, 3))):
            side[kind] = rng.randint(1, most[kind])
    return Offer(tuple(give), tuple(ask))


def random_turn(state: SimpleNegotiationState, rng: random.Random) -> tuple[str, str]:
    """A legal turn in our spelling and in TextArena's."""
    answers = [action for action in state.legal_actions() if action in ("accept", "deny", "pass")]
    kind = rng.choice([*answers, "offer"])
    if kind != "offer":
        return kind, {"accept": "Fine. [Accept]", "deny": "[Deny] Too little.", "pass": "I wait."}[kind]
    offer = random_offer(state, rng)
    theirs = f"{goods_text(offer.give, state.names)} -> {goods_text(offer.ask, state.names)}"
    return offer.text(state.names), f"Well: [Offer: {theirs.title()}]"


def dealt(environment: dict[str, Any]) -> State:
    """Our state after the deal of a TextArena environment."""
    state: State = load_game("simple_negotiation", turns=TURNS).initial_state()
    for verb, field, joint in (("holds", "player_resources", " "), ("values", "player_values", " at ")):
        for player in (0, 1):
            for name, number in environment[field][player].items():
                said = (name.lower(), number) if verb == "values" else (number, name.lower())
                state = state.apply(f"player {player} {verb} {said[0]}{joint}{said[1]}")
    return state


def replayed(seed: int) -> tuple[float, int]:
    """Plays one game in both and compares them after every turn; the return of player 0, and the number of trades."""
    rng = random.Random(seed)
    position = deal("SimpleNegotiation-v0", seed, 2)
    state = dealt(position.env.state.game_state)
    trades = 0
    while not state.is_terminal:
        assert isinstance(state, SimpleNegotiationState)
        assert position.player == state.current_player
        ours, theirs = random_turn(state, rng)
        following = position.step(theirs)
        assert following is not None, theirs
        state, position, trades = state.apply(ours), following, trades + (ours == "accept")
        assert isinstance(state, SimpleNegotiationState)
        environment = position.env.state.game_state
        for player in (0, 1):
            assert tuple(environment["player_resources"][player].values()) == state.holdings(player)
            assert environment["inventory_value"][player]["change"] == state.gain(player)
    assert position.env.state.done
    assert (position.env.state.rewards[0], position.env.state.rewards[1]) == state.returns()
    return state.returns()[0], trades


def agree(games: int) -> tuple[int, int]:
    """The number of games with a winner, and of trades, in games that were the same in both."""
    results = [replayed(seed) for seed in range(games)]
    return sum(result != 0 for result, _ in results), sum(trades for _, trades in results)


def test_textarena_and_we_agree() -> None:
    decided, trades = agree(25)
    assert decided >= 15
    assert trades >= 25


@pytest.mark.slow
def test_textarena_and_we_agree_over_500_games() -> None:
    decided, trades = agree(500)
    print(f"500 games with {trades} trades, {decided} with a winner: the same holdings, gains and winners")
    assert decided >= 300
    assert trades >= 500


def test_what_textarena_refuses_is_illegal_here() -> None:
    position = deal("SimpleNegotiation-v0", 1, 2)
    state = dealt(position.env.state.game_state)
    assert isinstance(state, SimpleNegotiationState)
    held = state.holdings(0)[0]
    for goods in (f"{held + 1} wheat -> 1 ore", "0 wheat -> 1 ore", "1 gold -> 1 ore", "1 wheat 1 ore"):
        assert position.step(f"[Offer: {goods.title()}]") is None
        assert not state.is_legal(f"[Offer: {goods}]")
    wanted = state.holdings(1)[4] + 1
    offered = position.step(f"[Offer: 1 Wheat -> {wanted} Ore]")
    assert offered is not None
    assert offered.step("[Accept]") is None
    assert not state.apply(f"[Offer: 1 wheat -> {wanted} ore]").is_legal("[Accept]")
