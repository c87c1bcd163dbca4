"""How a turn of simple negotiation is read: one action, words after it, and refusals of what has two meanings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiral.games.offers import MAX_WORDS, Offer, UnclearTurnError, read_turn

RESOURCES = ("wheat", "wood", "sheep", "brick", "ore")
OFFER = "offer: 3 sheep, 2 ore -> 5 brick"


def read(text: str, *, answering: bool = False) -> tuple[str, str] | None:
    """The action in its one spelling and the words, or None when the turn is refused."""
    try:
        action, words = read_turn(text, RESOURCES, answering=answering)
    except UnclearTurnError:
        return None
    return (action.text(RESOURCES) if isinstance(action, Offer) else action), words


@pytest.mark.parametrize(
    "text",
    [
        OFFER,
        "[Offer: 3 Sheep, 2 Ore -> 5 Brick]",
        "OFFER :3sheep,2ore->5brick",
        "offer: 3 sheep and 2 ore -> 5 brick",
        "offer: 2 ores, and 3 sheep -> 5 bricks",
        "offer: 3 sheep + 2 ore => 5 brick",
        "offer 3 sheep & 2 ore for 5 brick",
        "I offer 3 sheep, 2 ore for 5 brick!",
        "Offer: I give 3 sheep, 2 ore -> 5 brick",
        "offer: 3 sheep, 2 ore \u2192 5 brick",
        r"offer: 3 sheep, 2 ore \rightarrow 5 brick",
        "3 sheep, 2 ore --> 5 brick",
        "offer:\n3\tsheep,\u00a02 ore - > 5 brick.",
        "offer: 1 sheep, 2 ore, 2 pieces of sheep -> 5 brick",
    ],
)
def test_the_same_offer_in_other_spellings(text: str) -> None:
    assert read(text) == (OFFER, "")


@pytest.mark.parametrize(
    ("text", "action", "words"),
    [
        ("accept", "accept", ""),
        ("  ACCEPT!  ", "accept", ""),
        ("I accept your offer", "accept", ""),
        ("[accept it]", "accept", ""),
        ("deny. Make it 3 ore.", "deny", "Make it 3 ore."),
        ("deny, too low", "deny", "too low"),
        ("pass. What do you want for ore?", "pass", "What do you want for ore?"),
        ("pass: I am thinking", "pass", "I am thinking"),
        (f"{OFFER}. I need brick badly", OFFER, "I need brick badly"),
        (f"{OFFER} (a fair price)", OFFER, "(a fair price)"),
        (f"{OFFER}. Do you accept?", OFFER, "Do you accept?"),
        (f"How about this? [{OFFER}] It is fair.", OFFER, "How about this? It is fair."),
        ("I accept your point, but [deny]", "deny", "I accept your point, but"),
        ("My last offer: refused, so [pass]", "pass", "My last offer: refused, so"),
        ("I'd like more ore.", "pass", "I'd like more ore."),
        ("What can you offer me?", "pass", "What can you offer me?"),
    ],
)
def test_actions_and_their_words(text: str, action: str, words: str) -> None:
    assert read(text) == (action, words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " . ",
        "4",
        "accept or deny",
        "accept, accept",
        "accept deny",
        "[accept] [deny]",
        "[well] accept",
        "accept, but add 1 ore",
        "accept if you add 1 ore",
        "acept",
        "ofer 3 wood -> 2 ore",
        f"{OFFER}. accept",
        f"{OFFER}. {OFFER}",
        f"{OFFER}. 1 wood",
        f"[{OFFER}] and 1 wood -> 1 ore",
        f"{OFFER} and 1 gold",
        f"{OFFER}, 1 gold",
        f"{OFFER}, please",
        f"{OFFER} -> 1 wood",
        "3 sheep for 2 ore",
        "3 sheep",
        "offer: three wood -> 2 ore",
        "offer: -3 wood -> 2 ore",
        "offer: 3.5 wood -> 2 ore",
        "offer: 3 wood -> 2.5 ore",
        "offer: 0 wood -> 2 ore",
        "offer: 3 wood -> 2 golden rings",
        "offer: 3 wood <- 2 ore",
        r"3 wood \gets 2 ore",
        "offer: wood -> ore",
    ],
)
def test_what_has_no_meaning_or_two_is_refused(text: str) -> None:
    assert read(text) is None


def test_words_alone_turn_an_offer_down_unless_they_may_accept_it() -> None:
    assert read("No, I need more ore.", answering=True) == ("deny", "No, I need more ore.")
    for text in ("Deal!", "Yes", "ok, sure", "I agree to that", "I cannot accept that"):
        assert read(text, answering=True) is None
        assert read(text) == ("pass", text)


def test_words_are_cut() -> None:
    assert read(f"pass. {'x' * 1000}") == ("pass", "x" * MAX_WORDS)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 999), min_size=10, max_size=10), st.sampled_from(["", "A fair price.", "x"]))
def test_offers_read_back_as_written(numbers: list[int], words: str) -> None:
    offer = Offer(tuple(numbers[:5]), tuple(numbers[5:]))
    if any(offer.give) and any(offer.ask):
        assert read_turn(f"{offer.text(RESOURCES)}. {words}", RESOURCES, answering=True) == (offer, words)
        assert read_turn(f"{words} [{offer.text(RESOURCES)}]", RESOURCES, answering=False) == (offer, words)


PARTS = st.sampled_from([*RESOURCES, "accept", "deny", "pass", "offer:", "3", "->", "[", "]", "hello", ".", ",", "\n"])


@settings(max_examples=60)
@given(st.one_of(st.text(), st.lists(PARTS).map(" ".join)))
def test_a_turn_is_read_or_refused_and_never_fails(text: str) -> None:
    for answering in (False, True):
        found = read(text, answering=answering)
        if found is not None:
            action, words = found
            again = read(f"{action}. {words}", answering=answering) if action != "accept" else found
            assert again is None or again[0] == action


def test_long_nonsense_is_refused_quickly() -> None:
    for text in ("3 wood, " * 10_000, "[" * 50_000, "offer: " + "1 ore " * 10_000, "->" * 50_000):
        assert read(text) is None
