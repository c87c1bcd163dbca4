"""Simple negotiation: two players trade several resources; the larger gain at a player's own values wins.

The game of arXiv 2506.24119v3, whose environment is TextArena's SimpleNegotiation (Guertler et al., 2025, arXiv
2504.11442). Chance deals each player 5 to 25 pieces of every resource and, independently for each player, the value of
a piece: a whole number within 20% of the resource's base value, rounded towards it and kept between 5 and 40, as
TextArena does. Holdings and values are private. A turn is an offer of any pieces for any others, an answer to the offer
that stands, or a pass, and words that the other player hears (`spiral.games.offers`).

The resources are the first `resources` of `BASE_VALUES`. The first five and their values are TextArena's; stone, cloth
and iron, for the harder variant with eight, are ours, since the paper does not name its own.

Differences from TextArena: the game has `turns` turns, where TextArena plays one more than its `max_turns`; every turn
answers the offer that stands, where a refused offer stays open there until it is replaced; the holdings are shown as
they are now, where TextArena shows the deal and leaves the counting to the players.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import ClassVar, NamedTuple

from spiral.games.base import CHANCE, TERMINAL, Game, IllegalActionError, State, Style
from spiral.games.offers import MAX_WORDS, Offer, UnclearTurnError, goods_text, read_turn

BASE_VALUES = {"wheat": 5, "wood": 10, "sheep": 15, "brick": 25, "ore": 40, "stone": 12, "cloth": 20, "iron": 30}
HOLDINGS = range(5, 26)
VALUE_LIMITS = (5, 40)
MAX_LISTED = 8
"""Pieces on a side of a listed offer, at most; one more in a counter-offer that asks for more."""

RULES = (
    "You are negotiating over {count} resources: {names}. Each player holds some of all of them, and each resource has"
    " a value to each player. You know only your own holdings and values; your opponent's values differ from yours by"
    " chance, but not by much. Players alternate, player 0 first, for {turns} turns in all. After the last turn, a"
    " player's gain is the value of what that player then holds minus the value of what that player held at the start,"
    " at that player's own values. The larger gain wins; equal gains are a draw.\n"
    "Each turn is one of these actions:\n"
    "offer: {example} - gives the pieces on the left for your opponent's pieces on the right. Any whole numbers of any"
    " resources may stand on both sides; you must hold what you give.\n"
    "accept - carries out the offer that your opponent has just made; you must hold what it asks for.\n"
    "deny - turns it down. An offer of your own turns it down too and stands in its place.\n"
    "pass - does nothing; it is allowed when there is no offer to answer.\n"
    "You may add words for your opponent after a full stop, as in: offer: {example}. {words} Your opponent receives"
    " your action and the first {max_words} characters of these words, and nothing else that you write. Words without"
    " an action are a pass, or turn down the offer that stands. An offer made in the last turn lapses."
)
WORDS = "I have more {} than I need."
"""The words of the example in the rules."""


def value_range(base: int) -> range:
    """The possible values of a piece with a base value: within 20%, rounded towards it, and within `VALUE_LIMITS`."""
    spread = base // 5
    return range(max(base - spread, VALUE_LIMITS[0]), min(base + spread, VALUE_LIMITS[1]) + 1)


class Reply(NamedTuple):
    """One turn: the action in its one spelling, and the words that the other player heard with it."""

    action: str
    words: str


@functools.cache
def _names(resources: int) -> tuple[str, ...]:
    return tuple(BASE_VALUES)[:resources]


@functools.cache
def _deals(resources: int) -> tuple[dict[str, int], ...]:
    """The chance nodes, one after another: the equally likely outcomes, and the number behind each."""
    names = _names(resources)
    holdings = [
        {f"player {player} holds {number} {name}": number for number in HOLDINGS} for player in (0, 1) for name in names
    ]
    values = [
        {f"player {player} values {name} at {value}": value for value in value_range(BASE_VALUES[name])}
        for player in (0, 1)
        for name in names
    ]
    return (*holdings, *values)


@functools.cache
def _outcomes(resources: int) -> tuple[tuple[tuple[str, float], ...], ...]:
    return tuple(tuple((name, 1 / len(deal)) for name in deal) for deal in _deals(resources))


@functools.cache
def _even(offered: str, wanted: str) -> tuple[int, int]:
    """Pieces of two resources that are worth about the same at the base values, such as 8 wheat and 1 ore."""
    rate = Fraction(BASE_VALUES[wanted], BASE_VALUES[offered]).limit_denominator(MAX_LISTED)
    return rate.numerator, rate.denominator


def _offers(held: tuple[int, ...], pairs: Iterable[tuple[int, int]], more: tuple[int, ...]) -> Iterator[str]:
    """Even offers of one resource for another that a player with `held` can make, with `more` pieces asked on top."""
    names = _names(len(held))
    for offered, wanted in pairs:
        give, ask = _even(names[offered], names[wanted])
        if offered != wanted and give <= held[offered]:
            for extra in more:
                yield f"offer: {give} {names[offered]} -> {ask + extra} {names[wanted]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleNegotiation(Game):
    """Trade between two players who value the same resources a little differently."""

    name: ClassVar[str] = "simple_negotiation"
    summary: ClassVar[str] = "trade of several resources with talk; the larger gain wins"
    rules: ClassVar[str] = "TextArena's, as in arXiv 2506.24119v3"
    free_text: ClassVar[bool] = True

    resources: int = 5
    turns: int = 10

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if not 2 <= self.resources <= len(BASE_VALUES):
            raise ValueError(
                f"simple_negotiation got resources={self.resources}; expected a number from 2 to {len(BASE_VALUES)}"
            )
        if self.turns < 1:
            raise ValueError(f"simple_negotiation got turns={self.turns}; expected 1 or more")

    def initial_state(self) -> SimpleNegotiationState:
        """Before anything is dealt."""
        return SimpleNegotiationState(resources=self.resources, turns=self.turns, moved=(0,) * self.resources)

    def example(self) -> tuple[SimpleNegotiationState, str] | None:
        """An answer with words to a first offer: a counter-offer, after the middle of every deal."""
        if self.turns < 2:
            return None
        state = self.initial_state()
        while state.is_chance:
            outcomes = state.chance_outcomes()
            state = state.apply(outcomes[len(outcomes) // 2][0])
        first, second = state.names[:2]
        return state.apply(f"offer: 1 {first} -> 2 {second}"), f"offer: 1 {second} -> 3 {first}. Yours asks too much."

    @property
    def max_turns(self) -> int:
        """The parameter: the turns of both players together."""
        return self.turns

    @property
    def min_return(self) -> float:
        """A loss."""
        return -1.0

    @property
    def max_return(self) -> float:
        """A win."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleNegotiationState(State):
    """The deal, the trades, and every turn."""

    resources: int = 5
    turns: int = 10
    dealt: tuple[int, ...] = ()
    """What chance has dealt so far: the holdings of player 0 and of player 1, then the values of each."""
    moved: tuple[int, ...] = (0, 0, 0, 0, 0)
    """[resources] pieces that player 0 has got from player 1, net."""
    offer: Offer | None = None
    """The offer that stands, made by the player that acted last."""
    log: tuple[Reply, ...] = ()

    @property
    def current_player(self) -> int:
        """Chance deals first, then the players alternate."""
        if len(self.dealt) < 4 * self.resources:
            return CHANCE
        return TERMINAL if len(self.log) == self.turns else len(self.log) % 2

    def legal_actions(self) -> tuple[str, ...]:
        """A pass and an even offer of every resource for every other, or answers and counter-offers.

        Even means of about the same worth at the base values. A counter-offer trades the same resources as the offer
        that stands, evenly or for one piece more. `is_legal` accepts offers of any numbers of any resources, and words.
        """
        player = self.current_player
        if player < 0:
            return ()
        held, kinds = self.holdings(player), range(self.resources)
        if self.offer is None:
            return ("pass", *_offers(held, itertools.product(kinds, kinds), (0,)))
        asked, given = ([kind for kind in kinds if numbers[kind]] for numbers in (self.offer.ask, self.offer.give))
        answers = ("accept", "deny") if _covers(held, self.offer.ask) else ("deny",)
        return (*answers, *_offers(held, itertools.product(asked, given), (0, 1)))

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """One number after another, all equally likely."""
        return _outcomes(self.resources)[len(self.dealt)] if len(self.dealt) < 4 * self.resources else ()

    def is_legal(self, action: str) -> bool:
        """Whether a turn, words included, is one action that the rules allow now."""
        try:
            self._read(action)
        except UnclearTurnError:
            return False
        return True

    def apply(self, action: str) -> SimpleNegotiationState:
        """Deals a number, or takes a turn; the offer that stands is answered or replaced by every turn."""
        if self.current_player == CHANCE:
            number = _deals(self.resources)[len(self.dealt)].get(action)
            if number is None:
                raise self.refuse(action)
            return dataclasses.replace(self, dealt=(*self.dealt, number))
        try:
            taken, words = self._read(action)
        except UnclearTurnError:
            raise self.refuse(action) from None
        moved, offer = self.moved, None
        if isinstance(taken, Offer):
            offer, taken = taken, taken.text(self.names)
        elif taken == "accept" and self.offer:
            sign = 1 if self.current_player == 0 else -1
            moved = tuple(
                before + sign * (got - given)
                for before, got, given in zip(moved, self.offer.give, self.offer.ask, strict=True)
            )
        return SimpleNegotiationState(
            resources=self.resources,
            turns=self.turns,
            dealt=self.dealt,
            moved=moved,
            offer=offer,
            log=(*self.log, Reply(taken, words)),
        )

    def refuse(self, action: str) -> IllegalActionError:
        """The error for an action that is not legal here, with the reason."""
        if self.current_player >= 0:
            try:
                self._read(action)
            except UnclearTurnError as error:
                return IllegalActionError(f"got action {action!r} of player {self.current_player}: {error}", str(error))
        return super().refuse(action)

    def returns(self) -> tuple[float, float]:
        """+1 to the larger gain, -1 to the smaller, zeros when they are equal."""
        if self.current_player != TERMINAL:
            return (0.0, 0.0)
        lead = self.gain(0) - self.gain(1)
        sign = (lead > 0) - (lead < 0)
        return (float(sign), float(-sign))

    def information_state(self, player: int) -> str:
        """The player's own deal, and every turn with its words."""
        own = (*self._dealt_to(player, 0), "at", *self._dealt_to(player, 2))
        return f"{len(self.dealt)} dealt: {' '.join(map(str, own))} {[tuple(reply) for reply in self.log]}"

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form leaves out words and all turns before the offer that stands."""
        if style == "compact":
            return self._compact(player)
        names = self.names
        lines = [_rules(self.resources, self.turns), f"You are player {player}, your opponent is player {1 - player}."]
        if self.is_chance:
            return "\n".join([*lines, "Holdings and values are not dealt yet."])
        lines.append("Turns so far:" if self.log else "No turn has been taken yet.")
        lines += [self._describe(number, player) for number in range(len(self.log))]
        lines.append("Resource  You hold  Worth to you")
        lines += [
            f"{name:8}  {held:8}  {f'{value} each':>12}"
            for name, held, value in zip(names, self.holdings(player), self.values(player), strict=True)
        ]
        lines.append(f"Your gain so far: {self.gain(player):+d}.")
        lines += self._describe_now(player)
        return "\n".join(lines)

    def revealed(self) -> str:
        """Both players' gains and values."""
        if not self.is_terminal:
            return ""
        lines = []
        for player in (0, 1):
            worth = ", ".join(f"{name} {value}" for name, value in zip(self.names, self.values(player), strict=True))
            lines.append(f"Player {player} gained {self.gain(player):+d}; worth to player {player}: {worth}.")
        return "\n".join(lines)

    @property
    def names(self) -> tuple[str, ...]:
        """[resources] the names of the resources."""
        return _names(self.resources)

    def holdings(self, player: int) -> tuple[int, ...]:
        """[resources] the pieces that a player holds now."""
        sign = 1 if player == 0 else -1
        return tuple(start + sign * change for start, change in zip(self._dealt_to(player, 0), self.moved, strict=True))

    def values(self, player: int) -> tuple[int, ...]:
        """[resources] the worth of one piece to a player."""
        return self._dealt_to(player, 2)

    def gain(self, player: int) -> int:
        """The value got minus the value given, at the player's own values."""
        sign = 1 if player == 0 else -1
        return sign * sum(change * value for change, value in zip(self.moved, self.values(player), strict=True))

    def _dealt_to(self, player: int, part: int) -> tuple[int, ...]:
        """A player's holdings (part 0) or values (part 2) as dealt so far."""
        start = (part + player) * self.resources
        return self.dealt[start : start + self.resources]

    def _read(self, text: str) -> tuple[str | Offer, str]:
        """The action and the words of a turn. Raises `UnclearTurnError` when the rules do not allow it now."""
        player = self.current_player
        if player < 0:
            raise UnclearTurnError("no player is to act")
        action, words = read_turn(text, self.names, answering=self.offer is not None)
        held = self.holdings(player)
        if isinstance(action, Offer):
            if not _covers(held, action.give):
                missing = goods_text(_short(held, action.give), self.names)
                raise UnclearTurnError(f"you offer more than you hold, by {missing}")
        elif action == "pass" and self.offer is not None:
            raise UnclearTurnError("there is an offer to answer; accept, deny, or make an offer of your own")
        elif action != "pass" and self.offer is None:
            raise UnclearTurnError(f"there is no offer to {action}; pass, or make an offer")
        elif action == "accept" and self.offer is not None and not _covers(held, self.offer.ask):
            missing = goods_text(_short(held, self.offer.ask), self.names)
            raise UnclearTurnError(f"you do not hold what the offer asks for; you lack {missing}")
        return action, words

    def _compact(self, player: int) -> str:
        """The player's goods as "12 wheat at 5", its gain, and the offer that it must answer."""
        turn = f"simple_negotiation:turn {min(len(self.log) + 1, self.turns)}/{self.turns}"
        if self.is_chance:
            return f"{turn}:not dealt"
        goods = ":".join(
            f"{held} {name} at {value}"
            for held, name, value in zip(self.holdings(player), self.names, self.values(player), strict=True)
        )
        offer = "none"
        if self.offer and len(self.log) % 2 == player:
            offer = self.offer.text(self.names).removeprefix("offer: ")
        return f"{turn}:gain {self.gain(player):+d}:{goods}:offer {offer}"

    def _describe(self, number: int, player: int) -> str:
        """One past turn. Quotation marks in the words are replaced, so that they cannot imitate another turn."""
        reply = self.log[number]
        who = "you" if number % 2 == player else "your opponent"
        said = f', saying "{reply.words.replace(chr(34), chr(39))}"' if reply.words else ""
        return f"Turn {number + 1}, {who}: [{reply.action}]{said}"

    def _describe_now(self, player: int) -> list[str]:
        """The legal actions, or the result of the game."""
        if self.is_terminal:
            won = self.returns()[player]
            result = "it is a draw" if won == 0 else f"you {'won' if won > 0 else 'lost'}"
            return [f"The game is over: {result}."]
        lines = [f"This is turn {len(self.log) + 1} of {self.turns}."]
        if self.current_player != player:
            return [*lines, "It is your opponent's turn."]
        if self.offer is None:
            return [*lines, "It is your turn. Your legal actions: pass, or an offer of what you hold."]
        give, ask = (goods_text(numbers, self.names) for numbers in self.offer)
        lines.append(f"Your opponent offers you {give} and asks for {ask}.")
        if _covers(self.holdings(player), self.offer.ask):
            return [*lines, "It is your turn. Your legal actions: accept, deny, or an offer of what you hold."]
        lines.append("You cannot accept, as you do not hold what it asks for.")
        return [*lines, "It is your turn. Your legal actions: deny, or an offer of what you hold."]


def _covers(held: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(have >= number for have, number in zip(held, wanted, strict=True))


def _short(held: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """What is missing of each resource."""
    return tuple(max(0, number - have) for have, number in zip(held, wanted, strict=True))


@functools.cache
def _rules(resources: int, turns: int) -> str:
    """The rules in words."""
    names = _names(resources)
    example = f"3 {names[0]} -> 2 {names[1]}" if resources == 2 else f"2 {names[0]}, 1 {names[2]} -> 2 {names[1]}"
    return RULES.format(
        count=resources,
        names=f"{', '.join(names[:-1])} and {names[-1]}",
        turns=turns,
        example=example,
        words=WORDS.format(names[0]),
        max_words=MAX_WORDS,
    )
