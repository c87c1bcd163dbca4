"""The contract over every registered game, and the check itself against games broken on purpose."""

from __future__ import annotations

import dataclasses
import random
from typing import ClassVar

import pytest

from small_games import Echo, EchoState, OddOneOut
from spiral.games import CHANCE, TERMINAL, Game, State, Style, game_names, load_game
from spiral.games.testing import GameContractError, check_game, random_playout

VARIANTS = (
    pytest.param("kuhn_poker(hands=2)", marks=pytest.mark.slow),
    "kuhn_poker(hands=5)",
    "kuhn_poker(cards=5)",
    pytest.param("multi_kuhn(players=4)", marks=pytest.mark.slow),
    "prisoners_dilemma(rounds=3,labels='0 1')",
    "lewis_signalling(states='red green blue',signals='ba di')",
    pytest.param("kuhn_poker(hands=5,cards=13)", marks=pytest.mark.slow),
    "tictactoe(size=5,line=4)",
    "nim(heaps=4,size=15)",
    "simple_negotiation(turns=1)",
    "simple_negotiation(resources=8,turns=3)",
)


@pytest.mark.parametrize("spec", [*game_names(), *VARIANTS])
def test_registered_games_keep_the_contract(spec: str) -> None:
    game = load_game(spec)
    assert game.spec == spec
    check_game(game, playouts=30)


