r"""The outer structure of an answer: list, set, tuple or interval, union, matrix, relation, or a single expression.

Only brackets and separators at the top level count, so every part is again an answer. `\pm` becomes two answers.
`x > 2`, `2 < x \le 5` and `x \in (2, 5]` all become intervals. A name is separated from its value: `x = 5` is the value
5 with the name x, which distinguishes it from `y = 5`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from fractions import Fraction
from typing import Literal

from spiral.evaluation.reasoning.grading import identity
from spiral.evaluation.reasoning.grading.arithmetic import TooLargeError, UnreadableError
from spiral.evaluation.reasoning.grading.normalise import clean, closing

MAX_PARTS = 64
MAX_DEPTH = 12
"""Largest depth of nested brackets that is parsed."""
_MATRIX = re.compile(
    r"(?P<open>[(\[]?) ?\\begin\{(?P<name>[pbB]?(?:small)?matrix|array)\}(?:\[[a-z]\])?(?:\{[clr|@ ]*\})?"
    r"(?P<body>(?:(?!\\begin).)*)\\end\{(?P=name)\} ?(?P<close>[)\]]?)",
    re.DOTALL,
)
_SEPARATOR = re.compile(
    r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[,;]|\\(?:vee|wedge|lor|land)(?![A-Za-z])"
)
_UNION = re.compile(r"\\cup(?![A-Za-z])|(?<=[\])}])\s*U\s*(?=[\[({])")
_RELATION = re.compile(
    r"\\(?:le|ge|approx|sim|in|equiv|iff|implies|to|rightarrow|Rightarrow|neq?|ne)(?![A-Za-z])|[=<>]"
)
_SYMBOL = r"\\?[A-Za-z]+(?:_\s*(?:\{[^{}]*\}|\w|\\[A-Za-z]+)|_\{\\[a-z]+\s*\})?'*"
_NAME = re.compile(
    rf"{_SYMBOL}(?:\s*\([^()=]{{1,20}}\))?|\\(?:sin|cos|tan|log|ln)\s*{_SYMBOL}|m?\s*\\angle\s?[^=]+|\|?[A-Z]{{2}}\|?"
    r"|\\text\{[^{}]*\}|\\(?:overline|vec|hat|bar|dot|ddot)\s*\{[^{}]*\}"
    r"|\\frac\s*\{\s*d\s*\\?[A-Za-z]+\s*\}\s*\{\s*d\s*[A-Za-z]\s*\}|[A-Za-z ]+"
)
_NAMES = re.compile(rf"\( ?(?P<names>{_SYMBOL} ?(?:, ?{_SYMBOL} ?)+)\)")
_BUILDER = re.compile(rf"\s*(?P<name>{_SYMBOL}) ?(?:\\in[^:|]{{1,40}}?)?(?::|\||\\mid(?![A-Za-z])) ?(?P<condition>.+)")
"""The inside of `{x : x > 2}`."""
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])|(?<![\d .,])\d{1,3}(?: \d{3})+(?![\d ])")
_MIXED = re.compile(r"(?<![\d./^])(\d+) (\d+)/(\d+)(?![\d.])")

_DEPTHS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}

Kind = Literal["list", "set", "union", "tuple", "matrix", "relation", "single"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """An answer, split at its top level."""

    kind: Kind
    text: str
    """The cleaned answer, without its name."""
    parts: tuple[Shape, ...] = ()
    brackets: str = ""
    """The two brackets of a tuple, rows x columns of a matrix, the signs of a relation."""
    name: str = ""
    """The answer's name, such as `x` in `x = 5`."""


@functools.lru_cache(maxsize=8192)
def shape(text: str, *, join_thousands: bool = True) -> Shape:
    """The shape of an answer; with `join_thousands`, 1,234 outside brackets is one number."""
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", clean(text))
    if join_thousands and _THOUSANDS.search(text):
        text = _join_thousands(text)
    return _shape(text, 0)


