"""Encodes prompts as token ids and decodes sampled ids. No other module calls the tokenizer on prompts and replies.

Prompts repeat, because a game has few openings, and short replies repeat too. Both are kept in bounded caches.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from spiral.core.records import IntArray, Turn
from spiral.games import Game
from spiral.text.chat_template import (
    QUESTION,
    REPLY,
    can_render,
    check_chat_template,
    check_history,
    check_kept,
    continuation,
    render_chat,
    takes_system,
)
from spiral.text.examples import worked_example
from spiral.text.history import answer_text, questions
from spiral.text.prompts import (
    PLAIN,
    Example,
    Message,
    PromptConfig,
    has_talk,
    messages,
    plain_continuation,
    plain_conversation,
    plain_text,
    question,
)
from spiral.text.thinking import (
    CHANNEL,
    CLOSE,
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
from spiral.text.tokens import any_of, special_tokens, template_tags, vocabulary
from spiral.text.turn_ends import answer_end, end_tokens

CACHE_SIZE = 20_000
"""Entries of each cache."""
MAX_CACHED_TOKENS = 64
"""Longer replies hardly ever repeat, so they are not cached."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedReply:
    """A sampled reply, split into its parts."""

    text: str
    answer: str
    """The part of the text that can hold an action."""
    thinking_tokens: int
    """Number of sampled tokens before the answer."""
    has_thought: bool
    """Whether the thinking holds more than white space."""


