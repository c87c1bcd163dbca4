"""The commands of `spiral`, their errors and their log messages.

Exit status: 0 done; 1 failed at work (full disk, out of memory); 2 wrong use or wrong input; 130 stopped by Ctrl-C.
Every status but 0 comes with exactly one line on standard error. `SPIRAL_DEBUG=1` adds the traceback.

A command's module is imported when the command is called, so `spiral --help` imports none of them. Inside the modules,
what loads torch is imported where it is needed, so the help of a command and its usage errors are quick as well.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from spiral.cli.errors import INTERRUPTED, explain
from spiral.core.printable import printable

COMMANDS = {
    "train": ("train:app", "Train a model by self-play."),
    "evaluate": ("evaluate:evaluate", "Play MODEL against an opponent: win, draw and loss rates."),
    "exploitability": ("exploitability:exploitability", "What a best response wins against MODEL."),
    "tournament": ("tournament:tournament", "Round robin of several models, with ratings."),
    "benchmark": ("benchmark:benchmark", "Accuracy of MODEL on a reasoning benchmark."),
    "compare": ("compare:compare", "Two models on the same games and problems."),
    "collect": ("collect:collect", "Play games and keep them to learn from."),
    "sft": ("sft:app", "Fine-tune a model on expert games."),
    "psro": ("psro:psro", "Grow a population of policies by responses to its mixtures."),
    "league": ("league:league", "Train a main agent against exploiters of its weaknesses."),
    "experiment": ("experiment:experiment", "Run everything behind a claim, to its table."),
    "patterns": ("patterns:patterns", "Patterns of reasoning in games and in solutions."),
    "show": ("show:show", "Show a run: progress, health, small charts, one game."),
    "report": ("report:report", "Write RUN as one HTML file, with curves for papers."),
    "push": ("push:push", "Push RUN's model and games to the Hugging Face hub."),
    "check": ("check:check", "Check that engine, learner and model agree; show the chat template."),
    "play": ("play:play", "Play against MODEL in the terminal."),
    "view": ("view:view", "Look at runs in the browser, also while they go on."),
    "serve": ("serve:serve", "Serve MODEL to other programs as an OpenAI-compatible endpoint."),
    "games": ("listing:games", "List the games."),
    "recipes": ("listing:recipes", "List the built-in recipes."),
    "models": ("listing:models", "List the models on this machine, or fetch one."),
    "cluster": ("cluster:cluster", "What the processes of a run are doing."),
}
"""Name of a command: its module and attribute, and its line in `spiral --help`."""
QUIET = {
    "HF_HUB_VERBOSITY": "critical",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "critical",
}
"""Environment variables that keep packages quiet when they are imported. A value that is already set stays."""
LEVELS = {logging.INFO: "note", logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}


class Commands(TyperGroup):
    """A group of commands that imports a command when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, summary) in COMMANDS.items():
            self.add_command(TyperCommand(name, callback=None, short_help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that `args` begins with, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Imports a command. Returns a typer command, or a typer group for `models` and `cluster`."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(f"spiral.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command()(function)
    command = typer.main.get_command(found)
    command.name = name
    for part in (command, *getattr(command, "commands", {}).values()):
        # typer keeps the line breaks of a docstring in all paragraphs but the first
        paragraphs = (part.help or "").split("\n\n")
        part.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return command


app = typer.Typer(
    cls=Commands, add_completion=False, help="Train language models to reason by self-play on zero-sum games."
)


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        typer.echo(f"spiral {version('spiral-selfplay')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit status. Never raises for what a user can cause.

    Args:
        arguments: The command line after `spiral`; None takes that of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = bool(os.environ.get("SPIRAL_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without a character must not lose a result
    with log_to_stderr(), contextlib.nullcontext() if debug else _quiet_packages():
        try:
            status: int = typer.main.get_command(app).main(given, prog_name="spiral", standalone_mode=False) or 0
            if status != INTERRUPTED:
                _prepare_exit(arguments)
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
    _prepare_exit(arguments)
    return status


def _prepare_exit(arguments: Sequence[str] | None) -> None:
    """Makes this process end quickly, and with our exit status.

    All objects are exempt from the collection at its end, which takes more than a second after torch. And
    `python -m spiral` would end by SIGINT instead of our status if a Ctrl-C came while a program in a text was run, as
    dataclasses do while modules are imported: CPython keeps a note of it until another such program is run.

    Does nothing where a program calls `main` with arguments and continues afterwards.
    """
    if arguments is None:
        gc.freeze()
        exec("")


@contextlib.contextmanager
def _quiet_packages() -> Iterator[None]:
    """Keeps other packages from writing to standard error. Enter it before they are imported."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    previous = threading.excepthook
    # TensorBoard writes in a separate thread; its errors come back to us with the next write.
    threading.excepthook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = previous


class _StderrHandler(logging.Handler):
    """Writes "warning: ..." or "note: ..." to standard error, further lines of a message indented.

    A live display replaces `sys.stderr` while it is shown and prints such lines above itself, so the stream is looked
    up for every message.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message. A message that cannot be written is lost, and the run continues."""
        first, *more = printable(f"{LEVELS[record.levelno]}: {record.getMessage()}").splitlines()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("\n  ".join([first, *more]) + "\n")


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Prints spiral's log messages from INFO up and keeps them from other handlers. Nested calls print once."""
    logger, handler = logging.getLogger("spiral"), _StderrHandler(logging.INFO)
    if any(isinstance(other, _StderrHandler) for other in logger.handlers):
        yield
        return
    propagate, level = logger.propagate, logger.level
    logger.propagate = False
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
