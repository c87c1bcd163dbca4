r"""Makes the model that the experiment starts from: a byte model that boxes common answers.

    python experiments/rlvr_small/build.py DIRECTORY

A new network of the built-in model's size and tokenizer is fitted for a few steps to right answers of the training
split. It learns the form and the most common answers, and hardly more; what it learns of the task itself is left to
training with `spiral train`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from spiral.evaluation.reasoning.problem_game import ProblemGame
from spiral.games import load_game
from spiral.models.card import ModelCard, write_card
from spiral.models.nano.build import DIRECT, new_model, train_step
from spiral.models.nano.tokenizer import END, build_tokenizer
from spiral.text import ChatCodec

GAME = "problems/reasoning_gym/gcd"
STEPS, BATCH, LEARNING_RATE = 120, 64, 3e-3


def main(directory: Path) -> None:
    """Fit the model and save it."""
    game = load_game(GAME)
    assert isinstance(game, ProblemGame)
    tokenizer = build_tokenizer()
    model, codec = new_model(len(tokenizer)).train(), ChatCodec(tokenizer, DIRECT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    rng = random.Random(0)
    for step in range(STEPS):
        pairs = []
        for number in rng.sample(range(game.count), BATCH):
            prompt = [*codec.encode(game.prompt(number), game)]
            reply = f"\\boxed{{{game.problem(number).answer}}}{END}"
            pairs.append((prompt, codec.tokenizer.encode(reply, add_special_tokens=False)))
        loss = train_step(model, optimizer, pairs)
        if step % 10 == 9:
            print(f"step {step + 1}/{STEPS}: {loss:.3f} nats a token", flush=True)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_card(directory, ModelCard(prompt=DIRECT))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
