"""What must hold in one state of a game; `spiral.games.testing` leads there.

Each check is a function of a `Node`, a state with the actions that led to it, and raises `GameContractError` with a
message for the game's author: where, which method, what it gave, what was expected, how to mend it.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Hashable
from typing import Any, NoReturn

from spiral.games.base import CHANCE, TERMINAL, Game, IllegalActionError, State, Style

MAX_CHANCE = 1_000
"""Chance actions after which a game is taken to be endless."""
MAX_BRANCHES = 20
"""Actions tried out in one state."""
NONSENSE = "~ no such action ~"
STYLES: tuple[Style, Style] = ("full", "compact")


class GameContractError(AssertionError):
    """A game breaks the contract of `spiral.games.Game` and `State`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A state and how it was reached."""

    game: Game
    state: State
    actions: tuple[str, ...] = ()
    turns: int = 0
    """Actions of players among `actions`."""
    recall: tuple[int, int] = (0, 0)
    """For each seat a fingerprint of its own former information states and actions."""

    def ask(self, method: str, *args: object) -> Any:
        """What a property or method of the state gives; any error it raises is a broken contract."""
        try:
            found = getattr(self.state, method)
            return found(*args) if callable(found) else found
        except Exception as error:
            self.fail(_call(method, args), f"raised {type(error).__name__}: {error}", "a value", "handle this state")

    def fail(self, call: str, got: str, expected: str, mend: str) -> NoReturn:
        """Raises the error that an author reads."""
        where = f"after the actions {list(self.actions)}" if self.actions else "in the initial state"
        raise GameContractError(f"{self.game.name}: {where}, {call} {got}; expected {expected}. To mend it: {mend}.")

    def after(self, action: str) -> Node:
        """The node that `action` leads to."""
        player = self.ask("current_player")
        recall = list(self.recall)
        if player >= 0:
            recall[player] = hash((recall[player], self.ask("information_state", player), action))
        return Node(
            game=self.game,
            state=self.ask("apply", action),
            actions=(*self.actions, action),
            turns=self.turns + (player >= 0),
            recall=(recall[0], recall[1]),
        )

    def next_actions(self) -> tuple[str, ...]:
        """What players or chance may do here."""
        if self.ask("current_player") == CHANCE:
            return tuple(name for name, _ in self.ask("chance_outcomes"))
        return tuple(self.ask("legal_actions"))


def check_node(node: Node, memory: Memory) -> None:
    """Everything that must hold in one state; the order lets the simplest fault speak first."""
    check_length(node)
    _check_player(node)
    _check_actions(node)
    _check_chance(node)
    _check_returns(node)
    _check_value(node)
    _check_observation(node)
    memory.check(node)
    _check_illegal(node)
    _check_apply(node)


def check_length(node: Node) -> None:
    """Games end."""
    if node.turns > node.game.max_turns or len(node.actions) - node.turns > MAX_CHANCE:
        chance = len(node.actions) - node.turns
        node.fail(
            "the game",
            f"has gone on for {node.turns} turns and {chance} chance actions",
            f"an end within max_turns = {node.game.max_turns}",
            "raise max_turns, or make current_player TERMINAL when the game is over",
        )


def _check_player(node: Node) -> None:
    """A seat, chance or the end, and the properties that follow from it."""
    player = node.ask("current_player")
    if player not in (0, 1, CHANCE, TERMINAL):
        node.fail("current_player", f"gave {player!r}", "0, 1, CHANCE or TERMINAL", "return one of these")
    for name, expected in (("is_terminal", player == TERMINAL), ("is_chance", player == CHANCE)):
        if node.ask(name) is not expected:
            node.fail(name, f"gave {not expected}", f"{expected}", f"do not override {name}, it follows current_player")


def _check_actions(node: Node) -> None:
    """Distinct readable actions for a seat, none for chance or after the end."""
    actions = node.ask("legal_actions")
    if not isinstance(actions, tuple):
        node.fail("legal_actions()", f"gave {actions!r}", "a tuple of strings", "return a tuple")
    if node.ask("current_player") < 0:
        if actions:
            mend = "return () unless a seat is to act; what chance may do belongs in chance_outcomes"
            node.fail("legal_actions()", f"gave {actions!r}", "no actions at a chance node or the end", mend)
        return
    if not actions:
        mend = "make current_player TERMINAL, or add an action such as 'pass'"
        node.fail("legal_actions()", "gave no action", "at least one for the seat to act", mend)
    _check_names(node, "legal_actions()", actions)
    for action in actions[:MAX_BRANCHES]:
        if not node.ask("is_legal", action):
            mend = "let is_legal accept everything that legal_actions lists"
            node.fail(f"is_legal({action!r})", "gave False", "True, as legal_actions lists it", mend)


def _check_names(node: Node, call: str, names: tuple[str, ...]) -> None:
    """Actions that a player's reply can be matched with."""
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            mend = "name every action by a non-empty string without spaces around it"
            node.fail(call, f"holds {name!r}", "non-empty strings without spaces around them", mend)
        folded = " ".join(name.casefold().split())
        if folded in seen:
            mend = "list each action once, and tell actions apart by more than case and spacing"
            node.fail(call, f"holds both {seen[folded]!r} and {name!r}", "no two that read the same", mend)
        seen[folded] = name


