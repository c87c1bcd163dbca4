"""What is tried at the launch of a run: whether every game's prompts leave the model room for an answer."""

from __future__ import annotations

import logging

from spiral.evaluation.policy_table import decisions
from spiral.games import load_game
from spiral.games.registry import NATIVE_GAMES
from spiral.inference.base import LanguagePolicy
from spiral.inference.room import check_room, check_states_room
from spiral.runs.recipe import NANO_KNOWS, Recipe

logger = logging.getLogger(__name__)


def check_prompts(policy: LanguagePolicy, recipe: Recipe) -> None:
    """Raises `ValueError` when a game's prompt leaves the model no room for an answer.

    Of games that are played the first prompts, of those that are measured the later ones, too.
    """
    foreign = [game for game in recipe.selfplay.games if load_game(game).name not in NATIVE_GAMES]
    if foreign and _reads_only_our_games(policy):
        logger.warning("%s hardly learns %s: %s", recipe.model.path, ", ".join(foreign), NANO_KNOWS)
    for spec in recipe.selfplay.games:
        check_room(policy, load_game(spec), recipe.model.path, first=True)
    for spec in recipe.evaluation.games:
        check_room(policy, load_game(spec), recipe.model.path)
    for spec in recipe.evaluation.exploitability:
        game = load_game(spec)
        check_states_room(policy, game, decisions(game), recipe.model.path)


def _reads_only_our_games(policy: LanguagePolicy) -> bool:
    """Whether the model has the built-in tokenizer: a token for every word of our games, and bytes beside."""
    words: set[str] = set(policy.codec.tokenizer.get_vocab())
    return {f"{name}:X:" for name in ("tictactoe", "connect_four")} <= words
