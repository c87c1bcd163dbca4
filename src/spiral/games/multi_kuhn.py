"""Kuhn poker for three players or more: one card each, one betting round, returns in chips.

Every player puts in 1 chip and is dealt one of n + 1 cards. The players act in turn: each may check or bet 1 chip.
After a bet each of the others, in the order of the table, may call that chip or fold. The pot goes to the highest card
of those who paid the bet, or of all players if there was none. These are the rules of OpenSpiel's
`kuhn_poker(players=n)` and of the three-player Kuhn poker of the Annual Computer Poker Competition (Szafron, Gibson and
Sturtevant, 2013, "A parameterized family of equilibrium profiles for three-player Kuhn poker"), in which one player can
help another at no cost of its own, so that no strategy is safe for everybody.

Not modelled: matches of several hands. With two players it is `kuhn_poker`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

RANKS = "89TJQK"
"""Every rank, the lowest first; n players use the n + 1 highest."""
PLAYERS = range(3, 6)
NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}
PAST_TENSE = {"check": "checked", "bet": "bet", "call": "called", "fold": "folded"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiKuhn(Game):
    """One hand of Kuhn poker for three to five players."""

    name: ClassVar[str] = "multi_kuhn"
    summary: ClassVar[str] = "Kuhn poker for three players or more"
    rules: ClassVar[str] = "as in OpenSpiel; Szafron et al. (2013)"

    players: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers of players that have no deck."""
        if self.players not in PLAYERS:
            raise ValueError(
                f"multi_kuhn got players={self.players}; expected {PLAYERS[0]} to {PLAYERS[-1]}, or play 'kuhn_poker'"
                " for two"
            )

    def initial_state(self) -> MultiKuhnState:
        """Before the first card."""
        return MultiKuhnState(players=self.players)

    @property
    def num_players(self) -> int:
        """As the parameter says."""
        return self.players

    @property
    def enumerable(self) -> bool:
        """617 nodes with three players, 7,886 with four, 116,437 with five."""
        return True

    @property
    def max_turns(self) -> int:
        """The last player bets after checks, and all others answer."""
        return 2 * self.players - 1

    @property
    def min_return(self) -> float:
        """A lost call."""
        return -2.0

    @property
    def max_return(self) -> float:
        """Everybody has called."""
        return 2.0 * (self.players - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiKuhnState(State):
    """The cards that were dealt, player 0's first, and the actions."""

    players: int = 3
    cards: str = ""
    actions: tuple[str, ...] = ()

    @property
    def _deck(self) -> str:
        return RANKS[-self.players - 1 :]

    @property
    def _bettor(self) -> int | None:
        """The player who has bet."""
        return self.actions.index("bet") if "bet" in self.actions else None

    @property
    def current_player(self) -> int:
        """Chance until every player has a card, then the players in turn until all have answered the bet."""
        if len(self.cards) < self.players:
            return CHANCE
        bettor = self._bettor
        end = self.players if bettor is None else bettor + self.players
        return TERMINAL if len(self.actions) == end else len(self.actions) % self.players

    def legal_actions(self) -> tuple[str, ...]:
        """Check or bet before a bet, then call or fold."""
        if self.current_player < 0:
            return ()
        return ("check", "bet") if self._bettor is None else ("call", "fold")

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """A card for each player in turn."""
        if len(self.cards) == self.players:
            return ()
        left = [card for card in self._deck if card not in self.cards]
        return tuple((card, 1 / len(left)) for card in left)

    def apply(self, action: str) -> MultiKuhnState:
        """Deal a card or take an action."""
        if self.is_chance:
            if len(action) != 1 or action not in self._deck or action in self.cards:
                raise self.refuse(action)
            return dataclasses.replace(self, cards=self.cards + action)
        if not self.is_legal(action):
            raise self.refuse(action)
        return dataclasses.replace(self, actions=(*self.actions, action))

    def _paid(self) -> list[int]:
        """[players] the chips of each player in the pot."""
        paid = [1] * self.players
        for turn, action in enumerate(self.actions):
            paid[turn % self.players] += action in ("bet", "call")
        return paid

    def _winner(self) -> int:
        """The player that takes the pot at the end."""
        paid = self._paid()
        contenders = [player for player in range(self.players) if paid[player] == max(paid)]
        return max(contenders, key=lambda player: RANKS.index(self.cards[player]))

    def returns(self) -> tuple[float, ...]:
        """The pot for the winner, less what each has paid."""
        if not self.is_terminal:
            return (0.0,) * self.players
        paid, winner = self._paid(), self._winner()
        return tuple(float(sum(paid) * (player == winner) - paid[player]) for player in range(self.players))

    def information_state(self, player: int) -> str:
        """The player's own card, every action, and the cards that were shown."""
        own = self.cards[player] if len(self.cards) > player else "-"
        return f"{own}{''.join(card for _, card in self._shown())}:{','.join(self.actions)}"

    def _shown(self) -> list[tuple[int, str]]:
        """The players that showed their cards at the end; a single one that is left shows nothing."""
        if not self.is_terminal:
            return []
        paid = self._paid()
        left = [(player, self.cards[player]) for player in range(self.players) if paid[player] == max(paid)]
        return left if len(left) > 1 else []

    def revealed(self) -> str:
        """All cards."""
        return f"The cards of seats 0 to {self.players - 1}: {', '.join(self.cards)}." if self.is_terminal else ""

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form is the player's card and the actions; whose action is whose follows from their order."""
        own = self.cards[player] if len(self.cards) > player else "-"
        if style == "compact":
            table = "" if self.players == 3 else f" {self.players} players"
            shown = "".join(f":seat {seat} {card}" for seat, card in self._shown())
            seat = f":seat {player}" if self.current_player != player else ""
            return f"multi_kuhn{table}:{own}:{','.join(self.actions)}{shown}{seat}"
        deck = self._deck
        ten = " T is the ten." if "T" in deck else ""
        lines = [
            f"You are playing one hand of Kuhn poker for {NUMBERS[self.players]} players. The deck holds"
            f" {NUMBERS[len(deck)]} cards: {', '.join(deck[:-1])} and {deck[-1]}.{ten} {deck[0]} is the lowest and K"
            " the highest. Each player puts 1 chip into the pot and is dealt one card that the others do not see. The"
            " players act in turn, seat 0 first. Before a bet, a player may check or bet 1 chip. After a bet"
            " each of the others in turn, those who checked before included, may call it by putting in 1 chip, or fold."
            " The highest card among the players who put in the bet takes the pot; without a bet, the highest card of"
            " all.",
            f"You are seat {player} of seats 0 to {self.players - 1}.",
            "Your card is not dealt yet." if own == "-" else f"Your card: {own}.",
        ]
        said = [
            f"{'you' if turn % self.players == player else f'seat {turn % self.players}'} {PAST_TENSE[action]}"
            for turn, action in enumerate(self.actions)
        ]
        lines.append(f"Actions so far: {', '.join(said) or 'none'}. Pot: {sum(self._paid())} chips.")
        if self.is_terminal:
            lines.append(self._result(player))
        elif self.current_player == player:
            lines.append(f"It is your turn. Your legal actions: {', '.join(self.legal_actions())}.")
        return "\n".join(lines)

    def _result(self, player: int) -> str:
        """The cards and chips at the end, as text for a player."""
        won = self.returns()[player]
        shown = ", ".join(f"seat {seat} showed {card}" for seat, card in self._shown() if seat != player)
        count = f"{abs(won):.0f} chip{'s' if abs(won) > 1 else ''}"
        return f"The hand is over: {shown + ', ' if shown else ''}you {'won' if won > 0 else 'lost'} {count}."
