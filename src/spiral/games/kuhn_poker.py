"""Kuhn poker: one card each, one betting round; one hand, or a match of several hands decided by chips.

The game is Kuhn's (1950, "A simplified two-person poker"). One hand is the form of game theory: returns are the
chips won, and the value for the player who acts first is -1/18. `hands=5` is the match of arXiv 2506.24119: chance
picks who acts first in the first hand, the first to act then alternates, every bet and call moves chips, and after the
last hand more chips win. A folded card is never shown.

The deck is J, Q and K. `cards=5` plays the paper's harder variant with a deck of five, 9, T, J, Q and K: a deck of any
size from 3 to 13 is the highest ranks of A 2 3 4 5 6 7 8 9 T J Q K, where T is the ten and the ace is the lowest.

Not modelled: stacks that run out. Chips are net gains, so that every match has all its hands.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, NamedTuple

from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

RANKS = "A23456789TJQK"
"""Every rank, the lowest first."""
DECK_SIZES = range(3, len(RANKS) + 1)
LEGAL: dict[tuple[str, ...], tuple[str, ...]] = {
    (): ("check", "bet"),
    ("check",): ("check", "bet"),
    ("bet",): ("call", "fold"),
    ("check", "bet"): ("call", "fold"),
}
"""The legal actions after each unfinished sequence of actions in a hand; any other sequence is a finished hand."""
SHOWDOWNS = {("check", "check"): 1, ("bet", "call"): 2, ("check", "bet", "call"): 2}
"""Sequences of actions that end by comparing cards, and the chips that each player has put in."""
STARTERS = (("seat 0 first", 0.5), ("seat 1 first", 0.5))
PAST_TENSE = {"check": "checked", "bet": "bet", "call": "called", "fold": "folded"}

NUMBERS = ("three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen")
"""The sizes of decks in words."""
RULES = (
    "The deck holds {number} cards: {names}. {low} is the lowest and K the highest. In a hand each player puts 1 chip"
    " into the pot and is dealt one card that the other player does not see. The player who acts first may check or bet"
    " 1 chip; after a check the other player may check or bet 1 chip. A player who faces a bet may call it by putting"
    " in 1 chip, or fold. A fold gives the pot to the other player without showing cards. When both check, or a bet is"
    " called, the cards are shown and the higher one takes the pot."
)


@functools.cache
def deck(cards: int) -> str:
    """The ranks of a deck of `cards` cards, the lowest first: "JQK" for 3."""
    return RANKS[-cards:]


@functools.cache
def _deals(cards: int, dealt: str) -> tuple[tuple[str, float], ...]:
    """The next card and its probability, after the cards that are dealt."""
    left = [card for card in deck(cards) if card not in dealt]
    return tuple((card, 1 / len(left)) for card in left)


@functools.cache
def _rules(cards: int) -> str:
    ranks = deck(cards)
    ten = " T is the ten." if "T" in ranks else ""
    names = f"{', '.join(ranks[:-1])} and {ranks[-1]}"
    return RULES.format(number=NUMBERS[cards - 3], names=f"{names}.{ten}".rstrip("."), low=ranks[0])


class Hand(NamedTuple):
    """One hand of a match: the first player to act, the cards of both, the actions."""

    first: int
    cards: str
    actions: tuple[str, ...]

    def chips_won(self) -> int:
        """Net chips of player 0 from a finished hand."""
        stake = SHOWDOWNS.get(self.actions)
        if stake is not None:
            return stake if RANKS.index(self.cards[0]) > RANKS.index(self.cards[1]) else -stake
        folder = (self.first + len(self.actions) - 1) % 2
        return -1 if folder == 0 else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class KuhnPoker(Game):
    """Kuhn poker over one hand, or a match of several."""

    name: ClassVar[str] = "kuhn_poker"
    summary: ClassVar[str] = "poker with three cards or more; one hand for chips, or a match"
    rules: ClassVar[str] = "Kuhn (1950); the match of several hands after arXiv 2506.24119"

    hands: int = 1
    cards: int = 3
    """The size of the deck."""

    def __post_init__(self) -> None:
        """Refuse a match without hands, and decks that are too small or too large."""
        if self.hands < 1:
            raise ValueError(f"kuhn_poker got hands={self.hands}; expected 1 or more")
        if self.cards not in DECK_SIZES:
            raise ValueError(f"kuhn_poker got cards={self.cards}; expected a number from 3 to {DECK_SIZES[-1]}")

    def initial_state(self) -> KuhnPokerState:
        """Before the first card; in a match, before chance picks the first player to act."""
        return KuhnPokerState(hands=self.hands, deck=deck(self.cards), starter=0 if self.hands == 1 else None)

    @property
    def enumerable(self) -> bool:
        """One hand has 58 nodes with three cards, 1,418 with thirteen; two hands 3,537 with three, 83,355 with six."""
        return self.hands == 1 or (self.hands == 2 and self.cards <= 6)

    @property
    def max_turns(self) -> int:
        """The longest hand is check, bet, and an answer."""
        return 3 * self.hands

    @property
    def min_return(self) -> float:
        """The other player wins the maximum."""
        return -self.max_return

    @property
    def max_return(self) -> float:
        """Two chips in a single hand; a match is won or lost."""
        return 2.0 if self.hands == 1 else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class KuhnPokerState(State):
    """The hands that are over, and the one being played.

    `cards` holds the dealt cards, player 0's first. The last hand stays in `cards` and `actions` when it is over.
    """

    hands: int = 1
    deck: str = "JQK"
    """The ranks of the deck, the lowest first."""
    starter: int | None = 0
    """The player that acts first in the first hand; None until chance has picked it."""
    past: tuple[Hand, ...] = ()
    cards: str = ""
    actions: tuple[str, ...] = ()

    @property
    def current_player(self) -> int:
        """Chance until both cards are dealt, then the players in turn."""
        if self.starter is None or len(self.cards) < 2:
            return CHANCE
        if self.actions not in LEGAL:
            return TERMINAL
        return (self.starter + len(self.past) + len(self.actions)) % 2

    def legal_actions(self) -> tuple[str, ...]:
        """Check or bet before a bet, then call or fold."""
        return LEGAL.get(self.actions, ()) if len(self.cards) == 2 else ()

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """Chance: who acts first in the match, then a card for player 0, then one for player 1."""
        if self.starter is None:
            return STARTERS
        return _deals(len(self.deck), self.cards) if len(self.cards) < 2 else ()

    def apply(self, action: str) -> KuhnPokerState:
        """Apply the choice of the first player, a deal or an action; a finished hand is followed by the next."""
        if self.starter is None:
            if action not in (STARTERS[0][0], STARTERS[1][0]):
                raise self.refuse(action)
            return KuhnPokerState(hands=self.hands, deck=self.deck, starter=0 if action == STARTERS[0][0] else 1)
        past, cards, actions = self.past, self.cards, self.actions
        if len(cards) < 2:
            if len(action) != 1 or action not in self.deck or action in cards:
                raise self.refuse(action)
            cards += action
        else:
            if action not in LEGAL.get(actions, ()):
                raise self.refuse(action)
            actions = (*actions, action)
            if actions not in LEGAL and len(past) + 1 < self.hands:
                past, cards, actions = (*past, Hand(self._first(), cards, actions)), "", ()
        return KuhnPokerState(
            hands=self.hands, deck=self.deck, starter=self.starter, past=past, cards=cards, actions=actions
        )

    def returns(self) -> tuple[float, float]:
        """Chips won in a single hand; in a match +1 and -1, or zeros when the chips are equal."""
        if self.current_player != TERMINAL:
            return (0.0, 0.0)
        won = self._chips()
        if self.hands > 1:
            won = (won > 0) - (won < 0)
        return (float(won), float(-won))

    def information_state(self, player: int) -> str:
        """The player's own cards, every action, and the other cards that were shown."""
        own = self.cards[player] if len(self.cards) > player else "-"
        shown = self.cards[1 - player] if self.actions in SHOWDOWNS else "-"
        now = f"{own}{shown}:{','.join(self.actions)}"
        if self.hands == 1:
            return now
        before = (
            f"{hand.cards[player]}{hand.cards[1 - player] if hand.actions in SHOWDOWNS else '-'}"
            f":{','.join(hand.actions)}"
            for hand in self.past
        )
        return "/".join((f"first {'-' if self.starter is None else self.starter}", *before, now))

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form shows the chips of earlier hands, not how they were won."""
        if style == "compact":
            return self._compact(player)
        match = f"a match of {self.hands} hands of Kuhn poker" if self.hands > 1 else "one hand of Kuhn poker"
        lines = [f"You are playing {match}. {_rules(len(self.deck))}"]
        if self.hands > 1:
            lines.append(
                "The player who acts first alternates from hand to hand. Chips won and lost are carried from hand to"
                " hand, and after the last hand the player with more chips wins the match; equal chips are a draw."
            )
        lines.append(f"You are seat {player}, your opponent is seat {1 - player}.")
        lines.extend(_describe(hand, number, player) for number, hand in enumerate(self.past, start=1))
        if self.hands > 1:
            chips = self._chips(player)
            lines.append(f"Your chips won or lost so far: {chips:+d}. Your opponent's: {-chips:+d}.")
        lines.extend(self._describe_current(player))
        return "\n".join(lines)

    def _first(self) -> int:
        """The player that acts first in the current hand."""
        assert self.starter is not None
        return (self.starter + len(self.past)) % 2

    def _chips(self, player: int = 0) -> int:
        """Net chips of a player over every finished hand."""
        won = sum(hand.chips_won() for hand in self.past)
        if self.actions not in LEGAL:
            won += Hand(self._first(), self.cards, self.actions).chips_won()
        return won if player == 0 else -won

    def _compact(self, player: int) -> str:
        """Own card and actions; in a match also the hand's number, the chips, and whether the player acts first."""
        own = self.cards[player] if len(self.cards) > player else "-"
        hand = f"{own}:{','.join(self.actions)}"
        name = "kuhn_poker" if len(self.deck) == 3 else f"kuhn_poker {len(self.deck)} cards"
        if self.hands == 1:
            return f"{name}:{hand}"
        order = "-" if self.starter is None else "first" if self._first() == player else "second"
        return f"{name}:hand {len(self.past) + 1}/{self.hands}:you {self._chips(player):+d}:{order}:{hand}"

    def _describe_current(self, player: int) -> list[str]:
        """The current hand in words."""
        title = f"This is hand {len(self.past) + 1} of {self.hands}. " if self.hands > 1 else ""
        if self.starter is None:
            return [f"{title}It is not known yet who acts first."]
        order = "You act first" if self._first() == player else "Your opponent acts first"
        lines = [f"{title}{order} in this hand."]
        if len(self.cards) <= player:
            return [*lines, "Your card is not dealt yet."]
        hand = Hand(self._first(), self.cards, self.actions)
        pot = 2 + sum(action in ("bet", "call") for action in self.actions)
        lines.append(
            f"Your card: {self.cards[player]}. Actions so far: {_line(hand, player) or 'none'}. Pot: {pot} chips."
        )
        if self.actions not in LEGAL:
            lines.append(f"The hand is over: {_result(hand, player)}. The game is over.")
        elif self.current_player == player:
            lines.append(f"It is your turn. Your legal actions: {', '.join(self.legal_actions())}.")
        return lines


def _line(hand: Hand, player: int) -> str:
    """The actions of a hand as seen from a player."""
    return ", ".join(
        f"{'you' if (hand.first + ply) % 2 == player else 'your opponent'} {PAST_TENSE[action]}"
        for ply, action in enumerate(hand.actions)
    )


def _result(hand: Hand, player: int) -> str:
    """The cards and chips of a finished hand, as text for a player."""
    won = hand.chips_won() if player == 0 else -hand.chips_won()
    card = hand.cards[1 - player]
    shown = f"your opponent showed {card}" if hand.actions in SHOWDOWNS else "your opponent's card was not shown"
    return f"{shown}, you {'won' if won > 0 else 'lost'} {abs(won)} chip{'s' if abs(won) > 1 else ''}"


def _describe(hand: Hand, number: int, player: int) -> str:
    """One line for a hand that is over."""
    return f"Hand {number}: your card was {hand.cards[player]}; {_line(hand, player)}; {_result(hand, player)}."
