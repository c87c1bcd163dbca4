"""The games: rules as pure functions on immutable states. The games in this package need the standard library only."""

from spiral.games.base import CHANCE, TERMINAL, Game, IllegalActionError, State, Style
from spiral.games.registry import game_names, load_game

__all__ = ["CHANCE", "TERMINAL", "Game", "IllegalActionError", "State", "Style", "game_names", "load_game"]
