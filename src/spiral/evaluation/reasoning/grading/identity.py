"""Whether two expressions are the same function of their variables, by their values at a few points.

The identity test of Schwartz (1980) and Zippel (1979) instead of symbolic simplification: different expressions agree
at random points with negligible probability. Points are positive, so that roots and logarithms take their usual
branches; integers if floors, factorials or binomials occur; negative as well if absolute values occur.
"""

from __future__ import annotations

import cmath
import functools
import math
import random
from fractions import Fraction

from spiral.core.seeds import derive_seed
from spiral.evaluation.reasoning.grading.arithmetic import TooLargeError, UnreadableError, Value
from spiral.evaluation.reasoning.grading.expressions import Point, Reading, evaluate
from spiral.evaluation.reasoning.grading.work_limit import MAX_WORK_OF_EXPRESSION, spend

ROUNDING = 1e-9
"""Relative rounding error allowed between equal values in floating point."""
POINTS = {"positive": 3, "negative": 3, "integer": 30}
"""Number of points that must agree; many integers, since floors of different expressions often agree."""
ATTEMPTS = 10
"""Additional points tried if some lie outside an expression's domain."""
_RANGES = {"positive": (1010, 2990, 1000), "negative": (-2990, -1010, 1000), "integer": (6, 40, 1)}


def number(text: str) -> Value | None:
    """The value of an expression without variables; None if it has variables."""
    try:
        reading = _at(text, "positive", 0)
    except UnreadableError:  # factorials and binomials are defined at integers only
        reading = _at(text, "integer", 0)
    return None if reading.variables else reading.value


def identical(left: str, right: str) -> bool:
    """Whether both expressions have the same values everywhere. Raises `UnreadableError` if one cannot be parsed."""
    return all(_agree(left, right, kind) for kind in _kinds(left, right))


def proportional(left: tuple[str, str], right: tuple[str, str]) -> bool:
    """Whether two equations `a = b` and `c = d` are equivalent: (a - b) / (c - d) is a constant other than zero."""
    ratios: list[Value] = []
    for attempt in range(ATTEMPTS):
        try:
            first, second = (_difference(sides, attempt) for sides in (left, right))
        except UnreadableError:
            if attempt == ATTEMPTS - 1 and not ratios:
                raise
            continue
        if not first or not second:
            return not first and not second
        ratios.append(first / second)
        if len(ratios) == POINTS["positive"]:
            return all(close(ratio, ratios[0]) for ratio in ratios)
    return False


def close(left: Value, right: Value, tolerance: float = ROUNDING) -> bool:
    """Equality: exact for fractions, within `tolerance` relative to `left` in floating point."""
    if isinstance(left, Fraction) and isinstance(right, Fraction) and tolerance == ROUNDING:
        return left == right
    try:
        left, right = complex(left), complex(right)
    except OverflowError:
        return left == right
    if left == right:
        return True
    if not (cmath.isfinite(left) and cmath.isfinite(right)):
        return False
    size = abs(left) if left and right else 1e-3
    return math.isclose(abs(left - right), 0, abs_tol=tolerance * size)


def _difference(sides: tuple[str, str], attempt: int) -> complex:
    left, right = (complex(_at(side, "positive", attempt).value) for side in sides)
    return 0j if close(left, right) else left - right


def _kinds(left: str, right: str) -> list[str]:
    """The kinds of points at which to compare two expressions."""
    try:
        readings = [_at(text, "positive", 0) for text in (left, right)]
    except UnreadableError:
        readings = []
    if not readings or all(reading.integral for reading in readings):
        return ["integer"]
    if any(reading.integral for reading in readings):  # the floor of x equals x at integers
        return ["integer", "positive"]
    return ["positive", "negative"] if any(reading.absolute for reading in readings) else ["positive"]


def _agree(left: str, right: str, kind: str) -> bool:
    """Whether the expressions agree at the first few points of a kind at which both are defined."""
    agreed, attempts = 0, POINTS[kind] + ATTEMPTS
    for attempt in range(attempts):
        try:
            first, second = (_at(text, kind, attempt) for text in (left, right))
        except UnreadableError:
            if attempt == attempts - 1 and not agreed:
                raise
            continue
        if not close(first.value, second.value):
            return False
        agreed += 1
        if agreed == POINTS[kind] or not (first.variables or second.variables):
            return True
    return agreed > 0


def _at(text: str, kind: str, attempt: int) -> Reading:
    """The value of an expression at a point; its work is counted even if the value is cached."""
    try:
        reading = _evaluated(text, kind, attempt)
    except UnreadableError:
        spend(len(text))
        raise
    except TooLargeError:
        spend(MAX_WORK_OF_EXPRESSION // 2)
        raise
    spend(reading.work)
    return reading


@functools.lru_cache(maxsize=4096)
def _evaluated(text: str, kind: str, attempt: int) -> Reading:
    return evaluate(text, _point(kind, attempt))


@functools.lru_cache(maxsize=64)
def _point(kind: str, attempt: int) -> Point:
    low, high, unit = _RANGES[kind]

    @functools.lru_cache(maxsize=1024)
    def value(name: str) -> Fraction:
        rng = random.Random(derive_seed("grading", kind, attempt, name))
        return Fraction(rng.randint(low, high), unit)

    return value
