"""From a prompt to token ids and from sampled ids back to text. The only place that encodes or decodes.

Prompts repeat (a game has few openings) and so do short replies, so both are kept in bounded caches.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from spiral.core.records import IntArray
from spiral.games import Game
from spiral.text.chat_template import QUESTION, REPLY, check_chat_template, check_kept, render_chat, takes_system
from spiral.text.examples import worked_example
from spiral.text.prompts import Example, PromptConfig, messages, plain_text, question
from spiral.text.thinking import (
    CHANNEL,
    MESSAGE_END,
    TURN_START,
    Thought,
    count_thinking_tokens,
    delimiter_pattern,
    delimiter_texts,
    opened_delimiter,
    split_reply,
    thinking_tokens,
    unknown_family,
    unknown_opening,
)
from spiral.text.thinking_switch import thinking_options
from spiral.text.tokenizer_check import check_actions, check_tokenizer
from spiral.text.tokens import any_of, special_tokens, template_tags
from spiral.text.turn_ends import end_tokens

CACHE_SIZE = 20_000
LONGEST_CACHED = 64
"""Replies of more tokens hardly ever come twice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedReply:
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

    def __init__(self, tokenizer: Any, config: PromptConfig, declared_ends: Collection[int] = ()) -> None:
        """Tries the template with a question.

        Args:
            tokenizer: a Hugging Face tokenizer.
            config: how games are put.
            declared_ends: ids that the model's generation configuration lists as ends of sequence.

        Raises:
            ValueError: the template is "chat" and the tokenizer has none, or its template fails, does not come to an
                end, loses what it is given, or does not open the model's turn; or the tokenizer cannot write English
                and games are put in words; or the template opens a thought though none is wanted.
        """
        if config.template == "chat" and not tokenizer.chat_template:
            raise ValueError(
                "prompt.template is 'chat', but this tokenizer has no chat template; expected an instruct model,"
                " or set prompt.template to 'qwen3', 'r1' or 'llama'"
            )
        self.tokenizer = tokenizer
        self.config = config
        if config.template == "chat":
            example = Example(observation="-", thought="", answer=REPLY) if config.example else None
            exchange = messages(QUESTION, config, example, system_role=self.system_role)
            check_chat_template(tokenizer, exchange, **self._options[config.thinking])
        self.ends = end_tokens(tokenizer, declared_ends)
        self.stop_ids = frozenset(end.id for end in self.ends)
        special, thinking = special_tokens(tokenizer), thinking_tokens(tokenizer)
        tokens = any_of({*special.values(), *template_tags(tokenizer)})
        self._special = re.compile(f"{tokens.pattern}|{delimiter_pattern()}")
        # Delimiters of thoughts belong to the text even where the tokenizer calls them special.
        unknown = unknown_family(self.opened)
        visible = {*thinking, *(unknown.delimiters if unknown else ())}
        if CHANNEL in thinking:
            visible.discard(MESSAGE_END)
        self._turn_start = tokenizer.get_vocab().get(TURN_START)
        self._hidden = {id_ for id_, text in special.items() if text not in visible} | self.stop_ids
        self._prompts: OrderedDict[tuple[Game | None, str] | str, IntArray] = OrderedDict()
        self._readings: OrderedDict[bytes, ParsedReply] = OrderedDict()
        self._held: set[Game | None] = set()
        if config.template == "chat" and not config.thinking and self.opened:
            raise ValueError(
                f"prompt.thinking is false, but the model's chat template opens a thought with {self.opened!r} all the"
                " same, and every reply would begin as one; set prompt.thinking to true (--thinking), or"
                " prompt.template to 'qwen3' or 'llama'"
            )
        if config.observation == "full":
            check_tokenizer(tokenizer, self._render(question(QUESTION, config)))

    @functools.cached_property
    def system_role(self) -> bool:
        """Whether the template takes a system message; otherwise a system prompt stands before the user's words."""
        return self.config.template != "chat" or takes_system(self.tokenizer)

    @property
    def opens_thinking(self) -> bool:
        """Whether the template's prompts end inside an opened thought, so that replies begin as thoughts."""
        return bool(self.opened)

    @property
    def reads_enable_thinking(self) -> bool:
        """Whether the chat template frames a question differently for models that are to think."""
        return self._chat(QUESTION, thinking=True) != self._chat(QUESTION, thinking=False)

    @functools.cached_property
    def opened(self) -> str:
        """The opening delimiter of the thought that the template's prompts end in; "" where they open none."""
        end = self._render(QUESTION).rpartition(QUESTION[-20:])[2]
        if (known := opened_delimiter(end)) or self.config.template != "chat":
            return known
        asked = {"role": "user", "content": "-"}
        exchange = [asked, {"role": "assistant", "content": REPLY}, asked]
        try:
            conversation = render_chat(self.tokenizer, exchange)
        except ValueError:  # a template may refuse such an exchange
            return ""
        places = {*self.tokenizer.get_vocab()} if REPLY in conversation else set()
        return unknown_opening(end, conversation, places) if places else ""

    def encode(self, observation: str, game: Game | None = None) -> IntArray:
        """[P] the ids of the whole prompt for one observation of `game`, ready for the model to go on.

        The game may be left out where the prompt shows no example of it; `ValueError` where it does, and where the
        tokenizer does not hold the first prompt or the first actions of a game.
        """
        key = (game, observation) if self.config.example else observation
        cached = self._prompts.get(key)
        if cached is None:
            prompt = self.render(observation, game)
            if game not in self._held:
                check_tokenizer(self.tokenizer, prompt)
            cached = self._tokenize(prompt)
            cached.flags.writeable = False
            _remember(self._prompts, key, cached)
        if game not in self._held:
            if game is not None:
                check_actions(self, game)
            self._held.add(game)
        return cached

    def render(self, observation: str, game: Game | None = None) -> str:
        """The prompt that `encode` makes token ids of.

        Special tokens, tags of the template and delimiters of thoughts come from the template only: a player who
        spells one gets a space. A player's own earlier thoughts are in no observation, so none are lost.
        """
        observation, example = self._special.sub(" ", observation), self._example(game)
        if example is None:
            return self._render(question(observation, self.config))
        fields = {name: self._special.sub(" ", text) for name, text in dataclasses.asdict(example).items()}
        return self._render(question(observation, self.config), Example(**fields))

    def encode_question(self, text: str) -> IntArray:
        """[P] the ids of a prompt that asks exactly `text`, in the same template: no instruction, no example."""
        return self._tokenize(self.render_question(text))

    def render_question(self, text: str) -> str:
        """The prompt that `encode_question` makes token ids of."""
        return self._render(self._special.sub(" ", text))

    def encode_reply(self, text: str) -> IntArray:
        """[T] the ids of a reply as the tokenizer spells it by itself, without an end of turn."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def decode(self, token_ids: IntArray) -> str:
        """The text of sampled ids [T], special tokens left out."""
        return self._decode(token_ids.tolist())

    def read(self, token_ids: IntArray) -> ParsedReply:
        """The text [T] of a reply, split into thinking and answer."""
        key = token_ids.tobytes()
        cached = self._readings.get(key)
        if cached is None:
            cached = self._read(token_ids.tolist())
            if len(token_ids) <= LONGEST_CACHED:
                _remember(self._readings, key, cached)
        return cached

    def _decode(self, token_ids: Sequence[int]) -> str:
        kept = [
            id_
            for place, id_ in enumerate(token_ids)
            if id_ not in self._hidden or (id_ == self._turn_start and self._begins_part(token_ids[place + 1 :]))
        ]
        return str(self.tokenizer.decode(kept))

    def _begins_part(self, token_ids: Sequence[int]) -> bool:
        """Whether what follows `TURN_START` says that a thought or an answer begins, as s1 does."""
        return str(self.tokenizer.decode(token_ids[:6])).startswith(("think", "answer"))

    def _read(self, token_ids: list[int]) -> ParsedReply:
        text = self._decode(token_ids)
        thought = split_reply(text, self.opened)
        return ParsedReply(
            text=text,
            answer=thought.answer,
            thinking_tokens=self._count(token_ids, thought),
            has_thought=bool(thought.thinking.strip()),
        )

    def _count(self, token_ids: list[int], thought: Thought) -> int:
        """Where every closing delimiter of the text is one token, the last of them is where the thinking ends."""
        closing, found = thought.closing, self._delimiter_ids.get(thought.closing)
        if found is not None and token_ids.count(found) == thought.head.count(closing):
            return len(token_ids) - token_ids[::-1].index(found)
        return count_thinking_tokens(token_ids, thought, self._decode)

    @functools.cached_property
    def _delimiter_ids(self) -> dict[str, int]:
        """The ids of whole delimiters that are one token."""
        known = self.tokenizer.get_vocab()
        return {text: known[text] for text in delimiter_texts() if text in known}

    def _example(self, game: Game | None) -> Example | None:
        """The game's example where one is shown."""
        if not self.config.example:
            return None
        if game is None:
            raise ValueError("prompt.example is true, but encode() got no game; expected the game of the observation")
        return worked_example(game, self.config)

    def _tokenize(self, prompt: str) -> IntArray:
        """Only the plain templates leave the beginning to the tokenizer."""
        plain = self.config.template != "chat"
        return np.asarray(self.tokenizer.encode(prompt, add_special_tokens=plain), dtype=np.int64)

    def _render(self, asked: str, example: Example | None = None) -> str:
        """The template around what is asked."""
        if self.config.template != "chat":
            return plain_text(asked, self.config, example)
        text = self._chat(asked, example, thinking=self.config.thinking)
        check_kept(asked, text)
        return text

    def _chat(self, asked: str, example: Example | None = None, *, thinking: bool) -> str:
        exchange = messages(asked, self.config, example, system_role=self.system_role)
        return render_chat(self.tokenizer, exchange, add_generation_prompt=True, **self._options[thinking])

    @functools.cached_property
    def _options(self) -> dict[bool, dict[str, Any]]:
        """How the template is told to think or not."""
        return {thinking: thinking_options(self.tokenizer, thinking=thinking) for thinking in (True, False)}


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Adds an entry, dropping the oldest beyond the cache's size."""
    cache[key] = value
    if len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
