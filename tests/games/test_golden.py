"""Recorded playthroughs: every text of every state of one game, so that a change of wording is seen and meant.

`SPIRAL_UPDATE_GOLDEN=1 pytest tests/games/test_golden.py` records them anew.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from spiral.games import Game, State, load_game
from spiral.games.registry import NATIVE_GAMES
from spiral.games.testing import random_playout

GOLDEN = Path(__file__).parents[1] / "golden"
SPECS = [*NATIVE_GAMES, "kuhn_poker(hands=3)"]
SEED = 4
SAID = {
    "simple_negotiation": [
        "offer: 3 sheep, 2 ore -> 5 brick. Good day! I have sheep to spare.",
        "That is too little for me. [offer: 1 brick -> 4 sheep]",
        "deny. I will not go that low.",
        "What would you give for a piece of ore?",
        "My last word: [offer: 2 brick -> 4 sheep]",
        "I see your point, and the offer: [accept]",
        "pass",
        "offer: 1 wheat -> 1 wood",
        "accept",
        "pass",
    ],
    "proposer_solver": ["products 3", "4136", "4,260", "I do not know", "2268"],
}
"""What is said in games with free text: uniform players never speak, and hardly ever accept or are right."""
MAX_OUTCOMES = 100


def path_of(spec: str) -> Path:
    return GOLDEN / f"{spec.replace('(', '-').replace(')', '')}.txt"


def playthrough(game: Game) -> list[tuple[str, State]]:
    """Each state with the action that led to it."""
    state = game.initial_state()
    if not game.free_text:
        actions, _ = random_playout(game, SEED)
    else:
        rng, deals = random.Random(SEED), state
        actions = []
        while deals.is_chance:
            actions.append(rng.choice(deals.chance_outcomes())[0])
            deals = deals.apply(actions[-1])
        actions += SAID[game.name]
    states = [("", state)]
    for action in actions:
        state = state.apply(action)
        states.append((action, state))
    return states


def unfold(text: str, before: str) -> list[str]:
    """The lines of a text; those it opens with that were the same in the state before are only counted."""
    lines, old = text.split("\n"), before.split("\n")
    same = 0
    while same < min(len(lines), len(old)) and lines[same] == old[same]:
        same += 1
    return ([f"({same} lines as before)"] if same else []) + lines[same:]


def render(game: Game) -> str:
    out = [f"game: {game.spec}", f"summary: {game.summary}", f"rules: {game.rules}"]
    shown = [""] * game.num_players
    for action, state in playthrough(game):
        out += ["", f"=== {action}" if action else "=== start"]
        if state.is_chance:
            outcomes = state.chance_outcomes()
            more = f", ... ({len(outcomes)} in all)" if len(outcomes) > MAX_OUTCOMES else ""
            shown_outcomes = outcomes[:12] if more else outcomes
            out.append("chance: " + ", ".join(f"{name} {chance:.4f}" for name, chance in shown_outcomes) + more)
        elif state.is_terminal:
            out.append(f"returns: {state.returns()}")
        else:
            actions = state.legal_actions()
            listed = ", ".join(actions[:12]) + (f", ... ({len(actions)} in all)" if len(actions) > 12 else "")
            out.append(f"seat {state.current_player} to act: {listed}")
        for player in range(game.num_players):
            full = state.observation(player, "full")
            out += [f"--- seat {player}", f"information state: {state.information_state(player)}"]
            out += [f"compact: {state.observation(player, 'compact')}", *unfold(full, shown[player])]
            shown[player] = full
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("spec", SPECS)
def test_texts_are_as_recorded(spec: str) -> None:
    path = path_of(spec)
    rendered = render(load_game(spec))
    if os.environ.get("SPIRAL_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(rendered, encoding="utf-8")
    assert path.exists(), f"{path} is missing; record it with SPIRAL_UPDATE_GOLDEN=1"
    assert rendered == path.read_text(encoding="utf-8"), "if the change is meant, run with SPIRAL_UPDATE_GOLDEN=1"


def test_no_recording_is_left_over() -> None:
    assert sorted(GOLDEN.iterdir()) == sorted(map(path_of, SPECS))
