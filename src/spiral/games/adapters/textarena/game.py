"""The games of TextArena for two players and more (Guertler et al., 2025, arXiv 2504.11442) as `Game` and `State`.

A state is the deal and the actions since: chance deals one of 10,000 seeds (a game without random numbers has no such
node), and everything after it, dice included, follows from that seed. The library's environment is kept beside them and
rebuilt by replaying the actions when it is missing, as after unpickling.

These games serve as held-out evaluation, comparable with other work, so TextArena's rules are left as they are. Some of
their faults: in Simple Negotiation a refused offer stands until it is replaced, also for the player that made it; Kuhn
poker lets the players 1, 0, 1 open its three hands, and its chips decide only who wins; Pig ends at 100 turns only when
a turn is passed on; a game whose position allows no move at all does not end, and is lost here by the player that is
stuck, as its next, illegal move would lose in TextArena.

What TextArena calls invalid is not legal here: there are no second tries. An action may leave its square brackets out
where that means the same. The full observation is TextArena's own text, shortened where it grows beyond bounds; it does
not list the legal actions. Whose turn it is, TextArena says, and it pays the returns, from -1 to 1. Of three players
and more they need not sum to zero: all but the winner may get -1, and all of a team get the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from typing import Any, ClassVar

from spiral.games.adapters.textarena.catalog import NOT_PLAYABLE, PLAYABLE, Entry
from spiral.games.adapters.textarena.engine import Message, Position, deal, installed
from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

NUM_DEALS = 10_000
DEALS = tuple((str(seed), 1 / NUM_DEALS) for seed in range(NUM_DEALS))
MAX_CHARACTERS = 6_000
"""Approximate maximum length of an observation."""
MAX_ACTION = 20_000
"""Maximum number of characters of a legal action."""
MAX_BRACKETS = 200
"""Maximum number of opening brackets of one kind in a legal action."""
MAX_MESSAGE = 1_500
"""Maximum length of one message. Its longest lines are cut off, since some games quote a player in each line."""
MAX_LINES = 100
"""Lines of one message that are cut off one by one; those after them together."""
TOLERANCE = 1e-9
"""Largest distance from zero of a sum of returns that rounding alone explains."""
MIN_RECENT = 2_000
"""Minimum number of characters for the course of the game, whatever the length of the rules."""


def names() -> dict[str, str | None]:
    """Return every game by TextArena's id, with the reason why it cannot be played here, or None."""
    missing = None if installed() else "needs textarena: pip install textarena"
    return {**dict.fromkeys(PLAYABLE, missing), **NOT_PLAYABLE}


