"""Putting the commands together, and what becomes of their errors.

Exit status: 0 done; 1 failed at work (a full disk, not enough memory); 2 wrong use or wrong input; 130 stopped by
Ctrl-C. Everything but 0 comes with exactly one line on standard error. `SPIRAL_DEBUG=1` adds the traceback.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from spiral.cli import benchmark as benchmarking
from spiral.cli import check as checking
from spiral.cli import cluster as clusters
from spiral.cli import compare as comparing
from spiral.cli import evaluate as measuring
from spiral.cli import listing, tournament
from spiral.cli import play as playing
from spiral.cli import train as training
from spiral.cli.faults import INTERRUPTED, explain
from spiral.cli.log import warnings_told
from spiral.core.printable import printable

QUIET = {
    "HF_HUB_VERBOSITY": "critical",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "critical",
}
"""What packages read when they are imported; a value that is set already stays."""

app = typer.Typer(add_completion=False, help="Train language models to reason by self-play on zero-sum games.")


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        typer.echo(f"spiral {version('spiral-selfplay')}")
        raise typer.Exit


app.command("train", cls=training.TrainCommand)(training.train)
app.command("evaluate")(measuring.evaluate)
app.command("exploitability")(measuring.exploitability)
app.command("tournament")(tournament.tournament)
app.command("benchmark")(benchmarking.benchmark)
app.command("compare")(comparing.compare)
app.command("check")(checking.check)
app.command("play")(playing.play)
app.command("games")(listing.games)
app.command("recipes")(listing.recipes)
app.add_typer(listing.models, name="models")
app.add_typer(clusters.cluster, name="cluster")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit status; never raises for what a user can cause."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = bool(os.environ.get("SPIRAL_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no result is lost to a letter that a locale does not know
    with warnings_told(), contextlib.nullcontext() if debug else _packages_silenced():
        try:
            status: int = typer.main.get_command(app).main(given, prog_name="spiral", standalone_mode=False) or 0
            if status != INTERRUPTED:
                return status
            message = "interrupted"
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if debug:
                print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
            status, message = explain(error)
    print(f"spiral: {message}", file=sys.stderr)
    if status == INTERRUPTED and arguments is None and "ray" in sys.modules:
        # Ray may be interrupted while it starts; what it has begun can crash the process on its way out.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


@contextlib.contextmanager
def _packages_silenced() -> Iterator[None]:
    """Nothing but our own words on standard error; entered before the packages are imported."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    previous = threading.excepthook
    # TensorBoard writes in a thread of its own; its errors come back to us with the next write.
    threading.excepthook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = previous
