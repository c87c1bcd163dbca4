"""The viewer over many episodes: how soon the first page, a filter and a search come, and how much memory they take.

    python -m benchmarks.viewer                       # 300,000 episodes in 1,000 files, about 2 GB of scratch disk
    python -m benchmarks.viewer --episodes 20000 --files 100

The episodes are random games of tic-tac-toe and Kuhn poker with replies of `--reply-tokens` tokens of made-up thought,
written once and copied under other seeds. A server of its own process answers over HTTP, as `spiral view` does; times
are of the whole request. "cold" is the first question to a server that has just started; the files were written
moments before, so they are in the operating system's cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from benchmarks.common import record
from spiral.core.records import Episode, Generation, Turn
from spiral.core.steps import step_name
from spiral.core.storage import write_episodes
from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.rollout.loop import Match, play
from spiral.runs.recipe import load_recipe

WORDS = (
    "the", "a", "block", "fork", "win", "row", "centre", "corner", "bet", "call", "fold",
    "king", "queen", "jack", "pot", "chance", "then", "so", "if", "I", "my", "move",
)  # fmt: skip
VARIANTS = 20
"""Different files; each is written several times under other steps and seeds."""
QUESTIONS = (
    ("first page, newest first", "episodes?desc=1&limit=50"),
    ("first page, oldest first", "episodes?limit=50"),
    ("filter: game and outcome", "episodes?game=kuhn_poker&outcome=finished&limit=50"),
    ("filter: losses of player 1, longest first", "episodes?player=1&result=loss&sort=tokens&desc=1"),
    ("filter: the last page", "episodes?illegal=0&sort=turns&offset=LAST&limit=50"),
    ("search: a rare text", "episodes?q=needle&limit=50"),
    ("search: the same again, second page", "episodes?q=needle&limit=50&offset=50"),
    ("search in one game of late steps", "episodes?q=blocked+by&game=tictactoe&step_min=LATE&limit=50"),
    ("one episode", "episodes/STEP/3"),
)


def written(episode: Episode, tokens: int, rng: random.Random) -> Episode:
    """An episode as a model could have written it."""
    turns: list[Turn] = []
    for turn in episode.turns:
        words = [rng.choice(WORDS) for _ in range(tokens)]
        if rng.random() < 0.002:
            words[len(words) // 2] = "needle"
        reply = f"<think>{' '.join(words)}</think>\\boxed{{{turn.reply}}}"
        ids = np.array([rng.randrange(32_000) for _ in range(tokens)], dtype=np.int64)
        logprobs = -np.array([rng.random() for _ in range(tokens)], dtype=np.float32)
        generation = Generation(
            token_ids=ids, logprobs=logprobs, stop_reason="stop", policy_version=0, thinking_tokens=tokens - 4
        )
        turns.append(dataclasses.replace(turn, reply=reply, prompt_ids=ids[:64], generation=generation))
    return dataclasses.replace(episode, turns=tuple(turns))


def make_run(path: Path, episodes: int, files: int, tokens: int) -> int:
    """Writes a run; returns the bytes of its episodes."""
    each = episodes // files
    (path / "episodes").mkdir(parents=True)
    recipe = load_recipe("nano", overrides=[f"run.steps={files}"])
    (path / "config.toml").write_text(
        tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
    )
    with (path / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, files + 1):
            file.write(json.dumps({"step": step, "loss/policy": 1 / step}) + "\n")
    rng = random.Random(0)
    tables: list[pa.Table] = []
    for variant in range(min(VARIANTS, files)):
        found: list[Episode] = []
        for spec, share in (("tictactoe", each // 2), ("kuhn_poker", each - each // 2)):
            game = load_game(spec)
            player = scripted_policy("random", game)
            found += play(
                [
                    Match(game=game, seed=variant * each + index, policies=(player, player), trainable=(True, True))
                    for index in range(share)
                ]
            )
        write_episodes(path / "made.parquet", [written(episode, tokens, rng) for episode in found])
        tables.append(pq.read_table(path / "made.parquet"))
    (path / "made.parquet").unlink()
    for step in range(1, files + 1):
        table = tables[step % len(tables)]
        seeds = pa.array(np.asarray(table["seed"]) + step * 1_000_003)
        table = table.set_column(table.schema.get_field_index("seed"), table.schema.field("seed"), seeds)
        pq.write_table(table, path / "episodes" / f"{step_name(step)}.parquet", compression="zstd")
    return sum(file.stat().st_size for file in (path / "episodes").iterdir())


def peak_memory(pid: int) -> float:
    """The largest resident memory of a process so far, in GB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


