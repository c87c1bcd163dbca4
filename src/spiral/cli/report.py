"""`spiral report`: a run as one HTML file, and its curves as pictures for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiral.cli import options as opt
from spiral.cli.output import print_json, shown_path
from spiral.core.files import write_text_atomically
from spiral.core.printable import one_line


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=opt.path_argument, help="A run directory, such as runs/nano-0.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=opt.path_argument, metavar="FILE.html", help="The file; RUN/report.html if left out."),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option(parser=opt.path_argument, metavar="DIR", help="Also write every curve as PNG and SVG into DIR."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Write RUN as one HTML file that can be sent: health, results, curves, games and settings.

    The file loads nothing from elsewhere and holds no script; text that models wrote in it does nothing. A run may be
    reported while it goes on.
    """
    from spiral.runs.charts import charts, write_chart
    from spiral.runs.overview import overview
    from spiral.runs.report import report_html
    from spiral.viewer.drawings import drawing

    found = overview(run)
    file = run / "report.html" if out is None else out
    for path, is_file in ((file, True), (curves, False)):
        _check_place(path, is_file=is_file)
    write_text_atomically(file, report_html(found, drawing))
    pictures = []
    if curves is not None:
        curves.mkdir(parents=True, exist_ok=True)
        pictures = [path for chart in charts(found) for path in write_chart(chart, curves)]
    if as_json:
        print_json({"report": str(file), "curves": [str(path) for path in pictures], "notices": list(found.notices)})
        return
    print(f"Report: {shown_path(file)} ({file.stat().st_size / 1024:,.0f} KiB)")
    if curves is not None:
        print(f"Curves: {len(pictures)} files in {shown_path(curves)}")
    for notice in found.notices:
        print(f"Note: {one_line(notice)}.")


def _check_place(path: Path | None, *, is_file: bool) -> None:
    """Raises `ValueError` if a file cannot be at `path`, or a directory."""
    if path is None:
        return
    if is_file and path.is_dir():
        raise ValueError(f"--out {path} is a directory; give a file, such as {path / 'report.html'}")
    if is_file and not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no directory {path.parent}; create it, or choose another place")
    if not is_file and path.exists() and not path.is_dir():
        raise ValueError(f"--curves {path} is a file; give a directory")
