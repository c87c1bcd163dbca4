"""`check_game` checks that a game keeps the contract of `Game` and `State`; authors of games run it.

    from spiral.games.testing import check_game
    check_game(MyGame())

Small games are checked completely, state by state; larger ones along random games. A broken game raises
`GameContractError`, which gives the actions that lead to the fault, the method, what it returned, what was expected,
and how to fix it. One contract test for many environments is an idea of dm_env's
(https://github.com/google-deepmind/dm_env).

What it cannot check: whether the rules are the right ones, and whether a secret appears in both `observation` and
`information_state`, because nothing then says that it is a secret.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
import re
from collections.abc import Hashable, Iterator
from typing import Any, NoReturn

from spiral.games.base import CHANCE, TERMINAL, Game, IllegalActionError, State, Style
from spiral.games.playout import draw
from spiral.games.registry import game_names, load_game

MAX_TREE = 4_000
"""Maximum number of states up to which an enumerable game is checked completely."""
MAX_CHANCE = 1_000
"""Maximum number of chance actions in one game; more count as endless."""
MAX_BRANCHES = 20
"""Maximum number of actions tried in one state."""
TOLERANCE = 1e-9
NONSENSE = "~ no such action ~"
STYLES: tuple[Style, Style] = ("full", "compact")


class GameContractError(AssertionError):
    """A game breaks the contract of `spiral.games.Game` and `State`."""


def check_game(game: Game, playouts: int = 100, seed: int = 0) -> None:
    """Check a game.

    Args:
        game: Enumerable games of at most 4,000 states are checked completely.
        playouts: The number of random games along which other games are checked.
        seed: Seed of the random games.

    Raises:
        GameContractError: The game breaks the contract.
    """
    root = _check_rules(game)
    memory = _Memory()
    if game.enumerable and _check_tree(root, memory):
        return
    for playout in range(playouts):
        for node in _playout(root, random.Random(f"{seed}/{playout}")):
            _check_node(node, memory)


def random_playout(game: Game, seed: int) -> tuple[list[str], State]:
    """Return the actions, those of chance included, and the last state of a game between uniform players.

    Raises:
        GameContractError: The game does not end.
    """
    node = root = _root(game)
    for node in _playout(root, random.Random(seed)):
        _check_length(node)
    return list(node.actions), node.state


def _playout(root: _Node, rng: random.Random) -> Iterator[_Node]:
    """Every node of one random game, each before its action is chosen."""
    node = root
    yield node
    while node.state.current_player != TERMINAL:
        state = node.state
        node = node.after(draw(state.chance_outcomes(), rng) if state.is_chance else rng.choice(state.legal_actions()))
        yield node


def _check_tree(root: _Node, memory: _Memory) -> bool:
    """Checks every state once; False when there are more than `MAX_TREE`."""
    seen: set[State] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        _check_node(node, memory)  # before the state is put into a set: it may not be hashable
        if node.state in seen:
            continue
        seen.add(node.state)
        if len(seen) > MAX_TREE:
            return False
        stack.extend(node.after(action) for action in node.next_actions())
    return True


def _check_rules(game: Game) -> _Node:
    """Check the game object itself and return the initial node."""
    if not (isinstance(getattr(game, "name", None), str) and game.name):
        raise GameContractError(f"{type(game).__name__}: got no name; expected a class attribute `name`, a string")
    if not (isinstance(game.num_players, int) and game.num_players >= 1):
        raise GameContractError(f"{game.name}: num_players is {game.num_players!r}; expected a whole number from 1")
    root = _root(game)
    if not isinstance(root.state, State):
        root.fail("initial_state()", f"gave {root.state!r}", "a spiral.games.State", "derive the state from State")
    if game.initial_state() != root.state:
        root.fail(
            "initial_state()",
            "gave two different states when called twice",
            "the same state each time",
            "make the state a frozen dataclass, and make every random choice a chance node",
        )
    if not (isinstance(game.max_turns, int) and game.max_turns > 0):
        root.fail("max_turns", f"gave {game.max_turns!r}", "a positive whole number", "bound the players' actions")
    if game.name in game_names() or (":" in game.name and "<locals>" not in game.name):
        _check_spec(root)
    return root


def _root(game: Game) -> _Node:
    zeros = (0,) * game.num_players
    return _Node(game=game, state=game.initial_state(), recall=zeros, paid=tuple(map(float, zeros)))


def _check_spec(root: _Node) -> None:
    """`load_game(game.spec)` gives an equal game, in another process too."""
    game = root.game
    try:
        loaded = load_game(game.spec)
    except ValueError as error:
        fix = "define the class at the top of a module, and give every parameter a default"
        root.fail("load_game(game.spec)", f"raised {error}", "an equal game", fix)
    if loaded != game:
        root.fail(
            f"load_game({game.spec!r})",
            f"gave {loaded!r}",
            f"{game!r}",
            "make the game a frozen dataclass whose fields are its parameters, under a unique name",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Node:
    """A state and how it was reached."""

    game: Game
    state: State
    actions: tuple[str, ...] = ()
    turns: int = 0
    """Actions of players among `actions`."""
    recall: tuple[int, ...]
    """[num_players] a fingerprint of each player's own earlier information states and actions."""
    paid: tuple[float, ...]
    """[num_players] the sum of all rewards so far."""

    def ask(self, method: str, *args: object) -> Any:
        """Return what a property or method of the state gives; any error it raises is a broken contract."""
        try:
            found = getattr(self.state, method)
            return found(*args) if callable(found) else found
        except Exception as error:
            self.fail(_call(method, args), f"raised {type(error).__name__}: {error}", "a value", "handle this state")

    def fail(self, call: str, got: str, expected: str, fix: str) -> NoReturn:
        """Raise the error for the game's author."""
        where = f"after the actions {list(self.actions)}" if self.actions else "in the initial state"
        raise GameContractError(f"{self.game.name}: {where}, {call} {got}; expected {expected}. To fix it: {fix}.")

    def after(self, action: str) -> _Node:
        """Return the node that `action` leads to."""
        player = self.ask("current_player")
        recall = list(self.recall)
        if player >= 0:
            recall[player] = hash((recall[player], self.ask("information_state", player), action))
        following = dataclasses.replace(
            self,
            state=self.ask("apply", action),
            actions=(*self.actions, action),
            turns=self.turns + (player >= 0),
            recall=tuple(recall),
        )
        following.numbers("returns")  # first, since rewards() gives the returns unless it is overridden
        rewards = following.numbers("rewards")
        paid = tuple(before + reward for before, reward in zip(self.paid, rewards, strict=True))
        return dataclasses.replace(following, paid=paid)

    @property
    def players(self) -> range:
        """Every player's number."""
        return range(self.game.num_players)

    def numbers(self, method: str) -> tuple[float, ...]:
        """Return one finite number for each player."""
        numbers = self.ask(method)
        right = isinstance(numbers, tuple) and len(numbers) == len(self.players)
        if not right or not all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            fix = "return a tuple with one float for each player"
            self.fail(f"{method}()", f"gave {numbers!r}", f"a tuple of {len(self.players)} finite floats", fix)
        return numbers  # type: ignore[no-any-return]

    def next_actions(self) -> tuple[str, ...]:
        """Return what the player to act, or chance, may do here."""
        if self.ask("current_player") == CHANCE:
            return tuple(name for name, _ in self.ask("chance_outcomes"))
        return tuple(self.ask("legal_actions"))


