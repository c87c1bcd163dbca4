r"""Which of the choices an answer names: by its letter, or by its exact text.

"C", "(C)", "\text{C}", "C. text", "C - text", "option C" and the text of a choice all name one, in any formatting. Two
letters name none, and neither does a letter in front of another choice's text. Capital letters are read as letters
first and texts second, small letters the other way round, since choices such as "a" or "2g" exist.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from spiral.evaluation.reasoning.grading.equality import plain
from spiral.evaluation.reasoning.grading.normalise import clean, squeeze
from spiral.text.latex import strip_formatting, strip_quotes

LETTERS = string.ascii_uppercase
_LABEL = re.compile(
    r"(?i:the\s++)?(?i:correct\s++|right\s++|best\s++)?(?i:answer|option|choice)?\s*+(?i:is)?\s*+:?\s*+"
    r"(?i:option\s++|choice\s++)?[(\[]?\s*+([A-Za-z])\s*+"
    r"(?:[)\]]\s*+[.:,]?|[.:]|(?<=\s)(?:-{1,3}|[\u2013\u2014]|=)(?=\s)|(?<=\s)(?=\()|(?P<comma>,)|$)\s*+(.*)",
    re.DOTALL,
)


def check_choices(choices: Sequence[str]) -> None:
    """Raises `ValueError` if there are more choices than letters."""
    if len(choices) > len(LETTERS):
        raise ValueError(f"{len(choices)} choices; expected at most {len(LETTERS)}, one for each letter")


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that `text` names, or None if it names none or more than one."""
    check_choices(choices)
    letter, rest = _label(text)
    if letter is None:
        return _by_text(text, choices)
    if (rest or letter.islower()) and (named := _by_text(text, choices)) is not None:
        return named
    return _checked(letter.upper(), rest, choices) or _by_text(text, choices)


def letter_of(text: str) -> str | None:
    """The letter that an answer consists of, for questions whose choices are not known."""
    letter, rest = _label(clean(text))
    return None if letter is None or rest else letter.upper()


def _label(text: str) -> tuple[str | None, str]:
    """The letter at the front, if any, and the text after it."""
    unwrapped = strip_formatting(text, mark_words=False).replace("$", " ").replace(r"\ ", " ")
    unwrapped = strip_quotes(unwrapped.strip(" *.\n\t")).strip(" *.\n\t")
    if unwrapped.startswith("{") and unwrapped.endswith("}"):
        unwrapped = unwrapped[1:-1].strip()
    match = _LABEL.fullmatch(unwrapped)
    return (None, "") if match is None else (match[1], (match["comma"] or "") + match[3].strip())


def _checked(letter: str, rest: str, choices: Sequence[str]) -> str | None:
    """The letter, if there is such a choice, and `rest` is neither another choice's text nor a second letter."""
    if LETTERS.index(letter) >= len(choices):
        return None
    named = letter
    if rest:
        named = _by_text(rest, choices) or _by_text(rest.lstrip(",").strip(" ()"), choices) or ""
    is_second = _label(rest)[0] is not None or re.match(r"(?:,|/|;|and\b|or\b|&)", rest) is not None
    return None if named not in ("", letter) or (is_second and not named) else letter


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the only choice with this text: as written, else as typeset, else ignoring case."""
    for same in (str.strip, _exact, plain):
        wanted = same(text)
        found = [letter for letter, choice in zip(LETTERS, choices, strict=False) if same(choice) == wanted]
        if found:
            return found[0] if len(found) == 1 and wanted else None
    return None


def _exact(text: str) -> str:
    return squeeze(strip_formatting(clean(text), mark_words=False))
