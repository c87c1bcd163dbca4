"""Expressions that only a computer algebra system can compare: calls math-verify, within limits.

math-verify (on latex2sympy and sympy) knows integrals, sums and sets that `expressions` does not. But it searches prose
for anything it can grade, its running time is unbounded, and its own time limits use signals, which work only in a
main thread. So it gets short LaTeX without prose and without towers of powers, its time limits are off, and the
worker's limits apply. Only the worker imports it.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence

from spiral.evaluation.reasoning.grading.grader import GraderError
from spiral.evaluation.reasoning.grading.tokens import ACCENTS, FUNCTIONS, GREEK

MAX_LENGTH = 300
_ALGEBRA = frozenset(
    re.findall(
        r"\w+",
        "int iint sum prod lim gcd max min det bmod pmod mod partial nabla cap setminus emptyset mathbb begin cdots"
        " ldots dots subset mid circ",
    )
)
"""Commands that `expressions` cannot parse. Text without one is malformed, and math-verify would grade parts of it."""
_OTHER = frozenset(
    re.findall(
        r"\w+",
        "frac sqrt binom pi infty cdot times div pm to cup in prime lfloor rfloor lceil rceil langle rangle vert lvert"
        " rvert Vert left right le ge ne neq approx equiv end text",
    )
)
_SIGNS = re.compile(r"[\w\s+\-*/^=<>()\[\]{}|!,.:;&'\\]*", re.ASCII)
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arc)?(?:sin|cos|tan|sec|csc|cot)|log|exp|sqrt|lim|max|min|gcd|mod)[A-Za-z]{4,}"
)
_TOWER = re.compile(r"\^\s*\{?[^{}^]*\^\s*\{?[^{}^]*\^|\d{4,}\s*!|!\s*!|\^\s*\{?\s*\d{4,}|[eE]\d{4,}")


def is_tractable(expected: str, given: str) -> bool:
    """Whether both are short LaTeX of known commands, and so suited for computer algebra."""
    return not _ALGEBRA.isdisjoint(_commands(expected + given)) and all(map(_is_short_latex, (expected, given)))


def import_algebra() -> None:
    """Imports math-verify, which takes seconds. Raises `GraderError` if it is not installed."""
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        raise GraderError(
            f"grading by computer algebra needs math-verify, which is not installed ({error}); pip install math-verify"
        ) from None


def same_by_algebra(expected: str, given: str) -> bool:
    """Whether math-verify finds both equal; False if it cannot parse one, or the two are not tractable."""
    if not is_tractable(expected, given):
        return False
    import_algebra()
    from math_verify import parse, verify

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("math_verify").setLevel(logging.CRITICAL)
            one, other = (parse(f"${text}$", parsing_timeout=None, raise_on_error=False) for text in (expected, given))
            return bool(one and other and verify(one, other, timeout_seconds=None, raise_on_error=False))
    except Exception:  # whatever a parser or sympy raises, equality was not shown
        return False


def math_verify_grade(reply: str, answers: Sequence[str]) -> bool:
    """math-verify's own grade of a whole reply, as other papers report it: its extraction and its comparison.

    Raises `GraderError` if it is not installed. Has no time limit, so only the worker may call it.
    """
    import_algebra()
    from math_verify import parse, verify

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("math_verify").setLevel(logging.CRITICAL)
            given = parse(reply, parsing_timeout=None, raise_on_error=False)
            return bool(given) and any(
                verify(expected, given, timeout_seconds=None, raise_on_error=False)
                for answer in answers
                if (expected := parse(f"\\boxed{{{answer}}}", parsing_timeout=None, raise_on_error=False))
            )
    except Exception:  # a reply must never stop a benchmark
        return False


def _commands(text: str) -> set[str]:
    return set(re.findall(r"\\([A-Za-z]+|.)", text))


def _is_short_latex(text: str) -> bool:
    return (
        0 < len(text) <= MAX_LENGTH
        and _commands(text) <= _ALGEBRA | _OTHER | set(FUNCTIONS) | GREEK | ACCENTS | {"{", "}", "\\", "|"}
        and _SIGNS.fullmatch(text) is not None
        and _PROSE.search(text) is None
        and _TOWER.search(text) is None
        and text.count("{") == text.count("}")
        and text.count("(") + text.count("[") == text.count(")") + text.count("]")
        and text.count("^") <= 12
    )
