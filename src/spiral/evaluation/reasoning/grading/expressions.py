r"""The value of an expression in LaTeX or plain text, for given values of its variables.

Integers, fractions and decimals are computed exactly; roots, logarithms and the rest in complex floating point. A
letter is a variable, except for the constants `e` and `i`. `f(x)` is a call only for the usual names of functions or
with a bare number, as in `I(0)`, and a product otherwise. `2\frac{1}{3}` is a mixed number.

Length, depth, and the digits of powers and factorials are checked before anything is computed. Not supported: sums,
integrals, limits, derivatives as operators, sets.
"""

from __future__ import annotations

import cmath
import dataclasses
import math
import re
from collections.abc import Callable
from fractions import Fraction

from spiral.evaluation.reasoning.grading import tokens
from spiral.evaluation.reasoning.grading.arithmetic import (
    TooLargeError,
    UnreadableError,
    Value,
    add,
    bounded,
    cost,
    divide,
    multiply,
    power,
    root,
    rounded,
    small_integer,
)
from spiral.evaluation.reasoning.grading.work_limit import MAX_WORK_OF_EXPRESSION

Point = Callable[[str], Value]
"""The value of each variable."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The value of an expression, and its properties."""

    value: Value
    variables: frozenset[str]
    integral: bool
    """Whether floors, ceilings, factorials or binomials of variables occur."""
    absolute: bool
    """Whether absolute values occur."""
    work: int
    """Operations that the evaluation took (`arithmetic.cost`)."""


_CONSTANTS = {"pi": complex(math.pi), "infty": complex(math.inf)}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_TIMES = frozenset(("*", r"\cdot", r"\times", r"\ast"))
_OVER = frozenset(("/", r"\div"))
_ENDS = frozenset((*_CLOSING.values(), "+", "-", "|", r"\vert", r"\rvert", *_TIMES, *_OVER))


def evaluate(text: str, point: Point) -> Reading:
    """The value of `text` at `point`. Raises only `UnreadableError` and `TooLargeError`."""
    reader = _Reader(tokens.tokenize(text), point)
    try:
        value = reader.whole()
    except (ZeroDivisionError, ValueError, IndexError) as error:
        raise UnreadableError(str(error)) from None
    except OverflowError as error:
        raise TooLargeError(str(error)) from None
    if isinstance(value, complex) and cmath.isnan(value):
        raise UnreadableError("not a number")
    return Reading(
        value=value,
        variables=frozenset(reader.variables),
        integral=reader.integral,
        absolute=reader.absolute,
        work=reader.work,
    )


