r"""Removes the formatting of LaTeX: fonts, colours, sizes, frames, spaces and tags.

`strip_formatting` keeps the mathematics and marks words as `\text{...}`; the grader reads answers from its result.
`latex_to_text` gives what a person would type, on one line and without a final full stop. Moves of games and the
verifiers of seeded problems use it: `\text{offer: 2 wood} \to \textbf{1 ore}` becomes "offer: 2 wood -> 1 ore".
Commands that this module does not know are kept, so nothing is guessed. Every function accepts any text and takes
time linear in its length.
"""

from __future__ import annotations

import functools
import re

_TEXT = frozenset(
    re.findall(
        r"\S+",
        "text mbox hbox textrm textnormal textbf textit texttt textsf textsc textup textsl textmd emph mathrm mathtt "
        "mathnormal rm operatorname",
    )
)
"""Commands whose argument is words."""
_STYLE = frozenset(
    re.findall(
        r"\S+",
        "mathbf mathit mathsf mathcal mathbb mathfrak mathscr mathbold mathbfit boldsymbol bold bm pmb symbf symit "
        "symrm ensuremath displaylines underline uline boxed fbox framebox makebox bbox mathbin "
        "mathrel mathord mathpunct",
    )
)
"""Commands whose argument is mathematics, or text in a box."""
_SWITCHES = frozenset(
    re.findall(
        r"\S+",
        "bf it sf tt sl sc em bfseries mdseries itshape slshape scshape upshape rmfamily sffamily ttfamily normalfont "
        "boldmath unboldmath tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge displaystyle "
        "textstyle scriptstyle scriptscriptstyle left right middle big Big bigg Bigg bigl bigr bigm Bigl Bigr Bigm "
        "biggl biggr biggm Biggl Biggr Biggm limits nolimits nonumber notag strut mathstrut centering selectfont "
        "noindent quad qquad thinspace medspace thickspace negthinspace enspace enskip allowbreak newline hfill",
    )
)
_ARGUMENTS_DROPPED = {
    **dict.fromkeys(("tag", "label", "hspace", "vspace", "phantom", "hphantom", "vphantom"), 1),
    **dict.fromkeys(("color", "textcolor", "colorbox", "fontsize", "scalebox", "raisebox"), 1),
    **dict.fromkeys(("fcolorbox", "resizebox"), 2),
}
"""Commands with arguments that are not part of the content, and the number of these arguments."""
_WRAPPERS = frozenset(("textcolor", "colorbox", "fcolorbox", "scalebox", "raisebox", "resizebox"))
"""The commands among these whose next argument is the content."""
_ENVIRONMENTS = frozenset(
    re.findall(
        r"\S+",
        "equation equation* align align* aligned gather gather* gathered split displaymath math center multline",
    )
)
_TOKEN = re.compile(r"\\[A-Za-z]++|\\.|[{}]|[^\\{}]++|\\", re.DOTALL)
_GROUP = re.compile(r"\s*+(?:\[[^\[\]{}\\]{0,80}\]\s*+)?\{")
_ENVIRONMENT = re.compile(r"\s*+\{([a-z]++\*?)\}")
_ARROWS = re.compile(
    r"\\(?:rightarrow|to|longrightarrow|Rightarrow|Longrightarrow|implies|mapsto|longmapsto|textrightarrow)(?![A-Za-z])"
    r"|[\u2192\u21d2\u27f6\u2794\u27a1\u21a6]\ufe0f?"
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*+\{([^{}]*)\}\s*+\{([^{}]*)\}")
_TIMES = re.compile(r"\s*+\\(?:times|cdot|ast)(?![A-Za-z])\s*+|\s*+[\u00d7\u00b7\u22c5]\s*+")
_POWER = re.compile(r"\^(?:\{([^{}]*)\}|(\w))")
_SPACES = re.compile(r"(?<!\\)\\[ ,;:!>]|\\\\|~")
_SIGNS = {
    "colon": ":",
    "dots": "...",
    "ldots": "...",
    "cdots": "...",
    "textgreater": ">",
    "gt": ">",
    "textless": "<",
    "lt": "<",
    "lbrack": "[",
    "rbrack": "]",
    "slash": "/",
}
_SIGN = re.compile(rf"\\({'|'.join(_SIGNS)})(?![A-Za-z])")
_BRACES = re.compile(r"\\([_%#&$-])|(?<!\\)[{}]")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$\$")
_DOLLARS = re.compile(r"(?<![\\$])\$([^$]*)(?<!\\)\$")
_MARKED = re.compile(r"<(b|i|u|em|strong|code|mark|tt)>(.*)</\1>", re.DOTALL | re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]")
_WIDE = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u200a\u3000", " "),
        **dict.fromkeys("\u200b\u2060\ufeff\x00", ""),
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013", "-"),
    }
)
_QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("``", "''"), ("**", "**"))


@functools.lru_cache(maxsize=8192)
def strip_formatting(text: str, *, mark_words: bool = True) -> str:
    r"""The text without formatting commands.

    Args:
        text: LaTeX, prose or both.
        mark_words: Whether words stay marked as `\text{...}`.

    Returns:
        The text; its spaces and dollar signs are kept.
    """
    return _LatexReader(text, mark_words).strip() if "\\" in text else text


@functools.lru_cache(maxsize=8192)
def latex_to_text(text: str) -> str:
    """The content of `text` as a person would type it, on one line."""
    text = _ARROWS.sub("->", strip_formatting(text, mark_words=False).translate(_WIDE))
    text = _DELIMITERS.sub(" ", text)
    text = _DOLLARS.sub(r"\1", text)
    text = _SPACES.sub(" ", text)
    text = _SIGN.sub(lambda match: _SIGNS[match[1]], text)
    if _COMMAND.search(text) is None:  # a command that is kept needs the braces around its arguments
        text = _BRACES.sub(lambda match: match[1] or "", text)
    return strip_quotes(text)


