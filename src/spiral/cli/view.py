"""`spiral view`: a page over run directories in the browser."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from spiral.cli import options as opt
from spiral.cli.output import print_json

NEEDED = ("duckdb", "fastapi", "uvicorn")


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=opt.path_argument,
            metavar="RUN_DIR...",
            help="Run directories, or those of a population or a league.",
        ),
    ],
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="The address to listen on; another than 127.0.0.1 can be reached from other machines.")
    ] = "127.0.0.1",
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open a browser, where this machine has a desktop.")
    ] = True,
    own_games: Annotated[
        bool,
        typer.Option(
            "--own-games",
            help="Import games of your own that the runs name as module:Class, to draw and play them; this runs their"
            " code.",
        ),
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Look at runs in the browser: curves, games turn by turn, evaluations, and play against a checkpoint.

    The page reads the files of the runs, also while they go on, and needs no network. Its address, with a token that
    no other user of this machine has, is printed. Ctrl-C ends it.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"`spiral view` needs {' and '.join(missing)}; install them with: pip install 'spiral-selfplay[viewer]'"
        )
    from spiral.runs.directory import check_is_run
    from spiral.viewer.app import runs_at
    from spiral.viewer.serving import open_browser, serve

    for given in runs:
        found = runs_at(given)
        if not found:
            raise ValueError(f"none of the runs in {given} has begun yet; look again once one is being trained")
        for run, _ in found:
            check_is_run(run)

    def started(address: str) -> None:
        opened = browser and open_browser(address)
        if as_json:
            print_json({"address": address, "opened": opened})
        else:
            print(f"{'Opened' if opened else 'Open'} {address} (Ctrl-C ends)")
        sys.stdout.flush()  # it stays unseen in a pipe until the end otherwise

    serve(runs, host=host, port=port, own_games=own_games, on_start=started)
