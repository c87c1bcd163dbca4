"""Policies as files: the probability of each action in every information state, which an opponent `table:FILE` plays.

    {"game": "kuhn_poker", "states": [
        {"player": 0, "information_state": "J-:", "probabilities": {"check": 0.8, "bet": 0.2}}, ...]}

An action that is left out has probability 0. Such a policy is exact in theory and plays without a model: an equilibrium
from another program, or the mixture of a population (`spiral psro`).
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from spiral.core.files import read_json, write_text_atomically
from spiral.core.settings import shortened, shown
from spiral.games import Game
from spiral.theory import TabularPolicy, has_perfect_information
from spiral.theory.policy import TablePolicy, player_and_information_key, policy_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree

TABLE = "table:"
"""Begins the name of a policy that is a file."""


def table_file(name: str) -> Path:
    """Return the file of a policy's name.

    Raises:
        ValueError: The path begins with the home directory of an unknown user, as "table:~nobody/mine.json" does.
    """
    try:
        return Path(name.removeprefix(TABLE)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"cannot read {shortened(name, 200)}: {error}") from error


def write_table(file: Path, game: Game, tree: GameTree, probability_A: Floats) -> None:
    """Write a policy, [A] probabilities in the order of the game's tree."""
    states = [
        {
            "player": infoset.player,
            "information_state": infoset.state.information_state(infoset.player),
            "probabilities": dict(zip(infoset.actions, row, strict=True)),
        }
        for infoset in tree.infosets
        for row in [probability_A[infoset.first_slot : infoset.first_slot + len(infoset.actions)].tolist()]
    ]
    write_text_atomically(file, json.dumps({"game": game.spec, "states": states}, indent=1))


def read_table(file: Path, game: Game) -> TabularPolicy:
    """Read the policy of a file for a game.

    Raises:
        ValueError: It is not there, damaged or of another game, or does not have every information state; or the game
            has no exact theory or hides nothing.
    """
    name = f"{TABLE}{file}"
    found = check_table(file)
    if found["game"] != game.spec:
        raise ValueError(f"{name} is a policy for {shortened(str(found['game']))}; expected one for {game.spec}")
    if has_perfect_information(game):
        raise ValueError(
            f"{name} is for {game.spec}, which hides nothing from its players; a table needs a game that does"
        )
    try:
        rows: dict[Hashable, Mapping[str, float]] = {
            (row["player"], row["information_state"]): dict(row["probabilities"]) for row in found["states"]
        }
        if len(rows) < len(found["states"]):
            raise ValueError(
                f"{len(found['states'])} entries for {len(rows)} information states; expected one for each"
            )
        tree = build_tree(game)
        _check_keys(rows, tree)
        policy = TablePolicy(rows=rows, key=player_and_information_key)
        policy_probabilities(tree, [policy, policy])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is damaged: {type(error).__name__} {shortened(str(error))}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {shortened(str(error), 400)}") from error
    return policy


def is_table_for(file: Path, game: Game) -> bool:
    """Whether a file says that it is a policy for a game. Raises `ValueError` where it is no table."""
    return bool(check_table(file)["game"] == game.spec)


def _check_keys(rows: Mapping[Hashable, Mapping[str, object]], tree: GameTree) -> None:
    """Raises `ValueError` for information states that the game has not, and probabilities that are no numbers."""
    known = {(infoset.player, infoset.name) for infoset in tree.infosets}
    for key, row in rows.items():
        if key not in known:
            raise ValueError(
                f"{tree.game.spec} has no information state {key!r} (player, state), so that its entry would have no"
                f" effect; the game has {len(known)}, such as {tree.infosets[0].name!r} of player"
                f" {tree.infosets[0].player}"
            )
        for action, probability in row.items():
            if type(probability) not in (int, float):
                raise ValueError(f"the probability of {action!r} at {key!r} is {shown(probability)}; expected a number")


def check_table(file: Path) -> dict[str, Any]:
    """Return what a file holds.

    Raises:
        ValueError: It cannot be read or is no table.
    """
    try:
        found: dict[str, Any] = read_json(file.read_bytes())
        whole = isinstance(found, dict) and {"game", "states"} <= found.keys()
        if not whole or not isinstance(found["states"], list):
            raise ValueError("expected an object with 'game' and the list 'states'")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {TABLE}{shortened(str(file), 200)}: {shortened(str(error), 300)}") from error
    return found