@pytest.mark.parametrize("name", game_names())
def test_playouts_repeat_with_their_seed(name: str) -> None:
    game = load_game(name)
    actions, last = random_playout(game, seed=5)
    assert random_playout(game, seed=5) == (actions, last)
    assert random_playout(game, seed=6)[0] != actions
    state = game.initial_state()
    for action in actions:
        assert not state.is_terminal
        state = state.apply(action)
    assert state == last
    assert last.is_terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Game):
    """One chance bit seen by player 0, then each player says yes or no; breaks what `fault` names."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "a toy"
    rules: ClassVar[str] = "made up"

    fault: str = ""

    def initial_state(self) -> ToyState:
        return ToyState(fault=self.fault)

    @property
    def enumerable(self) -> bool:
        return True

    @property
    def max_turns(self) -> int:
        return 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyState(State):
    fault: str
    bit: str = ""
    said: tuple[str, ...] = ()
    scratch: list[int] = dataclasses.field(default_factory=list, compare=False)

    @property
    def current_player(self) -> int:
        if not self.bit:
            return CHANCE
        if len(self.said) == 2 and self.fault != "endless":
            return 7 if self.fault == "player" else TERMINAL
        return len(self.said) % 2

    def legal_actions(self) -> tuple[str, ...]:
        if self.current_player < 0:
            return ("yes",) if self.fault == "actions at the end" and self.bit else ()
        seat_1 = len(self.said) == 1
        faults = {
            "no action": (),
            "twins": ("yes", "no", "YES"),
            "blank": ("yes", " "),
            "hidden choice": ("yes", "no") if self.bit == "1" else ("no",),
        }
        return faults.get(self.fault, ("yes", "no")) if seat_1 else ("yes", "no")

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        if self.bit:
            return ()
        faults = {"sum": (("0", 0.5), ("1", 0.4)), "impossible": (("0", 1.0), ("1", 0.0))}
        return faults.get(self.fault, (("0", 0.5), ("1", 0.5)))

    def is_legal(self, action: str) -> bool:
        return action.lower() in self.legal_actions() if self.fault == "generous" else super().is_legal(action)

    def apply(self, action: str) -> State:
        if self.current_player == CHANCE:
            if action not in ("0", "1"):
                raise self.refuse(action)
            return dataclasses.replace(self, bit=action)
        if not self.is_legal(action):
            if self.fault == "lenient":
                return self
            raise KeyError(action) if self.fault == "wrong error" else self.refuse(action)
        if self.fault == "mutates":
            self.scratch.append(1)
        noise = str(random.random()) if self.fault == "dice" else ""
        said = action if self.fault != "forgets" or self.said else ""
        return dataclasses.replace(self, said=(*self.said, said + noise), scratch=[])

    def observation(self, player: int, style: Style = "full") -> str:
        if self.fault == "mute" and player == 1 and style == "compact":
            return ""
        if self.fault == "crash" and self.is_terminal:
            raise IndexError("no such row")
        shown = self.bit if player == 0 or self.fault == "leak" else "?"
        text = f"bit {shown}, said {self.said}, {len(self.scratch)}"
        if style == "full" and self.current_player == player and self.fault != "silent":
            text += f"; legal: {', '.join(self.legal_actions())}"
        return text

    def information_state(self, player: int) -> str:
        return f"{self.bit if player == 0 else '?'}{len(self.said) if self.fault == 'no history' else self.said}"

    def returns(self) -> tuple[float, float]:
        if not self.is_terminal:
            return (1.0, -1.0) if self.fault == "paid early" and self.said else (0.0, 0.0)
        if self.fault == "returns raise":
            raise KeyError("no such payoff")
        wrong = {"one return": (0.0,), "returns nan": (0.0, float("nan")), "no returns": None}
        if self.fault in wrong:
            return wrong[self.fault]  # type: ignore[return-value]
        won = 1.0 if self.said[1:] == ("yes",) else -1.0
        return (won, won) if self.fault == "general sum" else (won, -won)

    def position_key(self) -> tuple[str, ...]:
        return self.said[:1] if self.fault == "position" else (self.bit, *self.said)


FAULTS = {
    "endless": "an end within max_turns = 2",
    "player": "current_player gave 7; expected 0, 1, CHANCE or TERMINAL",
    "actions at the end": "return () unless a player is to act",
    "no action": "legal_actions() gave no action",
    "twins": "holds both 'yes' and 'YES'",
    "blank": "holds ' '",
    "hidden choice": "with the same information_state(1)",
    "sum": "which sum to 0.9; expected a sum of 1",
    "impossible": "expected positive probabilities",
    "generous": "is_legal('YES')",
    "lenient": "was applied; expected IllegalActionError",
    "wrong error": "raised KeyError",
    "mutates": "changed the state it was called on",
    "dice": "gave two different states when repeated",
    "mute": "observation(1, 'compact') gave ''",
    "crash": "observation(0, 'full') raised IndexError: no such row",
    "leak": "differs from what it is after ['1', 'no'] with the same information_state(1)",
    "silent": "does not name 'yes'",
    "no history": "with the same information_state(1)",
    "paid early": "expected (0.0, 0.0) until the game ends",
    "one return": ", returns() gave (0.0,); expected a tuple of 2 finite floats",
    "returns nan": ", returns() gave (0.0, nan); expected a tuple of 2 finite floats",
    "no returns": ", returns() gave None; expected a tuple of 2 finite floats",
    "returns raise": ", returns() raised KeyError: 'no such payoff'",
    "general sum": "numbers that sum to zero",
    "position": "expected equality, as position_key is",
}


def test_the_toy_is_sound_without_a_fault() -> None:
    check_game(Toy())
    _, end = random_playout(Toy(), seed=0)
    assert end.is_terminal
    assert sum(end.returns()) == 0


@pytest.mark.parametrize("game", [OddOneOut(), Echo(), Echo(rounds=1)])
def test_games_of_one_and_of_three_players_keep_the_contract(game: Game) -> None:
    check_game(game)
    _, end = random_playout(game, seed=0)
    assert len(end.returns()) == game.num_players


class WrongRewards(EchoState):
    def rewards(self) -> tuple[float, ...]:
        return (1.0 if self.current_player == CHANCE else 0.0,)


class TwoReturns(EchoState):
    def returns(self) -> tuple[float, ...]:
        return (0.0, 0.0)


class Unbounded(EchoState):
    def returns(self) -> tuple[float, ...]:
        return (float("nan"),)


@pytest.mark.parametrize(
    ("state_class", "message"),
    [
        (WrongRewards, r"rewards\(\) sum to \(1.0,\) over the game; expected the returns \(2.0,\)"),
        (TwoReturns, r"gave \(0.0, 0.0\); expected a tuple of 1 finite floats"),
        (Unbounded, r"gave \(nan,\); expected a tuple of 1 finite floats"),
    ],
)
def test_rewards_and_returns_have_a_number_for_each_player(state_class: type[EchoState], message: str) -> None:
    class Broken(Echo):
        def initial_state(self) -> EchoState:
            return state_class(rounds=2)

    with pytest.raises(GameContractError, match=message):
        check_game(Broken())


def test_a_game_without_players_is_refused() -> None:
    class Empty(Echo):
        num_players = 0

    with pytest.raises(GameContractError, match="num_players is 0; expected a whole number from 1"):
        check_game(Empty())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str) -> None:
    with pytest.raises(GameContractError) as caught:
        check_game(Toy(fault=fault))
    message = str(caught.value)
    assert FAULTS[fault] in message
    assert message.startswith("toy: ")
    assert "To fix it: " in message


def test_the_message_gives_the_actions_that_lead_to_the_fault() -> None:
    with pytest.raises(GameContractError, match=r"after the actions \['1', 'no', 'no'\], returns\(\) gave \(-1\.0"):
        check_game(Toy(fault="general sum"))


class Unhashable(ToyState):
    __hash__ = None  # type: ignore[assignment]


class Unpicklable(ToyState):
    def __reduce__(self) -> str:
        raise TypeError("holds an open file")


@pytest.mark.parametrize(
    ("state_class", "message"),
    [(Unhashable, "a hashable state"), (Unpicklable, "raised TypeError: holds an open file")],
)
def test_states_must_be_values(state_class: type[ToyState], message: str) -> None:
    class Broken(Toy):
        def initial_state(self) -> ToyState:
            return state_class(fault="")

    with pytest.raises(GameContractError, match=message):
        check_game(Broken())


def test_a_registered_name_must_load_an_equal_game() -> None:
    class Impostor(Toy):
        name: ClassVar[str] = "tictactoe"

    with pytest.raises(GameContractError, match=r"load_game\('tictactoe'\) gave TicTacToe\(size=3, line=3\)"):
        check_game(Impostor())


def test_games_that_are_not_enumerable_are_played_at_random() -> None:
    class Large(Toy):
        enumerable: ClassVar[bool] = False

    check_game(Large(), playouts=0)
    check_game(Large(), playouts=20)
    with pytest.raises(GameContractError, match="sum to zero"):
        check_game(Large(fault="general sum"), playouts=20)


def test_an_endless_game_does_not_hang_a_playout() -> None:
    with pytest.raises(GameContractError, match="has gone on for 3 turns and 1 chance actions"):
        random_playout(Toy(fault="endless"), seed=0)
