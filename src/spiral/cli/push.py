"""`spiral push`: a run's model, card and episodes on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.errors import Stopped
from spiral.cli.output import print_json, shown_path
from spiral.core.printable import one_line

SUFFIX = "-episodes"
"""What the name of the data set adds to that of the model."""


def push(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=opt.path_argument, help="A run directory, such as runs/nano-0.")
    ],
    repo: Annotated[
        str, typer.Option(help="Name on the hub, such as mine/kuhn; without a / it is under your own name.")
    ],
    step: Annotated[
        int | None, typer.Option(min=0, help="The step of the model, a checkpoint or snapshot; left out: the last one.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repositories private.")] = False,
    episodes: Annotated[
        bool, typer.Option("--episodes/--no-episodes", help="Also push the games as the data set REPO-episodes.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(parser=opt.path_argument, metavar="DIR", help="Where the folders are put; RUN/push if left out."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folders and push nothing.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Push RUN to the Hugging Face hub: the model with a card made from the run, and its games as a data set.

    The token is that of `hf auth login` or of the environment variable HF_TOKEN. Look at the folders of --dry-run
    first: what models wrote is in the games as it is. A repository that is there already gets one more commit. After a
    failure the same command goes on; files that have arrived are not sent again.
    """
    from spiral.core.files import remove
    from spiral.runs.hub_upload import Hub, PushError, check_name
    from spiral.runs.overview import overview
    from spiral.runs.publication import model_to_push, write_publication

    check_name(repo + SUFFIX if episodes else repo)
    found = overview(run)
    _, model = model_to_push(run, step)
    _check_model(model)
    hub = None if dry_run else Hub()
    try:
        name = repo if hub is None else hub.full_name(repo)
        folder = run / "push" if out is None else out
        made = write_publication(found, folder, name, name + SUFFIX if episodes else None, step)
        pushed = _pushed(hub, made, name, private=private)
    except PushError as error:
        raise Stopped(str(error)) from None
    if pushed and out is None:
        remove(folder)
    result = {
        "step": made.step,
        "folder": None if pushed and out is None else str(folder),
        "episodes": made.episodes is not None,
        "turns": made.turns,
        "left_out": list(made.left_out),
        "pushed": pushed,
    }
    if as_json:
        print_json(result)
        return
    for left_out in made.left_out:
        print(f"Note: left out {one_line(left_out)}.")
    games = "" if made.episodes is None else f" and {made.turns:,} turns of games"
    print(f"{'Would push' if hub is None else 'Pushed'} the model of step {made.step:,}{games}.")
    if hub is None or out is not None:
        print(f"The folders are in {shown_path(folder)}.")
    for address in pushed:
        print(f"  {address}")


def _check_model(model: Path) -> None:
    """Raises `ValueError` for a model whose files are not as they were saved."""
    from spiral.cli.imports import quick_imports

    with quick_imports():
        from spiral.training.checkpoint import verify_checkpoint
    verify_checkpoint(model)


def _pushed(hub: Any, made: Any, name: str, *, private: bool) -> list[str]:
    """Sends the data set, then the model, whose card links to it. Returns their addresses; none without a hub."""
    if hub is None:
        return []
    parts = [(made.model, name, "model")]
    if made.episodes is not None:
        parts.insert(0, (made.episodes, name + SUFFIX, "dataset"))
    for _, part, kind in parts:
        hub.create(part, kind, private=private)
    return [hub.upload(folder, part, kind, f"Step {made.step} of a run of SPIRAL") for folder, part, kind in parts]
