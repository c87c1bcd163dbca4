"""From a prompt to token ids and from sampled ids back to text. The only place that calls a tokenizer.

Prompts repeat (a game has few openings), so encoded prompts are kept in a bounded cache.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np

from spiral.records import IntArray
from spiral.text.prompts import PromptConfig, messages, plain_text

CACHE_SIZE = 20_000


class ChatCodec:
    """A tokenizer with a prompt template: observations in, token ids out, and sampled ids back to text."""

    def __init__(self, tokenizer: Any, config: PromptConfig) -> None:
        """Raises `ValueError` when the template "chat" is asked of a tokenizer that has none."""
        if config.template == "chat" and not tokenizer.chat_template:
            raise ValueError(
                "prompt.template is 'chat', but this tokenizer has no chat template; expected an instruct model,"
                " or set prompt.template to 'qwen3', 'r1' or 'llama'"
            )
        self.tokenizer = tokenizer
        self.config = config
        special = [re.escape(str(token)) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(special) or "(?!)")
        self._prompts: OrderedDict[str, IntArray] = OrderedDict()
        self._texts: OrderedDict[bytes, str] = OrderedDict()

    def encode(self, observation: str) -> IntArray:
        """[P] the ids of the whole prompt for one observation, ready for the model to go on."""
        cached = self._prompts.get(observation)
        if cached is None:
            cached = self._encode(observation)
            cached.flags.writeable = False
            _remember(self._prompts, observation, cached)
        return cached

    def decode(self, token_ids: IntArray) -> str:
        """The text of a reply, special tokens left out."""
        key = token_ids.tobytes()
        cached = self._texts.get(key)
        if cached is None:
            cached = str(self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))
            _remember(self._texts, key, cached)
        return cached

    def _encode(self, observation: str) -> IntArray:
        """Special tokens come from the template and the tokenizer only: a player who spells one gets a space."""
        observation = self._special.sub(" ", observation)
        if self.config.template == "chat":
            # Templates of models that think or not on request (Qwen3) read `enable_thinking`; others ignore it.
            text = self.tokenizer.apply_chat_template(
                messages(observation, self.config),
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=self.config.thinking,
            )
            ids = self.tokenizer.encode(text, add_special_tokens=False)
        else:
            ids = self.tokenizer.encode(plain_text(observation, self.config), add_special_tokens=True)
        return np.asarray(ids, dtype=np.int64)


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Adds an entry, dropping the oldest beyond the cache's size."""
    cache[key] = value
    if len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