def _shape(text: str, depth: int) -> Shape:
    if depth > MAX_DEPTH:
        return Shape(kind="single", text=text)
    depth += 1
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None and bool(matrix["open"]) == bool(matrix["close"]):
        return _matrix(text, matrix["body"].replace(r"\hline", ""), depth)
    pieces = [piece for piece in _split(text, _SEPARATOR) if piece]
    if len(pieces) > 1:
        return _list(text, pieces, depth)
    pieces = _split(text, _UNION)
    if len(pieces) > 1:
        return _several("union", text, pieces, depth)
    related = _relation(text, depth)
    if related is not None:
        return related
    return _bracketed(text, depth) or _plus_minus(text, depth) or Shape(kind="single", text=text)


def _list(text: str, pieces: list[str], depth: int) -> Shape:
    r"""A list; `-2 < x \text{ and } x < 5` is one interval, and `y = 2, x = 1` is sorted by name."""
    listed = _several("list", text, pieces, depth)
    if len(listed.parts) == 2:
        marks = "".join(match.group() for match in _top_level(text, _SEPARATOR))
        both = (
            None
            if re.search(r"or|vee", marks)
            else _both(*listed.parts, is_sure=re.search("and|wedge", marks) is not None)
        )
        if both is not None:
            return both
    names = [part.name for part in listed.parts]
    if _in_order(names):
        return dataclasses.replace(listed, parts=tuple(sorted(listed.parts, key=lambda part: part.name)))
    return listed


def _in_order(names: list[str]) -> bool:
    """Whether the names have a conventional order: coordinates or coefficients."""
    return len(names) > 1 and len(set(names)) == len(names) and any(set(names) <= set(all_) for all_ in ("xyz", "abcd"))


def _both(one: Shape, other: Shape, *, is_sure: bool) -> Shape | None:
    """The interval given by a lower and an upper bound of one name; `is_sure`: they are joined by "and"."""
    if one.name == "" or one.name != other.name or (one.kind, other.kind) != ("tuple", "tuple"):
        return None
    if one.parts[0].text == r"-\infty":
        one, other = other, one
    if one.parts[1].text != r"\infty" or other.parts[0].text != r"-\infty":
        return None
    low, high = one.parts[0], other.parts[1]
    if not (_is_below(low.text, high.text, is_sure)):
        return None
    brackets = one.brackets[0] + other.brackets[1]
    text = f"{brackets[0]}{low.text},{high.text}{brackets[1]}"
    return Shape(kind="tuple", text=text, parts=(low, high), brackets=brackets, name=one.name)


def _is_below(low: str, high: str, otherwise: bool) -> bool:
    """Whether one number is below another; `otherwise` if they cannot be compared."""
    try:
        values = identity.number(low), identity.number(high)
    except (UnreadableError, TooLargeError):
        return otherwise
    if not all(isinstance(value, Fraction) or (value is not None and value.imag == 0) for value in values):
        return otherwise
    one, other = (value if isinstance(value, Fraction) else complex(value or 0).real for value in values)
    return one < other


def _several(kind: Kind, text: str, pieces: list[str], depth: int) -> Shape:
    """Parts of which those that stand for two answers count as two."""
    parts: list[Shape] = []
    for piece in pieces[:MAX_PARTS]:
        part = _shape(clean(piece), depth)
        parts.extend(part.parts if part.kind == "list" and kind != "tuple" else [part])
    return Shape(kind=kind, text=text, parts=tuple(parts))


def _matrix(text: str, body: str, depth: int) -> Shape:
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", body) if row.strip()]
    columns = {len(row) for row in rows}
    if len(columns) != 1 or len(rows) * max(columns) > MAX_PARTS:
        return Shape(kind="single", text=text)
    parts = tuple(_shape(clean(entry), depth) for row in rows for entry in row)
    return Shape(kind="matrix", text=text, parts=parts, brackets=f"{len(rows)}x{max(columns)}")