def _check_node(node: _Node, memory: _Memory) -> None:
    """Check everything that must hold in one state, the simplest faults first."""
    _check_length(node)
    _check_player(node)
    _check_actions(node)
    _check_chance(node)
    _check_returns(node)
    _check_value(node)
    _check_observation(node)
    memory.check(node)
    _check_illegal(node)
    _check_apply(node)


def _check_length(node: _Node) -> None:
    if node.turns > node.game.max_turns or len(node.actions) - node.turns > MAX_CHANCE:
        chance = len(node.actions) - node.turns
        node.fail(
            "the game",
            f"has gone on for {node.turns} turns and {chance} chance actions",
            f"an end within max_turns = {node.game.max_turns}",
            "raise max_turns, or make current_player TERMINAL when the game is over",
        )


def _check_player(node: _Node) -> None:
    player = node.ask("current_player")
    if player not in (*node.players, CHANCE, TERMINAL):
        known = ", ".join(map(str, node.players))
        node.fail("current_player", f"gave {player!r}", f"{known}, CHANCE or TERMINAL", "return one of these")
    for name, expected in (("is_terminal", player == TERMINAL), ("is_chance", player == CHANCE)):
        if node.ask(name) is not expected:
            node.fail(name, f"gave {not expected}", f"{expected}", f"do not override {name}, it follows current_player")


def _check_actions(node: _Node) -> None:
    """Distinct readable actions for a player, none for chance or after the end."""
    actions = node.ask("legal_actions")
    if not isinstance(actions, tuple):
        node.fail("legal_actions()", f"gave {actions!r}", "a tuple of strings", "return a tuple")
    if node.ask("current_player") < 0:
        if actions:
            fix = "return () unless a player is to act; the outcomes of chance belong in chance_outcomes"
            node.fail("legal_actions()", f"gave {actions!r}", "no actions at a chance node or the end", fix)
        return
    if not actions:
        fix = "make current_player TERMINAL, or add an action such as 'pass'"
        node.fail("legal_actions()", "gave no action", "at least one for the player to act", fix)
    _check_names(node, "legal_actions()", actions)
    for action in actions[:MAX_BRANCHES]:
        if not node.ask("is_legal", action):
            fix = "let is_legal accept everything that legal_actions lists"
            node.fail(f"is_legal({action!r})", "gave False", "True, as legal_actions lists it", fix)


