"""Leduc poker: six cards, two betting rounds, one public card.

The game is that of Southey et al. (2005, arXiv 1207.1411), with the actions and sizes of OpenSpiel's default
`leduc_poker`: ante 1, raises of 2 and then 4 chips, two raises a round, player 0 first in both rounds. "call" also
means check, the first bet is also a "raise", and "fold" is legal only facing a raise. Uniform play has NashConv
4.7472.

Not modelled: suits, which decide nothing. Chance deals ranks, with the probabilities of two cards each.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

RANKS = "JQK"
LEGAL: dict[tuple[str, ...], tuple[str, ...]] = {
    (): ("call", "raise"),
    ("call",): ("call", "raise"),
    ("raise",): ("fold", "call", "raise"),
    ("call", "raise"): ("fold", "call", "raise"),
    ("raise", "raise"): ("fold", "call"),
    ("call", "raise", "raise"): ("fold", "call"),
}
"""The legal actions after each unfinished sequence of a betting round; any other sequence is a finished round."""
RAISE = (2, 4)
"""Chips of a raise in each round."""
PAST_TENSE = {"fold": "folded", "call": "called", "raise": "raised"}
RULES = (
    "The deck holds six cards: two J, two Q and two K. J is the lowest rank and K the highest. Each player puts 1 chip"
    " into the pot and is dealt one card that the other player does not see. There are two betting rounds, and seat 0"
    " acts first in both. Between them one public card is turned up. In a round a player may call or raise, and may"
    " fold when facing a raise. To call is to put in as many chips as the other player has put in; when nothing is"
    " owed it is a check and costs nothing. To raise is to call and put in more on top: 2 chips in the first round, 4"
    " in the second. There are at most two raises in a round. A round ends when a raise is called or both players"
    " check. A fold gives the pot to the other player without showing cards. After the second round the cards are"
    " shown: a player whose card has the rank of the public card wins the pot, otherwise the higher card wins it, and"
    " equal cards split it."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeducPoker(Game):
    """Leduc poker, suits left out."""

    name: ClassVar[str] = "leduc_poker"
    summary: ClassVar[str] = "poker with six cards, two rounds and a public card"
    rules: ClassVar[str] = "Southey et al. (2005); actions and sizes as in OpenSpiel's leduc_poker"

    def initial_state(self) -> LeducPokerState:
        """Before the first card."""
        return LeducPokerState()

    @property
    def enumerable(self) -> bool:
        """1,939 nodes."""
        return True

    @property
    def max_turns(self) -> int:
        """Check, two raises and a call in each round."""
        return 8

    @property
    def min_return(self) -> float:
        """The other player wins the maximum."""
        return -self.max_return

    @property
    def max_return(self) -> float:
        """The ante and two raises in each round."""
        return float(1 + 2 * sum(RAISE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeducPokerState(State):
    """The ranks dealt (player 0, player 1, public) and the actions of each round."""

    cards: str = ""
    opening: tuple[str, ...] = ()
    """The first betting round."""
    closing: tuple[str, ...] = ()
    """The second betting round, after the public card."""

    @property
    def current_player(self) -> int:
        """Player 0 opens both rounds; chance deals before each."""
        if len(self.cards) < 2:
            return CHANCE
        if self.opening in LEGAL:
            return len(self.opening) % 2
        if self.opening[-1] == "fold" or self.closing not in LEGAL:
            return TERMINAL
        return len(self.closing) % 2 if len(self.cards) == 3 else CHANCE

    def legal_actions(self) -> tuple[str, ...]:
        """Fold only facing a raise; raise at most twice a round."""
        return LEGAL[self._line()] if self.current_player >= 0 else ()

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """The ranks in the deck, with their probabilities."""
        if self.current_player != CHANCE:
            return ()
        left = [(rank, 2 - self.cards.count(rank)) for rank in RANKS]
        return tuple((rank, count / (6 - len(self.cards))) for rank, count in left if count)

    def apply(self, action: str) -> LeducPokerState:
        """Deals a card or extends the current round."""
        player = self.current_player
        if player == CHANCE:
            if len(action) != 1 or action not in RANKS or self.cards.count(action) == 2:
                raise self.refuse(action)
            return LeducPokerState(cards=self.cards + action, opening=self.opening)
        if player == TERMINAL or action not in LEGAL[self._line()]:
            raise self.refuse(action)
        if len(self.cards) == 2:
            return LeducPokerState(cards=self.cards, opening=(*self.opening, action))
        return LeducPokerState(cards=self.cards, opening=self.opening, closing=(*self.closing, action))

    def returns(self) -> tuple[float, float]:
        """Chips won: the loser's share of the pot."""
        if self.current_player != TERMINAL:
            return (0.0, 0.0)
        paid = self.paid()
        line = self._line()
        if line[-1] == "fold":
            folder = (len(line) - 1) % 2
            won = -paid[0] if folder == 0 else paid[1]
        else:
            mine, other = self._strength(0), self._strength(1)
            won = 0 if mine == other else paid[1] if mine > other else -paid[0]
        return (float(won), float(-won))

    def information_state(self, player: int) -> str:
        """Own rank, the other's once shown, the public rank, and the actions of both rounds."""
        own = self.cards[player] if len(self.cards) > player else "-"
        shown = self.cards[1 - player] if self._is_showdown() else "-"
        return f"{own}{shown}:{self._public()}:{self._lines()}"

    def observation(self, player: int, style: Style = "full") -> str:
        """Rounds are separated by a slash in the compact form."""
        own = self.cards[player] if len(self.cards) > player else "-"
        if style == "compact":
            return f"leduc_poker:{own}:{self._public()}:{self._lines()}"
        lines = [
            f"You are playing one hand of Leduc poker. {RULES}",
            f"You are seat {player}, your opponent is seat {1 - player}.",
        ]
        if own == "-":
            return "\n".join([*lines, "Your card is not dealt yet."])
        lines.append(f"Your card: {own}. Round 1: {_describe(self.opening, player)}.")
        if len(self.cards) == 3:
            lines.append(f"Public card: {self.cards[2]}. Round 2: {_describe(self.closing, player)}.")
        paid = self.paid()
        lines.append(f"Chips in the pot: {paid[player]} of yours, {paid[1 - player]} of your opponent's.")
        if self.is_terminal:
            lines.append(self._describe_result(player))
        elif self.current_player == player:
            lines.append(f"It is your turn. Your legal actions: {', '.join(self.legal_actions())}.")
        return "\n".join(lines)

    def _line(self) -> tuple[str, ...]:
        """The actions of the current round."""
        return self.closing if len(self.cards) == 3 else self.opening

    def _lines(self) -> str:
        """The actions of both rounds; the slash comes with the public card."""
        opening = ",".join(self.opening)
        return f"{opening}/{','.join(self.closing)}" if len(self.cards) == 3 else opening

    def _public(self) -> str:
        """The rank turned up, or a dash."""
        return self.cards[2] if len(self.cards) == 3 else "-"

    def _is_showdown(self) -> bool:
        """Whether both cards have been shown."""
        return len(self.cards) == 3 and self.closing not in LEGAL and self.closing[-1] != "fold"

    def paid(self) -> list[int]:
        """Chips each player has put into the pot."""
        paid = [1, 1]
        for size, line in zip(RAISE, (self.opening, self.closing), strict=True):
            for ply, action in enumerate(line):
                if action != "fold":
                    player = ply % 2
                    paid[player] = paid[1 - player] + (size if action == "raise" else 0)
        return paid

    def _strength(self, player: int) -> int:
        """A number that orders hands at a showdown: a pair beats every single card."""
        return 3 if self.cards[player] == self.cards[2] else RANKS.index(self.cards[player])

    def _describe_result(self, player: int) -> str:
        """The result of the hand, as text for a player."""
        won = int(self.returns()[player])
        card = self.cards[1 - player]
        shown = f"your opponent showed {card}" if self._is_showdown() else "your opponent's card was not shown"
        result = "the pot was split" if won == 0 else f"you {'won' if won > 0 else 'lost'} {abs(won)}"
        unit = "" if won == 0 else " chip" if abs(won) == 1 else " chips"
        return f"The hand is over: {shown}, {result}{unit}."


def _describe(line: tuple[str, ...], player: int) -> str:
    """The actions of a round, as text for a player."""
    actions = []
    for ply, action in enumerate(line):
        word = "checked" if action == "call" and "raise" not in line[:ply] else PAST_TENSE[action]
        actions.append(f"{'you' if ply % 2 == player else 'your opponent'} {word}")
    return ", ".join(actions) or "no actions yet"
