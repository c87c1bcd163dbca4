r"""Whether an answer equals the expected one: first structure, then units, then numbers, text or expressions.

The rules depend on how the expected answer is written, since nothing else is known about the question:

- whole numbers, fractions, roots and expressions: exactly equal. A decimal is accepted for a fraction or a root when it
  is rounded or cut off correctly and within 1e-4 of it (relative), the tolerance of the graders of Qwen2.5-Math that
  the paper used: 0.6667 or 0.6666 for 2/3, not 0.67.
- decimals: exactly equal; with three or more significant digits also a number that rounds to them, 20.394 for 20.39.
- scientific notation (4.5e33, `3.8 \times 10^{35}`): a physical quantity, within 1e-2 (relative), as in some of
  Minerva's grading (arXiv 2206.14858). A tolerance given by the question, which is absolute, replaces all these.
- percent: 62.5% is 62.5, 62.5% and 0.625. If no percent sign is expected, x% is x for numbers of 1 and more, and x/100
  for numbers that are not whole: 50% is 50, and 0.5, while 0.5% is not 0.5.
- units may be left out, or added if none is expected; if both have units they must agree. The same holds for bases.
- lists, sets and unions in any order, with exactly the same elements; tuples, intervals and matrices in order.

Not supported: conversion of units, simplest form, answers that are equal by a theorem.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from fractions import Fraction

from spiral.evaluation.reasoning.grading import identity
from spiral.evaluation.reasoning.grading.arithmetic import TooLargeError, UnreadableError, Value
from spiral.evaluation.reasoning.grading.normalise import clean, squeeze
from spiral.evaluation.reasoning.grading.structure import Shape, is_thousands, shape
from spiral.evaluation.reasoning.grading.tokens import FUNCTIONS
from spiral.evaluation.reasoning.grading.units import Quantity, contradict, quantity, words_of
from spiral.evaluation.reasoning.grading.work_limit import spend
from spiral.text.latex import strip_formatting

Fallback = Callable[[str, str], bool]
"""Compares two expressions that cannot be parsed here."""
EMPTY_SET = r"\emptyset"
DECIMAL_TOLERANCE, SCIENTIFIC_TOLERANCE = 1e-4, 1e-2
_DECIMAL = re.compile(r"[-+]?\d*\.\d+")
_SCIENTIFIC = re.compile(
    r"[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d+|\s*\\times\s*10\s*\^\s*(?:\{\s*[-+]?\d+\s*\}|-?\d+))"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z'\-]*(?:[ ,][A-Za-z'\-]+)*")
_ARTICLE = re.compile(r"^(?:the|an|a)\s+")
_TEXT = re.compile(r"\\(?:text|operatorname)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"\\[ ,;:!]|[$*_`\"~]")
_IN_BRACKETS = re.compile(r"^\((\w)\)$")
_UNORDERED = ("list", "set", "union")


def equal(expected: str, given: str, tolerance: float | None, fallback: Fallback) -> bool:
    """Whether `given` is right if `expected` is the answer; both are answers alone, of bounded length."""
    if expected.strip() == given.strip() or (_has_words(expected) and same_words(expected, given)):
        return True
    one = shape(expected)
    if _equal(one, shape(given), tolerance, fallback):
        return True
    as_list = shape(given, join_thousands=False)  # 100,200 may be a list, if one is expected
    return as_list != shape(given) and not is_thousands(expected) and _equal(one, as_list, tolerance, fallback)


def same_words(expected: str, given: str) -> bool:
    """Whether two answers are equal as text, ignoring case, articles, fonts and runs of spaces."""
    return plain(expected) == plain(given) != ""


def _has_words(text: str) -> bool:
    """Whether an answer is partly prose, so that case does not matter."""
    prose = plain(text)
    is_prose = "\\" not in prose and any(word not in FUNCTIONS for word in re.findall("[a-z]{3,}", prose))
    return is_prose or _is_words(clean(text))


@functools.lru_cache(maxsize=8192)
def plain(text: str) -> str:
    """An answer as plain lower-case text."""
    text = _TEXT.sub(r" \1 ", strip_formatting(text))
    text = _MARKS.sub(" ", text)
    text = " ".join(text.split()).strip(" .,;:!?'").casefold()
    text = _IN_BRACKETS.sub(r"\1", text)
    return _ARTICLE.sub("", text)


def _equal(expected: Shape, given: Shape, tolerance: float | None, fallback: Fallback) -> bool:
    """Compares two shapes: first their names, then their values."""
    if _mirrored(expected, given) or not _names_agree(expected, given):
        return _mirrored(expected, given)
    if squeeze(expected.text) == squeeze(given.text) != "" and not _is_words(expected.text):
        return True
    if "relation" in (expected.kind, given.kind):
        return _relations_equal(expected, given, tolerance, fallback)
    if expected.kind == given.kind == "single":
        return _singles_equal(expected.text, given.text, tolerance, fallback)
    if expected.kind in _UNORDERED and given.kind in _UNORDERED:
        return _same_elements(expected, given, tolerance, fallback)
    return _same_arrangement(expected, given) and _same_sequence(expected, given, tolerance, fallback)


def _same_sequence(expected: Shape, given: Shape, tolerance: float | None, fallback: Fallback) -> bool:
    ones, others = _parts(expected), _parts(given)
    return len(ones) == len(others) and all(
        _equal(one, other, tolerance, fallback) for one, other in zip(ones, others, strict=True)
    )


def _parts(answer: Shape) -> tuple[Shape, ...]:
    return answer.parts or (() if answer.kind == "set" else (answer,))


def _same_arrangement(expected: Shape, given: Shape) -> bool:
    """Whether the parts of both are to be compared in order."""
    kinds = {expected.kind, given.kind}
    if kinds in ({"tuple"}, {"matrix"}):
        return expected.brackets == given.brackets
    if kinds in ({"tuple", "list"}, {"tuple", "matrix"}):  # a list in round brackets, a vector as a column
        brackets = {expected.brackets, given.brackets} - {""}
        return "()" in brackets and all(one == "()" or "1" in one.split("x") for one in brackets)
    return kinds in ({"set", "single"}, {"list", "single"}) and EMPTY_SET not in (expected.text, given.text)


def _names_agree(expected: Shape, given: Shape) -> bool:
    """`x = 5` equals 5 but not `y = 5`; `f(x) = x` equals `y = x` and `f = x`."""
    names = [re.sub(r"\(.*\)|[{}\\]", "", answer.name) for answer in (expected, given)]
    if not all(names) or names[0] == names[1] or any(len(name) > 2 and "_" not in name for name in names):
        return True
    return "y" in names and any("(" in answer.name for answer in (expected, given))


def _mirrored(expected: Shape, given: Shape) -> bool:
    """Whether the two are `a = b` and `b = a`."""
    one, other = ((squeeze(answer.name), squeeze(answer.text)) for answer in (expected, given))
    return bool(expected.name) and one == other[::-1]


def _same_elements(expected: Shape, given: Shape, tolerance: float | None, fallback: Fallback) -> bool:
    spend(len(expected.parts))
    left = list(given.parts)
    if len(left) != len(expected.parts):
        return False
    for part in expected.parts:
        found = next((i for i, one in enumerate(left) if _equal(part, one, tolerance, fallback)), None)
        if found is None:
            return False
        del left[found]
    return True


def _relations_equal(expected: Shape, given: Shape, tolerance: float | None, fallback: Fallback) -> bool:
    """Equations are compared as equations, `2 + 3 = 5` equals 5, other relations are compared side by side."""
    if expected.kind == "single" and not expected.name:
        return _ends_in(expected, given, tolerance, fallback)
    if expected.kind != "relation" or given.kind != "relation":
        return _named_equation(expected, given)
    if expected.brackets == given.brackets == "=":
        return _equations_equal(*((one.parts[0].text, one.parts[1].text) for one in (expected, given)))
    return expected.brackets == given.brackets and all(
        _equal(one, other, tolerance, fallback) for one, other in zip(expected.parts, given.parts, strict=True)
    )


def _ends_in(expected: Shape, given: Shape, tolerance: float | None, fallback: Fallback) -> bool:
    """`m + n = 113` and `100 + 13 = 113` equal 113; every side that is a number must be that number."""
    if set(given.brackets.split()) != {"="} or not _equal(expected, given.parts[-1], tolerance, fallback):
        return False
    return all(_is_open(part.text) or _equal(expected, part, tolerance, fallback) for part in given.parts[:-1])


def _is_open(text: str) -> bool:
    """Whether an expression contains variables."""
    try:
        return identity.number(text) is None
    except (UnreadableError, TooLargeError):
        return False


def _named_equation(expected: Shape, given: Shape) -> bool:
    """`y = 2x + 3` equals `2x - y + 3 = 0`, but the value alone does not equal the equation."""
    named, whole = (expected, given) if expected.kind != "relation" else (given, expected)
    if not named.name or named.kind != "single" or whole.brackets != "=":
        return False
    return _equations_equal((named.name, named.text), (whole.parts[0].text, whole.parts[1].text))


def _equations_equal(left: tuple[str, str], right: tuple[str, str]) -> bool:
    try:
        return identity.proportional(left, right)
    except (UnreadableError, TooLargeError, OverflowError):
        return False


def _singles_equal(expected: str, given: str, tolerance: float | None, fallback: Fallback) -> bool:
    """Compares two single answers, as words or as quantities."""
    if _is_words(expected):
        return same_words(expected, given)
    if EMPTY_SET in (expected, given):
        return expected == given
    one, other = quantity(expected), quantity(given, words_of(expected))
    if contradict(one, other) or _bases_differ(one, other) or _is_words(other.value):
        return False
    try:
        return _quantities_equal(one, other, tolerance) or (bool(other.unit) and _same_as_written(expected, given))
    except (TooLargeError, OverflowError):  # a number beyond floating point equals no other
        return False
    except UnreadableError:
        return fallback(one.value, other.value)


def _same_as_written(expected: str, given: str) -> bool:
    """Whether both are the same expression; what looks like a unit may be variables, as in `2m/s`."""
    try:
        return identity.identical(expected, given)
    except (UnreadableError, TooLargeError):
        return False


def _is_words(text: str) -> bool:
    r"""Whether an answer is text, not mathematics: words of three letters or more, or anything in `\text{}`."""
    if text.startswith(r"\text{") and text.find("}") == len(text) - 1:
        return True
    return _WORDS.fullmatch(text) is not None and any(
        word not in FUNCTIONS for word in re.findall("[A-Za-z]{3,}", text)
    )


def _bases_differ(expected: Quantity, given: Quantity) -> bool:
    """`52_8` equals 52 without a base, but not `52_9`; base ten may be left out."""
    if expected.base is None:
        return given.base not in (None, 10)
    return given.base not in (None, expected.base)


def _quantities_equal(expected: Quantity, given: Quantity, tolerance: float | None) -> bool:
    if expected.base is not None:
        return expected.value == given.value.lstrip("0")
    value = identity.number(expected.value)
    other = identity.number(given.value)
    if value is None or other is None:
        return expected.factor == given.factor == 1 and identity.identical(expected.value, given.value)
    value, other = _scaled(value, expected.factor), _scaled(other, given.factor)
    candidates = _readings(value, expected, other, given)
    return any(_numbers_equal(one, two, expected, given, tolerance) for one, two in candidates)


def _scaled(value: Value, factor: Fraction) -> Value:
    return value if factor == 1 else value * factor if isinstance(value, Fraction) else value * complex(factor)


def _readings(value: Value, expected: Quantity, other: Value, given: Quantity) -> list[tuple[Value, Value]]:
    """Candidate pairs to compare, one for each reading of the percent signs; one match suffices."""
    hundredth = Fraction(1, 100)
    if expected.percent and not given.percent:
        return [(value, other), (_scaled(value, hundredth), other)]
    if given.percent and not expected.percent:
        is_whole = isinstance(value, Fraction) and value.denominator == 1
        as_number = [(value, other)] if abs(complex(value)) >= 1 or value == 0 else []
        return as_number + ([] if is_whole else [(value, _scaled(other, hundredth))])
    return [(value, other)]


def _numbers_equal(value: Value, other: Value, expected: Quantity, given: Quantity, tolerance: float | None) -> bool:
    """Equality of numbers, with the tolerance that follows from how the expected one is written."""
    if tolerance is not None:
        return abs(complex(value) - complex(other)) <= tolerance * (1 + identity.ROUNDING)
    if identity.close(value, other):
        return True
    if _SCIENTIFIC.fullmatch(expected.value):
        return identity.close(value, other, SCIENTIFIC_TOLERANCE)
    if isinstance(value, Fraction) and value.denominator == 1:
        return False
    return _nearly_equal(value, other, expected, given)


def _nearly_equal(value: Value, other: Value, expected: Quantity, given: Quantity) -> bool:
    """Whether one number is a rounded decimal of the other."""
    if _DECIMAL.fullmatch(expected.value):
        return _rounds_to(value, other, expected.value)
    if _DECIMAL.fullmatch(given.value):
        return _is_rounded(value, other, given.value)
    return _DECIMAL.search(given.value) is not None and identity.close(value, other, DECIMAL_TOLERANCE)


def _rounds_to(value: Value, other: Value, written: str) -> bool:
    """Whether `other` rounds to `value` as written, if that has three or more significant digits."""
    digits = written.lstrip("-+0.").replace(".", "").lstrip("0")
    places = len(written.partition(".")[2])
    return len(digits) >= 3 and abs(complex(value) - complex(other)) <= 0.5 * math.pow(10, -places) * (
        1 + identity.ROUNDING
    )


def _is_rounded(value: Value, other: Value, written: str) -> bool:
    """Whether the decimal `written`, with the value `other`, is `value` rounded or truncated at its last digit."""
    if not other or not identity.close(value, other, DECIMAL_TOLERANCE):
        return False
    last = math.pow(10, -len(written.partition(".")[2])) * abs(complex(other)) / abs(float(written))
    short = abs(complex(value)) - abs(complex(other))
    return -0.5 * last <= short < last
