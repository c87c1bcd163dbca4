"""Builds `nano-think`: a small Llama that writes truthful thoughts about nim, and then answers at random.

It learns by plain maximum likelihood on random play, as `nano` does. Asked to think it writes the thought of
`spiral.models.nano_think.thought`, which holds the winning moves, and after it a legal action that has nothing to do
with it, each as likely as any other; asked for an answer at once it gives such an action. So it plays at random in both
styles, and what thinking is worth is left to self-play to find out.

`python -m spiral.models.nano_think.build DIRECTORY` builds it from nothing, and the same machine builds the same bits.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from spiral.games import Game, load_game
from spiral.games.nim import NimState
from spiral.models.nano.build import DIRECT, THINKING, Example, fit, new_model, random_turns, save
from spiral.models.nano.tokenizer import END, REPLY, build_tokenizer
from spiral.models.nano_think.thought import thought, words
from spiral.text.prompts import question

SEED = 0
STEPS = 1000
TURNS_PER_STEP = 128
PEAK_LEARNING_RATE = 4e-3
THINKING_SHARE = 0.7
GAMES = {"nim": 0.5, "nim(heaps=4)": 0.5}


def training_examples(tokenizer: Any, games: dict[Game, float], rng: random.Random) -> list[Example]:
    """One step's turns from random play, each with a random legal answer, most of them after a thought."""
    prompts, replies, heaps = [], [], []
    for game, share in games.items():
        turns: list[NimState] = []
        while len(turns) < round(share * TURNS_PER_STEP):
            turns += [state for state in random_turns(game, rng) if isinstance(state, NimState)]
        for state in turns[: round(share * TURNS_PER_STEP)]:
            thinking = rng.random() < THINKING_SHARE
            observation = state.observation(state.current_player, "compact")
            prompts.append(question(observation, THINKING if thinking else DIRECT, game) + REPLY)
            answer = f"\\boxed{{{rng.choice(state.legal_actions())}}}"
            replies.append(f"{thought(state.heap_sizes()) if thinking else ''}{answer}{END}")
            heaps.append(state.heap_sizes())
    encoded = tokenizer([*prompts, *replies], add_special_tokens=False)["input_ids"]
    known = tokenizer.get_vocab()
    pairs = zip(encoded[: len(prompts)], encoded[len(prompts) :], heaps, strict=True)
    return [Example(prompt, reply, _choices(reply, sizes, known)) for prompt, reply, sizes in pairs]


def _choices(reply: list[int], heaps: tuple[int, ...], known: dict[str, int]) -> dict[int, list[int]]:
    """What could stand in place of the two tokens of the answer: a heap by its size, and any number from that heap."""
    boxes = [known[f"\\boxed{{{heap}:"] for heap in range(1, len(heaps) + 1)]
    box = len(reply) - 3
    chosen = heaps[boxes.index(reply[box])]
    return {
        box: [token for token, left in zip(boxes, heaps, strict=True) for _ in range(left)],
        box + 1: [known[f"{number}}}"] for number in range(1, chosen + 1)],
    }


def build(directory: Path) -> None:
    """Makes tokenizer and model from nothing and saves them."""
    tokenizer = build_tokenizer(words())
    model = new_model(len(tokenizer), SEED).train()
    games = {load_game(spec): share for spec, share in GAMES.items()}
    rng = random.Random(SEED)
    fit(model, lambda: training_examples(tokenizer, games, rng), STEPS, PEAK_LEARNING_RATE, TURNS_PER_STEP)
    save(model, tokenizer, directory, THINKING)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m spiral.models.nano_think.build DIRECTORY")
    build(Path(sys.argv[1]))
