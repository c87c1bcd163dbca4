"""The special tokens and tags of a tokenizer, and patterns that find them in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The texts of a tokenizer's special tokens by their ids."""
    return {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}


def template_tags(tokenizer: Any) -> list[str]:
    """Added tokens like `<this>` that the chat template spells, though the tokenizer does not call them special."""
    template = str(tokenizer.chat_template or "")
    texts = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return [text for text in texts if text[:1] == "<" and text[-1:] == ">" and text in template]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest that fits."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
