"""`make train` on a laptop: seconds of its training by threads and compiled passes, and whole runs by seed.

    python -m benchmarks.laptop                                # a few steps of each way
    python -m benchmarks.laptop --whole --seeds 1 2 3          # whole runs, with their results
    python -m benchmarks.laptop --before DIRECTORY             # also as in an earlier checkout, such as a git worktree

Each way is a run of `spiral train nano` in a process of its own, one after the other, first on an idle machine
and then beside one process for each core that computes without end. The first row is what the others are compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.common import ROOT, Row, record

BUSY = "while True: pass"
NO_EVALUATION = ("--set", "evaluation.games=[]", "--set", "evaluation.exploitability=[]")
RESULTS = {
    "tictactoe, lost to random": "evaluation/tictactoe/random/loss",
    "tictactoe, drawn with minimax": "evaluation/tictactoe/minimax/draw",
    "kuhn_poker, exploitability": "evaluation/kuhn_poker/exploitability",
}
BESIDE = "sampler and learner side by side, one thread each"
OVERLAP = (
    "--set",
    "cluster.rollout_workers=1",
    "--set",
    "cluster.schedule=overlap",
    "--set",
    "loss.old_logprobs=learner",
)
NOTE = (
    "A step's seconds are the median of a run's steps after the first. Training is the sum of all steps, without the"
    " evaluations between them; the run is from its first line to its end."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way to train: the source, the threads, and further settings."""

    name: str
    source: Path
    threads: int
    settings: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every way and records the table."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="nano")
    parser.add_argument(
        "--steps", type=int, default=12, help="steps of each way, unless the runs are whole (%(default)s)"
    )
    parser.add_argument("--whole", action="store_true", help="the recipe's own steps, with their evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the runs (%(default)s)")
    parser.add_argument("--before", type=Path, help="an earlier checkout to compare with")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cores], help="of PyTorch (%(default)s)")
    parser.add_argument("--no-compiled", action="store_true", help="leave compiled passes out")
    parser.add_argument(
        "--busy", choices=["both", "no", "yes"], default="both", help="beside busy processes (%(default)s)"
    )
    options = parser.parse_args(given)
    busy = {"both": [False, True], "no": [False], "yes": [True]}[options.busy]
    rows = [row for loaded in busy for row in _measured(options, loaded)]
    settings = {"recipe": options.recipe, "steps": "the recipe's" if options.whole else options.steps,
                "cores": len(os.sched_getaffinity(0))}  # fmt: skip
    record("laptop", " ".join(["python -m benchmarks.laptop", *given]), settings, rows, NOTE)


def _measured(options: argparse.Namespace, loaded: bool) -> list[Row]:
    """The rows of one load. The first one is what the others are compared with."""
    rows: list[Row] = []
    for seed in options.seeds:
        first = 0.0
        for way in _ways(options):
            print(f"{way.name}, seed {seed}{', beside busy processes' if loaded else ''}", flush=True)
            with _busy(len(os.sched_getaffinity(0)) if loaded else 0):
                seconds, steps = _run(way, options, seed)
            each = median(row["time/step_s"] for row in steps[1:])
            first = first or each
            rows.append(
                {
                    "way": way.name,
                    "machine": "busy" if loaded else "idle",
                    "seed": seed,
                    "step (s)": round(each, 2),
                    "to the first": round(each / first, 2),
                    "training (s)": round(sum(row["time/step_s"] for row in steps)),
                    "run (s)": round(seconds),
                    **(_results(steps) if options.whole else {}),
                }
            )
            print("  " + ", ".join(f"{name} {value}" for name, value in list(rows[-1].items())[3:]), flush=True)
    return rows


def _ways(options: argparse.Namespace) -> list[Way]:
    """What is measured. Whole runs are as `make train` makes them, by threads; the other ways are tried in short ones.

    A sampler beside the learner plays the next step's games with the weights from before the update.
    """
    ways = []
    for threads in options.threads:
        named = "one thread" if threads == 1 else f"{threads} threads"
        if options.before:
            ways.append(Way(name=f"earlier checkout, {named}", source=options.before / "src", threads=threads))
        ways.append(Way(name=named, source=ROOT / "src", threads=threads))
        if options.whole:
            continue
        if not options.no_compiled:
            compiled = ("--set", "model.compile=true")
            ways.append(Way(name=f"{named}, compiled", source=ROOT / "src", threads=threads, settings=compiled))
        if threads == 1:
            ways.append(Way(name=BESIDE, source=ROOT / "src", threads=1, settings=OVERLAP))
    return ways


def _run(way: Way, options: argparse.Namespace, seed: int) -> tuple[float, list[dict[str, float]]]:
    """Seconds of a run, and its metrics by step."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "spiral", "train", options.recipe, "--seed", str(seed)]
        command += ["--run-dir", f"{directory}/run", *way.settings]
        for setting in options.set:
            command += ["--set", setting]
        if not options.whole:
            command += ["--steps", str(options.steps), *NO_EVALUATION]
        environment = {**os.environ, "PYTHONPATH": str(way.source), "OMP_NUM_THREADS": str(way.threads)}
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        lines = Path(directory, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return seconds, [json.loads(line) for line in lines]


def _results(steps: Sequence[dict[str, float]]) -> Row:
    """The results of the last evaluation."""
    found: dict[str, object] = {}
    for name, metric in RESULTS.items():
        values = [row[metric] for row in steps if metric in row]
        found[name] = round(values[-1], 3) if values else ""
    return found


@contextlib.contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Beside processes that compute without end."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