def _bracketed(text: str, depth: int) -> Shape | None:
    """A set in braces, or several things in other brackets."""
    if text.startswith(r"\{") and text.endswith(r"\}") and closing(text, 1) == len(text) - 1:
        built = _BUILDER.fullmatch(text[2:-2])
        if built is not None:
            solution = _shape(clean(built["condition"]), depth)
            if solution.kind in ("tuple", "union") and built["name"] in (
                solution.name,
                *(p.name for p in solution.parts),
            ):
                return solution
        return _several("set", text, [piece for piece in _split(text[2:-2], _SEPARATOR) if piece], depth)
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]") or closing(text, 0) != len(text) - 1:
        return None
    pieces = _split(text[1:-1], re.compile("[,;]"))
    if len(pieces) < 2:
        return None
    parts = tuple(_shape(clean(piece), depth) for piece in pieces[:MAX_PARTS])
    if any(part.kind == "list" for part in parts) and len(pieces) <= 4:
        return _choices_of(text, parts)
    return Shape(kind="tuple", text=text, parts=parts, brackets=text[0] + text[-1])


def _choices_of(text: str, parts: tuple[Shape, ...]) -> Shape:
    r"""`(\pm 3, 2)` as two tuples; more than `MAX_PARTS` of them are left as text."""
    options = [part.parts if part.kind == "list" else (part,) for part in parts]
    if math.prod(map(len, options)) > MAX_PARTS:
        return Shape(kind="single", text=text)
    brackets = text[0] + text[-1]
    tuples = (Shape(kind="tuple", text="", parts=row, brackets=brackets) for row in itertools.product(*options))
    return Shape(kind="list", text=text, parts=tuple(tuples))


def _plus_minus(text: str, depth: int) -> Shape | None:
    if not re.search(r"\\pm(?![A-Za-z])", text) or text.count(r"\pm") > 4:
        return None
    plus = re.sub(r"\\pm(?![A-Za-z])", "+", re.sub(r"\\mp(?![A-Za-z])", "-", text))
    minus = re.sub(r"\\pm(?![A-Za-z])", "-", re.sub(r"\\mp(?![A-Za-z])", "+", text))
    return Shape(kind="list", text=text, parts=(_shape(clean(plus), depth), _shape(clean(minus), depth)))


def _relation(text: str, depth: int) -> Shape | None:
    """An equation, an inequality or a membership; a name is separated from its value."""
    signs = _top_level(text, _RELATION)
    if not signs:
        return None
    edges = [0, *(edge for match in signs for edge in match.span()), len(text)]
    sides = [text[start:end].strip() for start, end in zip(edges[::2], edges[1::2], strict=True)]
    marks = [match.group() for match in signs]
    if all(mark in ("=", r"\approx", r"\sim", r"\in", r"\equiv") for mark in marks):
        return _named(text, sides, marks, depth)
    if len(sides) <= 3 and all(mark in ("<", ">", r"\le", r"\ge") for mark in marks):
        return (
            _around_centre(text, sides, marks)
            or _interval(sides, marks)
            or Shape(kind="relation", text=text, parts=_singles(sides), brackets=" ".join(marks))
        )
    return Shape(kind="relation", text=text, parts=_singles(sides), brackets=" ".join(marks))


def _named(text: str, sides: list[str], marks: list[str], depth: int) -> Shape | None:
    r"""The value of `x = 5`, `f(x) = 2x = 4`, `x \approx 3.1`, `1/3 \approx 0.33`; another equation is a relation."""
    if len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]):
        sides = sides[::-1]
    if _is_name(sides[0]) and all(sides[1:]):
        approximate = r"\approx" in marks[1:]
        value = sides[marks.index(r"\approx", 1)] if approximate else sides[-1]
        named = _shape(clean(value), depth)
        if (names := _NAMES.fullmatch(sides[0])) is not None:
            return _in_order_of_names(names["names"], named)
        return dataclasses.replace(named, name="".join(sides[0].split()))
    if marks[0] == r"\approx":
        return _shape(clean(sides[0]), depth)
    return Shape(kind="relation", text=text, parts=_singles(sides), brackets=" ".join(marks))


def _in_order_of_names(names: str, named: Shape) -> Shape:
    """`(y, x) = (2, 1)` as `(1, 2)`; otherwise a tuple of names has no effect."""
    each = [name.strip() for name in names.split(",")]
    if not _in_order(each) or named.kind != "tuple" or len(each) != len(named.parts) or each == sorted(each):
        return named
    parts = tuple(part for _, part in sorted(zip(each, named.parts, strict=True), key=lambda pair: pair[0]))
    return dataclasses.replace(named, text="", parts=parts)


