"""Can a network of the built-in model's size answer nim at once, and can it with a thought that it writes first?

    python experiments/nano_think_probe/probe.py                              # what is not in results.json yet
    python experiments/nano_think_probe/probe.py --seeds 1 --only "nim(heaps=4)" --arm thought --out /tmp/probe

Supervised learning, no self-play. Both arms see the same positions in the same order for the same number of steps:

- "at once": the prompt asks for no thought, and the network learns a winning move;
- "thought": it learns to write the truthful thought of `spiral.models.nano_think.thought`, then the same move;
- "at once, 4x steps": a control, at once with four times as many steps.

A fifth of the positions is held out. The share of winning moves is counted there, on positions that can be won, the
network writing its own thought greedily. Results go to results.json and results.md beside this file;
what is there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from spiral.evaluation.statistics import mean_interval
from spiral.models.nano.build import new_model
from spiral.models.nano.tokenizer import END, REPLY, THINK_CLOSE, build_tokenizer
from spiral.models.nano_think.thought import thought, winning_actions, words
from spiral.text.prompts import THINK_MARK

HERE = Path(__file__).parent
SIZES = {"nim": (3, 7), "nim(heaps=4)": (4, 7), "nim(heaps=5)": (5, 7)}
STEPS, BATCH, PEAK = 800, 128, 3e-3
ARMS = {"at once": (False, 1), "thought": (True, 1), "at once, 4x steps": (False, 4)}
HELD_OUT = 0.2
MAX_TESTED = 400


def positions(heaps: int, size: int, seed: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The positions that can be won, shuffled: those to learn from, and those held out."""
    won = [sizes for sizes in itertools.product(range(size + 1), repeat=heaps) if winning_actions(sizes)]
    random.Random(seed).shuffle(won)
    held = round(HELD_OUT * len(won))
    return won[held:], won[:held][:MAX_TESTED]


def prompt_of(sizes: tuple[int, ...], thinking: bool) -> str:
    """The prompt that a game would make, in the compact style."""
    return f"nim:{' '.join(map(str, sizes))}{THINK_MARK if thinking else ''}{REPLY}"


def learn(seen: list[tuple[int, ...]], thinking: bool, steps: int, seed: int) -> tuple[Any, Any]:
    """A network that has learned the replies to `seen` positions."""
    tokenizer = build_tokenizer(words())
    model = new_model(len(tokenizer), seed=seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps, pct_start=min(0.5, 50 / steps))
    rng = random.Random(seed)
    for _ in range(steps):
        batch = [rng.choice(seen) for _ in range(BATCH)]
        prompts = [prompt_of(sizes, thinking) for sizes in batch]
        replies = [
            f"{thought(sizes) if thinking else ''}\\boxed{{{rng.choice(winning_actions(sizes))}}}{END}"
            for sizes in batch
        ]
        encoded = tokenizer([*prompts, *replies], add_special_tokens=False)["input_ids"]
        asked = torch.tensor(encoded[:BATCH])
        wanted = torch.tensor(encoded[BATCH:])
        logits = model(input_ids=torch.cat([asked, wanted], 1)[:, :-1]).logits[:, asked.shape[1] - 1 :]
        functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return model.eval(), tokenizer


def score(model: Any, tokenizer: Any, tested: list[tuple[int, ...]], thinking: bool) -> dict[str, float]:
    """The share of winning moves on positions, and of thoughts that are right, replies written greedily."""
    asked = torch.tensor(
        tokenizer([prompt_of(sizes, thinking) for sizes in tested], add_special_tokens=False)["input_ids"]
    )
    with torch.inference_mode():
        written = model.generate(
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=24, do_sample=False,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )[:, asked.shape[1] :]  # fmt: skip
    replies = tokenizer.batch_decode(written, skip_special_tokens=True)
    won = true = 0
    for reply, sizes in zip(replies, tested, strict=True):
        answer = reply.rpartition(THINK_CLOSE)[2]
        won += answer in [f"\\boxed{{{action}}}" for action in winning_actions(sizes)]
        true += reply.startswith(thought(sizes))
    return {"winning": won / len(tested), "true_thoughts": true / len(tested)}


def run(spec: str, arm: str, seed: int) -> dict[str, Any]:
    """One network, learned and scored on positions that it learned and on those held out."""
    thinking, longer = ARMS[arm]
    seen, held = positions(*SIZES[spec], seed)
    started = time.process_time()
    model, tokenizer = learn(seen, thinking, STEPS * longer, seed)
    learned, new = score(model, tokenizer, seen[:MAX_TESTED], thinking), score(model, tokenizer, held, thinking)
    return {
        "game": spec, "arm": arm, "seed": seed, "learned_positions": len(seen), "held_out_positions": len(held),
        "winning_learned": learned["winning"], "winning_held_out": new["winning"],
        "true_thoughts_held_out": new["true_thoughts"] if thinking else None,
        "random": sum(_share(sizes) for sizes in held) / len(held),
        "parameters": model.num_parameters(), "cpu_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


def _share(sizes: tuple[int, ...]) -> float:
    """The share of winning moves among the legal ones."""
    return len(winning_actions(sizes)) / sum(sizes)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds with 95% intervals (Student's), as Markdown."""
    lines = [
        "| game | arm | seeds | winning moves, held out | winning moves, learned positions | true thoughts, held out |"
        " uniform play | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for spec, arm in itertools.product(SIZES, ARMS):
        mine = [row for row in rows if (row["game"], row["arm"]) == (spec, arm)]
        if mine:
            cells = [_cell([row[key] for row in mine]) for key in ("winning_held_out", "winning_learned")]
            true = [row["true_thoughts_held_out"] for row in mine if row["true_thoughts_held_out"] is not None]
            uniform, spent = (sum(row[key] for row in mine) / len(mine) for key in ("random", "cpu_seconds"))
            cells += [_cell(true) if true else "", f"{uniform:.2f}", f"{spent:.0f}"]
            lines.append(f"| `{spec}` | {arm} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    """A mean and its interval over seeds."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    interval = mean_interval(np.array(values))
    return f"{mean:.2f} [{max(0.0, interval.low):.2f}, {min(1.0, interval.high):.2f}]"


def main() -> None:
    """Runs what is asked for and not done yet, and writes the results after each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds, from 0.")
    parser.add_argument("--only", choices=sorted(SIZES), help="One size of the game.")
    parser.add_argument("--arm", choices=sorted(ARMS), action="append", help="Only this arm; may be repeated.")
    parser.add_argument("--out", type=Path, default=HERE, help="Where results.json and results.md are.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    for seed, arm, spec in itertools.product(range(options.seeds), options.arm or ARMS, SIZES):
        done = any((row["game"], row["arm"], row["seed"]) == (spec, arm, seed) for row in rows)
        if done or options.only not in (None, spec):
            continue
        rows.append(run(spec, arm, seed))
        print(json.dumps(rows[-1]), flush=True)
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (options.out / "results.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