class _Reader(tokens.Tokens):
    """A recursive-descent parser that computes the value while it parses."""

    def __init__(self, words: tuple[str, ...], point: Point) -> None:
        super().__init__(words)
        self.point = point
        self.variables: set[str] = set()
        self.integral = self.absolute = False
        self.work = 0

    def counted(self, value: Value) -> Value:
        """The value, after adding its cost. Raises `TooLargeError` beyond `MAX_WORK_OF_EXPRESSION`."""
        self.work += cost(value)
        if self.work > MAX_WORK_OF_EXPRESSION:
            raise TooLargeError("too much to compute")
        return value

    def whole(self) -> Value:
        value = self.sum()
        if self.position < len(self.tokens):
            raise UnreadableError(self.tokens[self.position])
        return value

    def sum(self) -> Value:
        value = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            term = self.product()
            value = self.counted(add(value, term if sign == "+" else multiply(Fraction(-1), term)))
        return value

    def product(self) -> Value:
        value = self.signed()
        while (token := self.peek()) and token not in _ENDS - _TIMES - _OVER:
            if token in _TIMES:
                self.take()
                value = self.counted(multiply(value, self.signed()))
            elif token in _OVER:
                self.take()
                value = self.counted(divide(value, self.signed()))
            else:
                value = self.next_factor(value)
        return value

    def next_factor(self, value: Value) -> Value:
        """An adjacent factor without a multiplication sign; two adjacent numbers are an error."""
        if self.peek()[0] in "0123456789." and self.position and self.tokens[self.position - 1][0] in "0123456789.":
            raise UnreadableError("two numbers side by side")
        return self.counted(multiply(value, self.power()))

    def signed(self) -> Value:
        sign = Fraction(1)
        while self.peek() in ("+", "-"):
            sign *= 1 if self.take() == "+" else -1
        value = self.power()
        return value if sign > 0 else multiply(sign, value)

    def power(self) -> Value:
        value = self.atom()
        while self.peek() in ("!", "^"):
            value = self.counted(self.factorial(value) if self.take() == "!" else power(value, self.exponent()))
        return value

    def exponent(self) -> Value:
        """The exponent after a `^`: a group or one signed atom; powers are right-associative."""
        self.descend()
        value = self.signed() if self.peek() in ("+", "-") else self.atom()
        if self.peek() == "^":
            self.take()
            value = self.counted(power(value, self.exponent()))
        self.depth -= 1
        return value

    def atom(self) -> Value:
        self.descend()
        value = self.counted(self.read(self.take()))
        self.depth -= 1
        return value

    def read(self, token: str) -> Value:
        if token[0] in "0123456789.":
            return self.number(token)
        if token in _CLOSING:
            return self.group(token)
        if token in ("|", r"\vert", r"\lvert"):
            return self.absolute_value(r"\rvert" if token == r"\lvert" else token)
        if token.isalpha():
            return self.letter(token)
        if token[0] == "\\":
            return self.command(token[1:])
        raise UnreadableError(token)

    def number(self, token: str) -> Value:
        if token.lower().partition("e")[2].lstrip("+-")[4:] or len(token) > 1000:
            raise TooLargeError(token[:20])
        value = bounded(Fraction(token.removesuffix(".") if token != "." else "0"))
        if self.peek() == r"\overline" and "." in token:
            return self.repeating(value, len(token.partition(".")[2]))
        if self.peek() == r"\frac" and "." not in token and self.is_plain_fraction():
            return add(value, self.atom())  # a mixed number
        return value

    def repeating(self, value: Fraction, places: int) -> Value:
        r"""`0.1\overline{6}`."""
        self.take()
        self.take("{")
        digits = self.take()
        self.take("}")
        if not digits.isdigit():
            raise UnreadableError(digits)
        return value + Fraction(int(digits), 10**places * (10 ** len(digits) - 1))

    def is_plain_fraction(self) -> bool:
        r"""Whether `\frac` of two whole numbers is next."""
        rest = "".join(self.tokens[self.position + 1 : self.position + 7])
        return re.match(r"\{\d+\}\{\d+\}|\d\d(?!\d)|\d\{\d+\}|\{\d+\}\d(?!\d)", rest) is not None

    def group(self, token: str) -> Value:
        value = self.sum()
        closing = self.take()
        if closing != _CLOSING[token]:
            raise UnreadableError(f"{token} closed by {closing}")
        if token in (r"\lfloor", r"\lceil"):
            self.integral = True
            return rounded(value, math.floor if token == r"\lfloor" else math.ceil)
        return value

    def absolute_value(self, closing: str) -> Value:
        self.absolute = True
        value = self.sum()
        self.take(closing)
        return abs(value) if isinstance(value, Fraction) else complex(abs(value))

    def letter(self, token: str) -> Value:
        if token == "e" and self.peek() != "_":
            return complex(math.e)
        if token == "i" and self.peek() != "_":
            return 1j
        return self.variable(token)

    def variable(self, name: str) -> Value:
        """A variable with its subscript and primes, or an unknown function applied to an argument."""
        if self.peek() == "_":
            self.take()
            name += "_" + self.raw()
        while self.peek() == "'" or (self.peek() == "^" and self.is_prime()):
            primes = 1 if self.take() == "'" else self.raw().count(r"\prime")
            name += "'" * primes
        is_call = name[0] in tokens.CALLED or (self.peek(1).isdigit() and self.peek(2) == ")")
        if self.peek() == "(" and is_call:
            self.take()
            argument = self.sum()
            self.take(")")
            name += f"({complex(argument):.9g})"
        self.variables.add(name)
        return self.point(name)

    def command(self, name: str) -> Value:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in tokens.FUNCTIONS:
            return self.call(name)
        if name in tokens.GREEK:
            return self.variable("\\" + name)
        if name in tokens.ACCENTS:
            return self.variable(f"{'' if name == 'overline' else name} {self.raw()}")
        return self.construction(name)

    def construction(self, name: str) -> Value:
        """A command with arguments in braces."""
        if name == "sqrt":
            return self.root()
        if name not in ("frac", "binom"):
            raise UnreadableError(name)
        above, below = self.argument(), self.argument()
        return divide(above, below) if name == "frac" else self.binomial(above, below)

    def argument(self) -> Value:
        r"""An argument in braces, or one digit or letter as in `\frac12`."""
        token = self.peek()
        if token[:1].isdigit() and len(token) > 1:
            self.tokens[self.position] = token[1:]
            return Fraction(token[0])
        if token == "{":
            self.take()
            return self.group("{")
        return self.atom()

    def root(self) -> Value:
        degree: Value = Fraction(2)
        if self.peek() == "[":
            self.take()
            degree = self.group("[")
        radicand = self.atom()
        return root(radicand, degree)

    def call(self, name: str) -> Value:
        r"""A function of one argument: `\sin^2 x`, `\log_{10} x`, `\cos 2t`, `exp(x)`."""
        raised: Value = Fraction(1)
        base: Value | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                raised = self.exponent()
            else:
                base = self.argument()
        if raised == -1 and name in tokens.INVERSES:
            name, raised = tokens.INVERSES[name], Fraction(1)
        function = tokens.FUNCTIONS[name]
        value: Value = function(complex(self.function_argument()))
        if base is not None:
            value = divide(value, cmath.log(complex(base)))
        return power(value, raised) if raised != 1 else value

    def function_argument(self) -> Value:
        if self.peek() in ("(", "{", "["):
            return self.atom()
        value = self.signed()
        while (
            (token := self.peek())
            and token not in _ENDS
            and token.lstrip("\\") not in tokens.FUNCTIONS
            and token != "("
        ):
            value = self.next_factor(value)
        return value

    def factorial(self, value: Value) -> Value:
        self.integral = self.integral or bool(self.variables)
        return Fraction(math.factorial(small_integer(value)))

    def binomial(self, above: Value, below: Value) -> Value:
        self.integral = self.integral or bool(self.variables)
        return Fraction(math.comb(small_integer(above), small_integer(below)))
