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
from spiral.core.settings import shortened
from spiral.games import Game
from spiral.theory import TabularPolicy, has_perfect_information
from spiral.theory.policy import TablePolicy, player_and_information_key, policy_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree

TABLE = "table:"
"""Begins the name of a policy that is a file."""


def table_file(name: str) -> Path:
    """Return the file of a policy's name."""
    return Path(name.removeprefix(TABLE)).expanduser()


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
        policy = TablePolicy(rows=rows, key=player_and_information_key)
        policy_probabilities(build_tree(game), [policy, policy])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is damaged: {type(error).__name__} {shortened(str(error))}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {shortened(str(error), 400)}") from error
    return policy


def check_table(file: Path) -> dict[str, Any]:
    """Return what a file holds.

    Raises:
        ValueError: It cannot be read or is no table.
    """
    try:
        found: dict[str, Any] = read_json(file.read_bytes())
        if not {"game", "states"} <= found.keys() or not isinstance(found["states"], list):
            raise ValueError("expected an object with 'game' and the list 'states'")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read {TABLE}{shortened(str(file), 200)}: {shortened(str(error), 300)}") from error
    return found
