"""A state as the page draws it: a grid, cards, a trade, or text.

The drawing of a game that is not listed here is its text; the page may draw that by the game's name. With `player`,
what this player cannot know is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spiral.games import State
from spiral.games.connect_four import COLUMNS, ROWS, ConnectFourState
from spiral.games.kuhn_poker import LEGAL, KuhnPokerState
from spiral.games.leduc_poker import LeducPokerState
from spiral.games.simple_negotiation import SimpleNegotiationState
from spiral.games.tictactoe import TicTacToeState

MARKS = "XO"
MAX_HISTORY = 200


def drawing(state: State, player: int | None = None) -> dict[str, Any]:
    """A state as the page draws it, for `player` or, with None, for who may see everything."""
    if isinstance(state, TicTacToeState):
        return _tictactoe(state)
    if isinstance(state, ConnectFourState):
        return _connect_four(state)
    if isinstance(state, KuhnPokerState):
        return _kuhn(state, player)
    if isinstance(state, LeducPokerState):
        return _leduc(state, player)
    if isinstance(state, SimpleNegotiationState):
        return _trade(state, player)
    return {"kind": "text"}


def _tictactoe(state: TicTacToeState) -> dict[str, Any]:
    cells = [""] * state.size**2
    for ply, cell in enumerate(state.moves):
        cells[cell] = MARKS[ply % 2]
    last = state.moves[-1] if state.moves else None
    return {
        "kind": "grid",
        "rows": state.size,
        "columns": state.size,
        "cells": cells,
        "last": last,
        "numbers": True,
        "line": state.line,
    }


def _connect_four(state: ConnectFourState) -> dict[str, Any]:
    columns: list[list[str]] = [[] for _ in range(COLUMNS)]
    last = None
    for ply, move in enumerate(state.moves):
        column = columns[int(move)]
        column.append(MARKS[ply % 2])
        last = (ROWS - len(column)) * COLUMNS + int(move)
    cells = [
        columns[column][ROWS - 1 - row] if ROWS - 1 - row < len(columns[column]) else ""
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]
    return {
        "kind": "grid",
        "rows": ROWS,
        "columns": COLUMNS,
        "cells": cells,
        "last": last,
        "numbers": False,
        "line": 4,
        "drops": True,
    }


def _kuhn(state: KuhnPokerState, player: int | None) -> dict[str, Any]:
    first = None if state.starter is None else (state.starter + len(state.past)) % 2
    dealt = len(state.cards) == 2
    put = [int(dealt)] * 2
    history = [f"hand {number}: {', '.join(hand.actions)}" for number, hand in enumerate(state.past, 1)]
    for ply, action in enumerate(state.actions):
        actor = ((first or 0) + ply) % 2
        put[actor] += action in ("bet", "call")
        history.append(f"player {actor}: {action}")
    shown = player is None or (state.is_terminal and state.actions and state.actions[-1] != "fold")
    players = [
        {
            "card": _card(state.cards, seat, hidden=not shown and seat != player),
            "chips_put": put[seat],
            "to_act": state.current_player == seat,
        }
        for seat in (0, 1)
    ]
    won = sum(hand.chips_won() for hand in state.past)
    if state.hands == 1 and state.is_terminal:
        won = int(state.returns()[0])
    return {
        "kind": "cards",
        "players": players,
        "public": None,
        "pot": sum(put),
        "history": history[-MAX_HISTORY:],
        "deck": state.deck,
        "hand": len(state.past) + 1,
        "hands": state.hands,
        "chips": [won, -won],
        "over": dealt and state.actions not in LEGAL,
    }


def _leduc(state: LeducPokerState, player: int | None) -> dict[str, Any]:
    dealt = len(state.cards) >= 2
    put = state.paid() if dealt else [0, 0]
    lines = ((1, state.opening), (2, state.closing))
    history = [
        f"round {number}, player {ply % 2}: {action}" for number, line in lines for ply, action in enumerate(line)
    ]
    folded = "fold" in (*state.opening, *state.closing)
    shown = player is None or (state.is_terminal and not folded)
    players = [
        {
            "card": _card(state.cards, seat, hidden=not shown and seat != player),
            "chips_put": put[seat],
            "to_act": state.current_player == seat,
        }
        for seat in (0, 1)
    ]
    public = state.cards[2] if len(state.cards) == 3 else None
    return {
        "kind": "cards",
        "players": players,
        "public": public,
        "pot": sum(put),
        "history": history,
        "deck": "JJQQKK",
        "hand": 1,
        "hands": 1,
        "chips": [int(value) for value in state.returns()],
        "over": state.is_terminal,
    }


def _trade(state: SimpleNegotiationState, player: int | None) -> dict[str, Any]:
    names = state.names
    dealt = len(state.dealt) == 4 * state.resources
    players = []
    for seat in (0, 1):
        known = dealt and (player in (None, seat) or state.is_terminal)
        players.append(
            {
                "holdings": list(state.holdings(seat)) if known else None,
                "values": list(state.values(seat)) if known else None,
                "gain": float(state.gain(seat)) if known else None,
                "to_act": state.current_player == seat,
            }
        )
    offer = None
    if state.offer is not None:
        gives, asks = (_goods(numbers, names) for numbers in state.offer)
        offer = {"from": (len(state.log) - 1) % 2, "gives": gives, "asks": asks}
    log = [
        {"player": number % 2, "action": reply.action, "words": reply.words} for number, reply in enumerate(state.log)
    ]
    return {
        "kind": "trade",
        "resources": list(names),
        "players": players,
        "offer": offer,
        "log": log,
        "turn": len(state.log),
        "turns": state.turns,
    }


def _card(cards: str, seat: int, *, hidden: bool) -> str | None:
    return cards[seat] if len(cards) > seat and not hidden else None


def _goods(numbers: Sequence[int], names: Sequence[str]) -> dict[str, int]:
    return {name: number for name, number in zip(names, numbers, strict=True) if number}
