"""Expressions that only a computer algebra system can read: math-verify, called with care.

math-verify (over latex2sympy and sympy) knows integrals, sums and sets that `expressions` does not. It searches prose
for something to grade, takes time without bound and stops itself by signals, which only a main thread has. So it
gets short LaTeX without prose and without towers of powers, its own time limits are off, and `GradingPool`
kills the process in which it runs too long. The worker imports it when it starts; nothing else does.
"""

from __future__ import annotations

import logging
import re
import warnings

from spiral.evaluation.reasoning.grading.grader import GraderError
from spiral.evaluation.reasoning.grading.tokens import ACCENTS, FUNCTIONS, GREEK

LONGEST = 300
_ALGEBRA = frozenset(
    re.findall(
        r"\w+",
        "int iint sum prod lim gcd max min det bmod pmod mod partial nabla cap setminus emptyset mathbb begin cdots"
        " ldots dots subset mid circ",
    )
)
"""What `expressions` cannot read: without one of these it is garbage, of which math-verify grades what it can read."""
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
    """Whether both are short LaTeX of known commands that a computer algebra system may be asked about."""
    return not _ALGEBRA.isdisjoint(_commands(expected + given)) and all(map(_is_short_latex, (expected, given)))


def import_algebra() -> None:
    """Imports math-verify, which takes seconds and is optional; raises `GraderError` without it."""
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        raise GraderError(
            f"grading by computer algebra needs math-verify, which is not installed ({error});"
            ' pip install "spiral-selfplay[benchmarks]"'
        ) from None


def same_by_algebra(expected: str, given: str) -> bool:
    """Whether math-verify finds both equal; False for what it cannot read or should not try."""
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
    except Exception:  # whatever a parser or sympy raises, the answer has not been shown to be right
        return False


def _commands(text: str) -> set[str]:
    return set(re.findall(r"\\([A-Za-z]+|.)", text))


def _is_short_latex(text: str) -> bool:
    return (
        0 < len(text) <= LONGEST
        and _commands(text) <= _ALGEBRA | _OTHER | set(FUNCTIONS) | GREEK | ACCENTS | {"{", "}", "\\", "|"}
        and _SIGNS.fullmatch(text) is not None
        and _PROSE.search(text) is None
        and _TOWER.search(text) is None
        and text.count("{") == text.count("}")
        and text.count("(") + text.count("[") == text.count(")") + text.count("]")
        and text.count("^") <= 12
    )
