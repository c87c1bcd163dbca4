"""How many turns and tokens a training step has: what a recipe allows at most, and what to expect.

How long games are, how prompts grow and how much of their beginning they share is taken from a few games between random
players. Without the model's tokenizer a token is counted as four characters.

Left out: what players say in free-text games, which lengthens the prompts that follow; and illegal moves, which end
games early, as models that are new to a game play them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np

from spiral.core.records import IntArray, Sample
from spiral.core.seeds import derive_seed
from spiral.games import Game, State, load_game
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.collector import split_episodes
from spiral.rollout.loop import Match, play
from spiral.runs.recipe import Recipe
from spiral.text import ChatCodec, PromptConfig
from spiral.text.examples import worked_example
from spiral.text.prompts import question
from spiral.training.batch import make_batch
from spiral.training.prefixes import shared_prefixes

CHARACTERS_A_TOKEN = 4
TEMPLATE_TOKENS = 12
"""What a chat template puts around a question."""
SURVEYED_GAMES = 20
EXPECTED_SHARE = 0.5
"""Share of the response budget that is expected to be used."""
SHORT_SHARE = 0.125
"""Share of it that replies may shrink to, as they do when a model learns to answer at once: rows hold more of them."""

Encode = Callable[[str], IntArray]
"""From an observation to its prompt as token ids, or as characters where no tokenizer is at hand."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GameTokens:
    """One game of a recipe: how many are played in a step, how long they are, and how long their prompts."""

    game: str
    episodes: int
    turns: float
    """Expected, of both seats together."""
    most_turns: int
    prompt: float
    """Mean length in tokens."""
    longest_prompt: int
    """Of the games surveyed."""
    prefix: float
    """Tokens that its prompts begin with and that the learner computes once for many of them; mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """Turns and tokens of one training step, over all devices."""

    games: tuple[GameTokens, ...]
    response: int
    """Tokens that a reply may have."""
    context: int
    """Tokens that prompt and reply may have together."""

    @property
    def longest_prompt(self) -> int:
        """Of any game."""
        return max(game.longest_prompt for game in self.games)

    @property
    def longest_sample(self) -> int:
        """Prompt and reply together, at most."""
        return min(self.context, self.longest_prompt + self.response)

    @property
    def context_left(self) -> int:
        """What the longest prompt and reply leave of the context; below zero, replies are cut that much shorter."""
        return self.context - self.longest_prompt - self.response

    @property
    def turns(self) -> float:
        """Expected."""
        return sum(game.episodes * game.turns for game in self.games)

    @property
    def most_turns(self) -> int:
        """When every game takes as long as it can."""
        return sum(game.episodes * game.most_turns for game in self.games)

    @property
    def prompt(self) -> float:
        """Mean length in tokens."""
        return self._mean([game.prompt for game in self.games])

    @property
    def prefix(self) -> float:
        """Tokens of a prompt that others begin with too; mean."""
        return self._mean([game.prefix for game in self.games])

    @property
    def tokens(self) -> float:
        """Expected, prompts included, when replies take half of their budget."""
        reply = EXPECTED_SHARE * self.response
        return sum(game.episodes * game.turns * min(self.context, game.prompt + reply) for game in self.games)

    @property
    def most_tokens(self) -> int:
        """When every game takes as long as it can and every reply is as long as it may be."""
        return sum(
            game.episodes * game.most_turns * min(self.context, game.longest_prompt + self.response)
            for game in self.games
        )

    def _mean(self, values: Sequence[float]) -> float:
        """Over the turns of a step."""
        turns = [game.episodes * game.turns for game in self.games]
        return sum(turn * value for turn, value in zip(turns, values, strict=True)) / sum(turns)


def survey_games(recipe: Recipe, codec: ChatCodec | None) -> tuple[GameTokens, ...]:
    """Plays a few random games of every kind in the recipe and counts turns and prompt tokens.

    `codec` counts with the model's own tokenizer; None estimates.
    """
    counts = split_episodes(recipe.selfplay.games, recipe.selfplay.episodes_per_step)
    return tuple(_survey(load_game(spec), spec, episodes, recipe, codec) for spec, episodes in counts.items())


def token_budget(recipe: Recipe, games: tuple[GameTokens, ...], longest_context: int) -> TokenBudget:
    """The budget of a recipe whose model takes `longest_context` tokens."""
    context = min(recipe.engine.context or longest_context, longest_context)
    return TokenBudget(games=games, response=recipe.sampling.max_new_tokens, context=context)


def _encoder(prompt: PromptConfig, codec: ChatCodec | None, game: Game) -> Encode:
    """How prompts of the game begin and go on, a worked example included."""
    if codec is not None:
        return lambda observation: codec.encode(observation, game)
    example = worked_example(game, prompt) if prompt.example else None
    shown = question(example.observation, prompt) + example.reply if example else ""
    return lambda observation: np.array([ord(character) for character in shown + question(observation, prompt)])


class _Surveyor(RandomPolicy):
    """Plays at random and notes what each prompt would have been."""

    def __init__(self, style: str, encode: Encode) -> None:
        super().__init__()
        self.prompts: list[IntArray] = []
        self._style = style
        self._encode = encode

    def choose(self, state: State, seat: int, rng: random.Random) -> str:
        """Any legal action."""
        self.prompts.append(self._encode(state.observation(seat, self._style)))  # type: ignore[arg-type]
        return super().choose(state, seat, rng)


def _survey(game: Game, spec: str, episodes: int, recipe: Recipe, codec: ChatCodec | None) -> GameTokens:
    """One game's share of the step."""
    surveyor = _Surveyor(recipe.prompt.observation, _encoder(recipe.prompt, codec, game))
    selfplay = recipe.selfplay
    matches = [
        Match(
            game=game,
            seed=derive_seed(0, "plan", game.spec, index),
            policies=(surveyor, surveyor),
            max_turns=selfplay.max_turns,
            opening_plies=selfplay.opening_plies.get(spec, 0),
        )
        for index in range(SURVEYED_GAMES)
    ]
    turns = sum(len(episode.turns) for episode in play(matches))
    estimated, around = (1, 0) if codec is not None else (CHARACTERS_A_TOKEN, TEMPLATE_TOKENS)
    lengths = [around - -len(prompt) // estimated for prompt in surveyor.prompts]
    return GameTokens(
        game=spec,
        episodes=episodes,
        turns=turns / SURVEYED_GAMES,
        most_turns=min(selfplay.max_turns, game.max_turns),
        prompt=sum(lengths) / len(lengths),
        longest_prompt=max(lengths),
        prefix=_shared_prefix(surveyor.prompts) / estimated,
    )


def _shared_prefix(prompts: Sequence[IntArray]) -> float:
    """What the learner would compute once of these prompts, in the mean, were they all of a micro-batch."""
    samples = [
        Sample(
            token_ids=np.append(prompt, 0),
            action_mask=np.arange(len(prompt) + 1) == len(prompt),
            behaviour_logprobs=np.zeros(len(prompt) + 1, dtype=np.float32),
            advantage=0.0,
            game="",
            player=0,
            policy_version=0,
        )
        for prompt in prompts
    ]
    families = shared_prefixes(make_batch(samples), range(len(samples)))
    return sum(len(family.samples) * family.shared for family in families) / len(samples)
