r"""One turn of simple negotiation as a player writes it: an action, and words for the other player.

The action comes first and the words after a full stop ("offer: 3 wood -> 2 ore. I need ore badly."), or the action
stands in square brackets among the words, as in TextArena. Words alone are a turn without an action.

What cannot be misread is read: "3 sheep and 2 ore", plurals, "I offer ...", "for" instead of the arrow after the word
"offer", the common arrows ("->", "=>", "\rightarrow" and Unicode's), the arrow without the word "offer". What could be
read in two ways is refused with the reason: two actions, an offer with an unknown resource or without numbers, an
acceptance with a condition, a misspelt action, or "yes" where an offer waits for an answer.
"""

from __future__ import annotations

import difflib
import functools
import re
from typing import NamedTuple

ANSWERS = ("accept", "deny", "pass")
MAX_REMEMBERED = 100
"""Characters. Shorter turns are read once and remembered, as random play repeats them."""
MAX_WORDS = 300
"""Number of characters of a turn's words that the other player receives."""


class Offer(NamedTuple):
    """Numbers of pieces, one for each resource of the game: what the speaker gives, and what it asks for."""

    give: tuple[int, ...]
    ask: tuple[int, ...]

    def text(self, resources: tuple[str, ...]) -> str:
        """The action in its one spelling, such as "offer: 3 sheep, 2 ore -> 5 brick"."""
        return f"offer: {goods_text(self.give, resources)} -> {goods_text(self.ask, resources)}"


class UnclearTurnError(ValueError):
    """A text that is not one turn; the message says why."""


def goods_text(numbers: tuple[int, ...], resources: tuple[str, ...]) -> str:
    """Such as "3 sheep, 2 ore"; resources of which there are none are left out."""
    return ", ".join(f"{number} {name}" for number, name in zip(numbers, resources, strict=True) if number)


def read_turn(text: str, resources: tuple[str, ...], *, answering: bool) -> tuple[str | Offer, str]:
    """The action of a turn, and its words.

    Args:
        text: What the player wrote.
        resources: The names of the game's resources.
        answering: Whether an offer stands that the player must answer.

    Returns:
        The action, one of `ANSWERS` or an offer, and the words that go with it, at most `MAX_WORDS` characters. Words
        without an action are a pass, or deny the offer that stands. Whether the rules allow the action is not checked.

    Raises:
        UnclearTurnError: The text has no action and no words, or it can be read in more than one way.
    """
    return (_remembered if len(text) <= MAX_REMEMBERED else _read)(text, resources, answering)


def _read(text: str, resources: tuple[str, ...], answering: bool) -> tuple[str | Offer, str]:
    reader = _reader(resources)
    text = _ARROWS.sub(" -> ", " ".join(text.split())).strip()
    while text.startswith("[") and text.endswith("]") and not set(text[1:-1]) & set("[]"):
        text = text[1:-1].strip()
    found = reader.bracketed(text) or reader.first(text)
    if found is None:
        return ("deny" if answering else "pass"), reader.words_alone(text, answering=answering)[:MAX_WORDS]
    action, words = found
    words = words if any(character.isalnum() for character in words) else ""
    reader.check_words(action, words)
    return action, words[:MAX_WORDS]


_remembered = functools.lru_cache(maxsize=8192)(_read)

_ARROWS = re.compile(
    r"\s*(?:[-=]{1,2}>|- >|\\(?:rightarrow|to|longrightarrow|Rightarrow|implies)(?![A-Za-z])"
    r"|[\u2192\u21d2\u27f6\u2794\u27a1]\ufe0f?)\s*"
)
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_ANSWER = re.compile(
    r"(?:i\s+)?(accept|deny|pass)(?:\s+(?:it|(?:the|your|this|that)\s+(?:offer|trade|deal)))?(?![\w'])\s*",
    re.IGNORECASE | re.ASCII,
)
_AFTER_OFFER = re.compile(r"[.!?;:(\u2013\u2014]|-(?!>)")
_AFTER_ANSWER = re.compile(r"[.!?;:,(\u2013\u2014]|-(?!>)")
"""What may stand between an action and the words after it. A comma after an offer could go on with it."""
_CLAUSE = re.compile(r"[.!;:()]")
_CONDITION = re.compile(r"\W*(?:but|if|only|provided|unless|when|once|after)\b", re.IGNORECASE)
_AGREEMENT = re.compile(r"\b(?:accept\w*|agree\w*|deal|yes|yeah|ok|okay|sure|fine|done|sold)\b", re.IGNORECASE)
"""Words that may be meant to accept an offer."""
_ATTEMPT = re.compile(r"->|<-|[\[\]\\]|\boffer\w*\s*:|\boffer\w*\b[^.!?;]*\d", re.IGNORECASE)
"""What looks like an action although it could not be read as one."""