def _check_names(node: _Node, call: str, names: tuple[str, ...]) -> None:
    """Actions that a player's reply can be matched with."""
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            fix = "name every action by a non-empty string without spaces around it"
            node.fail(call, f"holds {name!r}", "non-empty strings without spaces around them", fix)
        folded = " ".join(name.casefold().split())
        if folded in seen:
            fix = "list each action once, and let actions differ by more than case and spacing"
            node.fail(call, f"holds both {seen[folded]!r} and {name!r}", "no two that read the same", fix)
        seen[folded] = name


def _check_chance(node: _Node) -> None:
    """A distribution at chance nodes, nothing elsewhere."""
    outcomes = node.ask("chance_outcomes")
    if node.ask("current_player") != CHANCE:
        if outcomes:
            node.fail("chance_outcomes()", f"gave {outcomes!r}", "() where chance is not to act", "return () here")
        return
    _check_names(node, "chance_outcomes()", tuple(name for name, _ in outcomes))
    total = math.fsum(probability for _, probability in outcomes)
    if any(probability <= 0 for _, probability in outcomes):
        fix = "leave out what cannot happen"
        node.fail("chance_outcomes()", f"gave {outcomes!r}", "positive probabilities", fix)
    if abs(total - 1) > 1e-9:
        fix = "list every outcome and divide by their total"
        node.fail("chance_outcomes()", f"gave {outcomes!r}, which sum to {total}", "a sum of 1", fix)


def _check_returns(node: _Node) -> None:
    """Returns within their bounds, zero before the end, the sum of all rewards, and zero-sum where the game says so."""
    returns = node.numbers("returns")
    if node.game.zero_sum and not abs(math.fsum(returns)) <= TOLERANCE:
        fix = "pay each player what the others lose, or set zero_sum = False in the game's class"
        node.fail("returns()", f"gave {returns!r}", "numbers that sum to zero", fix)
    low, high = node.game.min_return, node.game.max_return
    for value in returns:
        if (low is not None and value < low) or (high is not None and value > high):
            fix = "let min_return and max_return bound every return, or leave them None"
            node.fail("returns()", f"gave {returns!r}", f"numbers from {low} to {high}", fix)
    zeros = (0.0,) * len(node.players)
    if node.ask("current_player") != TERMINAL:
        if returns != zeros:
            fix = "pay only at the end; rewards() may pay earlier"
            node.fail("returns()", f"gave {returns!r}", f"{zeros} until the game ends", fix)
    elif not all(map(_close, node.paid, returns)):
        fix = "let rewards() give what the last action alone paid, to every player"
        node.fail("rewards()", f"sum to {node.paid} over the game", f"the returns {returns}", fix)


def _close(paid: float, owed: float) -> bool:
    return abs(paid - owed) <= TOLERANCE * max(1.0, abs(owed))


def _check_value(node: _Node) -> None:
    """States are values: hashable, and equal to their pickled copy."""
    state = node.state
    try:
        copy = pickle.loads(pickle.dumps(state))
    except Exception as error:
        fix = "define the state class at the top of a module and keep plain data in its fields"
        node.fail("pickle", f"raised {type(error).__name__}: {error}", "a state that can be pickled", fix)
    try:
        same = copy == state and hash(copy) == hash(state) and hash(state.position_key()) is not None
    except TypeError as error:
        fix = "make the state a frozen dataclass and use tuples instead of lists, sets and dictionaries"
        node.fail("hash(state)", f"raised TypeError: {error}", "a hashable state", fix)
    if not same:
        fix = "make the state a frozen dataclass that compares by its fields"
        node.fail("pickle.loads(pickle.dumps(state))", "is another state", "an equal one with an equal hash", fix)


