"""A rich console that prints text literally.

It interprets no markup (`[red]`), emoji names (`:smile:`) or escape sequences in texts, which may come from models,
games, servers or file names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from spiral.core.printable import printable


class Terminal(Console):
    """Standard output, or standard error with `stderr=True`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def on_broken_pipe(self) -> None:
        """Raise the error of a plain `print`; rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def render_str(self, text: str, **options: Any) -> Text:
        """Clean strings, including table cells, before their layout."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Clean other renderables, such as a `Text`, after their layout."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