def _check_chance(node: Node) -> None:
    """A distribution at chance nodes, nothing elsewhere."""
    outcomes = node.ask("chance_outcomes")
    if node.ask("current_player") != CHANCE:
        if outcomes:
            node.fail("chance_outcomes()", f"gave {outcomes!r}", "() where chance is not to act", "return () here")
        return
    _check_names(node, "chance_outcomes()", tuple(name for name, _ in outcomes))
    total = math.fsum(probability for _, probability in outcomes)
    if any(probability <= 0 for _, probability in outcomes):
        mend = "leave out what cannot happen"
        node.fail("chance_outcomes()", f"gave {outcomes!r}", "positive probabilities", mend)
    if abs(total - 1) > 1e-9:
        mend = "list every outcome and divide by their total"
        node.fail("chance_outcomes()", f"gave {outcomes!r}, which sum to {total}", "a sum of 1", mend)


def _check_returns(node: Node) -> None:
    """Two finite numbers that sum to zero, and are zero before the end."""
    returns = node.ask("returns")
    if not (isinstance(returns, tuple) and len(returns) == 2 and all(isinstance(r, float) for r in returns)):
        node.fail("returns()", f"gave {returns!r}", "a tuple of two floats", "return (seat 0's, seat 1's)")
    if not abs(sum(returns)) <= 1e-9:
        mend = "pay the one seat what the other loses; general-sum games have no place here"
        node.fail("returns()", f"gave {returns!r}", "two finite numbers that sum to zero", mend)
    low, high = node.game.min_return, node.game.max_return
    for value in returns:
        if (low is not None and value < low) or (high is not None and value > high):
            mend = "let min_return and max_return bound every return, or leave them None"
            node.fail("returns()", f"gave {returns!r}", f"numbers from {low} to {high}", mend)
    if node.ask("current_player") != TERMINAL and returns != (0.0, 0.0):
        node.fail("returns()", f"gave {returns!r}", "(0.0, 0.0) while the game goes on", "pay only at the end")


def _check_value(node: Node) -> None:
    """States are values: hashable, and equal to their pickled copy."""
    state = node.state
    try:
        copy = pickle.loads(pickle.dumps(state))
    except Exception as error:
        mend = "define the state class at the top of a module and keep plain data in its fields"
        node.fail("pickle", f"raised {type(error).__name__}: {error}", "a state that can be pickled", mend)
    try:
        same = copy == state and hash(copy) == hash(state) and hash(state.position_key()) is not None
    except TypeError as error:
        mend = "make the state a frozen dataclass and use tuples instead of lists, sets and dictionaries"
        node.fail("hash(state)", f"raised TypeError: {error}", "a hashable state", mend)
    if not same:
        mend = "make the state a frozen dataclass that compares by its fields"
        node.fail("pickle.loads(pickle.dumps(state))", "is another state", "an equal one with an equal hash", mend)


def _check_observation(node: Node) -> None:
    """Text for both seats in both styles; what is legal is said to the seat whose turn it is."""
    for seat in (0, 1):
        texts = [("information_state", (seat,)), *(("observation", (seat, style)) for style in STYLES)]
        for method, args in texts:
            text = node.ask(method, *args)
            empty = method == "observation" and not (isinstance(text, str) and text.strip())
            if empty or not isinstance(text, str):
                node.fail(_call(method, args), f"gave {text!r}", "a text", "return a non-empty string")
            if node.ask(method, *args) != text:
                mend = "compute it from the state's fields alone; nothing in a state may be drawn or counted"
                node.fail(_call(method, args), "gave two texts when called twice", "the same text", mend)
    seat = node.ask("current_player")
    if seat >= 0 and not node.game.free_text:
        text = node.ask("observation", seat, "full")
        for action in node.ask("legal_actions"):
            if not re.search(rf"(?<!\w){re.escape(action)}(?!\w)", text):
                mend = "end the full observation of the seat to act with its legal actions"
                node.fail(f"observation({seat}, 'full')", f"does not name {action!r}", "every legal action", mend)


