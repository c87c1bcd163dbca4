"""The special tokens and template tags of a tokenizer, and a pattern that finds any of several texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

_VOCABULARIES: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()


def vocabulary(tokenizer: Any) -> Mapping[str, int]:
    """The ids of all tokens by their texts, built once per tokenizer: transformers takes 0.1 s for a large one."""
    known = _VOCABULARIES.get(tokenizer)
    if known is None or len(known) != len(tokenizer):  # tokens were added
        known = _VOCABULARIES[tokenizer] = tokenizer.get_vocab()
    return known


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The texts of a tokenizer's special tokens, by id."""
    return {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}


def template_tags(tokenizer: Any) -> list[str]:
    """Added tokens like `<this>` that the chat template writes, special or not."""
    template = str(tokenizer.chat_template or "")
    texts = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return [text for text in texts if text[:1] == "<" and text[-1:] == ">" and text in template]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of the texts, the longest one first."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
