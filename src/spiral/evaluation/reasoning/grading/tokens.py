r"""The words of mathematical LaTeX: numbers, names of functions and variables, signs.

Functions may lack their backslash (`sin x`, `sqrt(2)`), as models often write; other letters are variables, one each.
"""

from __future__ import annotations

import cmath
import functools
import re
from collections.abc import Callable

from spiral.evaluation.reasoning.grading.arithmetic import TooLargeError, UnreadableError

MOST_TOKENS, MOST_DEPTH = 500, 40
FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
    "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan,
    "asin": cmath.asin, "acos": cmath.acos, "atan": cmath.atan,
    "ln": cmath.log, "log": cmath.log, "lg": cmath.log10, "exp": cmath.exp,
}  # fmt: skip
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
CALLED = frozenset("fghFGH")
GREEK = frozenset(
    re.findall(
        r"\w+",
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma"
        " tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega hbar ell odot",
    )
)
ACCENTS = frozenset(("dot", "ddot", "hat", "bar", "vec", "tilde", "overline", "underline", "widehat", "widetilde"))
_NAMES = "|".join(sorted((*FUNCTIONS, "sqrt", "pi", "infty"), key=len, reverse=True))
FUNCTION_NAMES = frozenset((*FUNCTIONS, "sqrt", "pi", "frac"))
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<command>\\[A-Za-z]+|\\.)"
    rf"|(?P<name>(?:{_NAMES})(?![A-Za-z]))|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_()\[\]{{}}|!']))"
)


@functools.lru_cache(maxsize=8192)
def tokenize(text: str) -> tuple[str, ...]:
    """The tokens of `text`; a name of a function without its backslash gets one."""
    tokens: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MOST_TOKENS:
            raise UnreadableError(text[position : position + 10])
        tokens.append("\\" + match["name"] if match["name"] else match.group().strip())
        position = match.end()
    return tuple(tokens)


class Tokens:
    """Tokens read one after another, by a reader that descends into them and must not descend too far."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.tokens = list(tokens)
        self.place = self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        """The token due, or one further on; empty at the end."""
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        """The token due, which must be the one expected."""
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise UnreadableError(f"{token!r} where {expected!r} was due")
        self.place += 1
        return token

    def descend(self) -> None:
        """One level deeper."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise TooLargeError("nested too deeply")

    def is_prime(self) -> bool:
        r"""Whether the power due is `^\prime`."""
        return self.peek(1) == r"\prime" or (self.peek(1) == "{" and self.peek(2) == r"\prime")

    def raw(self) -> str:
        """A group, or one token, as it is written."""
        if self.peek() != "{":
            return self.take()
        depth, words = 0, []
        while True:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            words.append(token)
            if depth == 0:
                return "".join(words[1:-1])