def _check_observation(node: _Node) -> None:
    """Text for every player in both styles, which names the legal actions to the player to act."""
    for player in node.players:
        texts = [("information_state", (player,)), *(("observation", (player, style)) for style in STYLES)]
        for method, args in texts:
            text = node.ask(method, *args)
            empty = method == "observation" and not (isinstance(text, str) and text.strip())
            if empty or not isinstance(text, str):
                node.fail(_call(method, args), f"gave {text!r}", "a text", "return a non-empty string")
            if node.ask(method, *args) != text:
                fix = "compute it from the state's fields alone, without random numbers or counters"
                node.fail(_call(method, args), "gave two texts when called twice", "the same text", fix)
    player = node.ask("current_player")
    if player >= 0 and not node.game.free_text:
        text = node.ask("observation", player, "full")
        for action in node.ask("legal_actions"):
            if not re.search(rf"(?<!\w){re.escape(action)}(?!\w)", text):
                fix = "end the full observation of the player to act with its legal actions"
                node.fail(f"observation({player}, 'full')", f"does not name {action!r}", "every legal action", fix)


class _Memory:
    """Observations and actions by information state and position, to compare with later ones."""

    def __init__(self) -> None:
        self._information: dict[tuple[int, str], tuple[_Node, dict[str, Hashable]]] = {}
        self._positions: dict[tuple[type, Hashable], tuple[_Node, dict[str, Hashable]]] = {}

    def check(self, node: _Node) -> None:
        """Compares the node with the first one of the same information state, and of the same position."""
        player = node.ask("current_player")
        if player >= 0:
            facts: dict[str, Hashable] = {"legal_actions()": node.ask("legal_actions")}
            facts |= {f"observation({player}, {style!r})": node.ask("observation", player, style) for style in STYLES}
            facts["the player's own earlier decisions"] = node.recall[player]
            first, known = self._information.setdefault((player, node.ask("information_state", player)), (node, facts))
            for call, fact in facts.items():
                if fact != known[call]:
                    node.fail(
                        call,
                        f"differs from what it is after {list(first.actions)} with the same"
                        f" information_state({player})",
                        "the same observation, actions and past in states that a player cannot distinguish",
                        "take hidden facts out of the first, or add what the player knows to information_state",
                    )
        facts = {name: node.ask(name) for name in ("current_player", "legal_actions", "chance_outcomes", "returns")}
        first, known = self._positions.setdefault((type(node.state), node.ask("position_key")), (node, facts))
        for name, fact in facts.items():
            if fact != known[name]:
                fix = "put everything that the rest of the game depends on into position_key, or do not override it"
                node.fail(
                    name, f"differs from what it is after {list(first.actions)}", "equality, as position_key is", fix
                )


def _check_illegal(node: _Node) -> None:
    """`is_legal` and `apply` refuse what is not legal."""
    allowed = node.next_actions()
    player = node.ask("current_player")
    near = () if node.game.free_text else (*node.actions[-1:], *(action.swapcase() for action in allowed[:1]))
    for action in (NONSENSE, "", *near):
        legal = bool(node.ask("is_legal", action))
        if node.game.free_text and legal:
            continue
        if legal != (player >= 0 and action in allowed):
            fix = "let is_legal accept exactly what legal_actions lists, or set free_text = True"
            node.fail(f"is_legal({action!r})", f"gave {legal}", f"{not legal}", fix)
        if action in allowed:
            continue
        try:
            node.state.apply(action)
        except IllegalActionError:
            continue
        except Exception as error:
            got = f"raised {type(error).__name__}: {error}"
        else:
            got = "was applied"
        fix = "begin apply with `if not self.is_legal(action): raise self.refuse(action)`, likewise for chance"
        node.fail(f"apply({action!r})", got, "IllegalActionError, as the action is not legal here", fix)


def _check_apply(node: _Node) -> None:
    """Acting leaves the state as it was, and leads to the same state each time."""
    before = _snapshot(node)
    untouched, copied = (pickle.loads(pickle.dumps(node.state)) for _ in range(2))
    copy = dataclasses.replace(node, state=copied)
    for action in node.next_actions()[:MAX_BRANCHES]:
        child = node.ask("apply", action)
        if not isinstance(child, State):
            node.fail(f"apply({action!r})", f"gave {child!r}", "the next State", "return a new state")
        if node.state != untouched or _snapshot(node) != before:
            fix = "make the state a frozen dataclass; let apply build a new state and leave this one alone"
            node.fail(f"apply({action!r})", "changed the state it was called on", "an unchanged state", fix)
        if child != node.ask("apply", action) or child != copy.ask("apply", action):
            fix = "make every random choice a chance node and read nothing but the state's fields"
            node.fail(f"apply({action!r})", "gave two different states when repeated", "equal states", fix)


def _snapshot(node: _Node) -> tuple[object, ...]:
    """The parts of a state that are cheap to compare."""
    texts = (node.ask("observation", player, "compact") for player in node.players)
    return (hash(node.state), node.ask("current_player"), node.ask("legal_actions"), *texts)


def _call(method: str, args: tuple[object, ...]) -> str:
    return f"{method}({', '.join(map(repr, args))})"