class Memory:
    """What was seen under each information state and position, to compare with what is seen later."""

    def __init__(self) -> None:
        self._information: dict[tuple[int, str], tuple[Node, dict[str, Hashable]]] = {}
        self._positions: dict[tuple[type, Hashable], tuple[Node, dict[str, Hashable]]] = {}

    def check(self, node: Node) -> None:
        """Compares the node with the first one of the same information state, and of the same position."""
        seat = node.ask("current_player")
        if seat >= 0:
            facts: dict[str, Hashable] = {"legal_actions()": node.ask("legal_actions")}
            facts |= {f"observation({seat}, {style!r})": node.ask("observation", seat, style) for style in STYLES}
            facts["the seat's own former decisions"] = node.recall[seat]
            first, known = self._information.setdefault((seat, node.ask("information_state", seat)), (node, facts))
            for call, fact in facts.items():
                if fact != known[call]:
                    node.fail(
                        call,
                        f"differs from what it is after {list(first.actions)} with the same information_state({seat})",
                        "that a seat sees, may do and remembers the same wherever it cannot tell two states apart",
                        "take hidden facts out of the first, or add what the seat knows to information_state",
                    )
        facts = {name: node.ask(name) for name in ("current_player", "legal_actions", "chance_outcomes", "returns")}
        first, known = self._positions.setdefault((type(node.state), node.ask("position_key")), (node, facts))
        for name, fact in facts.items():
            if fact != known[name]:
                mend = "put everything that the rest of the game depends on into position_key, or do not override it"
                node.fail(
                    name, f"differs from what it is after {list(first.actions)}", "equality, as position_key is", mend
                )


def _check_illegal(node: Node) -> None:
    """Whatever is not legal is refused, by `is_legal` and by `apply`."""
    allowed = node.next_actions()
    seat = node.ask("current_player")
    near = () if node.game.free_text else (*node.actions[-1:], *(action.swapcase() for action in allowed[:1]))
    for action in (NONSENSE, "", *near):
        legal = bool(node.ask("is_legal", action))
        if node.game.free_text and legal:
            continue
        if legal != (seat >= 0 and action in allowed):
            mend = "let is_legal agree with legal_actions to the letter, or make the game free_text"
            node.fail(f"is_legal({action!r})", f"gave {legal}", f"{not legal}", mend)
        if action in allowed:
            continue
        try:
            node.state.apply(action)
        except IllegalActionError:
            continue
        except Exception as error:
            got = f"raised {type(error).__name__}: {error}"
        else:
            got = "was carried out"
        mend = "begin apply with `if not self.is_legal(action): raise self.refuse(action)`, likewise for chance"
        node.fail(f"apply({action!r})", got, "IllegalActionError, as the action is not legal here", mend)


def _check_apply(node: Node) -> None:
    """Acting leaves the state as it was, and leads to the same state each time."""
    before = _snapshot(node)
    untouched, copied = (pickle.loads(pickle.dumps(node.state)) for _ in range(2))
    copy = dataclasses.replace(node, state=copied)
    for action in node.next_actions()[:MAX_BRANCHES]:
        child = node.ask("apply", action)
        if not isinstance(child, State):
            node.fail(f"apply({action!r})", f"gave {child!r}", "the next State", "return a new state")
        if node.state != untouched or _snapshot(node) != before:
            mend = "make the state a frozen dataclass; let apply build a new state and leave this one alone"
            node.fail(f"apply({action!r})", "changed the state it was called on", "an unchanged state", mend)
        if child != node.ask("apply", action) or child != copy.ask("apply", action):
            mend = "make every random choice a chance node and read nothing but the state's fields"
            node.fail(f"apply({action!r})", "gave two different states when repeated", "equal states", mend)


def _snapshot(node: Node) -> tuple[object, ...]:
    """What a state says of itself, cheaply."""
    texts = (node.ask("observation", seat, "compact") for seat in (0, 1))
    return (hash(node.state), node.ask("current_player"), node.ask("legal_actions"), *texts)


def _call(method: str, args: tuple[object, ...]) -> str:
    """A call as an author would write it."""
    return f"{method}({', '.join(map(repr, args))})"
