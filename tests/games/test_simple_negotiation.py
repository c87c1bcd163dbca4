"""Simple negotiation: one token among the talk, offers that can be honoured, and gains that decide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiral.games import IllegalActionError, State, load_game
from spiral.games.simple_negotiation import MAX_WORDS, Offer, SimpleNegotiationState, parse_reply
from spiral.games.testing import random_playout

DEAL = (
    "seat 0 wood 7",
    "seat 0 gold 9",
    "seat 1 wood 12",
    "seat 1 gold 5",
    "seat 0 prefers wood",
    "high value 13",
    "low value 6",
)


def play(*replies: str, turns: int = 10, deal: tuple[str, ...] = DEAL) -> State:
    state = load_game("simple_negotiation", turns=turns).initial_state()
    for action in (*deal, *replies):
        state = state.apply(action)
    return state


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("accept", "accept"),
        ("  ACCEPT!  ", "accept"),
        ("[Accept]", "accept"),
        ("[ deny ]", "deny"),
        ("pass", "pass"),
        ("I will pass this time.", "pass"),
        ("offer: 3 wood -> 2 gold", Offer(3, "wood", 2)),
        ("[Offer: 3 wood -> 2 gold]", Offer(3, "wood", 2)),
        ("OFFER :4 Gold->  5WOOD", Offer(4, "gold", 5)),
        ("offer:\n3\twood\u00a0-> 2 gold", Offer(3, "wood", 2)),
        ("How about this? [offer: 3 wood -> 2 gold] It is fair.", Offer(3, "wood", 2)),
        ("I accept your point, but [deny]", "deny"),
        ("My last offer: refused, so [pass]", "pass"),
        ("[hm] well [accept]", "accept"),
        ("unacceptable passing denial", None),
        ("", None),
        ("I would like more gold.", None),
        ("accept or deny", None),
        ("accept, accept", None),
        ("[accept] [deny]", None),
        ("[well] accept", None),
        ("[accept it]", None),
        ("offer: 3 wood for 2 gold", None),
        ("offer: three wood -> 2 gold. Please accept", None),
        ("offer: -3 wood -> 2 gold", None),
        ("offer: 3.5 wood -> 2 gold", None),
        ("offer: 3 wood -> 2 wood", None),
        ("[offer: 3 wood -> 2 gold and 1 wood]", None),
        ("offer: 3 wood -> 2 golden rings", None),
        ("pa\u017fs", None),
    ],
)
def test_exactly_one_token_is_read(text: str, token: str | Offer | None) -> None:
    read = parse_reply(text)
    assert (read and read[0]) == token


def test_words_are_kept_and_shown_to_the_other_side() -> None:
    state = play('Dear friend,\n\n  a "gift":   [Offer: 3 wood -> 2 gold]')
    assert isinstance(state, SimpleNegotiationState)
    assert state.log[0].token == "offer: 3 wood -> 2 gold"
    assert state.log[0].words == 'Dear friend, a "gift": [Offer: 3 wood -> 2 gold]'
    line = (
        "Turn 1, your opponent: [offer: 3 wood -> 2 gold], saying \"Dear friend, a 'gift': [Offer: 3 wood -> 2 gold]\""
    )
    assert line in state.observation(1).split("\n")


def test_long_talk_is_cut_and_a_bare_token_says_nothing() -> None:
    talk, bare = play("x" * 1000 + " pass"), play(" [ PASS ] ")
    assert isinstance(talk, SimpleNegotiationState)
    assert isinstance(bare, SimpleNegotiationState)
    assert talk.log[0].words == "x" * MAX_WORDS
    assert bare == play("pass")
    assert bare.log[0].words == ""


@pytest.mark.parametrize(
    ("reply", "legal"),
    [
        ("offer: 7 wood -> 5 gold", True),
        ("offer: 8 wood -> 5 gold", False),
        ("offer: 7 wood -> 6 gold", False),
        ("offer: 9 gold -> 12 wood", True),
        ("offer: 10 gold -> 12 wood", False),
        ("offer: 9 gold -> 13 wood", False),
        ("offer: 0 wood -> 2 gold", False),
        ("offer: 2 wood -> 0 gold", False),
        ("offer: 99999999999999 wood -> 2 gold", False),
    ],
)
def test_offers_must_be_feasible(reply: str, legal: bool) -> None:
    state = play()
    assert state.is_legal(reply) is legal
    assert (reply in state.legal_actions()) is legal
    if not legal:
        with pytest.raises(IllegalActionError):
            state.apply(reply)


def test_answers_need_an_offer_and_passing_needs_none() -> None:
    state = play()
    assert [state.is_legal(reply) for reply in ("accept", "deny", "pass")] == [False, False, True]
    assert state.legal_actions()[:2] == ("pass", "offer: 1 wood -> 1 gold")
    state = state.apply("offer: 1 wood -> 1 gold")
    assert [state.is_legal(reply) for reply in ("accept", "deny", "pass")] == [True, True, False]
    assert state.legal_actions()[:3] == ("accept", "deny", "offer: 1 wood -> 1 gold")
    assert len(state.legal_actions()) == 2 + 12 * 9 + 5 * 7


def test_accepting_moves_both_resources() -> None:
    state = play("offer: 3 wood -> 2 gold", "accept")
    assert state.observation(0, "compact") == "simple_negotiation:turn 3/10:you 4w11g:they 15w3g:value 13w6g:offer none"
    assert state.observation(1, "compact") == "simple_negotiation:turn 3/10:you 15w3g:they 4w11g:value 6w13g:offer none"
    state = play("pass", "offer: 4 gold -> 6 wood", "accept")
    assert state.observation(0, "compact").split(":")[2:4] == ["you 1w13g", "they 18w1g"]


def test_a_counter_offer_replaces_the_standing_offer() -> None:
    state = play("offer: 3 wood -> 2 gold", "offer: 1 gold -> 5 wood")
    assert state.observation(0, "compact").endswith(":offer 1g->5w")
    assert "Your opponent offers you 1 gold for 5 of your wood." in state.observation(0)
    state = state.apply("accept")
    assert state.observation(0, "compact").split(":")[2] == "you 2w10g"


def test_denying_clears_the_offer() -> None:
    state = play("offer: 3 wood -> 2 gold")
    assert state.observation(1, "compact").endswith(":offer 3w->2g")
    state = state.apply("deny")
    assert state.observation(0, "compact").endswith(":you 7w9g:they 12w5g:value 13w6g:offer none")
    assert not state.is_legal("accept")


@pytest.mark.parametrize(
    ("offer", "returns"),
    [
        ("offer: 2 gold -> 2 wood", (0.0, 0.0)),  # 2 * 13 - 2 * 6 each
        ("offer: 2 gold -> 3 wood", (1.0, -1.0)),  # 27 against 8
        ("offer: 3 gold -> 2 wood", (-1.0, 1.0)),  # 8 against 27
        ("offer: 5 wood -> 1 gold", (-1.0, 1.0)),  # -59 against 17
    ],
)
def test_the_larger_gain_wins(offer: str, returns: tuple[float, float]) -> None:
    state = play(offer, turns=2)
    assert state.returns() == (0.0, 0.0)
    state = state.apply("accept")
    assert state.is_terminal
    assert state.returns() == returns
    words = {1.0: "you won", -1.0: "you lost", 0.0: "it is a draw"}
    for player in (0, 1):
        assert f"The game is over: {words[returns[player]]}." in state.observation(player)


def test_gains_are_counted_at_each_players_own_values() -> None:
    state = play("offer: 2 gold -> 3 wood", "accept")
    assert "Your gain so far: +27." in state.observation(0)
    assert "Your gain so far: +8." in state.observation(1)


def test_an_offer_of_the_last_turn_lapses() -> None:
    state = play("offer: 1 gold -> 9 wood", turns=1)
    assert state.is_terminal
    assert state.returns() == (0.0, 0.0)
    assert state.legal_actions() == ()
    assert not state.is_legal("accept")


def test_values_are_private() -> None:
    """Before player 0 has its values, player 1 has none either; the other player's numbers are never written."""
    for player in (0, 1):
        assert "13" not in play(deal=DEAL[:6]).observation(player, "compact")
    text = play("offer: 3 wood -> 2 gold").observation(1)
    assert "To you one wood is worth 6 and one gold is worth 13." in text
    assert "one wood is worth 13" not in text