class Server:
    """`spiral view` in a process of its own."""

    def __init__(self, run: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spiral", "view", str(run), "--no-open", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        address = json.loads(self._process.stdout.readline())["address"]
        self._base, _, self._token = address.partition("?token=")

    def ask(self, path: str) -> tuple[float, float, dict[str, Any]]:
        """Seconds, seconds of all processors in the server, and the answer."""
        request = urllib.request.Request(
            f"{self._base}api/runs/0/{path}", headers={"Authorization": f"Bearer {self._token}"}
        )
        start, worked = time.perf_counter(), self.cpu_seconds()
        with urllib.request.urlopen(request) as answer:
            body = answer.read()
        return time.perf_counter() - start, self.cpu_seconds() - worked, json.loads(body)

    def cpu_seconds(self) -> float:
        """What the server has used of all processors so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> float:
        """Ends the server; returns its peak memory in GB."""
        peak = peak_memory(self._process.pid)
        self._process.terminate()
        self._process.wait()
        return peak


def main() -> None:
    """Makes the run, asks, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=300_000)
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--reply-tokens", type=int, default=60)
    parser.add_argument("--scratch", type=Path, help="an existing run of this benchmark, or where to make one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = arguments.scratch or Path(temporary) / "run"
        if not run.exists():
            make_run(run, arguments.episodes, arguments.files, arguments.reply_tokens)
        size = sum(file.stat().st_size for file in (run / "episodes").iterdir())
        rows: list[tuple[str, float, float, str]] = []
        server = Server(run)
        begun, worked = time.perf_counter(), server.cpu_seconds()
        first, cpu, page = server.ask(QUESTIONS[0][1])
        rows.append((f"{QUESTIONS[0][0]}, cold", first, cpu, f"{page['total']:,}"))
        while not server.ask("episodes?desc=1&limit=1")[2]["complete"]:
            time.sleep(0.1)
        rows.append(
            ("all files read, in the background", time.perf_counter() - begun, server.cpu_seconds() - worked, "")
        )
        marks = {"LAST": str(page["total"] - 60), "LATE": str(arguments.files * 9 // 10), "STEP": str(arguments.files)}
        for name, path in QUESTIONS:
            asked = functools.reduce(lambda text, mark: text.replace(*mark), marks.items(), path)
            seconds, cpu, answer = server.ask(asked)
            rows.append((name, seconds, cpu, f"{answer['total']:,}" if "total" in answer else ""))
        peak = server.close()
        server = Server(run)
        seconds, cpu, answer = server.ask("episodes?game=kuhn_poker&limit=50")
        rows.append(("filter, cold (of the files read so far)", seconds, cpu, f"{answer['total']:,}"))
        cold_peak = server.close()
    settings = {"episodes": page["total"], "files": arguments.files, "reply tokens": arguments.reply_tokens}
    note = f"{size / 1e9:.2f} GB of episodes; peak memory of the server {max(peak, cold_peak):.2f} GB."
    named = [
        {"question": name, "seconds": f"{seconds:.2f}", "CPU seconds": f"{cpu:.2f}", "episodes": total}
        for name, seconds, cpu, total in rows
    ]
    record("viewer", f"python -m benchmarks.viewer {' '.join(sys.argv[1:])}".strip(), settings, named, note)


if __name__ == "__main__":
    main()
