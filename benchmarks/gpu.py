"""What matters on one GPU, in less than ten minutes and without any argument: speed, memory, publishing, resuming.

    python -m benchmarks.gpu                     # on a machine with a CUDA device
    python -m benchmarks.gpu --rehearse          # every part and table with tiny models on a CPU, to try the program

It needs no network, no weights, no tokenizer and no vLLM: configurations of Qwen3-0.6B and 4B are shipped, weights are
random, and a tokenizer is learned from the documents. `gpu_parts.py` has the parts, which say what they measure.

Every part is a process of its own and has a share of the time; what an earlier part leaves of its share is added. A
part that fails or runs out of time has a row that says so, and costs the others nothing. After every part the results
are written, as `gpu.json` and `gpu.md`, so that a run that is killed keeps what it has measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, commit, machine, record, versions
from benchmarks.gpu_inputs import REHEARSAL, Plan
from benchmarks.gpu_parts import PARTS, Sheet, blank
from spiral.core.files import write_text_atomically

MINUTES = 9.5
GRACE = 10.0
"""Seconds that a part may take longer than its time to finish the row that it is at."""
Found = dict[str, Any]
"""The settings, columns and rows of a part."""


def run_part(name: str, plan: Plan, directory: Path, file: Path, deadline: float) -> None:
    """Measures one part, in the process that calls it; its lines are in `file`."""
    try:
        PARTS[name].work(plan, directory, Sheet(file, deadline))
    except BaseException as error:
        traceback.print_exc()
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"failed": f"failed: {type(error).__name__}"}) + "\n")


def read_part(file: Path, end: str = "") -> Found:
    """What a part has written. `end` says why it was ended before it was done, and stands in the row that it was at."""
    found: Found = {"settings": {}, "columns": ["part", "measured"], "rows": []}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    label = "start"
    for line in lines:
        values = json.loads(line)
        for key in ("settings", "columns"):
            found[key] = values.get(key, found[key])
        label = values.get("begin", label)
        if "row" in values:
            found["rows"].append(values["row"])
            label = "after that"
        end = values.get("failed", end)
    if end or not found["rows"]:
        found["rows"].append(dict(blank(found["columns"], label, end or "measured nothing")))
    return found


def measure(name: str, plan: Plan, directory: Path, seconds: float) -> Found:
    """Measures one part in a process of its own, which is killed when its time is over."""
    file = directory / f"{name}.jsonl"
    begin = time.monotonic()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["benchmarks.gpu_parts"])  # what all parts import is imported once
    process = processes.Process(target=run_part, args=(name, plan, directory, file, begin + seconds))
    process.start()
    process.join(seconds + GRACE)
    end = ""
    if process.is_alive():
        end = f"killed after {seconds + GRACE:.0f} s"
        process.kill()
        process.join()
    elif process.exitcode:
        end = f"died with status {process.exitcode}"
    return {**read_part(file, end), "seconds": time.monotonic() - begin, "time": seconds}


def write_results(out: Path, about: dict[str, Any], parts: dict[str, Found], last: str) -> None:
    """Writes all parts so far as JSON, and appends the last one to the Markdown file."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "gpu.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    runs = [run for run in runs if run["begun"] != about["begun"]]
    write_text_atomically(file, json.dumps([*runs, {**about, "parts": parts}], indent=1) + "\n")
    found = parts[last]
    took = f"{found['seconds']:.0f} s of {found['time']:.0f} s"
    record("gpu", about["command"], {"part": last, "took": took, **found["settings"]}, found["rows"],
           PARTS[last].title + ".", out)  # fmt: skip


def new_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="(all of them)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all parts together (%(default)s)")
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU; the figures mean nothing")
    parser.add_argument("--out", type=Path, help="where gpu.json and gpu.md go (benchmarks/results; a rehearsal's go"
                        " to the directory for temporary files)")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measures the parts that were asked for, and returns where the results are."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = new_parser()
    options = parser.parse_args(given)
    if options.minutes <= 0:
        parser.error(f"got --minutes {options.minutes:g}; expected more than 0")
    plan = REHEARSAL if options.rehearse else Plan(device=options.device)
    if plan.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --rehearse tries the program on a CPU")
    out: Path = options.out or (Path(tempfile.gettempdir()) / "spiral-gpu-rehearsal" if options.rehearse else RESULTS)
    about = {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "versions": versions(),
        "commit": commit(), "command": " ".join(["python -m benchmarks.gpu", *given]),
    }  # fmt: skip
    share = 60 * options.minutes / sum(PARTS[name].seconds for name in options.part)
    start, due, parts = time.monotonic(), 0.0, dict[str, Found]()
    with tempfile.TemporaryDirectory(prefix="spiral-gpu-") as scratch:
        for name in options.part:
            due += share * PARTS[name].seconds
            parts[name] = measure(name, plan, Path(scratch), max(0.0, start + due - time.monotonic()))
            write_results(out, about, parts, name)
    print(f"results: {out / 'gpu.md'}, {out / 'gpu.json'}")
    return out


if __name__ == "__main__":
    main()
