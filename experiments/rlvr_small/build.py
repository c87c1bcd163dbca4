r"""Makes what the experiment starts from: the problems and a byte model that is right now and then.

    python experiments/rlvr_small/build.py DIRECTORY

`DIRECTORY/sums.jsonl` holds sums of three digits by reasoning-gym's chain_sum, each question once. `DIRECTORY/start` is
a new network of the built-in model's size and tokenizer, fitted to right answers of the training split for so long that
it is right in some fifth of the cases; the rest is left to training with `spiral train`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch

from spiral.evaluation.reasoning.problem_game import ProblemGame
from spiral.games import load_game
from spiral.models.card import ModelCard, write_card
from spiral.models.nano.build import DIRECT, Example, new_model, train_step
from spiral.models.nano.tokenizer import END, build_tokenizer
from spiral.text import ChatCodec

SIZE, STEPS, BATCH, LEARNING_RATE = 20_000, 500, 64, 3e-3


def main(directory: Path, steps: int = STEPS) -> None:
    """Write the problems, fit the model to some of their answers and save it."""
    directory.mkdir(parents=True, exist_ok=True)
    problems = directory / "sums.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in sums()))
    game = load_game(f"problems/sums?data={problems}")
    assert isinstance(game, ProblemGame)
    tokenizer = build_tokenizer()
    model, codec = new_model(len(tokenizer)).train(), ChatCodec(tokenizer, DIRECT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    rng = random.Random(0)
    for step in range(1, steps + 1):
        examples = []
        for number in rng.sample(range(game.count), BATCH):
            prompt = codec.encode(game.prompt(number), game).tolist()
            reply = tokenizer.encode(f"\\boxed{{{game.problem(number).answer}}}{END}", add_special_tokens=False)
            examples.append(Example(prompt, reply, {}))
        loss = train_step(model, optimizer, examples)
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}: {loss:.3f} nats a token", flush=True)
    model.eval().save_pretrained(directory / "start")
    tokenizer.save_pretrained(directory / "start")
    write_card(directory / "start", ModelCard(prompt=DIRECT))


def sums() -> list[dict[str, str]]:
    """Sums and differences of three digits with their answers, each question once."""
    import reasoning_gym

    digits = {"min_digits": 1, "max_digits": 1, "min_terms": 3, "max_terms": 3}
    rows = reasoning_gym.create_dataset("chain_sum", size=SIZE, seed=1, **digits)
    found = {row["question"]: row["answer"] for row in rows}
    return [{"question": question, "answer": answer} for question, answer in found.items()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
