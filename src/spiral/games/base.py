"""The interface of a game: immutable states, actions as strings, chance as explicit nodes.

The shape follows the extensive form used by OpenSpiel (Lanctot et al., 2019, arXiv 1908.09453): a `State` says
who acts, what is legal and what follows; a `Game` hands out the first state. States never change: `apply`
returns the next one, so a state can be shared, cached, hashed and sent to another process.

Players are numbered from 0; a game has one or more. Chance is a separate player (`CHANCE`) whose distribution is
listed, so that the same code serves play, replay and exact theory. Returns are in the game's own units. Not supported:
simultaneous moves, and randomness inside a state.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import ClassVar, Literal

CHANCE = -1
TERMINAL = -4

MAX_SHOWN = 200
"""Maximum number of characters of an action that an error, or the end of a game, repeats."""

Style = Literal["full", "compact"]


class IllegalActionError(ValueError):
    """An action that the rules do not allow was applied to a state."""

    def __init__(self, message: str, reason: str = "") -> None:
        """`reason` is the part of the message that tells the player who acted what is wrong; empty for all of it."""
        super().__init__(message)
        self.reason = reason or message


class State(ABC):
    """One immutable position of a game.

    Subclasses are frozen dataclasses (hashable, picklable); every method is a pure function of the fields.
    """

    verbatim: ClassVar[bool] = False
    """Whether the action in a reply is the content of its box exactly as written, even where it could be plainer."""

    @property
    @abstractmethod
    def current_player(self) -> int:
        """The player to act (0 to n-1), `CHANCE`, or `TERMINAL`."""

    @abstractmethod
    def legal_actions(self) -> tuple[str, ...]:
        """Every legal action of the player to act, in a fixed order; empty at chance and terminal nodes.

        Free-text games list their actions without talk; `is_legal` accepts more than this list.
        """

    @abstractmethod
    def apply(self, action: str) -> State:
        """The state after `action` of the current player or of chance; `IllegalActionError` when not allowed."""

    @abstractmethod
    def observation(self, player: int, style: Style = "full") -> str:
        """The information of `player`, as text.

        "full" holds the rules, the player's number, the whole public history and the legal actions. "compact" is a
        short form of the same facts for small models.
        """

    @abstractmethod
    def information_state(self, player: int) -> str:
        """A key that is equal for two states exactly when `player` cannot distinguish them (perfect recall)."""

    @abstractmethod
    def returns(self) -> tuple[float, ...]:
        """[num_players] what each player has won in the whole game, in its own units; zeros until the game is over."""

    def rewards(self) -> tuple[float, ...]:
        """[num_players] what each player got by the last action, of a player or of chance.

        Summed over all states of a game they are its returns. By default everything is paid by the last action.
        """
        return self.returns()

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """`(action, probability)` pairs summing to one at a chance node; empty elsewhere."""
        return ()

    def position_key(self) -> Hashable:
        """A key equal for positions with the same future, whatever led to them; by default the state itself.

        Two states of one class with equal keys must have the same player to act, the same actions, and the same
        returns after every continuation. A game whose states hold their history overrides this so that
        transpositions share work.
        """
        return self

    def revealed(self) -> str:
        """What was hidden from a player, in words, once the game is over; empty where nothing was."""
        return ""

    def is_legal(self, action: str) -> bool:
        """Whether the player to act may take `action`."""
        return action in self.legal_actions()

    @property
    def is_terminal(self) -> bool:
        """Whether the game is over."""
        return self.current_player == TERMINAL

    @property
    def is_chance(self) -> bool:
        """Whether chance acts next."""
        return self.current_player == CHANCE

    def refuse(self, action: str) -> IllegalActionError:
        """The error to raise for an action that is not legal here; it lists the legal ones."""
        given = action if len(action) <= MAX_SHOWN else f"{action[:MAX_SHOWN]}..."
        if self.is_terminal:
            return IllegalActionError(f"got action {given!r}, but the game is over")
        allowed = [name for name, _ in self.chance_outcomes()] if self.is_chance else list(self.legal_actions())
        shown = ", ".join(allowed[:12]) + (", ..." if len(allowed) > 12 else "")
        actor = "chance" if self.is_chance else f"player {self.current_player}"
        return IllegalActionError(f"got action {given!r} of {actor}; legal here: {shown}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game(ABC):
    """A game's rules and parameters. Subclasses are frozen dataclasses whose fields are the parameters."""

    name: ClassVar[str]
    """The name for `load_game`: the registered one or, for a game that sets none, "module:Class"."""
    summary: ClassVar[str]
    """One line for `spiral games`."""
    rules: ClassVar[str]
    """Where the rules come from."""
    free_text: ClassVar[bool] = False
    """Whether `is_legal` accepts more than `legal_actions` lists; such games have no exact theory."""
    zero_sum: ClassVar[bool] = True
    """Whether the players' returns always sum to zero; a game of one player sets it to False."""

    instructs: ClassVar[bool] = False
    """Whether the observation says how to answer, so that the prompt adds no instruction of its own."""

    def __init_subclass__(cls) -> None:
        """Name a game that sets no name after the module it can be imported from."""
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def initial_state(self) -> State:
        """The first state, often a chance node."""

    def example(self) -> tuple[State, str] | None:
        """A position and the action to show in a worked example; None for a random early one and any legal action."""
        return None

    @property
    def num_players(self) -> int:
        """Number of players, 1 or more. A class attribute `num_players = 3` overrides it as well."""
        return 2

    @property
    def enumerable(self) -> bool:
        """Whether the whole tree is small enough for exact theory (some 100,000 nodes)."""
        return False

    @property
    def exact_theory(self) -> bool:
        """Whether `spiral.theory` covers the game: two players, zero-sum, listed actions and a small tree."""
        return self.num_players == 2 and self.zero_sum and self.enumerable and not self.free_text

    @property
    def max_turns(self) -> int:
        """Upper bound of the number of players' actions in one game."""
        return 1000

    @property
    def min_return(self) -> float | None:
        """Lower bound of a player's return, in the game's units; None when no bound is known."""
        return None

    @property
    def max_return(self) -> float | None:
        """Upper bound of a player's return, in the game's units; None when no bound is known."""
        return None

    @property
    def spec(self) -> str:
        """The name with every parameter that is not at its default, for example "kuhn_poker(hands=5)".

        `load_game(game.spec)` gives an equal game; baselines and metrics are keyed by it.
        """
        changed = [
            f"{field.name}={_parameter(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({','.join(changed)})" if changed else self.name


def _parameter(value: object) -> str:
    """A parameter's value in a spec: words as they are, other texts in quotes."""
    return repr(value) if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][\w.-]*", value) else str(value)
