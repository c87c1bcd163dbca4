"""Finds the tokens that end a reply, from the model, its tokenizer and its chat template.

A turn ends with the tokenizer's end of sequence, with the ends that `generation_config.json` declares, and with the
token that the chat template writes after an answer. A template that writes nothing there (GLM) ends a turn with the
token that begins the next one. Tokens that belong inside a reply never end it: thinking tags, channels, the beginning
of a text, ordinary words.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

from spiral.text.chat_template import common_end, render_chat
from spiral.text.thinking import MESSAGE_END, thinking_tokens
from spiral.text.tokens import any_of, special_tokens, template_tags, vocabulary

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>")
"""Ends of turns in our plain templates and in base models, whose chat templates may not mention them."""
ASKED, SAID, ASKED_AGAIN = "7c30d1", "5e1f7a", "b8a2f4"
"""Contents of trial messages; no template writes such words itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndToken:
    """One token that ends a reply."""

    id: int
    text: str
    reason: str


def end_tokens(tokenizer: Any, declared: Collection[int] = ()) -> tuple[EndToken, ...]:
    """The tokens that end a reply, in order of their ids; empty when nothing says how a turn ends.

    Args:
        tokenizer: A Hugging Face tokenizer.
        declared: The ids that the model's `generation_config.json` or `config.json` lists as ends of sequence.
    """
    known = vocabulary(tokenizer)
    reasons: dict[int, str] = {}
    if tokenizer.eos_token_id is not None:
        reasons[tokenizer.eos_token_id] = "the tokenizer's end of sequence"
    for id_, reason in _template_ends(tokenizer).items():
        reasons.setdefault(id_, reason)
    for id_ in sorted(set(declared) - set(ignored_ends(tokenizer, declared))):
        reasons.setdefault(id_, "declared by the model's generation configuration")
    for text in TURN_ENDS:
        if text in known:
            reasons.setdefault(known[text], "a usual end of a turn")
    if not reasons:  # a token that also ends thoughts is better than none
        reasons |= _template_ends(tokenizer, closes_thoughts=True)
    texts = {id_: text for text, id_ in known.items()}
    return tuple(EndToken(id=id_, text=texts.get(id_, ""), reason=reasons[id_]) for id_ in sorted(reasons))


def answer_end(tokenizer: Any, text: str | None = None) -> int | None:
    """The token with which a model ends its answer, as training text is written; None when nothing says how.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: What a plain template puts after a reply; None takes what the tokenizer's chat template puts there. Where
            neither is a token, the tokenizer's end of sequence.
    """
    if text is not None:
        known: int | None = vocabulary(tokenizer).get(text.strip(), tokenizer.eos_token_id)
        return known
    first: int | None = next(iter(_template_ends(tokenizer)), tokenizer.eos_token_id)
    return first


def ignored_ends(tokenizer: Any, declared: Collection[int]) -> tuple[int, ...]:
    """Declared ends that do not end a reply: thinking tags, ordinary words, and ids that the tokenizer lacks.

    The default of a configuration (`eos_token_id` 2) is often an ordinary word in the model's tokenizer.
    """
    ends = {token: id_ for id_, token in special_tokens(tokenizer).items()}
    inner = _inner_tokens(tokenizer)
    ignored = []
    for id_ in sorted(set(declared) - {tokenizer.eos_token_id}):
        text = tokenizer.convert_ids_to_tokens(id_) if 0 <= id_ < len(tokenizer) else None
        if text is None or text in inner or not (text in ends or _is_tag(text)):
            ignored.append(id_)
    return tuple(ignored)


def stop_token_ids(tokenizer: Any, declared: Collection[int] = ()) -> frozenset[int]:
    """The ids of `end_tokens`; empty when nothing says how a turn ends."""
    return frozenset(end.id for end in end_tokens(tokenizer, declared))


def _template_ends(tokenizer: Any, *, closes_thoughts: bool = False) -> dict[int, str]:
    """Ids of the ends of turns in the chat template, with the reason.

    Empty when there is no template or it refuses the trial exchange. Tokens that also close thoughts count only with
    `closes_thoughts`.
    """
    if not tokenizer.chat_template:
        return {}
    exchange = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    special = {token: id_ for id_, token in special_tokens(tokenizer).items()}
    marks = special | {tag: tokenizer.convert_tokens_to_ids(tag) for tag in template_tags(tokenizer)}
    inner = _inner_tokens(tokenizer) - ({MESSAGE_END} if closes_thoughts else set())
    ends: dict[int, str] = {}
    last = _render(tokenizer, exchange)
    found = any_of(special).search(last, last.rfind(SAID) + len(SAID)) if SAID in last else None
    if found is not None and found[0] not in inner:
        ends[special[found[0]]] = "the chat template puts it after an answer"
    conversation = _render(tokenizer, [*exchange, {"role": "user", "content": ASKED_AGAIN}])
    if not all(text in conversation for text in (ASKED, SAID, ASKED_AGAIN)):
        return ends
    first, _, rest = conversation.partition(ASKED)
    answering, _, following = rest.partition(SAID)
    between = following.partition(ASKED_AGAIN)[0]
    header = len(common_end(first, between))
    opened = re.match(rf"\s*({any_of(special).pattern})", between)
    # When another token ends the last answer, a token here ends another kind of message.
    if found is None and opened is not None and opened[1] not in inner:
        begins_turn = opened.end() > len(between) - header
        more = any_of(special).search(between, opened.end()) is not None
        if not begins_turn or (more and answering.lstrip().startswith(opened[1])):
            ends[special[opened[1]]] = "the chat template puts it between an answer and the next turn"
    for match in any_of(marks).finditer(between):
        if marks[match[0]] in {*ends, tokenizer.eos_token_id}:
            break
        if match[0] in first and match[0] not in answering and match[0] not in inner:
            ends[marks[match[0]]] = "the chat template begins the user's turn with it"
            break
    return ends


def _inner_tokens(tokenizer: Any) -> frozenset[str]:
    """Tokens that occur inside replies or at the beginning of a conversation."""
    beginning = {tokenizer.bos_token} - {tokenizer.eos_token, None}
    return thinking_tokens(tokenizer) | beginning


def _is_tag(token: str) -> bool:
    return len(token) > 2 and token[0] + token[-1] in ("<>", "[]")


def _render(tokenizer: Any, exchange: list[dict[str, str]]) -> str:
    try:
        return render_chat(tokenizer, exchange)
    except ValueError:  # a template may refuse such an exchange
        return ""
