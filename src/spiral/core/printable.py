r"""Text from models, games, endpoints and files, made safe to show in a terminal.

A terminal obeys what it is sent: an escape sequence in a reply can rename the window, clear the screen or rewrite what
stands above. Everything that does something rather than show something is written out as `\u001b`: control characters,
bidirectional controls, invisible characters, halves of surrogate pairs and line separators that are not a line feed.
Files and JSON keep the text as it is.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LINE = 4000
"""Characters of a line that are shown."""
MAX_MESSAGE = 2000
"""Characters of a message of one line."""
MAX_MARKS = 4
"""Combining marks on one letter; a pile of them covers the lines above."""

_PLAIN = re.compile(r"[\t\n -~]*")
_JOINERS = "\u200c\u200d"
"""They shape Persian and Indic words and emoji, and hide nothing between two letters that are not ASCII."""
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks that show nothing."""
_ACTING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of characters that do something to a terminal or to the text around them."""


def printable(text: str, *, max_line: int = MAX_LINE) -> str:
    r"""The text as a terminal may show it: line feeds and tabs stay, what is not to be shown becomes `\u001b`.

    Args:
        text: Anything, also with halves of surrogate pairs.
        max_line: A longer line is cut there, and the number of characters left out is said.
    """
    text = text.replace("\r\n", "\n")
    if _PLAIN.fullmatch(text) is None:
        text = _escaped(text)
    if len(text) <= max_line:
        return text
    return "\n".join(_cut(line, max_line) for line in text.split("\n"))


def one_line(text: str, *, max_length: int = MAX_MESSAGE) -> str:
    """The text as one line: white space becomes single spaces, and the middle of a long one is left out."""
    line = " ".join(printable(text, max_line=max(len(text), max_length)).split())
    if len(line) <= max_length:
        return line
    half = max_length // 2
    return f"{line[:half]} ... ({len(line) - 2 * half:,} more characters) ... {line[-half:]}"


def _escaped(text: str) -> str:
    """Every character that is not to be shown, written out."""
    shown, marks = [], 0
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = (
            (category in _ACTING and character not in "\t\n" and not _joins(text, place))
            or character in _INVISIBLE
            or 0xE0100 <= ord(character) <= 0xE01EF  # variation selectors that can carry any bytes unseen
            or marks > MAX_MARKS
        )
        shown.append(_code(character) if hidden else character)
    return "".join(shown)


def _joins(text: str, place: int) -> bool:
    """Whether a character joins two neighbours of a script that needs it."""
    around = text[place - 1 : place] + text[place + 1 : place + 2]
    return (
        text[place] in _JOINERS
        and len(around) == 2
        and all(not other.isascii() and unicodedata.category(other) not in _ACTING for other in around)
    )


def _code(character: str) -> str:
    r"""`\u001b`, which is also how JSON, TOML and Python write it."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _cut(line: str, length: int) -> str:
    return line if len(line) <= length else f"{line[:length]} ... ({len(line) - length:,} more characters)"
