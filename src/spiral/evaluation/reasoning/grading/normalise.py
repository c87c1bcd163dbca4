r"""One spelling for the many ways to typeset an answer, before it is parsed or compared.

Only rewrites that never change an answer's meaning are made here: formatting (`spiral.text.latex`), spacing, Unicode
signs, the variants of fractions, dollar signs around mathematics. The result is still LaTeX, where `\text{...}` marks
words, `\text{degrees}` a degree sign, and `¤` a dollar sign that means money. Units and thousands separators, whose
meaning depends on the expected answer, are left to `units` and `structure`.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from spiral.text.latex import strip_formatting, strip_quotes

MONEY = "¤"

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\u2014\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u200a", " "),
        **dict.fromkeys("\u200b\u2060\ufeff" + MONEY, ""),
        **dict.fromkeys("\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        "\uff0c": ",",
        "\uff08": "(",
        "\uff09": ")",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ",
        "\u00f7": r"\div ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2248": r"\approx ",
        "\u00b1": r"\pm ",
        "\u222a": r"\cup ",
        "\u2208": r"\in ",
        "\u2205": r"\emptyset ",
        "\u00b0": r"\text{degrees}",
        "\u00ba": r"\text{degrees}",
        **dict.fromkeys("\u220e\u25a0", r"\blacksquare "),
        "\u2026": r"\ldots ",
        "√": r"\sqrt ",
        "∞": r"\infty ",
        "π": r"\pi ",
        "θ": r"\theta ",
        "ω": r"\omega ",
    }
)

_RULES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (needle, re.compile(pattern), replacement)
    for needle, pattern, replacement in (
        ("", r"[\x00-\x1f\x7f]+", " "),
        ("\\", r"\\(?:dollar|textdollar)(?![A-Za-z])|\\\$", MONEY),
        ("$", r"\s*,\s*\$|\$\s*,\s*", ", "),  # "$1$,$2$" is a list, not a thousands separator
        ("$", r"\$", ""),
        ("\\", r"(?<!\\)\\[()\[\]]", " "),
        (r"\!", r"(?<=\d),(?:\s*\\!)+\s*(?=\d{3})", ""),
        ("{,}", r"(?<=\d)\{,\}(?=\d{3})", ""),
        ("{,}", r"(?<=\d)\{,\}(?=\d)", "."),
        (r"\,", r"(?<=\d)\\,(?=\d{3})", ""),
        ("\\", r"(?<!\\)\\!", ""),
        ("\\", r"(?<!\\)\\[ ,;:>]", " "),
        ("~", r"~", " "),
        ("frac", r"\\(?:[dtc]|nice|flat|x|s|i)frac(?![A-Za-z])", r"\\frac"),
        ("binom", r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        ("{", r"\{\s*([:;.])\s*\}", r"\1"),
        ("colon", r"\\colon(?![A-Za-z])", ":"),
        ("dots", r"\\(?:[lc]?dots|dots[cbmio])(?![A-Za-z])", r"\\ldots "),
        ("...", r"\.\.\.", r"\\ldots "),
        (r"\le", r"\\(?:leqslant|leq|le)(?![A-Za-z])", r"\\le "),
        ("<=", r"<=", r"\\le "),
        (r"\ge", r"\\(?:geqslant|geq|ge)(?![A-Za-z])", r"\\ge "),
        (">=", r">=", r"\\ge "),
        ("\\", r"\\lt(?![A-Za-z])", "<"),
        ("\\", r"\\gt(?![A-Za-z])", ">"),
        ("varnothing", r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
        ("lbrace", r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        ("rbrace", r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        ("\\", r"\\\{\s*+\\\}", r"\\emptyset "),
        ("\\", r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degrees?(?![A-Za-z])", r"\\text{degrees}"),
        (
            "^",
            r"(?<=\d)\s*\^\s*(?:\{\s*(?:o|\\text\{\s*o\s*\})\s*\}|o(?![A-Za-z])|\\text\{\s*o\s*\})",
            r"\\text{degrees}",
        ),
        ("degrees", r"\\text\{degrees\}\s*([CFK])(?![A-Za-z])", r"\\text{degrees \1}"),
        ("dot", r"(\.\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\1\\overline{\2\3\4}"),
        ("dot", r"(\.\d*)\\dot\s*\{?(\d)\}?(?![\d\\])", r"\1\\overline{\2}"),
        ("bar", r"(\.\d*)\\bar\s*(?:\{(\d+)\}|(\d))", r"\1\\overline{\2\3}"),
        ("\\", r"(?<=\S)\s*\\(?:blacksquare|square|Box|qed(?:symbol|here)?)(?![A-Za-z])[\s.]*$", ""),
        ("prime", r"(?<=\d)\s*\^\s*\{\s*\\prime\s*\\prime\s*\}", r"\\text{arcsec}"),
        ("%", r"\\%", "%"),
        ("langle", r"\\langle(?![A-Za-z])", "("),
        ("rangle", r"\\rangle(?![A-Za-z])", ")"),
        (".", r"\bnp\.|\bmath\.", ""),
        ("**", r"\*\*", "^"),
        (r"\text", r"\\text\{\s*([eid])\s*\}", r" \1"),
        (r"\text", r"(\\text\{[^{}]*\^)\{(-?\d)\}", r"\1\2"),
        (r"\text", r"(\\text\{[^{}]*\^)\{(-?\d)\}", r"\1\2"),
        ("operatorname", r"\\operatorname\*?\s*\{\s*(\w+)\s*\}", r"\\\1 "),
        ("operatorname", r"\\operatorname\*?\s*\{([^{}]*)\}", r"\\text{\1}"),
        (r"\text", r"\\text\{([^{}A-Za-z]*)\}", r" \1 "),
        (
            r"\text",
            r"^\s*\\text\{\s*\([A-J]\)\s*\}\s*(?=[^\s.,])",
            "",
        ),  # the letter that some contests print before the value
        (r"\text", r"\\text\{([^{}]*)\}\s*\\text\{(?!\s*(?:,|and\b|or\b))([^{}]*)\}", r"\\text{\1 \2}"),
        ("choose", r"(?<![\w.])(\d+)\s*(?:\\text\{\s*choose\s*\}|choose)\s*(\d+)", r"\\binom{\1}{\2}"),
        ("C", r"(?<![A-Za-z\\])(?:n?Cr?|\\text\{\s*n?Cr?\s*\})\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", r"\\binom{\1}{\2}"),
        (
            "C",
            r"(?:\{\s*\}\s*|(?<![\w)}\]' ]))[_^]\s*\{?(\d+)\}?\s*(?:\\text\{C\}|C)\s*_\s*\{?(\d+)\}?",
            r"\\binom{\1}{\2}",
        ),
        (
            "C",
            r"(?:\\text\{C\}|(?<![A-Za-z\\{])C)\s*_\s*(?:\{(\d+)\}|(\d))\s*\^\s*(?:\{(\d+)\}|(\d))",
            r"\\binom{\1\2}{\3\4}",
        ),
        (
            "C",
            r"(?:\\text\{C\}|(?<![A-Za-z\\{])C)\s*\^\s*(?:\{(\d+)\}|(\d))\s*_\s*(?:\{(\d+)\}|(\d))",
            r"\\binom{\3\4}{\1\2}",
        ),
        ("C", r"(?<![\w.])(\d+)C(\d+)(?!\w)", r"\\binom{\1}{\2}"),
        ("", r"\s+", " "),
        ("\\", r"^\s*\\(?:approx|sim|equiv)(?![A-Za-z])\s*", ""),
    )
)
"""(needle, pattern, replacement): a pattern is only tried on text that contains its needle, which is faster."""
_MARKDOWN = re.compile(r"^(?:[*`\s]|_(?![{\d]))+|[*_`\s]+$")
_EDGES = " .,;:"


_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b\u207f]+")
_LOWERED = re.compile("[\u2080-\u208b]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_INFIX = re.compile(r"\\(over|choose)(?![A-Za-z])")
_ALIGNED = re.compile(
    r"\\begin\{(align\*?|aligned|gather\*?|gathered|split|eqnarray\*?)\}((?:(?!\\begin).)*?)\\end\{\1\}", re.DOTALL
)
_CASES = re.compile(r"\\begin\{cases\}([^&]*?)\\end\{cases\}")
MAX_INFIX = 20
"""Occurrences of `\\over` and `\\choose` that are rewritten."""


@functools.lru_cache(maxsize=8192)
def clean(text: str) -> str:
    """`text` in the one spelling. The caller limits its length."""
    text = _MARKDOWN.sub("", strip_quotes(text))
    if r"\begin" in text:
        text = _ALIGNED.sub(lambda match: _one_line(match[2]), text)
    text = strip_formatting(text)
    if not text.isascii():
        text = _unicode_to_latex(text)
    if r"\over" in text or r"\choose" in text:
        text = _as_commands(text)
    if r"\begin{cases}" in text:
        text = _CASES.sub(lambda match: ", ".join(match[1].split(r"\\")).rstrip(", "), text)
    for needle, pattern, replacement in _RULES:
        if needle in text:
            text = pattern.sub(replacement, text)
    text = text.rstrip(_EDGES).lstrip(" =:;,")
    for _ in range(8):
        if not (text.startswith("{") and text.endswith("}") and closing(text, 0) == len(text) - 1):
            break
        text = text[1:-1].strip()
    return text


def _one_line(body: str) -> str:
    r"""The rows of an aligned environment as a list; a row that begins with a relation continues the row before it."""
    rows = [row.strip(" \n,") for row in re.split(r"\\\\(?:\s*\[[\w. ]{1,10}\])?", body.replace("&", " "))]
    line = ""
    for row in filter(None, rows):
        separator = " " if re.match(r"[=<>]|\\(?:le|ge|leq|geq|approx)(?![A-Za-z])", row) else ", "
        line += separator + row if line else row
    return line


def _unicode_to_latex(text: str) -> str:
    """Unicode signs and digits as LaTeX: superscripts, subscripts, other scripts, one-character fractions."""
    text = _RAISED.sub(lambda match: _moved("^", match.group()), text)
    text = _LOWERED.sub(lambda match: _moved("_", match.group()), text)
    text = _VULGAR.sub(lambda match: _fraction(_compatible(match.group())), text)
    text = text.replace("\u2044", "/").translate(_UNICODE)
    return "".join(str(unicodedata.decimal(sign, sign)) for sign in text)


def _fraction(text: str) -> str:
    above, _, below = text.partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def _moved(mark: str, signs: str) -> str:
    moved = _compatible(signs).replace("\u2212", "-")
    return mark + (moved if len(moved) == 1 else f"{{{moved}}}")


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _as_commands(text: str) -> str:
    r"""`{3 \over 7}` as `\frac{3}{7}`, and `{8 \choose 3}` as `\binom{8}{3}`."""
    for _ in range(MAX_INFIX):
        match = _INFIX.search(text)
        if match is None:
            break
        start, end = _around(text, match.start(), match.end())
        above, below = text[start : match.start()].strip(), text[match.end() : end].strip()
        command = rf"\{'frac' if match[1] == 'over' else 'binom'}{{{above}}}{{{below}}}"
        is_group = text[start - 1 : start] == "{" and text[end : end + 1] == "}"
        text = text[: start - is_group] + command + text[end + is_group :]
    return text


def _around(text: str, left: int, right: int) -> tuple[int, int]:
    """The span inside the braces around `text[left:right]`; all of the text if there are none."""
    start, depth = left, 0
    while start and depth >= 0:
        start -= 1
        depth += {"}": 1, "{": -1}.get(text[start], 0)
    end, level = right, 0
    while end < len(text) and level >= 0:
        level += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return start + (depth < 0), end - (level < 0)


def closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`, whatever its kind, or -1."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return -1


@functools.lru_cache(maxsize=8192)
def squeeze(text: str) -> str:
    """Removes white space except between digits, and braces around single characters, to compare spellings."""
    return _BRACED.sub(r"\1", _SPACE.sub("", text))


_BRACED = re.compile(r"\{(\w)\}")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
