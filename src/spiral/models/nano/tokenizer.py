"""The tokenizer of the built-in model: bytes, and one token for every word of the native games and their variants.

Any text can be written in bytes; the words of the compact observations and of the replies have their own tokens, so
that a position of tic-tac-toe is five tokens and a reply is two. A row of the board of 5 x 5 is two tokens, of three
and of two cells: with a token a cell the model hardly learned which are free. Longer words win over shorter ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spiral.games.simple_negotiation import BASE_VALUES, VALUE_LIMITS
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
MAX_HELD = 50
"""Two players of the negotiation hold at most 25 pieces of a resource each."""
CELLS = 25
"""Cells of the largest board that the model plays, 5 x 5."""
ROW = 5


def words() -> list[str]:
    """Every word that is one token, in a fixed order."""
    boards = [f"{game}:{mark}:" for game in ("tictactoe", "connect_four") for mark in "XO"]
    boards += [f"tictactoe 5x5 4 in a row:{mark}:" for mark in "XO"]
    rows = ["".join(cells) + "|" for row in (0, 3, 6) for cells in product(*(f"{row + i}XO" for i in range(3)))]
    for start in range(0, CELLS, ROW):
        cells = [(str(cell), "X", "O") for cell in range(start, start + ROW)]
        rows += ["".join(f"{cell} " for cell in part) for part in product(*cells[:3])]
        rows += [" ".join(part) + " |" for part in product(*cells[3:])]
    cards = [f"{game}:{card}:" for game in ("kuhn_poker", "leduc_poker") for card in "JQK"]
    cards += [f"kuhn_poker 5 cards:{card}:" for card in "9TJQK"]
    poker = ["check", "bet", "call", "fold", "raise"]
    matches = ["kuhn_poker:hand ", "kuhn_poker 5 cards:hand ", ":you ", ":first:", ":second:"]
    numbers = [f"{number} " for number in range(MAX_HELD + 1)] + [str(cell) for cell in range(CELLS)]
    trade = ["simple_negotiation:turn ", "/10:gain ", ":gain ", "offer none", "offer ", "offer: ", " -> ", ", "]
    values = [f" at {value}:" for value in range(VALUE_LIMITS[0], VALUE_LIMITS[1] + 1)]
    goods = [text for name in BASE_VALUES for text in (name, f"{name}}}")]
    answers = ["accept", "deny", "pass"]
    short = [str(cell) for cell in range(CELLS)] + poker + answers
    boxed = ["\\boxed{", "\\boxed{offer: ", *(f"\\boxed{{{action}}}" for action in short)]
    thought = [THINK_MARK, THINK_OPEN, THINK_CLOSE, MAYBE]
    return [*thought, *boards, *rows, *cards, *poker, *matches, *numbers, *trade, *values, *goods, *answers, *boxed]


def build_tokenizer(vocabulary: Iterable[str] | None = None) -> Any:
    """The tokenizer, with its chat template, as a Hugging Face fast tokenizer; by default with the words of `nano`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END, REPLY])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in dict.fromkeys(vocabulary or words())])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
