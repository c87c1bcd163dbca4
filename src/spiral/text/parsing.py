r"""Reads the action of a reply: the content of the last `\boxed{}` of the answer.

What cannot be misread is forgiven. The parser ignores

- case, unless two legal actions differ only by it, and repeated, wide or non-breaking spaces;
- the formatting of LaTeX, Markdown, HTML and prose (`latex.latex_to_text`): fonts, colours, dollar signs, braces,
  emphasis, quotes of any kind, a final full stop, `\operatorname`, HTML entities, invisible characters, and letters,
  digits and signs in full width;
- brackets around the whole, however many: `[4]`, `((4))`, `<4>`, `\{4\}`, `【4】`;
- an exclamation mark, comma, colon or semicolon after a word (`check!`; after a number it could be mathematics);
- the shape of an arrow: `->`, `=>`, `-->`, `→`, `\rightarrow`, `\to`, and others.

Everything else is an illegal reply: an unclosed box, two actions in one box, a box inside thinking tags, words beside
the action (`cell 4`), another way to write a number (`04`, `4.0`, `+4`, `\frac{4}{1}`, `④`), or an action that is not
legal. A spelling that is itself a legal action is that action; only then is anything removed.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from typing import TypeVar

from spiral.games import State
from spiral.text.boxes import last_box
from spiral.text.latex import latex_to_text, strip_formatting
from spiral.text.thinking import split_reply

T = TypeVar("T")
SHORT = 200
"""Characters."""
MAX_CONTENT = 100_000
"""Characters. A longer box is illegal at once, because some games take minutes to reject it."""
MAX_LAYERS = 12
"""Pairs of brackets, quotes and emphasis that are removed around an action."""
_INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200c\u200d\u200e\u200f\u2061\u2062\u2063\ufe0e\ufe0f"))
"""Soft hyphens, joiners, direction marks and variation selectors. Overrides of direction stay: they reverse text."""
_OPERATOR_NAME = re.compile(r"\\operatorname\*?\s*\{([^{}]*)\}")
_ARROWS = re.compile(r"[-=\u2013\u2014\u2212]+\s?>|\\xrightarrow\s*\{\s*\}|[\u2799-\u27af\u27f9\u27fc\u2b62\u279c]")
_BRACKETS = {"[": "]", "(": ")", "{": "}", "<": ">", "\u3010": "\u3011", "\u300c": "\u300d", "\u27e8": "\u27e9"}
_QUOTES = "\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a\u00b4"
_EMPHASIS = re.compile(r"([*_~`]{1,3})(.+)\1", re.DOTALL)
_AFTER_A_WORD = re.compile(r"(?<=[^\W\d_])\s*[!,;:]+$")


def parse_action(reply: str, state: State) -> str | None:
    """The legal action that `reply` gives in `state`, or None when the reply is illegal.

    An action that the game lists is returned in the game's spelling. An action of a game with free text is returned
    as the reply spells it, and one of a `verbatim` state exactly as it stands in the box, lines included.
    """
    if state.is_terminal or state.is_chance:
        return None
    boxed, unclosed = _box(reply)
    if boxed is None:
        return None if unclosed is None else _ends_in_a_backslash(unclosed, state)
    if len(boxed) > MAX_CONTENT:
        return None
    if state.verbatim:
        return boxed.strip() if state.is_legal(boxed.strip()) else None
    candidates = _candidates(boxed)
    actions = _Actions(state.legal_actions())
    for content in candidates:
        if (action := actions.named(content)) is not None:
            return action
    return next((content for content in candidates if state.is_legal(content)), None)


def _kept_when_short(read: Callable[[str], T]) -> Callable[[str], T]:
    """The same function, which remembers what it found in short texts: small games see the same replies again."""
    kept = functools.lru_cache(maxsize=4096)(read)
    return lambda text: kept(text) if len(text) <= SHORT else read(text)


@_kept_when_short
def _box(reply: str) -> tuple[str | None, str | None]:
    """The content of the last box of the answer, or else the answer from a box on that is not closed."""
    answer = split_reply(reply).answer
    box = last_box(answer)
    if box is None:
        return None, None
    return box.content, answer[box.start :] if box.content is None else None


@_kept_when_short
def _candidates(boxed: str) -> tuple[str, ...]:
    """The spellings of an action that a box may mean, in the order in which they are tried."""
    texts = (strip_formatting(boxed, mark_words=False), latex_to_text(boxed), boxed)
    return tuple(dict.fromkeys([*(" ".join(text.split()) for text in texts), *_unwrapped(_plain(boxed))]))


def _ends_in_a_backslash(box: str, state: State) -> str | None:
    r"""The legal action of a box that is not closed since its brace seems escaped, as of Hive's action `bA1 wA3\`."""
    for action in state.legal_actions():
        if action.endswith("\\") and box.startswith(f"\\boxed{{{action}}}"):
            return action
    return None


class _Actions:
    """Legal actions by their spelling, and by their spelling without case where only one has it."""

    def __init__(self, legal: tuple[str, ...]) -> None:
        self.exact = {" ".join(action.split()): action for action in reversed(legal)}
        self.folded: dict[str, str | None] = {}
        for spelling, action in self.exact.items():
            folded = spelling.casefold()
            self.folded[folded] = None if folded in self.folded else action
        for spelling, action in self.exact.items():  # a reply may leave out the brackets of TextArena's actions
            if spelling.startswith("[") and spelling.endswith("]"):
                self.folded.setdefault(" ".join(spelling[1:-1].split()).casefold(), action)

    def named(self, content: str) -> str | None:
        """The action that `content` names, with or without one pair of square brackets; None when it names none."""
        inner = " ".join(content[1:-1].split()) if content.startswith("[") and content.endswith("]") else content
        for text in (content, inner):
            action = self.exact.get(text) or self.folded.get(text.casefold())
            if action is not None:
                return action
        return None


def _plain(boxed: str) -> str:
    """The content without LaTeX, entities and invisible characters, on one line, with every arrow as "->"."""
    text = latex_to_text(_OPERATOR_NAME.sub(r"\1", html.unescape(boxed).translate(_INVISIBLE)))
    return " ".join(_ARROWS.sub("->", text).split())


def _unwrapped(text: str) -> list[str]:
    """The text, then the text without its outermost pair of brackets, quotes or emphasis, and so on."""
    layers = [text]
    for _ in range(MAX_LAYERS):
        inner = _inside(text)
        if inner is None:
            break
        text = inner.strip()
        layers.append(text)
    return layers


def _inside(text: str) -> str | None:
    """The text without what stands around the whole of it; None when nothing does."""
    if text.startswith("\\{") and text.endswith("\\}"):
        return text[2:-2]
    if text[-1:] in (".", "\u3002") and not text.endswith(".."):
        return text[:-1]
    if (emphasis := _EMPHASIS.fullmatch(text)) is not None:
        return emphasis[2]
    closing = _BRACKETS.get(text[:1])
    if closing is not None and text.endswith(closing) and _is_one_group(text, text[0], closing):
        return text[1:-1]
    if len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES:
        return text[1:-1]
    shorter = _AFTER_A_WORD.sub("", text)
    return None if shorter == text else shorter


def _is_one_group(text: str, opening: str, closing: str) -> bool:
    """Whether the bracket that opens the text closes at its very end."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return position == len(text) - 1
    return False