@functools.cache
def game_class(name: str) -> type[Game]:
    """The class of the game with TextArena's id `name`. Raises `ValueError` for one that cannot be played."""
    if name in NOT_PLAYABLE:
        raise ValueError(f"game 'textarena/{name}' is not available: {NOT_PLAYABLE[name]}")
    if name not in PLAYABLE:
        near = difflib.get_close_matches(name, PLAYABLE, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(PLAYABLE)}"
        raise ValueError(f"there is no game {name!r} for two players or more among TextArena's{hint}")
    if not installed():
        raise ValueError(f"game 'textarena/{name}' {names()[name]}")
    entry = PLAYABLE[name]
    body = {
        "__doc__": f"TextArena's {name}: {entry.summary}.",
        "__module__": __name__,
        "name": f"textarena/{name}",
        "summary": entry.summary,
    }
    parameters = [("players", int, entry.usual_players)] if len(entry.players) > 1 else []
    return dataclasses.make_dataclass(
        name.removesuffix("-v0"), parameters, bases=(TextArenaGame,), namespace=body, frozen=True, kw_only=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextArenaGame(Game):
    """The base of all TextArena games."""

    name: ClassVar[str] = "textarena"
    rules: ClassVar[str] = "TextArena 0.7.4"
    free_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a number of players that TextArena's rules do not allow."""
        allowed = self.entry.players
        if self.num_players not in allowed:
            numbers = f"{'an even' if allowed.step == 2 else 'a'} number from {allowed[0]} to {allowed[-1]}"
            raise ValueError(f"game {self.name!r} got players={self.num_players}; expected {numbers}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, as the class is made at run time."""
        return _load, (self.environment, dataclasses.asdict(self))

    @property
    def num_players(self) -> int:
        """As the parameter says, where the rules leave it open."""
        return int(getattr(self, "players", self.entry.usual_players))

    @property
    def zero_sum(self) -> bool:  # type: ignore[override]
        """Whether the returns always sum to zero: between two players, and where they follow from ranks alone."""
        return self.num_players == 2 or self.entry.ranked

    @property
    def environment(self) -> str:
        """TextArena's id."""
        return self.name.partition("/")[2]

    @property
    def entry(self) -> Entry:
        """Its entry in the catalogue."""
        return PLAYABLE[self.environment]

    @property
    def max_turns(self) -> int:
        """The catalogue's bound, or 1,000 where the rules set none (dice, bets, ties); play does not come near it."""
        return self.entry.turns_each * self.num_players or self.entry.max_turns

    @property
    def min_return(self) -> float:
        """TextArena pays the worst result with -1."""
        return -1.0

    @property
    def max_return(self) -> float:
        """TextArena pays the best result with 1."""
        return 1.0

    def initial_state(self) -> TextArenaState:
        """Before the deal, or the first position of a game in which nothing is dealt."""
        return TextArenaState(game=self, dealt=None if self.entry.dealt else 0)


def _load(environment: str, parameters: dict[str, Any]) -> Game:
    return game_class(environment)(**parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextArenaState(State):
    """The game, the seed that was dealt, and the actions of the players."""

    game: TextArenaGame
    dealt: int | None = None
    actions: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the environment."""
        return _state, (self.game, self.dealt, self.actions)

    @functools.cached_property
    def _position(self) -> Position:
        """TextArena's position: stored by `apply`, or replayed."""
        assert self.dealt is not None, "there is no position before the deal"
        position = deal(self.game.environment, self.dealt, self.game.num_players)
        for action in self.actions:
            following = position.step(action)
            assert following is not None, "an action that was legal once is legal again"
            position = following
        return position

    @functools.cached_property
    def _listed(self) -> tuple[str, ...]:
        return () if self.dealt is None or self._position.env.state.done else self._position.listed()

    @property
    def current_player(self) -> int:
        """Chance before the deal; a player without any move has lost, so the game is over."""
        if self.dealt is None:
            return CHANCE
        return self._position.player if self._listed else TERMINAL

    def legal_actions(self) -> tuple[str, ...]:
        """The actions in TextArena's syntax; a selection in games with talk or unlimited bids."""
        return self._listed

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """One of 10,000 seeds."""
        return DEALS if self.dealt is None else ()

    def is_legal(self, action: str) -> bool:
        """Whether TextArena accepts the action, with or without brackets around it, when it is tried."""
        return self._try(action) is not None

    def apply(self, action: str) -> TextArenaState:
        """Apply a seed, or a move to a copy of the environment."""
        if self.dealt is None:
            if action not in _SEEDS:
                raise self.refuse(action)
            return TextArenaState(game=self.game, dealt=_SEEDS[action])
        tried = self._try(action)
        if tried is None:
            raise self.refuse(action)
        taken, position = tried
        state = TextArenaState(game=self.game, dealt=self.dealt, actions=(*self.actions, taken))
        vars(state)["_position"] = position
        return state

    def returns(self) -> tuple[float, ...]:
        """TextArena's rewards. Raises `RuntimeError` when one is missing, or they do not sum to zero as they should."""
        players = self.game.num_players
        if self.current_player != TERMINAL:
            return (0.0,) * players
        state = self._position.env.state
        if not state.done:  # nothing was legal
            return tuple(-1.0 if player == self._position.player else 1 / (players - 1) for player in range(players))
        paid = state.rewards or {}
        expected = f"{players} rewards{' that sum to zero' if self.game.zero_sum else ''}"
        if sorted(paid) != list(range(players)) or (self.game.zero_sum and abs(math.fsum(paid.values())) > TOLERANCE):
            raise RuntimeError(f"game {self.game.name!r} paid {paid!r}; expected {expected}")
        return tuple(float(paid[player]) for player in range(players))

    def information_state(self, player: int) -> str:
        """All messages to the player and its own actions, in order, and whose turn it is."""
        if self.dealt is None:
            return "not dealt"
        messages = [(message.speaker, message.kind, message.text) for message in self._position.heard[player]]
        return f"{self.current_player}{messages}"

    def observation(self, player: int, style: Style = "full") -> str:
        """TextArena's messages to the player, the newest last; the compact form leaves out the rules."""
        if self.dealt is None:
            return "The game has not been dealt yet."
        heard = [message for message in self._position.heard[player] if message.kind != "OWN"]
        rules = [message.text.strip() for message in heard if message.kind == "PROMPT"] if style == "full" else []
        rest = [message for message in heard if message.kind != "PROMPT"]
        room = max(MAX_CHARACTERS - sum(map(len, rules)), MIN_RECENT)
        return "\n".join([*rules, *self._recent(rest, room), self._describe_now(player)])

    def _recent(self, messages: list[Message], room: int) -> list[str]:
        """As many of the last messages as fit, and always the last board."""
        lines = [self._line(message) for message in messages]
        first = len(lines)
        while first > 0 and room >= len(lines[first - 1]):
            first -= 1
            room -= len(lines[first])
        if first == 0:
            return lines
        boards = [index for index, message in enumerate(messages[:first]) if message.kind == "GAME_BOARD"]
        later = any(message.kind == "GAME_BOARD" for message in messages[first:])
        kept = [lines[boards[-1]]] if boards and not later else []
        return [f"({first - len(kept)} earlier messages are left out.)", *kept, *lines[first:]]

    def _line(self, message: Message) -> str:
        """A message with its speaker, on one line: a player's line breaks could imitate other messages."""
        text = " ".join(message.text.split()) if message.speaker >= 0 else message.text.strip("\n")
        return f"[{self._position.speaker(message.speaker)}] {_cut(text)}"

    def _describe_now(self, player: int) -> str:
        """Whose turn it is, or the result."""
        if self.is_terminal:
            return f"The game is over{self._describe_result(self.returns(), player)}."
        if self.current_player == player:
            return "It is your turn."
        return f"It is {'your opponent' if self.game.num_players == 2 else f'player {self.current_player}'}'s turn."

    @staticmethod
    def _describe_result(paid: tuple[float, ...], player: int) -> str:
        if len(paid) > 2:
            numbers = (f"{value:+.2f}".removesuffix(".00") for value in paid)
            return f". The returns of players 0 to {len(paid) - 1}: {', '.join(numbers)}"
        return ": it is a draw" if paid[player] == 0 else ": you won" if paid[player] > 0 else ": you lost"

    def _try(self, action: str) -> tuple[str, Position] | None:
        """The action in TextArena's form and the position after it, or None; the last result is kept for `apply`."""
        kept = vars(self).get("_tried")
        if kept is None or kept[0] != action:
            kept = vars(self)["_tried"] = (action, self._attempt(action))
        found: tuple[str, Position] | None = kept[1]
        return found

    def _attempt(self, action: str) -> tuple[str, Position] | None:
        if not action.strip() or self.current_player < 0 or _takes_long(action):
            return None
        for listed in self._listed:
            if _bare(listed) == _bare(action):
                following = self._position.step(listed)
                assert following is not None, f"{self.game.name} lists {listed!r}, which TextArena refuses"
                return listed, following
        for text in (action, f"[{action}]"):
            try:
                following = self._position.step(text)
            except RuntimeError:  # TextArena fails on this text, so it is not an action
                following = None
            if following is not None or "[" in action:
                return (text, following) if following else None
        return None


_SEEDS = {name: int(name) for name, _ in DEALS}


def _takes_long(action: str) -> bool:
    """Whether TextArena may take minutes to read an action: its patterns take time quadratic in length and brackets."""
    return len(action) > MAX_ACTION or any(action.count(bracket) > MAX_BRACKETS for bracket in "[{(")


def _cut(text: str) -> str:
    """A text of `MAX_MESSAGE` characters at most, beside the marks of what is cut off."""
    if len(text) <= MAX_MESSAGE:
        return text
    lines = text.split("\n", MAX_LINES)
    room, most = MAX_MESSAGE - (len(lines) - 1), 0
    for left, length in zip(range(len(lines), 0, -1), sorted(map(len, lines)), strict=True):
        most = room // left  # what each of the longer lines may have
        if length > most:
            break
        room -= length
    return "\n".join(f"{line[:most]} (cut)" if len(line) > most else line for line in lines)


def _state(game: TextArenaGame, dealt: int | None, actions: tuple[str, ...]) -> TextArenaState:
    return TextArenaState(game=game, dealt=dealt, actions=actions)


def _bare(action: str) -> str:
    """An action without case, spaces around it and one pair of brackets."""
    text = action.strip().casefold()
    return text[1:-1].strip() if text.startswith("[") and text.endswith("]") else text