def test_the_deal_is_uniform_over_the_published_ranges() -> None:
    state = load_game("simple_negotiation").initial_state()
    sizes = []
    for action in DEAL:
        outcomes = state.chance_outcomes()
        assert {chance for _, chance in outcomes} == {1 / len(outcomes)}
        sizes.append(len(outcomes))
        state = state.apply(action)
    assert sizes == [8, 8, 8, 8, 2, 5, 5]
    assert state.chance_outcomes() == ()


def test_a_game_needs_a_turn() -> None:
    with pytest.raises(ValueError, match="got turns=0; expected 1 or more"):
        load_game("simple_negotiation", turns=0)


@given(st.integers(1, 12), st.sampled_from(["wood", "gold"]), st.integers(1, 12))
def test_offers_read_back_as_written(give: int, resource: str, ask: int) -> None:
    offer = Offer(give, resource, ask)
    assert parse_reply(str(offer)) == (offer, "")
    assert parse_reply(f"Look: [{offer}]") == (offer, f"Look: [{offer}]")


@given(st.integers(0, 10_000))
def test_resources_are_neither_made_nor_lost(seed: int) -> None:
    _, last = random_playout(load_game("simple_negotiation"), seed)
    assert isinstance(last, SimpleNegotiationState)
    for kind in (0, 1):
        held = [int(last._holdings(player)[kind]) for player in (0, 1)]
        assert min(held) >= 0
        assert sum(held) == last.dealt[kind] + last.dealt[2 + kind]


WORDS = st.sampled_from(["accept", "deny", "pass", "offer:", "3", "wood", "->", "gold", "[", "]", "hello", "\n"])


@given(st.one_of(st.text(), st.lists(WORDS).map(" ".join)))
def test_any_text_is_either_legal_and_applies_or_is_refused(text: str) -> None:
    for state in (play(), play("offer: 3 wood -> 2 gold"), play(turns=1, deal=DEAL[:3])):
        if state.is_legal(text):
            assert state.apply(text).observation(1)
        else:
            with pytest.raises(IllegalActionError):
                state.apply(text)