def latex_to_lines(text: str) -> str:
    r"""The content of `text` line by line, with `\frac{1}{2}` as 1/2 and `2 \times x^{3}` as 2*x**3.

    `\\` also ends a line.
    """
    text = _DOLLARS.sub(r"\1", _DELIMITERS.sub(" ", strip_formatting(_unwrapped(text), mark_words=False)))
    for _ in range(4):
        text = _FRACTION.sub(lambda match: f"{_operand(match[1])}/{_operand(match[2])}", text)
    text = _TIMES.sub("*", text)
    text = _POWER.sub(r"**\1\2", text)
    lines = (latex_to_text(line) for line in text.replace(r"\\", "\n").split("\n"))
    return "\n".join(line for line in lines if line)


def _operand(text: str) -> str:
    """A numerator or denominator, in brackets where it needs them."""
    return text if re.fullmatch(r"[\w.]*", text) else f"({text})"


def strip_quotes(text: str) -> str:
    """The text on one line, without quotes or emphasis around the whole of it and without a final full stop."""
    return _unwrapped(" ".join(text.split()))


def _unwrapped(text: str) -> str:
    text = text.strip()
    for _ in range(6):
        marked = _MARKED.fullmatch(text)
        inner = marked[2] if marked is not None else next(filter(None, (_inside(text, *pair) for pair in _QUOTES)), "")
        if not inner.strip():
            inner = text[:-1] if text.endswith(".") and not text.endswith("..") else ""
        if not inner.strip():
            break
        text = inner.strip()
    return text


def _inside(text: str, opening: str, closing: str) -> str:
    """The text between an opening and a closing quote; "" when they do not enclose the whole text."""
    size = len(opening)
    is_quoted = len(text) > 2 * size and text.startswith(opening) and text.endswith(closing)
    inner = text[size:-size] if is_quoted else ""
    return "" if opening in inner or closing in inner else inner


class _LatexReader:
    """Reads one text from left to right and keeps the open groups on a stack."""

    def __init__(self, text: str, mark_words: bool) -> None:
        self.text = text
        self.mark_words = mark_words
        self.position = 0
        self.out: list[str] = []
        self.open: list[tuple[str, int]] = []
        """The kind of each open group, "" for plain braces, and the index in `out` where it begins."""
        self.words = 0
        """Number of open groups of words."""

    def strip(self) -> str:
        while (match := _TOKEN.match(self.text, self.position)) is not None:
            self.position = match.end()
            self.take(match.group())
        return "".join(self.out)

    def take(self, token: str) -> None:
        if token == "{":
            self.open.append(("", len(self.out)))
            self.out.append("{")
        elif token == "}":
            self.close()
        elif token[0] == "\\" and token[1:].isalpha():
            self.command(token[1:])
        else:
            self.out.append(token)

    def command(self, name: str) -> None:
        """Drops a formatting command and opens the group that it formats."""
        if name in ("begin", "end"):
            self.environment(name)
        elif name in _ARGUMENTS_DROPPED:
            self.drop(_ARGUMENTS_DROPPED[name])
            if name in _WRAPPERS:
                self.wrap("style")
        elif name in _TEXT:
            if not self.wrap("operatorname" if name == "operatorname" else "text"):
                self.out.append(" ")
        elif name in _STYLE:
            if not self.wrap("style"):
                self.out.append(" ")
        elif name in _SWITCHES:
            self.out.append(" ")
        else:
            self.out.append("\\" + name)

    def environment(self, name: str) -> None:
        match = _ENVIRONMENT.match(self.text, self.position)
        if match is None or match[1] not in _ENVIRONMENTS:
            self.out.append("\\" + name)
            return
        self.position = match.end()
        self.out.append(" ")

    def wrap(self, kind: str) -> bool:
        """Opens a group of the given kind when one follows; returns whether it did."""
        match = _GROUP.match(self.text, self.position)
        if match is None:
            return False
        self.position = match.end()
        if kind == "operatorname":
            kind = "text" if self.words else "\\operatorname"
        self.open.append((kind, len(self.out)))
        self.words += kind == "text"
        return True

    def drop(self, groups: int) -> None:
        """Skips the next `groups` groups."""
        if self.text.startswith("*", self.position):
            self.position += 1
        for _ in range(groups):
            match = _GROUP.match(self.text, self.position)
            if match is None:
                break
            depth, end = 1, match.end()
            while depth and (token := _TOKEN.match(self.text, end)) is not None:
                depth += {"{": 1, "}": -1}.get(token.group(), 0)
                end = token.end()
            if depth:
                break
            self.position = end
        self.out.append(" ")

    def close(self) -> None:
        """Closes the innermost group; an unmatched brace is kept."""
        if not self.open:
            self.out.append("}")
            return
        kind, start = self.open.pop()
        if kind == "":
            self.out.append("}")
            return
        content = "".join(self.out[start:])
        del self.out[start:]
        self.words -= kind == "text"
        before = self.out[-1].rstrip()[-1:] if self.out else ""
        if kind == "text":
            self.out.append(self.as_words(content))
        elif kind == "\\operatorname":
            self.out.append(rf"\operatorname{{{content}}}")
        elif before in ("^", "_"):
            self.out.append(f"{{{content}}}")
        else:
            self.out.append(" " + content)

    def as_words(self, content: str) -> str:
        """Marks a group of words; nested words are already marked, and mathematics among words is not."""
        if self.words or not self.mark_words:
            return content
        is_mathematics = "$" in content or re.search(r"\\[A-Za-z]++\s*+\{|\\\(", content) is not None
        return f" {content} " if is_mathematics else rf"\text{{{content}}}"
