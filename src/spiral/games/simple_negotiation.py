"""Simple negotiation: two players trade wood and gold; the one with the larger gain by its own values wins.

After Simple Negotiation in arXiv 2506.24119: the players value the two resources in opposite ways, so that
trade helps both, yet only the larger gain wins. Chance deals the holdings, which are public, and the values, which are
not. A turn holds exactly one token, "offer: 3 wood -> 2 gold", "accept", "deny" or "pass", and any talk
around it; talk is kept and shown to the other player.

Not modelled: other resources, offers of several kinds at once, and debts. Both players must be able to honour an offer
when it is made.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

RESOURCES = ("wood", "gold")
HOLDINGS = range(5, 13)
HIGH_VALUES = range(11, 16)
LOW_VALUES = range(5, 10)
MAX_WORDS = 300
"""Maximum number of characters of talk kept from one turn."""

_TOKEN = re.compile(
    r"\boffer\s*:(?:\s*([0-9]{1,9})\s*(wood|gold)\s*-\s*>\s*([0-9]{1,9})\s*(wood|gold)\b)?|\b(accept|deny|pass)\b",
    re.IGNORECASE | re.ASCII,
)
"""One token. An incomplete offer ("offer:") matches too, so that it counts as a second token beside another."""
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


def _deal(template: str, numbers: Iterable[int]) -> dict[str, int]:
    """The equally likely actions of one chance node, and the number behind each."""
    return {template.format(number): number for number in numbers}


DEALS = (
    _deal("seat 0 wood {}", HOLDINGS),
    _deal("seat 0 gold {}", HOLDINGS),
    _deal("seat 1 wood {}", HOLDINGS),
    _deal("seat 1 gold {}", HOLDINGS),
    _deal("seat {} prefers wood", (0, 1)),
    _deal("high value {}", HIGH_VALUES),
    _deal("low value {}", LOW_VALUES),
)
"""The chance nodes, one after another."""
DEAL_OUTCOMES = tuple(tuple((name, 1 / len(deal)) for name in deal) for deal in DEALS)

RULES = (
    "You are negotiating over two resources, wood and gold. Each player starts with some of both and has a private"
    " value for one piece of each. Your opponent values the two resources the other way round: what is worth more to"
    " you is worth less to your opponent. Players alternate, seat 0 first, for {turns} turns in all. After the last"
    " turn, a player's gain is the value of what that player then holds minus the value of what that player held at"
    " the start, at that player's own values. The larger gain wins; equal gains are a draw.\n"
    "In each turn you take exactly one of these actions:\n"
    "[offer: 3 wood -> 2 gold] offers 3 of your wood for 2 of your opponent's gold. You may also offer gold for wood."
    " Use whole numbers of at least 1; you must hold what you offer and your opponent must hold what you ask for.\n"
    "[accept] carries out the offer that your opponent has just made.\n"
    "[deny] turns it down. An offer of your own turns it down too and puts yours in its place.\n"
    "[pass] does nothing; it is allowed only when there is no offer to answer.\n"
    "You may say more in the same turn, and your opponent reads it. Keep the action in square brackets, and nothing"
    " else. An offer made in the last turn lapses."
)


class Offer(NamedTuple):
    """`give` of the speaker's `resource` for `ask` of the other player's other resource."""

    give: int
    resource: str
    ask: int

    @property
    def wanted(self) -> str:
        """The requested resource."""
        return RESOURCES[1 - RESOURCES.index(self.resource)]

    def __str__(self) -> str:
        """The canonical action."""
        return f"offer: {self.give} {self.resource} -> {self.ask} {self.wanted}"


class Reply(NamedTuple):
    """One turn: its canonical token, and the whole reply if it was more than the token."""

    token: str
    words: str


def parse_reply(text: str) -> tuple[str | Offer, str] | None:
    """The one token in a reply and the words spoken, or None when there is not exactly one.

    If the reply has square brackets, only their content can be a token. `SimpleNegotiationState.is_legal` checks
    whether the rules allow the token now.
    """
    text = " ".join(text.split())
    brackets = _BRACKETS.findall(text)
    if brackets:
        marked = [inner for inner in brackets if _TOKEN.search(inner)]
        match = _TOKEN.fullmatch(marked[0].strip()) if len(marked) == 1 else None
        rest = text.replace(f"[{marked[0]}]", " ") if marked else text
    else:
        found = list(_TOKEN.finditer(text))
        match = found[0] if len(found) == 1 else None
        rest = text[: match.start()] + text[match.end() :] if match else text
    if match is None:
        return None
    words = text[:MAX_WORDS] if any(character.isalnum() for character in rest) else ""
    give, resource, ask, wanted, plain = match.groups()
    if plain:
        return plain.lower(), words
    if give is None or resource.lower() == wanted.lower():
        return None
    return Offer(int(give), resource.lower(), int(ask)), words


@functools.lru_cache(maxsize=4096)
def _offers(mine: tuple[int, int], theirs: tuple[int, int]) -> tuple[str, ...]:
    """Every feasible offer: wood for gold first, then gold for wood, small numbers first."""
    return tuple(
        str(Offer(give, resource, ask))
        for kind, resource in enumerate(RESOURCES)
        for give in range(1, mine[kind] + 1)
        for ask in range(1, theirs[1 - kind] + 1)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleNegotiation(Game):
    """Trade of wood and gold between two players with opposed values."""

    name: ClassVar[str] = "simple_negotiation"
    summary: ClassVar[str] = "trade of wood and gold with talk; the larger gain wins"
    rules: ClassVar[str] = "after Simple Negotiation in arXiv 2506.24119"
    free_text: ClassVar[bool] = True

    turns: int = 10

    def __post_init__(self) -> None:
        """Refuse a game without turns."""
        if self.turns < 1:
            raise ValueError(f"simple_negotiation got turns={self.turns}; expected 1 or more")

    def initial_state(self) -> SimpleNegotiationState:
        """Before the holdings are dealt."""
        return SimpleNegotiationState(turns=self.turns)

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
    """The deal, the trades, and everything said."""

    turns: int = 10
    dealt: tuple[int, ...] = ()
    """The numbers of `DEALS` so far: four holdings, the player that prefers wood, the high and the low value."""
    traded: tuple[int, int] = (0, 0)
    """Wood and gold that player 0 has got from player 1, net."""
    offer: Offer | None = None
    """The standing offer, made by the player that spoke last."""
    log: tuple[Reply, ...] = ()

    @property
    def current_player(self) -> int:
        """Chance deals first, then the players alternate."""
        if len(self.dealt) < len(DEALS):
            return CHANCE
        return TERMINAL if len(self.log) == self.turns else len(self.log) % 2

    def legal_actions(self) -> tuple[str, ...]:
        """The tokens without talk: answers to a standing offer or a pass, then every feasible offer."""
        player = self.current_player
        if player < 0:
            return ()
        answers = ("accept", "deny") if self.offer else ("pass",)
        return (*answers, *_offers(self._holdings(player), self._holdings(1 - player)))

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """One uniform number after another."""
        return DEAL_OUTCOMES[len(self.dealt)] if len(self.dealt) < len(DEALS) else ()

    def is_legal(self, action: str) -> bool:
        """Whether a reply, talk included, holds exactly one token and the rules allow it now."""
        return self._read(action) is not None

    def apply(self, action: str) -> SimpleNegotiationState:
        """Deals a number, or takes a turn; a standing offer is answered or replaced by every turn."""
        if self.current_player == CHANCE:
            number = DEALS[len(self.dealt)].get(action)
            if number is None:
                raise self.refuse(action)
            return dataclasses.replace(self, dealt=(*self.dealt, number))
        read = self._read(action)
        if read is None:
            raise self.refuse(action)
        token, words = read
        traded, offer = self.traded, None
        if isinstance(token, Offer):
            offer = token
        elif token == "accept" and self.offer:
            speaker = 1 - self.current_player
            sign = 1 if speaker == 1 else -1
            given, asked = sign * self.offer.give, -sign * self.offer.ask
            change = (given, asked) if self.offer.resource == "wood" else (asked, given)
            traded = (traded[0] + change[0], traded[1] + change[1])
        log = (*self.log, Reply(str(token), words))
        return SimpleNegotiationState(turns=self.turns, dealt=self.dealt, traded=traded, offer=offer, log=log)

    def returns(self) -> tuple[float, float]:
        """+1 to the larger gain, -1 to the smaller, zeros when they are equal."""
        if self.current_player != TERMINAL:
            return (0.0, 0.0)
        lead = self._gain(0) - self._gain(1)
        sign = (lead > 0) - (lead < 0)
        return (float(sign), float(-sign))

    def information_state(self, player: int) -> str:
        """The holdings, the player's own values, and every turn with its words."""
        values = self._values(player) if len(self.dealt) == len(DEALS) else None
        return f"{self.dealt[:4]}{values}{[tuple(reply) for reply in self.log]}"

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form leaves out talk and the turns before the standing offer."""
        if style == "compact":
            return self._compact(player)
        lines = [RULES.format(turns=self.turns), f"You are seat {player}, your opponent is seat {1 - player}."]
        if len(self.dealt) < len(DEALS):
            return "\n".join([*lines, "Holdings and values are not dealt yet."])
        (wood, gold), (their_wood, their_gold) = self._holdings(player), self._holdings(1 - player)
        start, their_start = self.dealt[2 * player : 2 * player + 2], self.dealt[2 - 2 * player : 4 - 2 * player]
        wood_value, gold_value = self._values(player)
        lines += [
            f"To you one wood is worth {wood_value} and one gold is worth {gold_value}.",
            f"At the start you held {start[0]} wood and {start[1]} gold, your opponent {their_start[0]} wood and"
            f" {their_start[1]} gold.",
            f"Now you hold {wood} wood and {gold} gold, your opponent {their_wood} wood and {their_gold} gold.",
            f"Your gain so far: {self._gain(player):+d}.",
            "Turns so far:" if self.log else "No turn has been taken yet.",
        ]
        lines += [self._describe(number, player) for number in range(len(self.log))]
        lines += self._describe_now(player)
        return "\n".join(lines)

    def _read(self, text: str) -> tuple[str | Offer, str] | None:
        """The token and the words of a reply that the rules allow now, or None."""
        player = self.current_player
        read = parse_reply(text) if player >= 0 else None
        if read is None:
            return None
        token = read[0]
        if isinstance(token, Offer):
            kind = RESOURCES.index(token.resource)
            held, wanted = self._holdings(player)[kind], self._holdings(1 - player)[1 - kind]
            allowed = 1 <= token.give <= held and 1 <= token.ask <= wanted
        else:
            allowed = (token == "pass") == (self.offer is None)
        return read if allowed else None

    def _holdings(self, player: int) -> tuple[int, int]:
        """Wood and gold that a player holds now."""
        sign = 1 if player == 0 else -1
        return self.dealt[2 * player] + sign * self.traded[0], self.dealt[2 * player + 1] + sign * self.traded[1]

    def _values(self, player: int) -> tuple[int, int]:
        """The worth of one wood and of one gold to a player."""
        prefers_wood, high, low = self.dealt[4:]
        return (high, low) if player == prefers_wood else (low, high)

    def _gain(self, player: int) -> int:
        """Value got minus value given, at the player's own values."""
        wood_value, gold_value = self._values(player)
        gain = self.traded[0] * wood_value + self.traded[1] * gold_value
        return gain if player == 0 else -gain

    def _compact(self, player: int) -> str:
        """Numbers only; w is wood and g is gold."""
        turn = f"simple_negotiation:turn {min(len(self.log) + 1, self.turns)}/{self.turns}"
        if len(self.dealt) < len(DEALS):
            return f"{turn}:not dealt"
        (wood, gold), (their_wood, their_gold) = self._holdings(player), self._holdings(1 - player)
        wood_value, gold_value = self._values(player)
        standing = "none"
        if self.offer and len(self.log) % 2 == player:
            standing = f"{self.offer.give}{self.offer.resource[0]}->{self.offer.ask}{self.offer.wanted[0]}"
        return (
            f"{turn}:you {wood}w{gold}g:they {their_wood}w{their_gold}g:value {wood_value}w{gold_value}g"
            f":offer {standing}"
        )

    def _describe(self, number: int, player: int) -> str:
        """One past turn. Quotation marks in the talk are replaced, so that it cannot imitate another turn."""
        reply = self.log[number]
        who = "you" if number % 2 == player else "your opponent"
        said = f', saying "{reply.words.replace(chr(34), chr(39))}"' if reply.words else ""
        return f"Turn {number + 1}, {who}: [{reply.token}]{said}"

    def _describe_now(self, player: int) -> list[str]:
        """The legal actions, or the result of the game."""
        if self.is_terminal:
            won = self.returns()[player]
            result = "it is a draw" if won == 0 else f"you {'won' if won > 0 else 'lost'}"
            return [f"The game is over: {result}."]
        lines = [f"This is turn {len(self.log) + 1} of {self.turns}."]
        if self.current_player != player:
            return [*lines, "It is your opponent's turn."]
        (wood, gold), (their_wood, their_gold) = self._holdings(player), self._holdings(1 - player)
        actions = "[pass]"
        if self.offer:
            give, resource, ask = self.offer
            lines.append(f"Your opponent offers you {give} {resource} for {ask} of your {self.offer.wanted}.")
            actions = "[accept], [deny]"
        if wood and their_gold:
            actions += f", [offer: A wood -> B gold] with A from 1 to {wood} and B from 1 to {their_gold}"
        if gold and their_wood:
            actions += f", [offer: A gold -> B wood] with A from 1 to {gold} and B from 1 to {their_wood}"
        return [*lines, f"It is your turn. Your legal actions: {actions}."]
