"""Arithmetic that is exact while it can be: fractions, and complex floating point after a root or a logarithm.

The size of a result is checked before it is computed: a power or a factorial with too many digits raises
`TooLargeError` at once. Not supported: exact roots other than square roots of squares.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from fractions import Fraction

Value = Fraction | complex
MAX_BITS = 20_000
MAX_FACTORIAL = 1500


class UnreadableError(Exception):
    """The text is not an expression that this grader can parse."""


class TooLargeError(Exception):
    """The expression is too large to be computed."""


def cost(value: Value) -> int:
    """The work of an operation with this result: 1 for small numbers, growing with the square of their length."""
    if not isinstance(value, Fraction):
        return 1
    bits = value.numerator.bit_length() + value.denominator.bit_length()
    return 1 + bits * bits // 10**6


def small_integer(value: Value) -> int:
    """The value as a natural number small enough for a factorial; raises an error otherwise."""
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise UnreadableError("a factorial of something other than a natural number")
    if value > MAX_FACTORIAL:
        raise TooLargeError("a large factorial")
    return int(value)


def is_negative(value: Value) -> bool:
    """Whether the value is real and below zero."""
    return value < 0 if isinstance(value, Fraction) else value.imag == 0 and value.real < 0


def root(radicand: Value, degree: Value) -> Value:
    """The principal root, but the real cube root of a negative number."""
    if degree == 3 and is_negative(radicand):
        return multiply(Fraction(-1), power(multiply(Fraction(-1), radicand), Fraction(1, 3)))
    return power(radicand, divide(Fraction(1), degree))


def rounded(value: Value, rounding: Callable[[Fraction | float], int]) -> Fraction:
    """The floor or the ceiling of a value's real part."""
    return Fraction(rounding(value if isinstance(value, Fraction) else value.real))


def bounded(value: Fraction) -> Fraction:
    """The value. Raises `TooLargeError` if it has too many digits."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError("a number of too many digits")
    return value


def add(left: Value, right: Value) -> Value:
    """The sum."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return bounded(left + right)
    return complex(left) + complex(right)


def multiply(left: Value, right: Value) -> Value:
    """The product; a fraction times a real infinity stays real."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return bounded(left * right)
    if isinstance(left, Fraction) and isinstance(right, complex) and cmath.isinf(right):
        return complex(math.copysign(math.inf, left) * (1 if right.real > 0 else -1))
    return complex(left) * complex(right)


def divide(left: Value, right: Value) -> Value:
    """The quotient."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return bounded(left / right)
    return complex(left) / complex(right)


def power(base: Value, exponent: Value) -> Value:
    """The power, exact if base and exponent allow it."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits > 1 and bits * abs(exponent) > MAX_BITS:
                raise TooLargeError("a power of too many digits")
            return base ** int(exponent) if bits > 1 else base ** (int(exponent) % 2 if base else int(exponent))
        exact = _exact_root(base, exponent)
        if exact is not None:
            return exact
    return complex(base) ** complex(exponent)


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    r"""`\sqrt{16}` is an integer, not nearly one."""
    if exponent != Fraction(1, 2) or base < 0:
        return None
    above, below = math.isqrt(base.numerator), math.isqrt(base.denominator)
    return Fraction(above, below) if above**2 == base.numerator and below**2 == base.denominator else None
