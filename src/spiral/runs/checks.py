"""Checks at launch, before anything is spent: whether opponents can play, and whether prompts leave room to answer."""

from __future__ import annotations

import logging

from spiral.evaluation.policy_table import decisions
from spiral.games import load_game
from spiral.games.registry import NATIVE_GAMES
from spiral.inference.base import LanguagePolicy
from spiral.inference.room import check_room, check_states_room
from spiral.rollout.matchmaking import make_sampler
from spiral.runs.recipe import NANO_KNOWS, Recipe

logger = logging.getLogger(__name__)


def check_run(recipe: Recipe) -> None:
    """Lets every opponent try its games. Raises `ValueError` for a game that no opponent of the recipe can play."""
    sampler = make_sampler(recipe.selfplay)
    for game in map(load_game, recipe.selfplay.games):
        if game.num_players > 1:
            try:
                sampler.known(game)
            except ValueError as error:
                raise ValueError(f"selfplay.opponents: {error}") from error


def check_prompts(policy: LanguagePolicy, recipe: Recipe) -> None:
    """Raises `ValueError` if a game's prompts leave the model no room for an answer.

    Checks the first prompts of the games that are trained on, and all that it can reach of those evaluated.
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
    """Whether the model has the built-in tokenizer: a token for every word of the native games, and bytes."""
    words: set[str] = set(policy.codec.tokenizer.get_vocab())
    return {f"{name}:X:" for name in ("tictactoe", "connect_four")} <= words