def _is_name(side: str) -> bool:
    if _NAMES.fullmatch(side) is not None:
        return True
    return _NAME.fullmatch(side) is not None and side not in (r"\pi", "e", "i", r"\infty")


def _singles(sides: list[str]) -> tuple[Shape, ...]:
    return tuple(Shape(kind="single", text=side) for side in sides)


_TURNED = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
_ABSOLUTE = re.compile(
    rf"(?:\||\\[lr]?vert) ?(?P<name>{_SYMBOL}) ?(?:(?P<sign>[-+])(?P<centre>[^|]+?))?(?:\||\\[lr]?vert) ?"
)


def _around_centre(text: str, sides: list[str], marks: list[str]) -> Shape | None:
    r"""`|x - 1| < 3` as `(-2, 4)`, and `|x| \ge 3` as a union."""
    if len(sides) != 2:
        return None
    if _ABSOLUTE.fullmatch(sides[0]) is None:
        sides, marks = sides[::-1], [_TURNED[marks[0]]]
    match = _ABSOLUTE.fullmatch(sides[0])
    if match is None or not sides[1] or "|" in sides[1]:
        return None
    centre = "" if match["sign"] is None else ("" if match["sign"] == "-" else "-") + f"({match['centre'].strip()})"
    low, high = f"{centre}-({sides[1]})", f"{centre}+({sides[1]})"
    name = match["name"]
    if marks[0] in ("<", r"\le"):
        return _interval([low, name, high], [marks[0]] * 2)
    parts = _interval([name, low], [_TURNED[marks[0]]]), _interval([name, high], marks)
    return Shape(kind="union", text=text, parts=tuple(part for part in parts if part is not None))


def _interval(sides: list[str], marks: list[str]) -> Shape | None:
    r"""`x > 2` as `(2, \infty)`, and `1 \le x < 3` as `[1, 3)`."""
    if all(mark in (">", r"\ge") for mark in marks):
        sides, marks = sides[::-1], [_TURNED[mark] for mark in reversed(marks)]
    if any(mark not in ("<", r"\le") for mark in marks):
        return None
    if len(sides) == 3 and _is_name(sides[1]):
        low, high, name = sides[0], sides[2], sides[1]
        brackets = ("(" if marks[0] == "<" else "[") + (")" if marks[1] == "<" else "]")
    elif len(sides) == 2 and _is_name(sides[0]) and not _is_name(sides[1]):
        low, high, name = r"-\infty", sides[1], sides[0]
        brackets = "(" + (")" if marks[0] == "<" else "]")
    elif len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]):
        low, high, name = sides[0], r"\infty", sides[1]
        brackets = ("(" if marks[0] == "<" else "[") + ")"
    else:
        return None
    text = f"{brackets[0]}{low},{high}{brackets[1]}"
    return Shape(kind="tuple", text=text, parts=_singles([low, high]), brackets=brackets, name=name)


def is_thousands(text: str) -> bool:
    """Whether an answer is one number with thousands separators, such as 58,500."""
    return _THOUSANDS.fullmatch(clean(text)) is not None


def _join_thousands(text: str) -> str:
    """Removes thousands separators outside brackets; (1,234) is a pair."""
    depth, starts = 0, []
    for character in text:
        depth += _DEPTHS.get(character, 0)
        starts.append(depth)
    return _THOUSANDS.sub(
        lambda match: re.sub("[ ,]", "", match.group()) if starts[match.start()] == 0 else match.group(), text
    )


def _top_level(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches of a pattern outside all brackets."""
    matches = list(pattern.finditer(text))
    if not matches:
        return []
    depth, inside = 0, []
    for character in text:
        depth += _DEPTHS.get(character, 0)
        inside.append(depth)
    return [match for match in matches if inside[match.start()] == 0]


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    matches = _top_level(text, pattern)
    edges = [0, *(edge for match in matches for edge in match.span()), len(text)]
    return [text[start:end].strip() for start, end in zip(edges[::2], edges[1::2], strict=True)]