class ChatCodec:
    """A tokenizer with a prompt template: encodes observations and decodes sampled ids."""

    def __init__(self, tokenizer: Any, config: PromptConfig, declared_ends: Collection[int] = ()) -> None:
        """Checks the tokenizer and its template with a trial question.

        Args:
            tokenizer: A Hugging Face tokenizer.
            config: The prompt settings.
            declared_ends: Ids that the model's generation configuration lists as ends of sequence.

        Raises:
            ValueError: The template is "chat" and the tokenizer has none. Or the tokenizer's template fails, does not
                finish, loses part of the question, or does not open the model's turn. Or the template opens a thought
                although `config.thinking` is false. Or observations are in words that the tokenizer cannot encode.
        """
        if config.template == "chat" and not tokenizer.chat_template:
            raise ValueError(
                "prompt.template is 'chat', but this tokenizer has no chat template; use an instruct model,"
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
        # Delimiters of thoughts are part of the text, even when they are special tokens.
        unknown = unknown_family(self.opened)
        visible = {*thinking, *(unknown.delimiters if unknown else ())}
        if CHANNEL in thinking:
            visible.discard(MESSAGE_END)
        self._foreign = any_of(text for text in special.values() if text not in visible)
        self._turn_start = vocabulary(tokenizer).get(TURN_START)
        self._hidden = {id_ for id_, text in special.items() if text not in visible} | self.stop_ids
        self._prompts: OrderedDict[tuple[Game | None, str] | str, IntArray] = OrderedDict()
        self._replies: OrderedDict[bytes, ParsedReply] = OrderedDict()
        self._continuations: OrderedDict[str, IntArray] = OrderedDict()
        self._checked_games: set[Game | None] = set()
        if config.template == "chat" and not config.thinking and self.opened:
            raise ValueError(
                f"prompt.thinking is false, but the model's chat template always opens a thought with {self.opened!r},"
                " so every reply would begin inside one; set prompt.thinking to true (--thinking), or set"
                " prompt.template to 'qwen3' or 'llama'"
            )
        if config.history == "chat" and config.template == "chat":
            self._check_history()
        if config.observation == "full":
            check_tokenizer(tokenizer, self._render(question(QUESTION, config)))

    @functools.cached_property
    def system_role(self) -> bool:
        """Whether the template takes a system message; if not, a system prompt goes before the user's first words."""
        return self.config.template != "chat" or takes_system(self.tokenizer)

    @property
    def opens_thinking(self) -> bool:
        """Whether prompts end inside a thought, so that replies begin inside one."""
        return bool(self.opened)

    @property
    def reads_enable_thinking(self) -> bool:
        """Whether `prompt.thinking` changes what the chat template writes around a question."""
        return self._chat(QUESTION, thinking=True) != self._chat(QUESTION, thinking=False)

    @functools.cached_property
    def opened(self) -> str:
        """The opening delimiter of the thought that prompts end in; "" when they open none."""
        end = self._render(QUESTION).rpartition(QUESTION[-20:])[2]
        if (known := opened_delimiter(end)) or self.config.template != "chat":
            return known
        user = {"role": "user", "content": "-"}
        exchange = [user, {"role": "assistant", "content": REPLY}, user]
        try:
            conversation = render_chat(self.tokenizer, exchange)
        except ValueError:  # a template may refuse such an exchange
            return ""
        tokens = {*vocabulary(self.tokenizer)} if REPLY in conversation else set()
        return unknown_opening(end, conversation, tokens) if tokens else ""

    def encode(self, observation: str, game: Game | None = None) -> IntArray:
        """The token ids [P] of the whole prompt for an observation; the model's reply follows directly.

        Args:
            observation: What the player sees.
            game: The game of the observation, by which the instruction asks for an action or for a message or action.
                Required when the prompt shows a worked example.

        Raises:
            ValueError: `game` is missing but required, or the tokenizer loses part of the first prompt or of the first
                actions of a game.
        """
        talk = game is not None and has_talk(game)
        key = (game, observation) if self.config.example or talk else observation
        cached = self._prompts.get(key)
        if cached is None:
            prompt = self.render(observation, game)
            if game not in self._checked_games:
                check_tokenizer(self.tokenizer, prompt)
            cached = self._tokenize(prompt)
            cached.flags.writeable = False
            _remember(self._prompts, key, cached)
        if game not in self._checked_games:
            if game is not None:
                check_actions(self, game)
            self._checked_games.add(game)
        return cached

    def encode_in_chat(
        self, history: Sequence[Turn], observation: str, game: Game | None, max_tokens: int
    ) -> tuple[IntArray, int | None]:
        """The prompt of a turn after the player's earlier turns, with as many of them as fit.

        The oldest turns are left out first, each with its question and its reply. The first message always holds a
        whole observation. Without earlier turns the prompt is that of `encode`.

        Args:
            history: The player's earlier turns of the episode, in order.
            observation: What the player sees now.
            game: The game.
            max_tokens: Tokens that a prompt with earlier turns may have.

        Returns:
            The token ids [P], and the number of earlier turns in them; None where `prompt.history` wants none.
        """
        if self.config.history != "chat":
            return self.encode(observation, game), None
        prompts: dict[int, IntArray] = {}

        def fits(left_out: int) -> bool:
            if left_out < len(history):
                prompts[left_out] = self._encode_turns(history[left_out:], observation, game)
                return len(prompts[left_out]) <= max_tokens
            return True

        left_out = 0 if fits(0) else bisect.bisect_left(range(len(history)), True, lo=1, key=fits)
        if left_out >= len(history):
            return self.encode(observation, game), 0
        return prompts[left_out], len(history) - left_out

    def render(self, observation: str, game: Game | None = None) -> str:
        """The prompt that `encode` encodes, as text.

        Special tokens, tags of the template and delimiters of thoughts come from the template only; in an observation
        each is replaced by a space, because a player may have written it. Observations hold no earlier thoughts, so
        nothing is lost.
        """
        example = self._clean_example(game)
        return self._render(question(self._clean(observation), self.config, game), example, game)

    def encode_question(self, text: str) -> IntArray:
        """The token ids [P] of a prompt with exactly `text` as the question, without instruction or example."""
        return self._tokenize(self.render_question(text))

    def render_question(self, text: str) -> str:
        """The prompt that `encode_question` encodes, as text."""
        return self._render(self._clean(text))

    def with_thinking(self, thinking: bool) -> ChatCodec:
        """The same tokenizer and template, asked to think or to answer at once.

        Raises:
            ValueError: The template always opens a thought, and `thinking` is false.
        """
        if thinking == self.config.thinking:
            return self
        config = self.config.model_copy(update={"thinking": thinking})
        return ChatCodec(self.tokenizer, config, [end.id for end in self.ends])

    def encode_chat(self, exchange: Sequence[Message]) -> IntArray:
        """The token ids [P] of the prompt for the reply to a conversation.

        A conversation of one question has the same prompt as `encode_question`. Special tokens in the messages are
        replaced by spaces, as in observations.

        Args:
            exchange: Messages of the roles system (only the first), user and assistant, the last one the user's.
                Without a system message the settings' own goes first.

        Raises:
            ValueError: The roles are in another order, or the model's chat template fails with them.
        """
        roles = [message["role"] for message in exchange]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or any(role != ("user", "assistant")[index % 2] for index, role in enumerate(turns)):
            raise ValueError(
                f"got messages of the roles {', '.join(roles) or 'none'}; expected system or none, then user and"
                " assistant in turn"
            )
        if turns[-1] != "user":
            raise ValueError("the last message is the assistant's; expected the user's, to which the model replies")
        config = self.config
        clean = [{"role": m["role"], "content": self._clean(m["content"])} for m in exchange]
        if config.template != "chat":
            return self._tokenize(plain_conversation(clean, config))
        system = clean.pop(0)["content"] if roles[0] == "system" else config.system
        if system is not None and self.system_role:
            clean.insert(0, {"role": "system", "content": system})
        elif system is not None:
            clean[0] = {"role": "user", "content": f"{system}\n\n{clean[0]['content']}".lstrip()}
        text = render_chat(self.tokenizer, clean, add_generation_prompt=True, **self._options[config.thinking])
        check_kept(clean[-1]["content"], text)
        return self._tokenize(text)

    def encode_reply(self, text: str) -> IntArray:
        """The token ids [T] of a reply by itself, without an end of turn."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)

    def encode_turn(self, text: str) -> IntArray:
        """The token ids [T] of a reply with the token that ends the turn, as the model would have sampled them.

        Special tokens in the text, other than delimiters of thoughts, are replaced by spaces.
        """
        reply = self.encode_reply(self._foreign.sub(" ", text))
        return np.append(reply, self.end_id)

    @functools.cached_property
    def end_id(self) -> int:
        """The token that ends the model's turn in this template; one of `stop_ids`.

        Raises:
            ValueError: The model has no token that ends a reply.
        """
        plain = PLAIN[self.config.template][1] if self.config.template != "chat" else None
        found = answer_end(self.tokenizer, plain)
        if found in self.stop_ids:
            return int(found)
        if not self.stop_ids:
            raise ValueError("the model has no token that ends a reply; expected an eos_token in its tokenizer")
        return min(self.stop_ids)

    def decode(self, token_ids: IntArray) -> str:
        """The text of sampled ids [T] without special tokens."""
        return self._decode(token_ids.tolist())

    def read(self, token_ids: IntArray) -> ParsedReply:
        """Decodes the ids [T] of a reply and splits it into thinking and answer."""
        key = token_ids.tobytes()
        cached = self._replies.get(key)
        if cached is None:
            cached = self._read(token_ids.tolist())
            if len(token_ids) <= MAX_CACHED_TOKENS:
                _remember(self._replies, key, cached)
        return cached

    def _decode(self, token_ids: Sequence[int]) -> str:
        kept = [
            id_
            for index, id_ in enumerate(token_ids)
            if id_ not in self._hidden or (id_ == self._turn_start and self._begins_part(token_ids[index + 1 :]))
        ]
        return str(self.tokenizer.decode(kept))

    def _begins_part(self, token_ids: Sequence[int]) -> bool:
        """Whether the ids after `TURN_START` begin a thought or an answer, as in s1."""
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
        """Number of tokens before the answer.

        When every closing delimiter in the text is a single token, the thinking ends with the last of these tokens.
        """
        closing, found = thought.closing, self._delimiter_ids.get(thought.closing)
        if found is not None and token_ids.count(found) == thought.head.count(closing):
            return len(token_ids) - token_ids[::-1].index(found)
        return count_thinking_tokens(token_ids, thought, self._decode)

    @functools.cached_property
    def _delimiter_ids(self) -> dict[str, int]:
        """Delimiters that are a single token, with their ids."""
        known = vocabulary(self.tokenizer)
        return {text: known[text] for text in delimiter_texts() if text in known}

    def _encode_turns(self, history: Sequence[Turn], observation: str, game: Game | None) -> IntArray:
        """The prompt after all turns of a history, of which there is at least one."""
        first, *later = questions(history, observation, self.config, game, clean=self._clean)
        if self.config.history_thoughts == "keep":
            parts = [self.encode(history[0].observation, game)]
            for turn, text in zip(history, later, strict=True):
                parts += [self._sampled(turn), self._continuation(text)]
            return np.concatenate(parts)
        answers = [self._clean(answer_text(turn, self.opened)) for turn in history]
        if self.config.template != "chat":
            thoughtless = f"{CLOSE}\n" if self.opened else ""
            text = self.render(history[0].observation, game)
            for answer, question_ in zip(answers, later, strict=True):
                text += thoughtless + answer + plain_continuation(question_, self.config)
            return self._tokenize(text)
        exchange = self._messages(first, self._clean_example(game), game)
        for answer, question_ in zip(answers, later, strict=True):
            exchange += [{"role": "assistant", "content": answer}, {"role": "user", "content": question_}]
        text = render_chat(self.tokenizer, exchange, add_generation_prompt=True, **self._options[self.config.thinking])
        for message in exchange:
            check_kept(message["content"], text, "reply" if message["role"] == "assistant" else message["role"])
        return self._tokenize(text)

    def _sampled(self, turn: Turn) -> IntArray:
        """The tokens of an earlier reply as they were sampled, without the one that ended it."""
        if turn.generation is None:
            return self.encode_reply(turn.reply)
        ids = turn.generation.token_ids
        return ids[:-1] if len(ids) and int(ids[-1]) in self.stop_ids else ids

    def _continuation(self, user_text: str) -> IntArray:
        """The token ids between a reply and the next one, with a further question between them."""
        cached = self._continuations.get(user_text)
        if cached is None:
            text = self._continuation_text(user_text)
            # Some tokenizers write a word differently where a text begins.
            before, whole = self.encode_reply(REPLY), self.encode_reply(REPLY + text)
            apart = whole[: len(before)].tolist() == before.tolist()
            cached = whole[len(before) :] if apart else self.encode_reply(text)
            _remember(self._continuations, user_text, cached)
        return cached

    def _continuation_text(self, user_text: str) -> str:
        if self.config.template != "chat":
            return plain_continuation(user_text, self.config)
        return continuation(self.tokenizer, self._asked, user_text, **self._options[self.config.thinking])

    @functools.cached_property
    def _asked(self) -> list[Message]:
        """A question before a reply, without the system prompt: some templates repeat that in later questions."""
        asked: list[Message] = [{"role": "user", "content": "-"}]
        taken = can_render(self.tokenizer, asked, add_generation_prompt=True, **self._options[self.config.thinking])
        return asked if taken else self._messages("-")

    def _check_history(self) -> None:
        """Raises `ValueError` when the chat template cannot write a conversation as the settings want it."""
        exchange = self._messages("Question 1.")
        for number in (1, 2):
            exchange.append({"role": "assistant", "content": f"{REPLY}, reply {number}."})
            exchange.append({"role": "user", "content": f"Question {number + 1}."})
        check_history(self.tokenizer, exchange, **self._options[self.config.thinking])
        if self.config.history_thoughts == "keep":
            options = self._options[self.config.thinking]
            later = [*self._asked, {"role": "assistant", "content": "Reply 1."}, {"role": "user", "content": "Again."}]
            if self._continuation_text(QUESTION) != continuation(self.tokenizer, later, QUESTION, **options):
                raise ValueError(
                    "prompt.history_thoughts is 'keep', but the model's chat template writes a question otherwise when"
                    " more turns precede it, so a prompt cannot go on from the one before; set it to 'drop'"
                )

    def _clean(self, text: str) -> str:
        """A text in which special tokens, tags of the template and delimiters of thoughts are replaced by spaces."""
        return self._special.sub(" ", text)

    def _clean_example(self, game: Game | None) -> Example | None:
        example = self._example(game)
        if example is None:
            return None
        return Example(**{name: self._clean(text) for name, text in dataclasses.asdict(example).items()})

    def _example(self, game: Game | None) -> Example | None:
        if not self.config.example:
            return None
        if game is None:
            raise ValueError("prompt.example is true, but encode() got no game; pass the game of the observation")
        return worked_example(game, self.config)

    def _tokenize(self, prompt: str) -> IntArray:
        # A chat template writes the beginning of the text itself; for plain templates the tokenizer does.
        plain = self.config.template != "chat"
        return np.asarray(self.tokenizer.encode(prompt, add_special_tokens=plain), dtype=np.int64)

    def _render(self, user_text: str, example: Example | None = None, game: Game | None = None) -> str:
        if self.config.template != "chat":
            return plain_text(user_text, self.config, example, game)
        text = self._chat(user_text, example, game, thinking=self.config.thinking)
        check_kept(user_text, text)
        return text

    def _chat(self, user_text: str, example: Example | None = None, game: Game | None = None, *, thinking: bool) -> str:
        exchange = self._messages(user_text, example, game)
        return render_chat(self.tokenizer, exchange, add_generation_prompt=True, **self._options[thinking])

    def _messages(self, user_text: str, example: Example | None = None, game: Game | None = None) -> list[Message]:
        return messages(user_text, self.config, example, game=game, system_role=self.system_role)

    @functools.cached_property
    def _options(self) -> dict[bool, dict[str, Any]]:
        """Template variables that ask for thinking (True) and for an answer at once (False)."""
        return {thinking: thinking_options(self.tokenizer, thinking=thinking) for thinking in (True, False)}


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Adds an entry and drops the oldest one when the cache is full."""
    cache[key] = value
    if len(cache) > CACHE_SIZE:
        cache.popitem(last=False)
