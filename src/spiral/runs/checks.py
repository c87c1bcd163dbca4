"""Checks at launch, before anything is spent: whether opponents can play, what rewards pay, whether prompts fit."""

from __future__ import annotations

import logging
from pathlib import Path

from spiral.core.seeds import derive_seed
from spiral.evaluation.policy_table import check_no_history, decisions
from spiral.evaluation.reasoning.problem_game import ProblemGame
from spiral.evaluation.reasoning.proposer_game import ProposerSolver
from spiral.games import Game, load_game
from spiral.games.failures import UserCodeError
from spiral.inference.base import LanguagePolicy
from spiral.inference.room import check_room, check_states_room
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.rollout.opponents.loading import make_sampler
from spiral.rollout.rewards import (
    ILLEGAL_MOVE_RETURN,
    REWARDS,
    CheapIllegalMoveError,
    largest_payoff,
    load_reward,
)
from spiral.runs.recipe import TAUGHT, Recipe, what_it_knows
from spiral.runs.trackers.hosted import check_client
from spiral.training.settings import NLL
from spiral.training.sft import games_in

logger = logging.getLogger(__name__)
WORDS = {"nano": ("tictactoe:X:", "connect_four:X:"), "nano-think": ("nim:", "sum ")}
"""Tokens that only the tokenizer of a built-in model has."""
TRIED_GAMES = 20
"""Games of random play that a reward of the user's is tried on at launch."""


def check_run(recipe: Recipe) -> None:
    """Lets every opponent try its games, and a reward of the user's games of random play.

    Raises:
        ValueError: No opponent of the recipe can play a game, the reward pays more for an illegal move, or a tracker's
            client is not installed.
    """
    for name in recipe.run.trackers:
        check_client(name)
    sampler = make_sampler(recipe.selfplay)
    for game in map(load_game, recipe.selfplay.games):
        _check_reward(recipe, game)
        if game.num_players > 1:
            try:
                sampler.known(game)
            except ValueError as error:
                raise ValueError(f"selfplay.opponents: {error}") from error


def _check_reward(recipe: Recipe, game: Game) -> None:
    """Warns of a game whose payoff is assumed; refuses a reward that makes illegal moves worth more."""
    selfplay = recipe.selfplay
    if None in (game.min_return, game.max_return) and selfplay.reward in ("normalised", "returns"):
        logger.warning(
            "%s does not state the bounds of its returns (min_return, max_return): its largest payoff is taken to be"
            " %g, and an illegal move costs %g; a legal return as low as that stops the run",
            game.spec, largest_payoff(game), -ILLEGAL_MOVE_RETURN * largest_payoff(game),
        )  # fmt: skip
    if selfplay.reward in REWARDS:
        return
    reward, player = load_reward(selfplay.reward, game, selfplay.reward_options), RandomPolicy()
    for index in range(TRIED_GAMES):
        seed = derive_seed(0, "reward", game.spec, index)
        players = (player,) * game.num_players
        (episode,) = play([Match(game=game, seed=seed, policies=players, max_turns=selfplay.max_turns)])
        try:
            reward(episode)
        except CheapIllegalMoveError as error:
            raise ValueError(f"selfplay.reward: {error}") from error
        except UserCodeError as error:  # it may need what only a model's turns have; training calls it in earnest
            logger.debug("the reward was not tried on %s: %s", game.spec, error)
            return


def check_problems(recipe: Recipe) -> None:
    """Loads the problems of the recipe's games. Raises `ValueError` for those that cannot be loaded or graded here."""
    for game in map(load_game, recipe.selfplay.games):
        if isinstance(game, ProblemGame | ProposerSolver):
            try:
                game.check()
            except ValueError as error:
                raise ValueError(f"selfplay.games: {error}") from error


def with_expert_games(recipe: Recipe) -> Recipe:
    """A fine-tuning recipe with the games of its data as its games; one of self-play as it is.

    Raises:
        ValueError: A fine-tuning recipe has no data, or they hold no game that it wants.
    """
    if recipe.loss.kind != NLL:
        return recipe
    games = games_in(recipe.sft)
    plies = {game: count for game, count in recipe.selfplay.opening_plies.items() if game in games}
    selfplay = recipe.selfplay.model_copy(update={"games": games, "opening_plies": plies})
    data = [str(Path(name).absolute()) for name in recipe.sft.data]  # to resume from another directory
    return recipe.model_copy(update={"selfplay": selfplay, "sft": recipe.sft.model_copy(update={"data": data})})


def check_prompts(policy: LanguagePolicy, recipe: Recipe) -> None:
    """Raises `ValueError` if a game's prompts leave the model no room for an answer.

    Checks the first prompts of the games that are trained on, and all that it can reach of those evaluated.
    """
    built_in = _built_in_model(policy)
    foreign = [game for game in recipe.selfplay.games if built_in and load_game(game).name not in TAUGHT[built_in]]
    if foreign and built_in:
        logger.warning("%s hardly learns %s: %s", recipe.model.path, ", ".join(foreign), what_it_knows(built_in))
    for spec in recipe.selfplay.games:
        check_room(policy, load_game(spec), recipe.model.path, first=True)
    for spec in recipe.evaluation.games:
        check_room(policy, load_game(spec), recipe.model.path)
    for spec in recipe.evaluation.exploitability:
        game = load_game(spec)
        check_no_history(policy)
        check_states_room(policy, game, decisions(game), recipe.model.path)


def _built_in_model(policy: LanguagePolicy) -> str | None:
    """The built-in model whose tokenizer this is, with a token for every word of its games and bytes for the rest."""
    words: set[str] = set(policy.codec.tokenizer.get_vocab())
    return next((name for name, some in WORDS.items() if words.issuperset(some)), None)
