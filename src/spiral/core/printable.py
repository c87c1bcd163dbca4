r"""Text from models, games, endpoints and files, made safe to show in a terminal.

An escape sequence in a reply can rename the window, clear the screen or overwrite earlier lines. So control characters,
bidirectional controls, invisible characters, halves of surrogate pairs and line separators other than the line feed are
written out, as in `\u001b`. Files and JSON keep the text as it is.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LINE = 4000
"""Maximum number of characters shown of a line."""
MAX_MESSAGE = 2000
"""Maximum number of characters of a one-line message."""
MAX_MARKS = 4
"""Maximum number of combining marks on one letter; more of them cover the lines above."""

_PLAIN = re.compile(r"[\t\n -~]*")
_JOINERS = "\u200c\u200d"
"""Joiners shape Persian and Indic words and emoji, and are harmless between two characters that are not ASCII."""
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks that are invisible."""
_ACTING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of characters that act on the terminal or on the text around them."""


def printable(text: str, *, max_line: int = MAX_LINE) -> str:
    r"""Return the text as a terminal may show it: line feeds and tabs stay, other acting characters become `\u001b`.

    Args:
        text: Anything, also with halves of surrogate pairs.
        max_line: Longer lines are cut there, with the number of characters left out.
    """
    text = text.replace("\r\n", "\n")
    if _PLAIN.fullmatch(text) is None:
        text = _escaped(text)
    if len(text) <= max_line:
        return text
    return "\n".join(_cut(line, max_line) for line in text.split("\n"))


def one_line(text: str, *, max_length: int = MAX_MESSAGE) -> str:
    """Return the text as one line: white space becomes single spaces, and the middle of a long text is left out."""
    line = " ".join(printable(text, max_line=max(len(text), max_length)).split())
    if len(line) <= max_length:
        return line
    half = max_length // 2
    return f"{line[:half]} ... ({len(line) - 2 * half:,} more characters) ... {line[-half:]}"


def _escaped(text: str) -> str:
    """Write out every character that must not be shown."""
    shown, marks = [], 0
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        hidden = (
            (category in _ACTING and character not in "\t\n" and not _joins(text, index))
            or character in _INVISIBLE
            or 0xE0100 <= ord(character) <= 0xE01EF  # variation selectors that can carry any bytes unseen
            or marks > MAX_MARKS
        )
        shown.append(_code(character) if hidden else character)
    return "".join(shown)


def _joins(text: str, index: int) -> bool:
    """Whether a character joins two neighbours of a script that needs it."""
    around = text[index - 1 : index] + text[index + 1 : index + 2]
    return (
        text[index] in _JOINERS
        and len(around) == 2
        and all(not other.isascii() and unicodedata.category(other) not in _ACTING for other in around)
    )


def _code(character: str) -> str:
    r"""Escape a character as JSON, TOML and Python do: `\u001b`."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _cut(line: str, length: int) -> str:
    return line if len(line) <= length else f"{line[:length]} ... ({len(line) - length:,} more characters)"
