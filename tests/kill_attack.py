"""Kills training at random moments, and starts it twice at once, until the numbers asked for are reached.

    python tests/kill_attack.py --kills 100 --pairs 20 [--seed 0] [--work DIR] [--jobs 1]

One command line begins a run and goes on with it (`--resume`). It is killed with SIGKILL after a random time, from its
first moment on, or as soon as a half-written file shows; up to eight times a run; then it is left alone to its end.
What it has left is compared with an undisturbed run: metrics but times, weights, episodes, evaluations, the bytes of
every file. A pair is two such processes at once, on a new directory or on a killed run, the first one sometimes
suspended: one of them does the run, the other is refused with status 2. Prints counts, and exits with 1 if anything was
not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SETTINGS = (
    "run.checkpoint_every=3", "run.episodes_every=2", "selfplay.games={tictactoe=0.5, kuhn_poker=0.5}",
    "selfplay.episodes_per_step=48", "learner.epochs=1", "learner.minibatches=2", "loss.kl_coefficient=0.15",
    "loss.reference_refresh_steps=4", "evaluation.games=['tictactoe']", "evaluation.opponents=['random']",
    "evaluation.episodes=40", "evaluation.episodes_between=10", "evaluation.every=4", "evaluation.exploitability=[]",
)  # fmt: skip
UNSTABLE = ("tensorboard", "learning_curve.png")
"""Holds times, and a picture of what is compared anyway."""


def command(path: Path) -> list[str]:
    """The one command line that begins and goes on."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return [
        sys.executable,
        "-m",
        "spiral",
        "train",
        "nano",
        "--steps",
        "12",
        "--run-dir",
        str(path),
        *settings,
        "--resume",
    ]


def begin(path: Path) -> subprocess.Popen[str]:
    """A process that trains."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(path), stdout=subprocess.DEVNULL, stderr=pipe, text=True, env=environment)


def contents(path: Path) -> dict[str, object]:
    """Everything a run left by file name; rows of metrics without times."""
    found: dict[str, object] = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if name.startswith(UNSTABLE):
            continue
        if name == "metrics.jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            found[name] = [json.dumps({key: row[key] for key in row if not key.startswith("time/")}) for row in rows]
        elif file.is_symlink():
            found[name] = os.readlink(file)
        elif file.is_file():
            found[name] = file.read_bytes()
    return found


def compared(path: Path, expected: dict[str, object]) -> str:
    """In what a run differs from the undisturbed one; empty when in nothing."""
    found = contents(path)
    return ", ".join(sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)))


def kill_somewhere(path: Path, draw: random.Random, seconds: float) -> bool:
    """Starts the run and kills it; False when it came to its end before."""
    process = begin(path)
    half_written = draw.random() < 0.4
    end = time.monotonic() + draw.uniform(0.2, 0.7 * seconds)
    while process.poll() is None:
        if time.monotonic() > end and (not half_written or any(path.rglob(".*-????????.*"))):
            break
        time.sleep(0.002 if half_written else 0.02)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def killed_run(
    number: int, seed: int, kills: int, seconds: float, expected: dict[str, object], work: Path
) -> tuple[int, str]:
    """How many kills one run took, and what was wrong with it in the end."""
    draw, path = random.Random(f"{seed} {number}"), work / f"killed-{number}"
    done = 0
    while done < kills and kill_somewhere(path, draw, seconds):
        done += 1
    process = begin(path)
    _, said = process.communicate()
    last = said.splitlines()[-1] if said else ""
    wrong = f"status {process.returncode}: {last}" if process.returncode else compared(path, expected)
    if not wrong:
        shutil.rmtree(path)
    return done, wrong


def pair(number: int, seed: int, seconds: float, expected: dict[str, object], work: Path) -> str:
    """What went wrong with two processes at once."""
    draw, path = random.Random(f"{seed} pair {number}"), work / f"pair-{number}"
    if draw.random() < 0.5:
        kill_somewhere(path, draw, seconds)
    processes = [begin(path)]
    suspended = draw.random() < 0.3
    if suspended:
        time.sleep(draw.uniform(seconds * 0.4, seconds * 0.8))
        processes[0].send_signal(signal.SIGSTOP)
    time.sleep(draw.choice([0.0, 0.0, 0.01, 0.1, 0.5]))
    processes.append(begin(path))
    if suspended:
        _, said = processes[1].communicate()
        processes[0].send_signal(signal.SIGCONT)
        outputs = [processes[0].communicate()[1], said]
    else:
        outputs = [process.communicate()[1] for process in processes]
    statuses = sorted(process.returncode for process in processes)
    refused = [text for process, text in zip(processes, outputs, strict=True) if process.returncode == 2]
    if statuses == [0, 0] and suspended and "steps are done" in outputs[1] + outputs[0]:
        refused = ["uses the run in"]  # the first had ended before it could be suspended
    elif statuses != [0, 2]:
        return f"statuses {statuses}: {outputs}"
    if not all("uses the run in" in text for text in refused):
        return f"refused with {refused}"
    wrong = compared(path, expected)
    if not wrong:
        shutil.rmtree(path)
    return wrong


def main() -> int:
    """Runs the attack and prints its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="kill-attack-"))
    begun = time.monotonic()
    process = begin(work / "undisturbed")
    if process.communicate() and process.returncode:
        return process.returncode
    seconds, expected = time.monotonic() - begun, contents(work / "undisturbed")
    counts = {"kills": 0, "runs": 0, "identical": 0, "pairs": 0, "pairs right": 0}
    wrong: list[str] = []
    draw = random.Random(options.seed)
    with ThreadPoolExecutor(options.jobs) as pool:
        while counts["kills"] < options.kills:
            most = [min(draw.choice([2, 4, 6, 8]), options.kills - counts["kills"]) for _ in range(options.jobs)]
            runs = [
                pool.submit(killed_run, counts["runs"] + number, options.seed, kills, seconds, expected, work)
                for number, kills in enumerate(most)
            ]
            for run in runs:
                kills, fault = run.result()
                wrong += [f"run {counts['runs']}: {fault}"] if fault else []
                counts["kills"] += kills
                counts["runs"] += 1
                counts["identical"] += not fault
                print(json.dumps(counts), *wrong[-1:] if fault else [], flush=True)
        pairs = [pool.submit(pair, number, options.seed, seconds, expected, work) for number in range(options.pairs)]
        for number, done in enumerate(pairs):
            fault = done.result()
            counts["pairs"] += 1
            counts["pairs right"] += not fault
            wrong += [f"pair {number}: {fault}"] if fault else []
            print(json.dumps(counts), *wrong[-1:] if fault else [], flush=True)
    print(json.dumps(counts | {"wrong": wrong, "undisturbed_s": round(seconds, 1)}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
