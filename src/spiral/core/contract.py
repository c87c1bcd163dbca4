"""Check the returns of a finished game against the game's contract: one bad number would spoil every average."""

from __future__ import annotations

import math

from spiral.core.user_values import number_list
from spiral.games import Game

MAX_RETURN = 1e9
"""Largest return that is accepted from a game that states no bounds; beyond it float32 gradients overflow."""
ZERO_SUM_TOLERANCE = 1e-6
"""Largest sum of the returns of a zero-sum game, relative to the first player's."""


def checked_numbers(game: Game, given: object, method: str) -> tuple[float, ...]:
    """Return what `method` of a state gave as one number for each player.

    Raises:
        ValueError: It is something else; the message says what was given, without the game's name.
    """
    players = game.num_players
    if type(given) is tuple and len(given) == players and all(type(value) is float for value in given):
        return given  # nearly always, and a game's tree has many
    try:
        found = tuple(float(value.item()) for value in number_list(given))
    except (TypeError, ValueError, OverflowError):
        found = ()
    if len(found) != players:
        raise ValueError(
            f"gave {method} {given!r}; expected {players} number{'s' * (players != 1)}, one for each player"
        )
    return found


def checked_returns(game: Game, given: object) -> tuple[float, ...]:
    """Return the returns of a finished game as finite numbers within the game's bounds.

    Raises:
        ValueError: They break the contract; the message says what was given, without the game's name.
    """
    paid = checked_numbers(game, given, "returns")
    low = -MAX_RETURN if game.min_return is None else game.min_return
    high = MAX_RETURN if game.max_return is None else game.max_return
    for player, value in enumerate(paid):
        if not math.isfinite(value):
            raise ValueError(f"gave player {player} the return {value}; expected a finite number")
        if not low - ZERO_SUM_TOLERANCE <= value <= high + ZERO_SUM_TOLERANCE:
            raise ValueError(f"gave player {player} the return {value:g}; expected {low:g} to {high:g}")
    if game.zero_sum and abs(math.fsum(paid)) > ZERO_SUM_TOLERANCE * max(1.0, abs(paid[0])):
        shown = " and ".join(f"{value:g}" for value in paid)
        raise ValueError(f"gave returns {shown}; expected a sum of zero, or zero_sum = False in the game's class")
    return paid


def checked_player(game: Game, given: object) -> int:
    """Return the player to act.

    Raises:
        ValueError: The game has no such player; the message says what was given, without the game's name.
    """
    players = game.num_players
    if given not in range(players):
        known = "0" if players == 1 else f"0 to {players - 1}"
        raise ValueError(f"gave current_player {given!r}; expected {known}, CHANCE or TERMINAL")
    return given  # type: ignore[return-value]
