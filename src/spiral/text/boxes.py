r"""Finds the boxes of a reply: `\boxed{37}` and the other forms that models write.

A box is one of the commands in `COMMANDS` with its argument, with or without space between them: `\boxed {37}`,
`\fbox{37}`, `\framebox[2cm]{37}`. A box without braces, as in `\boxed 7` and `\boxed\text{Yes}`, holds what follows:
a number, a letter, a group in brackets, a command with its arguments, or a formula up to the end of its mathematics.
A mention in prose, as in "in \boxed notation", is not a box. The last box of a reply counts, even inside another box.
"""

from __future__ import annotations

import dataclasses
import re

COMMANDS = ("boxed", "fbox", "framebox", "fcolorbox", "bbox")
"""`bbox` is MathJax's."""
MAX_UNBRACED = 200
"""Characters in a box without braces."""
_COMMAND = re.compile(rf"\\({'|'.join(COMMANDS)})(?![A-Za-z])")
_OPTIONS = re.compile(r"(?:\s*+\[[^\[\]{}]{0,80}\]){1,2}(?=\s*+\{)")
_OPEN = re.compile(r"\s*+\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_TOKEN = re.compile(
    r"\s*+(?P<content>[-+]?\.?\d[\d.,]*+(?:/\d++)?%?|\([^()\n]{1,80}\)|\[[^\[\]\n]{1,80}\]"
    r"|\\[dtc]?frac\s*\d\s*\d|\\[A-Za-z]++(?:\s*+\{[^{}\n]{0,80}\}){1,2}"
    r"|[A-Za-z](?=\s*+(?:[.,;:!?$)]|\\[)\]]|\n|$)))"
)
_WORD = re.compile(r"\s*+(?P<content>[A-Za-z]{2,40})[\s.!$*]*+$")
_FORMULA = re.compile(rf"(?P<content>[^$\n]{{1,{MAX_UNBRACED}}}?)(?:\$|\\[)\]])")
_GOES_ON = re.compile(r"\s*+(?:[-+*/^=_(<>]|\\(?![)\]\\ ,;!])[A-Za-z])|[A-Za-z{\[]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """One box of a text."""

    start: int
    """Index of the backslash of its command."""
    content: str | None
    """None when its braces are not closed."""


def last_box(text: str) -> Box | None:
    """The last box of `text`, closed or not; None when there is none."""
    commands = [(match.start(), match.end(), match[1]) for match in _COMMAND.finditer(text)]
    for start, end, name in reversed(commands):
        if (box := _box(text, start, end, name)) is not None:
            return box
    if commands and (word := _WORD.match(text, commands[-1][1])) is not None:
        return Box(start=commands[-1][0], content=word["content"])
    return None


def last_boxed(text: str) -> str | None:
    """The content of the last box; None when there is no box or when it is not closed."""
    box = last_box(text)
    return None if box is None else box.content


def _box(text: str, start: int, end: int, name: str) -> Box | None:
    """The box of the command at `start`; None when no argument follows."""
    options = _OPTIONS.match(text, end)
    brace = _brace(text, end if options is None else options.end())
    if brace < 0:
        content = _unbraced(text, end)
        return None if content is None else Box(start=start, content=content)
    for _ in range(2 if name == "fcolorbox" else 0):  # the colours of frame and background
        closing = _closing(text, brace)
        brace = -1 if closing < 0 else _brace(text, closing + 1)
        if brace < 0:
            return Box(start=start, content=None)
    closing = _closing(text, brace)
    return Box(start=start, content=None if closing < 0 else text[brace + 1 : closing])


def _brace(text: str, start: int) -> int:
    """Index of the brace that opens at `start` or after white space; -1 when none does."""
    match = _OPEN.match(text, start)
    return -1 if match is None else match.end() - 1


def _closing(text: str, brace: int) -> int:
    r"""Index of the brace that closes the one at `brace`; -1 when none does. `\{` and `\}` do not count."""
    depth = 0
    for match in _BRACE.finditer(text, brace):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return -1


def _unbraced(text: str, start: int) -> str | None:
    """The content of a box without braces."""
    token = _TOKEN.match(text, start)
    if token is None:
        return None
    if _GOES_ON.match(text, token.end()) is None:
        return token["content"].rstrip(".,")
    formula = _FORMULA.match(text, start)
    return None if formula is None else formula["content"].strip()
