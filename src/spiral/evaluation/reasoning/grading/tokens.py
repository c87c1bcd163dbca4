r"""The tokens of mathematical LaTeX: numbers, names of functions and variables, signs.

Functions may lack their backslash (`sin x`, `sqrt(2)`), as in many replies; any other letter is a variable.
"""

from __future__ import annotations

import cmath
import functools
import re
from collections.abc import Callable

from spiral.evaluation.reasoning.grading.arithmetic import TooLargeError, UnreadableError

MAX_TOKENS, MAX_DEPTH = 500, 40
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
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<command>\\[A-Za-z]+|\\.)"
    rf"|(?P<name>(?:{_NAMES})(?![A-Za-z]))|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_()\[\]{{}}|!']))"
)


@functools.lru_cache(maxsize=8192)
def tokenize(text: str) -> tuple[str, ...]:
    """The tokens of `text`; function names get their backslash."""
    tokens: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS:
            raise UnreadableError(text[position : position + 10])
        tokens.append("\\" + match["name"] if match["name"] else match.group().strip())
        position = match.end()
    return tuple(tokens)


class Tokens:
    """A cursor over tokens for a recursive-descent parser, with a limit on the depth."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.tokens = list(tokens)
        self.position = self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        """The next token, or one `ahead` of it; empty at the end."""
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        """Consumes the next token. Raises `UnreadableError` if it is not the one expected."""
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise UnreadableError(f"{token!r} instead of {expected!r}")
        self.position += 1
        return token

    def descend(self) -> None:
        """Enters one level. Raises `TooLargeError` beyond `MAX_DEPTH`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLargeError("nested too deeply")

    def is_prime(self) -> bool:
        r"""Whether the next tokens are the power `^\prime`."""
        return self.peek(1) == r"\prime" or (self.peek(1) == "{" and self.peek(2) == r"\prime")

    def raw(self) -> str:
        """Consumes a group, or one token, and returns its text."""
        if self.peek() != "{":
            return self.take()
        depth, words = 0, []
        while True:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            words.append(token)
            if depth == 0:
                return "".join(words[1:-1])
