"""A rich console that shows text as text.

Nothing in what it prints is taken for markup (`[red]`), for an emoji (`:smile:`) or for an escape sequence, whether a
model, a game, a server or the name of a file wrote it.
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
        """Raises what a plain `print` would, where rich ends the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings, cells of tables among them, before they are laid out."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever else is shown, such as a `Text`, after it was laid out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
