"""From a prompt to token ids and from sampled ids back to text. The only place that encodes or decodes.

Prompts repeat (a game has few openings) and so do short replies, so both are kept in bounded caches.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import numpy as np

from spiral.games import Game
from spiral.records import IntArray
from spiral.text.examples import worked_example
from spiral.text.prompts import Example, Message, PromptConfig, messages, plain_text, question
from spiral.text.thinking import CLOSE, OPEN, Thought, count_thinking_tokens, split_reply

DATE = datetime.date(2024, 7, 26)
"""For templates that tell the date (Llama 3, whose own default this is): today's would change prompts every day."""
CACHE_SIZE = 20_000
LONGEST_CACHED = 64
"""Replies of more tokens hardly ever come twice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What a sampled reply says."""

    text: str
    answer: str
    """The part of the text that may hold an action."""
    thinking_tokens: int
    """How many of the sampled tokens come before the answer."""
    has_thought: bool
    """Whether there is more to the thinking than white space."""


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
        special = _special_tokens(tokenizer)
        self._special = _any_of({*special.values(), *_template_tags(tokenizer), OPEN, CLOSE})
        # Thinking tags belong to the text even where the tokenizer calls them special.
        self._hidden = {id_ for id_, text in special.items() if text not in (OPEN, CLOSE)}
        self._prompts: OrderedDict[tuple[Game | None, str] | str, IntArray] = OrderedDict()
        self._readings: OrderedDict[bytes, Reading] = OrderedDict()

    @functools.cached_property
    def opens_thinking(self) -> bool:
        """Whether the template's prompts end inside an opened thinking tag, so that replies begin as thoughts."""
        return self._render("-").rstrip().endswith(OPEN)

    @functools.cached_property
    def _close_id(self) -> int | None:
        """The id of the closing tag where it is one token."""
        found: int | None = self.tokenizer.get_vocab().get(CLOSE)
        return found

    def encode(self, observation: str, game: Game | None = None) -> IntArray:
        """[P] the ids of the whole prompt for one observation of `game`, ready for the model to go on.

        The game may be left out where the prompt shows no example of it; `ValueError` where it does.
        """
        key = (game, observation) if self.config.example else observation
        cached = self._prompts.get(key)
        if cached is None:
            cached = self._encode(observation, self._example(game))
            cached.flags.writeable = False
            _remember(self._prompts, key, cached)
        return cached

    def encode_question(self, text: str) -> IntArray:
        """[P] the ids of a prompt that asks exactly `text`, in the same template: no instruction, no example."""
        return self._tokenize(self._render(self._special.sub(" ", text)))

    def encode_reply(self, text: str) -> IntArray:
        """[T] the ids of a reply as the tokenizer spells it by itself, without an end of turn."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def decode(self, token_ids: IntArray) -> str:
        """The text of sampled ids [T], special tokens left out."""
        return self._decode(token_ids.tolist())

    def read(self, token_ids: IntArray) -> Reading:
        """The text [T] of a reply, split into thinking and answer."""
        key = token_ids.tobytes()
        cached = self._readings.get(key)
        if cached is None:
            cached = self._read(token_ids.tolist())
            if len(token_ids) <= LONGEST_CACHED:
                _remember(self._readings, key, cached)
        return cached

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([id_ for id_ in token_ids if id_ not in self._hidden]))

    def _read(self, token_ids: list[int]) -> Reading:
        text = self._decode(token_ids)
        thought = split_reply(text, self.opens_thinking)
        return Reading(
            text=text,
            answer=thought.answer,
            thinking_tokens=self._count(token_ids, thought),
            has_thought=bool(thought.thinking.strip()),
        )

    def _count(self, token_ids: list[int], thought: Thought) -> int:
        """Where every closing tag of the text is one token, the last of them is where the thinking ends."""
        tags = thought.head.count(CLOSE)
        if thought.closed and tags and self._close_id is not None and token_ids.count(self._close_id) == tags:
            return len(token_ids) - token_ids[::-1].index(self._close_id)
        return count_thinking_tokens(token_ids, thought, self._decode)

    def _example(self, game: Game | None) -> Example | None:
        """The game's example where one is shown."""
        if not self.config.example:
            return None
        if game is None:
            raise ValueError("prompt.example is true, but encode() got no game; expected the game of the observation")
        return worked_example(game, self.config)

    def _encode(self, observation: str, example: Example | None) -> IntArray:
        """Template and example in front; only the plain templates leave the beginning to the tokenizer."""
        return self._tokenize(self._render_game(observation, example))

    def _tokenize(self, prompt: str) -> IntArray:
        plain = self.config.template != "chat"
        return np.asarray(self.tokenizer.encode(prompt, add_special_tokens=plain), dtype=np.int64)

    def _render_game(self, observation: str, example: Example | None) -> str:
        """The prompt's text.

        Special tokens, tags of the template and thinking tags come from the template only: a player who spells one
        gets a space. A seat's own earlier thoughts are in no observation, so none are lost.
        """
        observation = self._special.sub(" ", observation)
        if example is None:
            return self._render(question(observation, self.config))
        fields = {name: self._special.sub(" ", text) for name, text in dataclasses.asdict(example).items()}
        example = Example(**fields)
        return self._render(question(observation, self.config), example)

    def _render(self, asked: str, example: Example | None = None) -> str:
        """The template around what is asked."""
        if self.config.template != "chat":
            return plain_text(asked, self.config, example)
        # Templates of models that think or not on request (Qwen3) read `enable_thinking`; others ignore it.
        exchange = messages(asked, self.config, example)
        return _chat_text(self.tokenizer, exchange, add_generation_prompt=True, enable_thinking=self.config.thinking)


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    """The texts of a tokenizer's special tokens by their ids."""
    return {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}


def turn_end_id(tokenizer: Any) -> int | None:
    """The first special token that the chat template puts after an assistant's message; None where there is none."""
    if not tokenizer.chat_template:
        return None
    said = "5e1f7a"  # what no template has around it
    exchange = [{"role": "user", "content": "-"}, {"role": "assistant", "content": said}]
    try:
        text = _chat_text(tokenizer, exchange)
    except (jinja2.TemplateError, TypeError, ValueError):  # a template may refuse such an exchange
        return None
    ids = {token: id_ for id_, token in _special_tokens(tokenizer).items()}
    found = _any_of(ids).search(text, text.rfind(said) + len(said)) if said in text else None
    return ids[found[0]] if found else None


def _chat_text(tokenizer: Any, exchange: Sequence[Message], **options: bool) -> str:
    """The text that the tokenizer's own template makes of an exchange, the same on every day."""
    return str(
        tokenizer.apply_chat_template(
            exchange, tokenize=False, date_string=DATE.strftime("%d %b %Y"), strftime_now=DATE.strftime, **options
        )
    )


def _template_tags(tokenizer: Any) -> list[str]:
    """Added tokens like `<this>` that the chat template spells, though the tokenizer does not call them special."""
    template = str(tokenizer.chat_template or "")
    texts = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return [text for text in texts if text[:1] == "<" and text[-1:] == ">" and text in template]


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest that fits."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Adds an entry, dropping the oldest beyond the cache's size."""
    cache[key] = value
    if len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