class _Reader:
    """The patterns for a set of resources."""

    def __init__(self, resources: tuple[str, ...]) -> None:
        self._names = resources
        self._index = {name: kind for kind, name in enumerate(resources)}
        piece = rf"[0-9]{{1,9}}\s*(?:pieces?\s+of\s+)?(?:{'|'.join(resources)})s?\b"
        goods = rf"{piece}(?:\s*(?:,\s*and\b|,|\+|&|\band\b)\s*{piece})*"
        flags = re.IGNORECASE | re.ASCII
        self._piece = re.compile(rf"([0-9]{{1,9}})\s*(?:pieces?\s+of\s+)?({'|'.join(resources)})s?\b", flags)
        self._offer = re.compile(
            rf"(?:(?P<named>(?:i\s+)?offer\s*:?\s*(?:i\s+(?:give|offer)\s+)?)(?P<give>{goods})\s*(?:->|\bfor\b)"
            rf"|(?P<bare>{goods})\s*->)\s*(?P<ask>{goods})\s*",
            flags,
        )

    def action(self, text: str) -> tuple[str | Offer, int] | None:
        """The action at the beginning of `text`, and where it ends."""
        if (answer := _ANSWER.match(text)) is not None:
            return answer[1].lower(), answer.end()
        if (offer := self._offer.match(text)) is None:
            return None
        give, ask = self._numbers(offer["give"] or offer["bare"]), self._numbers(offer["ask"])
        return Offer(give, ask), offer.end()

    def first(self, text: str) -> tuple[str | Offer, str] | None:
        """The action at the beginning of a turn, and the words after it; None when it does not begin with one."""
        found = self.action(text)
        if found is None:
            return None
        action, rest = found[0], text[found[1] :]
        after = _AFTER_OFFER if isinstance(action, Offer) else _AFTER_ANSWER
        if rest and after.match(rest) is None:
            return None
        return action, rest.lstrip(".!?;:,-\u2013\u2014 ")

    def bracketed(self, text: str) -> tuple[str | Offer, str] | None:
        """The one action in square brackets, and the words around it; None when no brackets hold an action."""
        found = []
        for match in _BRACKETS.finditer(text):
            if (turn := self.first(match[1].strip())) is not None:
                words = (text[: match.start()], turn[1], text[match.end() :])
                found.append((turn[0], " ".join(" ".join(words).split())))
        if len(found) > 1:
            raise UnclearTurnError("it holds two actions; a turn is one action")
        return found[0] if found else None

    def check_words(self, action: str | Offer, words: str) -> None:
        """Raises `UnclearTurnError` when the words hold another action, or take back the first."""
        if action == "accept" and _CONDITION.match(words):
            raise UnclearTurnError("it accepts under a condition; accept, deny, or make the offer that you want")
        clauses = _CLAUSE.split(words)
        exact = any(self._is_action(clause.strip(" ,")) for clause in clauses if not clause.rstrip().endswith("?"))
        longer = isinstance(action, Offer) and words[:1].isdigit()
        if exact or longer or "->" in words or re.search(r"\boffer\s*:?\s*\d", words, re.IGNORECASE):
            raise UnclearTurnError("it holds two actions; a turn is one action and then words without another")

    def words_alone(self, text: str, *, answering: bool) -> str:
        """The words of a turn without an action. Raises `UnclearTurnError` when they could be meant as one."""
        if _ATTEMPT.search(text) or self._is_goods(text):
            raise UnclearTurnError(
                f"it is not a complete offer; write it as 'offer: 3 {self._names[0]} -> 2 {self._names[1]}', with"
                f" resources out of {', '.join(self._names)}"
            )
        opening = re.split(r"[^a-z]+", text.casefold().lstrip(), maxsplit=1)[0]
        if opening in ANSWERS:
            raise UnclearTurnError(f"it goes on after {opening!r}; put a full stop between the action and your words")
        words = re.findall(r"[^\W\d_]{2,}", text)
        if not words:
            raise UnclearTurnError("it has neither an action nor words")
        near = difflib.get_close_matches(words[0].casefold(), (*ANSWERS, "offer"), n=1, cutoff=0.75)
        if near and (len(words) <= 2 or re.search(r"\d", text)):
            raise UnclearTurnError(f"did you mean {near[0]!r}?")
        if answering and _AGREEMENT.search(text):
            raise UnclearTurnError("it may or may not be an answer to the offer; begin with accept or deny")
        return text

    def _is_action(self, text: str) -> bool:
        found = self.action(text)
        return found is not None and found[1] == len(text)

    def _is_goods(self, text: str) -> bool:
        """Whether a text names goods and nothing else, as in "3 wood for 2 ore"."""
        rest, count = self._piece.subn(" ", text)
        return count > 0 and not set(re.findall(r"[a-z]+", rest.casefold())) - {"for", "and", "to", "of", "i", "my"}

    def _numbers(self, goods: str) -> tuple[int, ...]:
        numbers = [0] * len(self._index)
        for number, name in self._piece.findall(goods):
            if int(number) == 0:
                raise UnclearTurnError("every number in an offer must be at least 1")
            numbers[self._index[name.lower()]] += int(number)
        return tuple(numbers)


@functools.lru_cache(maxsize=16)
def _reader(resources: tuple[str, ...]) -> _Reader:
    return _Reader(resources)
