"""Splitting replies into thinking and answer, and counting thinking tokens."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiral.games import load_game
from spiral.models.nano.tokenizer import END, build_tokenizer
from spiral.text import ChatCodec, PromptConfig, Thought, parse_action, split_reply
from spiral.text.thinking import count_thinking_tokens

TOKENIZER = build_tokenizer()
KUHN = load_game("kuhn_poker").initial_state().apply("J").apply("Q")
BET = "\\boxed{bet}"


def codec(tokenizer=TOKENIZER, **config):
    return ChatCodec(tokenizer, PromptConfig(**{"observation": "compact", **config}))


def without_token():
    """A codec that does not know that the closing tag is one token, so it has to search."""
    searching = codec()
    searching._delimiter_ids = {}
    return searching


def thought(head, answer, closed=True):
    return Thought(head=head, answer=answer, closed=closed)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        # Tags of the reply's own.
        (f"<think>Check?</think>\n{BET}", thought("<think>Check?</think>", f"\n{BET}")),
        (f"<think></think>{BET}", thought("<think></think>", BET)),
        ("<think>\n\n</think>\n\n", thought("<think>\n\n</think>", "\n\n")),
        (f"Hm. <think>{BET}</think>none", thought(f"Hm. <think>{BET}</think>", "none")),
        (f"<think>a</think>b<think>c</think>{BET}", thought("<think>a</think>b<think>c</think>", BET)),
        (f"<think>{BET}", thought(f"<think>{BET}", "", closed=False)),
        (f"<think>a</think>{BET}<think>", thought(f"<think>a</think>{BET}<think>", "", closed=False)),
        (f"a</think>{BET}", thought("a</think>", BET)),
        # None.
        (f"I bet. {BET}", thought("I bet. ", BET)),
        (f"{BET}, no: \\boxed{{check}}.", thought(f"{BET}, no: ", "\\boxed{check}.")),
        (BET, thought("", BET)),
        ("\\boxed{be", thought("", "\\boxed{be")),
        ("I bet.", thought("I bet.", "", closed=False)),
        ("", thought("", "", closed=False)),
        (f"<thinker>{BET}", thought("<thinker>", BET)),
    ],
)
def test_where_a_reply_is_split(reply, expected):
    assert split_reply(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f"Check?</think>{BET}", thought("Check?</think>", BET)),
        (f"\n</think>{BET}", thought("\n</think>", BET)),
        (f"Check? {BET}", thought(f"Check? {BET}", "", closed=False)),
        ("", thought("", "", closed=False)),
        # A model that opens the tag again all the same.
        (f"<think>a</think>{BET}", thought("<think>a</think>", BET)),
    ],
)
def test_where_a_reply_is_split_after_a_prompt_that_opens_a_thought(reply, expected):
    assert split_reply(reply, opened=True) == expected


def test_the_thinking_is_the_head_without_tags():
    assert split_reply(f"<think>Check? {BET}</think>{BET}").thinking == f"Check? {BET}"
    assert split_reply("<think>\n\n</think>4").thinking == "\n\n"
    assert split_reply(f"Check? {BET}").thinking == "Check? "
    assert split_reply("Check?", opened=True).thinking == "Check?"


PIECES = st.sampled_from(["<think>", "</think>", "\\boxed{", "}", BET, "\n", "bet", "<", "think>", "é", "🂡"])
REPLIES = st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join)


@settings(max_examples=100, deadline=None)
@given(reply=REPLIES, opened=st.booleans())
def test_head_and_answer_make_up_the_reply(reply, opened):
    split = split_reply(reply, opened)
    assert split.head + split.answer == reply
    for tag in ("<think>", "</think>"):  # except where it is spoken of, after the answer or in quotes
        before = split.answer.partition(tag)[0]
        assert tag not in split.answer or "\\boxed{" in before or before[-1:] in tuple("`'\"")
    assert split.closed or not split.answer
    if not ("<think>" in reply or "</think>" in reply or opened):
        assert split.closed == ("\\boxed{" in reply)


@settings(max_examples=100, deadline=None)
@given(reply=REPLIES, opened=st.booleans())
def test_splitting_is_stable(reply, opened):
    split = split_reply(reply, opened)
    assert split_reply(split.head + split.answer, opened) == split
    assert parse_action(split.answer, KUHN) == parse_action(split_reply(split.answer).answer, KUHN)
    if not opened:
        assert parse_action(reply, KUHN) == parse_action(split.answer, KUHN)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        (f"<think>check</think>{BET}", "bet"),
        (f"<think>\\boxed{{check}}</think>{BET}", "bet"),
        (f"<think>{BET}</think>", None),
        (f"<think>{BET}</think>bet", None),
        (f"<think>{BET}", None),
        (f"{BET}</think>", None),
        (f"{BET}<think>", None),
        (f"</think>{BET}", "bet"),
    ],
)
def test_only_a_box_in_the_answer_counts(reply, action):
    assert parse_action(reply, KUHN) == action


# Tokens.


def encoded(text):
    return np.asarray(TOKENIZER.encode(text, add_special_tokens=False), dtype=np.int64)


@pytest.mark.parametrize(
    ("reply", "tokens", "has_thought"),
    [
        # In the built-in tokenizer each tag, "maybe " and a boxed action of poker is one token, other text is bytes.
        (f"<think>maybe bet</think>{BET}{END}", 4, True),
        (f"<think></think>{BET}{END}", 2, False),
        (f"<think>\n</think>{BET}{END}", 3, False),
        (f"<think>é</think>{END}", 4, True),
        (f"<think>maybe bet{END}", 4, True),
        (f"ab{BET}{END}", 2, True),
        (f"🂡{BET}{END}", 4, True),
        (f" \n{BET}{END}", 2, False),
        (f"{BET}{END}", 0, False),
        (f"{BET}{BET}", 1, True),
        (f"ab{END}", 3, True),
        (END, 1, False),
        (f"a</think>b</think>{BET}", 4, True),
        ("", 0, False),
    ],
)
def test_tokens_before_the_answer(reply, tokens, has_thought):
    for reader in (codec(), without_token()):
        reading = reader.read(encoded(reply))
        assert (reading.thinking_tokens, reading.has_thought) == (tokens, has_thought)
        assert reading.text == reply.replace(END, "")
        assert reading.answer == split_reply(reading.text).answer


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        (("a<", "/think>", BET), 9),
        # The last closing tag counts, whichever way it is spelled.
        (("<think>a</think>", "<", "/think>", BET), 11),
        (("<", "/think>b", "</think>", BET), 10),
    ],
)
def test_a_tag_of_several_tokens(pieces, tokens):
    ids = np.concatenate([encoded(piece) for piece in pieces])
    reading = codec().read(ids)
    assert reading.thinking_tokens == tokens
    assert reading.answer == BET


TOKENS = st.one_of(
    st.sampled_from([int(id_) for text in ("<think>", "</think>", BET, "\\boxed{", END) for id_ in encoded(text)]),
    st.integers(0, len(TOKENIZER) - 1),
)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(TOKENS, max_size=12), opens=st.booleans())
def test_thinking_tokens_are_the_shortest_prefix_with_the_head(ids, opens):
    reader = codec(template="r1" if opens else "chat")
    reading = reader.read(np.array(ids, dtype=np.int64))
    split = split_reply(reading.text, opens)
    assert (reading.text, reading.answer) == (reader._decode(ids), split.answer)
    covering = [count for count in range(len(ids) + 1) if reader._decode(ids[:count]).startswith(split.head)]
    assert reading.thinking_tokens == (covering[0] if split.closed else len(ids))
    assert count_thinking_tokens(ids, split, reader._decode) == reading.thinking_tokens


def test_thinking_tokens_are_found_in_few_steps():
    calls = []

    def decode(ids):
        calls.append(len(ids))
        return "a" * min(len(ids), 3000) + BET[: max(0, len(ids) - 3000)]

    split = split_reply("a" * 3000 + BET)
    assert count_thinking_tokens([0] * 3012, split, decode) == 3000
    assert len(calls) <= 12


def test_special_thinking_tags_stay_in_the_text():
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert tokenizer.added_tokens_decoder[tokenizer.convert_tokens_to_ids("</think>")].special
    reading = codec(tokenizer).read(encoded(f"<think>maybe bet</think>{BET}{END}"))
    assert reading.text == f"<think>maybe bet</think>{BET}"
    assert reading.thinking_tokens == 4


# Prompts that open the tag.


@pytest.mark.parametrize(
    ("template", "thinking", "opens"),
    [("chat", True, False), ("qwen3", True, False), ("llama", True, False), ("r1", True, True), ("r1", False, False)],
)
def test_which_prompts_open_a_thought(template, thinking, opens):
    assert codec(template=template, thinking=thinking).opens_thinking is opens


def test_a_chat_template_may_open_or_close_the_thought():
    tokenizer = copy.deepcopy(TOKENIZER)
    # As Qwen3-Thinking and the R1 distills open it, and as Qwen3 shuts it when it is asked not to think.
    tokenizer.chat_template = (
        "{{ messages[0].content }}<|reply|>{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}"
    )
    assert codec(tokenizer, thinking=True).opens_thinking
    assert not codec(tokenizer, thinking=False).opens_thinking
    ids = encoded(f"maybe bet</think>{BET}{END}")
    assert codec(tokenizer, thinking=True).read(ids).thinking_tokens == 3
    unclosed = codec(tokenizer, thinking=True).read(encoded(f"maybe bet {BET}{END}"))
    assert (unclosed.answer, unclosed.thinking_tokens) == ("", 5)
    assert codec(tokenizer, thinking=False).read(encoded(f"maybe {BET}{END}")).answer == BET


def test_long_replies_are_not_cached(monkeypatch):
    reader = codec()
    monkeypatch.setattr("spiral.text.chat.MAX_CACHED_TOKENS", 3)
    for text, kept in (("abc", 1), ("abcd", 1), ("abc", 1), ("ab", 2)):
        assert reader.read(encoded(text)).text == text
        assert len(reader._replies) == kept
