"""Grading: replies a second on one core, against math-verify alone.

    OMP_NUM_THREADS=1 python -m benchmarks.grading --data DIRECTORY

DIRECTORY holds one file of problems a task, one JSON object a line with `answer` and where there are any `choices`.
Problems are drawn from all files alike, and each reply states the right answer or another problem's, in one of several
writings. "exact" is `GradingPool` as the benchmarks use it, its worker's start included where one is needed;
"math-verify" is `parse` and `verify` on as many of the replies as `--compare` says, without letters.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import clock, record
from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool

WRITINGS = (
    r"Therefore the answer is $\boxed{%s}$.",
    r"<think>Let me check: 3 + 4 = 7.</think>Hence \[\boxed{ %s }\]",
    r"\boxed{x = %s}",
    r"\boxed{%s\text{ cm}}",
    "So the final answer is %s.",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with the problems")
    parser.add_argument("--replies", type=int, default=10_000, help="how many replies to grade")
    parser.add_argument("--compare", type=int, default=1_000, help="how many of them for math-verify alone")
    options = parser.parse_args(argv)
    items = make_items(options.data, options.replies)
    with clock() as time, GradingPool() as pool:
        grades = pool.grade(items)
    rows = [
        _row("exact", len(items), time.seconds, sum(g.correct for g in grades), sum(g.timed_out for g in grades)),
        _math_verify([item for item in items if not item.choices][: options.compare]),
    ]
    command = f"python -m benchmarks.grading --data {options.data.name} --replies {options.replies}"
    record("grading", command, {"replies": options.replies, "compare": options.compare}, rows)


def make_items(data: Path, count: int) -> list[GradingItem]:
    """`count` replies to problems of all files alike; every third one states another problem's answer."""
    rng = random.Random(0)
    files = [[json.loads(line) for line in path.open(encoding="utf-8")] for path in sorted(data.glob("*.jsonl"))]
    if not files:
        raise ValueError(f"no .jsonl file in {data}; expected a directory with one file of problems a task")
    items: list[GradingItem] = []
    for index in range(count):
        problems = files[index % len(files)]
        problem = rng.choice(problems)
        stated = rng.choice(problems)["answer"] if index % 3 == 2 else problem["answer"]
        reply = rng.choice(WRITINGS[:2] if problem.get("choices") else WRITINGS) % stated
        items.append(GradingItem(reply=reply, answer=problem["answer"], choices=problem.get("choices")))
    return items


def _math_verify(items: Sequence[GradingItem]) -> dict[str, object]:
    from math_verify import parse, verify  # the optional package that is measured here

    logging.disable(logging.CRITICAL)
    correct = 0
    with clock() as time:
        for item in items:
            correct += bool(verify(parse(f"${item.answer}$"), parse(item.reply)))
    return _row("math-verify alone", len(items), time.seconds, correct, 0)


def _row(label: str, replies: int, seconds: float, correct: int, timed_out: int) -> dict[str, object]:
    return {
        "grader": label,
        "replies": replies,
        "seconds": round(seconds, 2),
        "seconds for 10,000": round(seconds / replies * 10_000, 1),
        "right": correct,
        "timed out": timed_out,
    }


if __name__ == "__main__":
    main()
