"""Simple negotiation: private values, offers that are covered, gains that decide, and what each player sees."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiral.games import Game, IllegalActionError, State, load_game
from spiral.games.playout import random_game, resolve_chance
from spiral.games.simple_negotiation import BASE_VALUES, SimpleNegotiation, SimpleNegotiationState, value_range
from spiral.games.testing import random_playout

NAMES = tuple(BASE_VALUES)[:5]
HELD = ((7, 9, 12, 5, 20), (10, 10, 10, 6, 25))
VALUES = ((5, 11, 14, 25, 38), (6, 9, 16, 25, 40))


def deal(held: tuple[tuple[int, ...], ...] = HELD, values: tuple[tuple[int, ...], ...] = VALUES) -> list[str]:
    holdings = [f"player {p} holds {n} {name}" for p in (0, 1) for n, name in zip(held[p], NAMES, strict=True)]
    return holdings + [
        f"player {p} values {name} at {v}" for p in (0, 1) for v, name in zip(values[p], NAMES, strict=True)
    ]


def play(*turns: str, game: Game | None = None, deal: list[str] = deal()) -> SimpleNegotiationState:  # noqa: B008
    state: State = (game or load_game("simple_negotiation")).initial_state()
    for action in (*deal, *turns):
        state = state.apply(action)
    assert isinstance(state, SimpleNegotiationState)
    return state


def test_parameters() -> None:
    assert load_game("simple_negotiation") == SimpleNegotiation(resources=5, turns=10)
    assert load_game("simple_negotiation(turns=4)").spec == "simple_negotiation(turns=4)"
    assert load_game("simple_negotiation", resources=8).spec == "simple_negotiation(resources=8)"
    with pytest.raises(ValueError, match="got turns=0; expected 1 or more"):
        load_game("simple_negotiation", turns=0)
    for number in (1, 9):
        with pytest.raises(ValueError, match=f"got resources={number}; expected a number from 2 to 8"):
            load_game("simple_negotiation", resources=number)


def test_the_deal_is_textarenas() -> None:
    """Uniform numbers: 5 to 25 pieces, and values within 20% of the base, rounded towards it, from 5 to 40."""
    ranges = [(values.start, values.stop - 1) for values in map(value_range, BASE_VALUES.values())]
    assert ranges == [(5, 6), (8, 12), (12, 18), (20, 30), (32, 40), (10, 14), (16, 24), (24, 36)]
    state: State = load_game("simple_negotiation").initial_state()
    sizes = []
    for action in deal():
        outcomes = state.chance_outcomes()
        assert {chance for _, chance in outcomes} == {1 / len(outcomes)}
        sizes.append(len(outcomes))
        state = state.apply(action)
    assert sizes == [21] * 10 + [2, 5, 7, 11, 9] * 2
    assert state.chance_outcomes() == ()
    assert state.current_player == 0


def test_an_accepted_offer_moves_what_it_names() -> None:
    state = play("offer: 3 sheep, 2 ore -> 5 brick", "accept")
    assert state.holdings(0) == (7, 9, 9, 10, 18)
    assert state.holdings(1) == (10, 10, 13, 1, 27)
    assert state.gain(0) == 5 * 25 - 3 * 14 - 2 * 38 == 7
    assert state.gain(1) == -5 * 25 + 3 * 16 + 2 * 40 == 3
    state = play("pass", "offer: 4 ore -> 6 wood, 1 brick", "accept")
    assert state.holdings(0) == (7, 3, 12, 4, 24)
    assert state.gain(0) == 4 * 38 - 6 * 11 - 25
    assert state.gain(1) == -4 * 40 + 6 * 9 + 25


def test_a_resource_may_stand_on_both_sides() -> None:
    state = play("offer: 3 sheep, 2 ore -> 5 sheep", "accept")
    assert state.holdings(0) == (7, 9, 14, 5, 18)


@pytest.mark.parametrize(
    ("turn", "legal"),
    [
        ("offer: 7 wheat, 5 brick -> 25 ore", True),
        ("offer: 8 wheat -> 1 ore", False),
        ("offer: 4 wheat, 4 wheat -> 1 ore", False),
        ("offer: 1 wheat -> 999999999 ore", True),  # nobody holds as much, so that it can only be turned down
        ("offer: 0 wheat -> 1 ore", False),
        ("offer: 1 stone -> 1 ore", False),
        ("accept", False),
        ("deny", False),
        ("pass", True),
        ("Good day! What do you need?", True),
    ],
)
def test_what_may_be_done_without_an_offer(turn: str, legal: bool) -> None:
    state = play()
    assert state.is_legal(turn) is legal
    if not legal:
        with pytest.raises(IllegalActionError):
            state.apply(turn)


def test_an_offer_is_answered_or_replaced() -> None:
    state = play("offer: 1 wheat -> 1 ore")
    assert [state.is_legal(turn) for turn in ("accept", "deny", "pass")] == [True, True, False]
    assert state.apply("deny").offer is None
    assert state.apply("That is not enough.").log[-1] == ("deny", "That is not enough.")
    countered = state.apply("offer: 1 ore -> 9 wheat")
    assert not countered.is_legal("accept")  # player 0 holds 7 wheat
    assert countered.legal_actions()[0] == "deny"
    assert countered.apply("deny").offer is None
    assert state.apply("offer: 1 ore -> 7 wheat").apply("accept").holdings(0) == (0, 9, 12, 5, 21)


def test_refusals_say_why() -> None:
    state = play("offer: 1 wheat -> 1 ore")
    reasons = {
        "offer: 11 wheat, 13 wood -> 1 ore": "you offer more than you hold, by 1 wheat, 3 wood",
        "offer: 1 gold -> 1 ore": "write it as 'offer: 3 wheat -> 2 wood', with resources out of wheat, wood, sheep",
        "pass": "there is an offer to answer; accept, deny, or make an offer of your own",
        "acept": "did you mean 'accept'?",
        "accept it now": "put a full stop between the action and your words",
        "offer: 1 wheat -> 1 ore. deny": "it holds two actions",
    }
    for turn, reason in reasons.items():
        with pytest.raises(IllegalActionError, match=f"of player 1: .*{reason}".replace("?", r"\?")):
            state.apply(turn)
    with pytest.raises(IllegalActionError, match="you lack 1 brick"):
        play("offer: 1 wheat -> 7 brick").apply("accept")
    with pytest.raises(IllegalActionError, match="there is no offer to accept; pass, or make an offer"):
        play().apply("accept")


def test_the_listed_actions_are_short_and_even() -> None:
    state = play()
    assert len(state.legal_actions()) == 1 + 20 - 2  # 8 wheat for 1 ore and 8 brick for 5 ore cannot be covered
    assert {"pass", "offer: 8 sheep -> 3 ore", "offer: 1 brick -> 5 wheat"} < set(state.legal_actions())
    state = state.apply("offer: 3 sheep, 2 ore -> 5 brick")
    assert state.legal_actions() == (
        "accept",
        "deny",
        "offer: 3 brick -> 5 sheep",
        "offer: 3 brick -> 6 sheep",
    )  # 8 brick for 5 ore cannot be covered
    assert len(load_game("simple_negotiation", resources=8).initial_state().chance_outcomes()) == 21


@pytest.mark.parametrize(
    ("turn", "returns"),
    [
        ("offer: 3 sheep, 2 ore -> 5 brick", (1.0, -1.0)),  # 7 against 3
        ("offer: 1 wood -> 2 wheat", (-1.0, 1.0)),  # -1 against -3, so far
        ("offer: 1 brick -> 1 brick", (0.0, 0.0)),
        ("offer: 1 wheat -> 3 ore", (1.0, -1.0)),
    ],
)
def test_the_larger_gain_wins(turn: str, returns: tuple[float, float]) -> None:
    state = play(turn, game=load_game("simple_negotiation", turns=2))
    assert state.returns() == (0.0, 0.0)
    state = state.apply("accept")
    assert state.is_terminal
    gains = state.gain(0), state.gain(1)
    expected = float((gains[0] > gains[1]) - (gains[0] < gains[1]))
    assert state.returns() == (expected, -expected)
    if turn != "offer: 1 wood -> 2 wheat":
        assert state.returns() == returns
    words = {1.0: "you won", -1.0: "you lost", 0.0: "it is a draw"}
    for player in (0, 1):
        assert f"The game is over: {words[state.returns()[player]]}." in state.observation(player)


def test_an_offer_of_the_last_turn_lapses() -> None:
    state = play("offer: 1 wheat -> 9 ore", game=load_game("simple_negotiation", turns=1))
    assert state.is_terminal
    assert state.returns() == (0.0, 0.0)
    assert state.legal_actions() == ()
    assert not state.is_legal("accept")


def test_what_a_player_sees() -> None:
    state = play('offer: 1 wheat -> 1 ore. It is a "gift"', "deny. Too   little", "offer: 3 sheep, 2 ore -> 5 brick")
    lines = state.observation(1).split("\n")
    assert lines[lines.index("Turns so far:") :] == [
        "Turns so far:",
        "Turn 1, your opponent: [offer: 1 wheat -> 1 ore], saying \"It is a 'gift'\"",
        'Turn 2, you: [deny], saying "Too little"',
        "Turn 3, your opponent: [offer: 3 sheep, 2 ore -> 5 brick]",
        "Resource  You hold  Worth to you",
        "wheat           10        6 each",
        "wood            10        9 each",
        "sheep           10       16 each",
        "brick            6       25 each",
        "ore             25       40 each",
        "Your gain so far: +0.",
        "This is turn 4 of 10.",
        "Your opponent offers you 3 sheep, 2 ore and asks for 5 brick.",
        "It is your turn. Your legal actions: accept, deny, or an offer of what you hold.",
    ]
    goods = "10 wheat at 6:10 wood at 9:10 sheep at 16:6 brick at 25:25 ore at 40"
    assert state.observation(1, "compact") == (
        f"simple_negotiation:turn 4/10:gain +0:{goods}:offer 3 sheep, 2 ore -> 5 brick"
    )
    assert state.observation(0, "compact").endswith("20 ore at 38:offer none")
    assert state.observation(0).endswith("It is your opponent's turn.")


def test_the_rules_say_what_the_opponent_receives() -> None:
    for spec in ("simple_negotiation", "simple_negotiation(resources=2)", "simple_negotiation(resources=8)"):
        game = load_game(spec)
        state = resolve_chance(game.initial_state())
        text = state.observation(0)
        example = text.split("as in: ")[1].split(" Your opponent receives")[0]
        assert "Your opponent receives your action and the first 300 characters of these words, and nothing" in text
        offer, words = example.split(". ")
        assert f'Turn 1, your opponent: [{offer}], saying "{words}"' in state.apply(example).observation(1)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 1))
def test_a_players_view_does_not_depend_on_the_others_deal(seed: int, player: int) -> None:
    """The same turns with other holdings and values of the opponent look the same up to the result."""
    rng = random.Random(seed)
    game = load_game("simple_negotiation")
    steps = list(random_game(game, rng))
    chance = [action for state, action in steps if state.is_chance]
    turns = [action for state, action in steps if not state.is_chance]
    state = other = game.initial_state()
    for action in chance:
        private = action.startswith(f"player {1 - player}")
        swapped = rng.choice(other.chance_outcomes())[0] if private and "values" in action else action
        state, other = state.apply(action), other.apply(swapped)
        assert state.observation(player) == other.observation(player)
    for turn in turns:
        state, other = state.apply(turn), other.apply(turn)
        if not state.is_terminal:
            for style in ("full", "compact"):
                assert state.observation(player, style) == other.observation(player, style)
            assert state.information_state(player) == other.information_state(player)
            assert state.legal_actions() == other.legal_actions()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_resources_are_neither_made_nor_lost(seed: int) -> None:
    _, last = random_playout(load_game("simple_negotiation"), seed)
    assert isinstance(last, SimpleNegotiationState)
    for kind in range(5):
        held = [last.holdings(player)[kind] for player in (0, 1)]
        assert min(held) >= 0
        assert sum(held) == last.dealt[kind] + last.dealt[5 + kind]


def trade_helps_both(state: SimpleNegotiationState) -> bool:
    """Whether some trade of one resource for another, at most 8 pieces each, gains both players something."""
    (mine, theirs), (held, others) = map(state.values, (0, 1)), map(state.holdings, (0, 1))
    return any(
        ask * mine[want] > give * mine[have] and give * theirs[have] > ask * theirs[want]
        for have in range(5)
        for want in range(5)
        for give in range(1, min(held[have], 8) + 1)
        for ask in range(1, min(others[want], 8) + 1)
    )


def shares(deals: int, games: int) -> tuple[float, float, float]:
    """Shares of deals in which a trade helps both, of games with a winner, of winners who do not hold more pieces."""
    game, rng = load_game("simple_negotiation"), random.Random(0)
    starts = (resolve_chance(game.initial_state(), rng) for _ in range(deals))
    helped = sum(trade_helps_both(state) for state in starts if isinstance(state, SimpleNegotiationState))
    decided = poorer = 0
    for seed in range(games):
        _, last = random_playout(game, seed)
        assert isinstance(last, SimpleNegotiationState)
        if last.returns() != (0.0, 0.0):
            winner = last.returns().index(1.0)
            decided += 1
            poorer += sum(last.holdings(winner)) <= sum(last.holdings(1 - winner))
    return helped / deals, decided / games, poorer / decided


def test_trade_helps_both_and_values_decide() -> None:
    helped, decided, poorer = shares(deals=200, games=200)
    assert helped >= 0.95
    assert decided >= 0.7
    assert poorer >= 0.3


@pytest.mark.slow
def test_trade_helps_both_and_values_decide_over_20_000_deals() -> None:
    helped, decided, poorer = shares(deals=20_000, games=5_000)
    print(f"a trade helps both in {helped:.2%} of 20,000 deals; of 5,000 random games {decided:.2%} have a winner,")
    print(f"and {poorer:.2%} of the winners do not hold more pieces than the other player")
    assert helped >= 0.95
    assert decided >= 0.7
    assert poorer >= 0.3


def test_the_page_of_games_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "games.md").read_text(encoding="utf-8")
    rows = {
        row[0].strip(): [cell.strip() for cell in row[1:]]
        for row in (line.strip("|").split("|") for line in page.splitlines())
    }
    assert rows["resource"] == list(BASE_VALUES)
    assert rows["base value"] == [str(base) for base in BASE_VALUES.values()]
    ranges = map(value_range, BASE_VALUES.values())
    assert rows["worth to a player"] == [f"{values[0]} to {values[-1]}" for values in ranges]
    written = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    first, accepted, denied, passed = [line for line in written if not line.startswith("spiral ")]
    assert play().apply(passed).log[-1] == ("pass", "What would you give for ore?")
    offered = play().apply(first)
    assert offered.log[-1] == ("offer: 3 sheep, 2 ore -> 5 brick", "I have more sheep than I need.")
    assert offered.apply(accepted).log[-1] == ("accept", "")
    assert offered.apply(denied).log[-1] == ("deny", "Make it 4 brick.")
