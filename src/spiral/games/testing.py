"""The contract every game must keep, as one public check that a game's author can run.

    from spiral.games.testing import check_game
    check_game(MyGame())

Small games are walked through completely, state by state; larger ones are played at random. A broken game raises
`GameContractError`, which names the actions that lead to the fault, the method, what it gave, what was expected, and
how to mend it. The idea of one contract test for many environments is dm_env's
(https://github.com/google-deepmind/dm_env).

Left out: whether the rules are the right ones. A secret that is told in the observation and in `information_state`
alike cannot be recognised either, because nothing then says that it was a secret.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from spiral.games._contract import GameContractError, Memory, Node, check_length, check_node
from spiral.games.base import CHANCE, TERMINAL, Game, State
from spiral.games.registry import game_names, load_game

__all__ = ["GameContractError", "check_game", "random_playout"]

MAX_TREE = 4_000
"""States up to which an enumerable game is walked through completely."""


def check_game(game: Game, playouts: int = 100, seed: int = 0) -> None:
    """Raises `GameContractError` when `game` breaks the contract anywhere that was looked.

    Enumerable games of at most 4,000 states are checked completely, others along `playouts` random games.
    """
    root = _check_rules(game)
    memory = Memory()
    if game.enumerable and _check_tree(root, memory):
        return
    for playout in range(playouts):
        for node in _playout(root, random.Random(f"{seed}/{playout}")):
            check_node(node, memory)


def random_playout(game: Game, seed: int) -> tuple[list[str], State]:
    """The actions, chance included, and the last state of a game between uniform players."""
    root = Node(game=game, state=game.initial_state())
    node = root
    for node in _playout(root, random.Random(seed)):
        check_length(node)
    return list(node.actions), node.state


def _playout(root: Node, rng: random.Random) -> Iterator[Node]:
    """Every node of one random game, each given out before the next action is chosen."""
    node = root
    yield node
    while node.state.current_player != TERMINAL:
        if node.state.current_player == CHANCE:
            names, weights = zip(*node.state.chance_outcomes(), strict=True)
            action = rng.choices(names, weights)[0]
        else:
            action = rng.choice(node.state.legal_actions())
        node = node.after(action)
        yield node


def _check_tree(root: Node, memory: Memory) -> bool:
    """Checks every state once; False when there are more than `MAX_TREE`."""
    seen: set[State] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        check_node(node, memory)  # before the state is put into a set: it may not be hashable
        if node.state in seen:
            continue
        seen.add(node.state)
        if len(seen) > MAX_TREE:
            return False
        stack.extend(node.after(action) for action in node.next_actions())
    return True


def _check_rules(game: Game) -> Node:
    """The game object itself; gives the initial node."""
    if not (isinstance(getattr(game, "name", None), str) and game.name):
        raise GameContractError(f"{type(game).__name__}: got no name; expected a class attribute `name`, a string")
    root = Node(game=game, state=game.initial_state())
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


def _check_spec(root: Node) -> None:
    """The game can be found again by its spec, in another process too."""
    game = root.game
    try:
        loaded = load_game(game.spec)
    except ValueError as error:
        mend = "define the class at the top of a module, and give every parameter a default"
        root.fail("load_game(game.spec)", f"raised {error}", "an equal game", mend)
    if loaded != game:
        root.fail(
            f"load_game({game.spec!r})",
            f"gave {loaded!r}",
            f"{game!r}",
            "make the game a frozen dataclass whose fields are its parameters, under a name of its own",
        )
