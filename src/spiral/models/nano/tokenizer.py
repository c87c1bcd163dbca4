"""The tokenizer of the built-in model: bytes, and one token for every word of the five games.

Any text can be written in bytes; the words of the compact observations and of the replies have their own tokens, so
that a position of tic-tac-toe is ten tokens and a reply is two. Longer words win over shorter ones.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spiral.text.prompts import THINK_MARK

PAD, END, REPLY = "<|pad|>", "<|end|>", "<|reply|>"
THINK_OPEN, THINK_CLOSE, MAYBE = "<think>", "</think>", "maybe "
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|reply|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|reply|>' }}{% endif %}"
)
MAX_HELD = 24
"""Two players of the negotiation hold at most twelve of a resource each."""


def words() -> list[str]:
    """Every word that is one token, in a fixed order."""
    boards = [f"{game}:{mark}:" for game in ("tictactoe", "connect_four") for mark in "XO"]
    rows = ["".join(cells) + "|" for row in (0, 3, 6) for cells in product(*(f"{row + i}XO" for i in range(3)))]
    cards = [f"{game}:{card}:" for game in ("kuhn_poker", "leduc_poker") for card in "JQK"]
    poker = ["check", "bet", "call", "fold", "raise"]
    matches = ["kuhn_poker:hand ", ":you ", ":first:", ":second:"]
    trade = ["simple_negotiation:turn ", ":they ", ":value ", ":offer ", "none", "/10:you ", "accept", "deny", "pass"]
    held = [f"{count}{resource}" for resource in "wg" for count in range(MAX_HELD + 1)]
    offers = [
        text
        for count in range(1, MAX_HELD + 1)
        for text in (f"offer: {count} wood", f"offer: {count} gold", f" -> {count} wood", f" -> {count} gold")
    ]
    short = [str(cell) for cell in range(9)] + poker + ["accept", "deny", "pass"]
    boxed = ["\\boxed{", *(f"\\boxed{{{action}}}" for action in short)]
    thought = [THINK_MARK, THINK_OPEN, THINK_CLOSE, MAYBE]
    return [*thought, *boards, *rows, *cards, *poker, *matches, *trade, *held, *offers, *boxed]


def build_tokenizer() -> Any:
    """The tokenizer, with its chat template, as a Hugging Face fast tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END, REPLY])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in dict.fromkeys(words())])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
