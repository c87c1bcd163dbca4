"""The side of `verifiers`: its rollouts, all of a round at once, against a server of the model.

Needs an environment with verifiers and without torch. The games, the prompts and the parser are SPIRAL's, by
`spiral.integrations.verifiers`; the rollouts, their server of traces, the clients and the order of everything are
those of verifiers.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import itertools
import platform
import time
from collections.abc import Sequence
from typing import Any

import verifiers.v1 as vf

from benchmarks.rounds import Round, parser, seeds, write_rounds
from spiral.integrations.verifiers import load_environment


def counted(seconds: float, episodes: Sequence[Any]) -> Round:
    """Turns and tokens of games. Raises `RuntimeError` when one could not be played."""
    faults = [str(error) for episode in episodes if not episode.ok for error in episode.errors or ["not ok"]]
    if faults:
        raise RuntimeError(f"{len(faults)} of {len(episodes)} rollouts failed; the first: {faults[0]}")
    traces = [trace for episode in episodes for trace in episode.traces]
    usages = [trace.usage for trace in traces if trace.usage is not None]
    return Round(
        seconds=seconds,
        games=len(episodes),
        turns=int(sum(trace.metrics["turns"] for trace in traces)),
        prompt_tokens=sum(usage.input_tokens for usage in usages),
        reply_tokens=sum(usage.completion_tokens for usage in usages),
        illegal=int(sum(trace.metrics["illegal"] for trace in traces)),
    )


async def play_rounds(options: argparse.Namespace) -> list[Round]:
    """All rounds, those that do not count included."""
    environment = load_environment(game=options.game, opponent="self", thinking=options.thinking)
    context = vf.ModelContext(
        model=options.model,
        client=vf.EvalClientConfig(base_url=options.url, api_key_var="NO_KEY_NEEDED"),
        sampling=vf.SamplingConfig(temperature=options.temperature, top_p=1.0, max_tokens=options.tokens),
    )
    rounds = []
    async with environment.serving():
        for number in range(options.warmup + options.repeats):
            deals = seeds(options, number)
            tasks = list(itertools.islice(environment.taskset, deals.start, deals.stop))
            begin = time.perf_counter()
            episodes = await asyncio.gather(*(environment.run_episode(task, context) for task in tasks))
            rounds.append(counted(time.perf_counter() - begin, episodes))
    return rounds


def main(arguments: Sequence[str] | None = None) -> None:
    """Plays the rounds and writes them."""
    options = parser("The side of verifiers in self-play.")
    options.add_argument("--url", required=True, help="the server's address, ending in /v1")
    given = options.parse_args(arguments)
    rounds = asyncio.run(play_rounds(given))
    versions = {"python": platform.python_version(), "verifiers": importlib.metadata.version("verifiers")}
    write_rounds(given.out, rounds[given.warmup :], versions)


if __name__ == "__main__":
    main()
