"""The texts of the checks: prompts of games, and fillers of the lengths at which models change.

A few hundred tokens are enough: a wrong mask, position, head or dropout shows in every token. What changes with the
length of a text (rotary factors that switch, windows, chunks) needs a text of that length, where it is affordable. The
number of tokens depends only on the model's size and the device, so every run of a recipe checks the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spiral.core.records import IntArray
from spiral.games import Game, load_game
from spiral.games.playout import resolve_chance
from spiral.models.loading import length_switches
from spiral.text import ChatCodec

FILLERS, FEW_FILLERS = (5, 23, 40, 90), (70,)
"""Lengths of fillers, and those for a model that is large for its device. The engine pads prompts of more than 64
tokens and batches of fewer than 4 rows."""
NEW_TOKENS, FEW_NEW_TOKENS = 8, 3
GAME_TOKENS, FEW_GAME_TOKENS = 150, 16
"""Of each game's prompt."""
PASSES = 6
"""About how often each token goes through the model: engine, plain pass and learner, before and after an update."""
AFFORDABLE_FLOPS = {"cpu": 2.5e11, "cuda": 5e13}
"""One or two seconds: a CPU core does 1e11 operations a second in float32, a GPU more than 2e13. A model that needs
more for the full set of texts gets the small one."""
PAST_A_SWITCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probes:
    """The prompts that the engine continues."""

    prompts: tuple[IntArray, ...]
    """Each [P]."""
    alone: tuple[int, ...]
    """Indices of the prompts that are also sampled one at a time; for a large model none of the short ones."""
    again: tuple[int, ...]
    """Indices of the prompts that a trial update learns from and that are sampled again after it."""
    new_tokens: int
    """Number of tokens of every reply."""
    not_crossed: tuple[str, ...] = ()
    """Lengths at which the model changes, but which take too long to check."""


def make_probes(
    codec: ChatCodec,
    config: Any,
    *,
    parameters: int,
    device: str,
    context: int,
    games: Sequence[str] = ("tictactoe",),
) -> Probes:
    """Probes for a model with a transformers `config` and this number of `parameters`, on a kind of `device`."""
    affordable = int(AFFORDABLE_FLOPS.get(device, AFFORDABLE_FLOPS["cpu"]) / (2 * PASSES * parameters))
    large = affordable < sum(FILLERS) + GAME_TOKENS
    fillers, game_tokens = (FEW_FILLERS, FEW_GAME_TOKENS) if large else (FILLERS, GAME_TOKENS)
    new_tokens = max(1, min(FEW_NEW_TOKENS if large else NEW_TOKENS, context // 4))
    room = context - new_tokens
    played = [_first_prompt(codec, load_game(game)) for game in games[: 1 if large else 2]]
    words = np.concatenate(played)
    words = words[words < int(config.get_text_config().vocab_size)]
    lengths = dict.fromkeys(min(length, room) for length in fillers)
    prompts = [_filler(words, length, turn) for turn, length in enumerate(lengths)]
    # Texts of different lengths in one batch show what padding and batching do, at a lower cost.
    alone = [] if large else [0, len(prompts) - 1]
    prompts += [prompt[: min(game_tokens, room)] for prompt in played]
    not_crossed = []
    for name, length in length_switches(config).items():
        if length + PAST_A_SWITCH > context:
            continue  # no text gets there
        if length > affordable:
            not_crossed.append(f"{name} at {length:,} tokens")
            continue
        alone.append(len(prompts))
        across, past = max(1, length - new_tokens // 2), min(length + PAST_A_SWITCH, room)
        prompts += [_filler(words, across, 1), _filler(words, past, 2)]
    # What is wrong with weights shows in every token, so a large model's shortest text is enough.
    again = (len(lengths),) if large else range(len(prompts))
    return Probes(
        prompts=tuple(prompts),
        alone=tuple(dict.fromkeys(alone)),
        again=tuple(again),
        new_tokens=new_tokens,
        not_crossed=tuple(not_crossed),
    )


def _first_prompt(codec: ChatCodec, game: Game) -> IntArray:
    """[P] the prompt of a game's first decision, after the first outcome of chance."""
    state = resolve_chance(game.initial_state())
    return codec.encode(state.observation(state.current_player, codec.config.observation), game)


def _filler(words: IntArray, length: int, turn: int) -> IntArray:
    """[length] the words repeated, starting elsewhere for each filler."""
    turned = np.roll(words, -7 * turn)
    return np.resize(turned, length).astype(np.int64)
