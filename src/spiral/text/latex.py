r"""LaTeX without its dress: fonts, colours, sizes, frames, spaces and tags say nothing about what is written.

`undress` keeps the mathematics and marks words as `\text{...}`; answers are read from there. `plain_text` goes on to
what a person would type, on one line and without a full stop, for moves and the verifiers of seeded problems:
`\text{offer: 2 wood} \to \textbf{1 gold}` is "offer: 2 wood -> 1 gold". Commands that are unknown here stay, so nothing
is guessed. Both are linear in the length of the text and take any text.
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
"""Their argument is words."""
_STYLE = frozenset(
    re.findall(
        r"\S+",
        "mathbf mathit mathsf mathcal mathbb mathfrak mathscr mathbold mathbfit boldsymbol bold bm pmb symbf symit "
        "symrm ensuremath displaylines underline uline boxed fbox framebox makebox bbox mathbin "
        "mathrel mathord mathpunct",
    )
)
"""Their argument is mathematics, or text in a box."""
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
"""How many of a command's arguments say nothing."""
_WRAPPERS = frozenset(("textcolor", "colorbox", "fcolorbox", "scalebox", "raisebox", "resizebox"))
"""Of those the commands whose next argument is what is shown."""
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
def undress(text: str, *, mark_words: bool = True) -> str:
    r"""`text` without dress; spaces and dollar signs stay, and words in `\text{...}` if `mark_words`."""
    return _Undressing(text, mark_words).whole() if "\\" in text else text


@functools.lru_cache(maxsize=8192)
def plain_text(text: str) -> str:
    """What `text` says, as a person would type it."""
    text = _ARROWS.sub("->", undress(text, mark_words=False).translate(_WIDE))
    text = _DELIMITERS.sub(" ", text)
    text = _DOLLARS.sub(r"\1", text)
    text = _SPACES.sub(" ", text)
    text = _SIGN.sub(lambda match: _SIGNS[match[1]], text)
    if _COMMAND.search(text) is None:  # braces around the arguments of what stays have a meaning
        text = _BRACES.sub(lambda match: match[1] or "", text)
    return bare(text)


def typed_lines(text: str) -> str:
    r"""The lines of `text` as a person would type them, with `\frac{1}{2}` as 1/2 and `2 \times x^{3}` as 2*x**3.

    `\\` ends a line as well.
    """
    text = _DOLLARS.sub(r"\1", _DELIMITERS.sub(" ", undress(_unwrapped(text), mark_words=False)))
    for _ in range(4):
        text = _FRACTION.sub(lambda match: f"{_operand(match[1])}/{_operand(match[2])}", text)
    text = _TIMES.sub("*", text)
    text = _POWER.sub(r"**\1\2", text)
    lines = (plain_text(line) for line in text.replace(r"\\", "\n").split("\n"))
    return "\n".join(line for line in lines if line)


def _operand(text: str) -> str:
    """What stands above or below a fraction, in brackets where it needs them."""
    return text if re.fullmatch(r"[\w.]*", text) else f"({text})"


def bare(text: str) -> str:
    """On one line, without quotes or marks of emphasis around all of it and without a full stop at its end."""
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
    """What stands between two quotes, if nothing but that is there."""
    size = len(opening)
    is_quoted = len(text) > 2 * size and text.startswith(opening) and text.endswith(closing)
    inner = text[size:-size] if is_quoted else ""
    return "" if opening in inner or closing in inner else inner


class _Undressing:
    """One text read from left to right, with the groups that are open on a stack."""

    def __init__(self, text: str, mark_words: bool) -> None:
        self.text = text
        self.mark_words = mark_words
        self.place = 0
        self.out: list[str] = []
        self.open: list[tuple[str, int]] = []
        """The command whose group it is, empty for a bare one, and where in `out` it begins."""
        self.words = 0
        """How many of them are words."""

    def whole(self) -> str:
        while (match := _TOKEN.match(self.text, self.place)) is not None:
            self.place = match.end()
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
        """Drops a command that is dress, and opens the group that it dresses."""
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
        match = _ENVIRONMENT.match(self.text, self.place)
        if match is None or match[1] not in _ENVIRONMENTS:
            self.out.append("\\" + name)
            return
        self.place = match.end()
        self.out.append(" ")

    def wrap(self, kind: str) -> bool:
        """Opens a group of its own kind, if one follows."""
        match = _GROUP.match(self.text, self.place)
        if match is None:
            return False
        self.place = match.end()
        if kind == "operatorname":
            kind = "text" if self.words else "\\operatorname"
        self.open.append((kind, len(self.out)))
        self.words += kind == "text"
        return True

    def drop(self, groups: int) -> None:
        """Skips the next groups."""
        if self.text.startswith("*", self.place):
            self.place += 1
        for _ in range(groups):
            match = _GROUP.match(self.text, self.place)
            if match is None:
                break
            depth, place = 1, match.end()
            while depth and (token := _TOKEN.match(self.text, place)) is not None:
                depth += {"{": 1, "}": -1}.get(token.group(), 0)
                place = token.end()
            if depth:
                break
            self.place = place
        self.out.append(" ")

    def close(self) -> None:
        """Ends the group that is open; a brace too many stays."""
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
        """Words within words are words already; mathematics within words is mathematics."""
        if self.words or not self.mark_words:
            return content
        is_mathematics = "$" in content or re.search(r"\\[A-Za-z]++\s*+\{|\\\(", content) is not None
        return f" {content} " if is_mathematics else rf"\text{{{content}}}"
