"""Number of turns and tokens of a training step: expected, and at most.

The length of games and prompts, and the prefixes that prompts share, are taken from a few games of random play. Without
the model's tokenizer four characters are counted as a token.

Not counted: the messages of free-text games, which lengthen later prompts; and illegal moves, which end games early
when a model is new to a game.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import sys
from collections.abc import Callable, Sequence

import numpy as np

from spiral.core.policy import TurnReply, TurnRequest
from spiral.core.records import Generation, IntArray, Sample, Turn
from spiral.core.seeds import derive_seed
from spiral.games import Game, Style, load_game
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.rollout.matchmaking import episodes_by_game, split_deals
from spiral.runs.recipe import Recipe
from spiral.text import ChatCodec, PromptConfig
from spiral.text.examples import worked_example
from spiral.text.history import answer_text, questions
from spiral.training.batch import make_batch
from spiral.training.packing import holders, shared_prefixes
from spiral.training.settings import NLL

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 12
"""Tokens that a chat template puts around a question."""
SURVEYED_GAMES = 20
ASSUMED_PROMPT = 1_024
"""Tokens of the longest prompt of problems that cannot be loaded here; the mean is taken to be a quarter."""
EXPECTED_SHARE = 0.5
"""Share of the response budget that is expected to be used."""
SHORT_SHARE = 0.125
"""Share that replies may shrink to when a model learns to answer at once; a row then holds more samples."""

Encode = Callable[[str, Sequence[Turn]], IntArray]
"""From an observation and the player's earlier turns to a prompt: token ids, or characters without a tokenizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GameTokens:
    """One game of a recipe: how many episodes a step has of it, and their turns and prompt tokens."""

    game: str
    episodes: int
    turns: float
    """Expected turns of an episode, over all players."""
    max_turns: int
    prompt: float
    """Mean tokens of a prompt."""
    max_prompt: int
    """Tokens of the longest prompt in the surveyed games."""
    prefix: float
    """Mean tokens of the prefix that a prompt shares with others, which the learner computes once for all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """Turns and tokens of one training step, over all devices."""

    games: tuple[GameTokens, ...]
    response: int
    """Most tokens of a reply."""
    context: int
    """Most tokens of prompt and reply together."""
    samples: int = 0
    """Turns at which a step ends (`selfplay.samples_per_step`); 0 where it is counted in games."""

    @property
    def max_prompt(self) -> int:
        """Tokens of the longest prompt of any game."""
        return max(game.max_prompt for game in self.games)

    @property
    def max_sample(self) -> int:
        """Most tokens of prompt and reply together."""
        return min(self.context, self.max_prompt + self.response)

    @property
    def context_left(self) -> int:
        """Tokens of the context that the longest prompt and reply leave; below zero, replies are cut by as many."""
        return self.context - self.max_prompt - self.response

    @property
    def turns(self) -> float:
        """Expected turns of a step."""
        return sum(game.episodes * game.turns for game in self.games)

    @property
    def max_turns(self) -> int:
        """Turns of a step whose games, or whose last game where it is counted in turns, are as long as they can be."""
        if self.samples:
            return self.samples - 1 + max(game.max_turns for game in self.games)
        return sum(game.episodes * game.max_turns for game in self.games)

    @property
    def prompt(self) -> float:
        """Mean tokens of a prompt."""
        return self._mean([game.prompt for game in self.games])

    @property
    def prefix(self) -> float:
        """Mean tokens of the prefix that a prompt shares with others."""
        return self._mean([game.prefix for game in self.games])

    @property
    def tokens(self) -> float:
        """Expected tokens of a step, prompts included, when replies use half of their budget."""
        reply = EXPECTED_SHARE * self.response
        return sum(game.episodes * game.turns * min(self.context, game.prompt + reply) for game in self.games)

    @property
    def max_tokens(self) -> int:
        """Tokens of a step whose games and replies are all as long as they can be."""
        if self.samples:
            return self.max_turns * self.max_sample
        return sum(
            game.episodes * game.max_turns * min(self.context, game.max_prompt + self.response) for game in self.games
        )

    def _mean(self, values: Sequence[float]) -> float:
        """The mean over the turns of a step of one value a game."""
        turns = [game.episodes * game.turns for game in self.games]
        return sum(turn * value for turn, value in zip(turns, values, strict=True)) / sum(turns)


def survey_games(recipe: Recipe, codec: ChatCodec | None, max_context: int = sys.maxsize) -> tuple[GameTokens, ...]:
    """Plays a few episodes of random play in every game of the recipe and counts turns and prompt tokens.

    Args:
        recipe: The recipe.
        codec: Counts with the model's own tokenizer; None estimates.
        max_context: Tokens of prompt and reply that the model takes. It limits the history of a prompt, whose earlier
            replies are taken to use `EXPECTED_SHARE` of their budget.
    """
    selfplay = recipe.selfplay
    room, reply = 0, 1
    if recipe.prompt.history == "chat":
        room = min(recipe.engine.context or max_context, max_context) - recipe.sampling.max_new_tokens
        reply = max(1, int(EXPECTED_SHARE * recipe.sampling.max_new_tokens))
    surveyed = {}
    for spec in selfplay.games:
        try:
            load_game(spec).initial_state().chance_outcomes()
        except ValueError as error:  # problems of the hub, without a network
            surveyed[spec] = _assumed(spec, error)
        else:
            played = (spec, recipe.prompt, selfplay.max_turns, selfplay.opening_plies.get(spec, 0), room, reply)
            surveyed[spec] = _estimate(*played) if codec is None else _survey(*played, codec)
    if recipe.loss.kind == NLL:  # each turn of expert games is by itself, and in random play prompts are as long
        alone = {spec: dataclasses.replace(game, turns=1.0, max_turns=1) for spec, game in surveyed.items()}
        shares = split_deals(selfplay.games, recipe.sft.samples_per_step)
        return tuple(dataclasses.replace(alone[spec], episodes=count) for spec, count in shares.items())
    games = None
    if selfplay.samples_per_step:
        weights = selfplay.games.values()
        turns = sum(surveyed[spec].turns * weight for spec, weight in selfplay.games.items()) / sum(weights)
        games = math.ceil(selfplay.samples_per_step / max(1.0, turns))
    counts = episodes_by_game(selfplay, games)
    return tuple(dataclasses.replace(surveyed[spec], episodes=count) for spec, count in counts.items())


def token_budget(recipe: Recipe, games: tuple[GameTokens, ...], max_context: int) -> TokenBudget:
    """The budget of a recipe whose model takes at most `max_context` tokens."""
    context = min(recipe.engine.context or max_context, max_context)
    return TokenBudget(
        games=games,
        response=recipe.sampling.max_new_tokens,
        context=context,
        samples=recipe.selfplay.samples_per_step,
    )


def _encoder(prompt: PromptConfig, codec: ChatCodec | None, game: Game, room: int) -> Encode:
    """The encoder of the game's prompts, which include a worked example if the recipe asks for one.

    Earlier turns are in a prompt where the recipe wants them and it then has at most `room` tokens.
    """
    chat = prompt.history == "chat"
    if codec is not None:
        return lambda observation, history: codec.encode_in_chat(history, observation, game, room)[0]
    example = worked_example(game, prompt) if prompt.example else None
    shown = questions((), example.observation, prompt, game)[0] + example.reply if example else ""

    def estimated(observation: str, history: Sequence[Turn]) -> IntArray:
        first, *later = questions(history, observation, prompt, game)
        parts = [_code_points(shown + first)]
        for turn, text in zip(history, later, strict=True):
            sampled = turn.generation if prompt.history_thoughts == "keep" else None
            answer = _code_points(answer_text(turn))
            parts.append(answer if sampled is None else sampled.token_ids.repeat(CHARACTERS_PER_TOKEN))
            parts.append(_code_points(" " * CHARACTERS_PER_TOKEN * TEMPLATE_TOKENS + text))
        whole = np.concatenate(parts)
        too_long = len(whole) > room * CHARACTERS_PER_TOKEN and len(history) > 0
        return estimated(observation, history[1:]) if too_long else whole

    return lambda observation, history: estimated(observation, history if chat else ())


def _code_points(text: str) -> IntArray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)


class _Surveyor(RandomPolicy):
    """Plays at random and records the prompt of every turn."""

    def __init__(self, style: Style, encode: Encode, reply_tokens: int) -> None:
        super().__init__()
        self.prompts: list[IntArray] = []
        self.replies: list[IntArray] = []
        self._style = style
        self._encode = encode
        self._reply_tokens = reply_tokens

    def _reply(self, request: TurnRequest) -> TurnReply:
        """Any legal action, in a reply of the expected length whose tokens no other reply has."""
        observation = request.state.observation(request.player, self._style)
        self.prompts.append(self._encode(observation, request.history))
        reply = super()._reply(request)
        # Of two tokens at least: the last one is never fed in, and equal samples would be computed once.
        self.replies.append(np.full(max(2, self._reply_tokens), 1_000_000 + len(self.prompts)))
        generation = Generation(
            token_ids=self.replies[-1],
            logprobs=np.zeros(len(self.replies[-1]), dtype=np.float32),
            stop_reason="length",
            policy_version=0,
        )
        boxed = f"\\boxed{{{reply.action}}}"
        return dataclasses.replace(reply, observation=observation, reply=boxed, generation=generation)


def _assumed(spec: str, error: ValueError) -> GameTokens:
    logger.warning("%s: %s; prompts of up to %d tokens are assumed", spec, error, ASSUMED_PROMPT)
    return GameTokens(
        game=spec, episodes=0, turns=1, max_turns=1, prompt=ASSUMED_PROMPT / 4, max_prompt=ASSUMED_PROMPT, prefix=0
    )


@functools.lru_cache(maxsize=256)
def _estimate(spec: str, prompt: PromptConfig, max_turns: int, plies: int, room: int, reply: int) -> GameTokens:
    """What `_survey` finds without a tokenizer; the recipes of an experiment have their games in common."""
    return _survey(spec, prompt, max_turns, plies, room, reply, None)


def _survey(
    spec: str, prompt: PromptConfig, max_turns: int, plies: int, room: int, reply: int, codec: ChatCodec | None
) -> GameTokens:
    """Plays a game: with prompts of at most `room` tokens where they have a history, and replies of `reply` tokens."""
    game = load_game(spec)
    surveyor = _Surveyor(prompt.observation, _encoder(prompt, codec, game, room), reply)
    matches = [
        Match(
            game=game,
            seed=derive_seed(0, "plan", game.spec, index),
            policies=(surveyor,) * game.num_players,
            max_turns=max_turns,
            opening_plies=plies,
        )
        for index in range(SURVEYED_GAMES)
    ]
    turns = sum(len(episode.turns) for episode in play(matches))
    per_token, template = (1, 0) if codec is not None else (CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS)
    lengths = [template - -len(prompt) // per_token for prompt in surveyor.prompts]
    return GameTokens(
        game=spec,
        episodes=0,
        turns=turns / SURVEYED_GAMES,
        max_turns=min(max_turns, game.max_turns),
        prompt=sum(lengths) / len(lengths),
        max_prompt=max(lengths),
        prefix=_shared_prefix(surveyor.prompts, [ids.repeat(per_token) for ids in surveyor.replies]) / per_token,
    )


def _shared_prefix(prompts: Sequence[IntArray], replies: Sequence[IntArray]) -> float:
    """Mean tokens of a prompt that the learner would compute once for several, were they all in one micro-batch."""
    samples = [
        Sample(
            prompt_ids=prompt,
            action_ids=reply,
            behaviour_logprobs=np.zeros(len(reply), dtype=np.float32),
            advantages=np.zeros(len(reply), dtype=np.float32),
            game="",
            player=0,
            policy_version=0,
        )
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    batch = make_batch(samples)
    found = holders(batch, range(len(samples)))
    within = [sample for sample, holder in found.items() if sample != holder]
    families = shared_prefixes(batch, sorted(set(found.values())))
    shared = sum(len(family.samples) * family.shared for family in families)
    # A turn that a later one holds costs nothing, its reply included, which is in the later prompt.
    return (shared + sum(len(prompts[sample]) + len(replies[sample]) for sample in within)) / len(samples)
