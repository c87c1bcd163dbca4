r"""Checks that a tokenizer can encode and decode prompts and actions without loss.

A tokenizer without a backslash in its vocabulary, or without a decoder, fails silently: the prompt is full of unknown
tokens, or no reply can be read. The check decodes the ids of a prompt and compares words, case and punctuation; white
space may change. A tokenizer that writes everything in lower case loses little, so it only causes a warning as long as
every legal action can be read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, Protocol

from spiral.core.records import IntArray
from spiral.games import Game, State
from spiral.text.examples import first_decisions
from spiral.text.parsing import parse_action
from spiral.text.tokens import any_of, special_tokens

MAX_ACTIONS = 64
"""Actions that are tried in one position."""
_PIECES = re.compile(r"[^\W_]+|[^\w\s]|_")
FIX = "use the tokenizer that the model was trained with"


class Codec(Protocol):
    """Encodes and decodes replies."""

    def encode_reply(self, text: str) -> IntArray:
        """The token ids [T] of a reply."""

    def decode(self, token_ids: IntArray) -> str:
        """The text of token ids [T]."""


def check_tokenizer(tokenizer: Any, text: str) -> None:
    """Raises `ValueError` when the token ids of `text` do not decode to its words and punctuation."""
    ids = _ids(tokenizer, text)
    unknown = tokenizer.unk_token_id
    if unknown is not None and ids.count(unknown) > text.count(tokenizer.unk_token):
        raise ValueError(
            f"the tokenizer cannot encode the prompt: {ids.count(unknown):,} of its {len(ids):,} tokens are"
            f" {tokenizer.unk_token!r}, in place of {_unknown_pieces(tokenizer, text)}; {FIX}"
        )
    given, decoded = _PIECES.findall(text), _PIECES.findall(_decode(tokenizer, ids))
    if [piece.casefold() for piece in given] == [piece.casefold() for piece in decoded]:
        return
    pairs = enumerate(zip(given, decoded, strict=False))
    differing = [n for n, (was, became) in pairs if was.casefold() != became.casefold()]
    number = differing[0] if differing else min(len(given), len(decoded))
    before, after = (" ".join(pieces[number : number + 4])[:40] for pieces in (given, decoded))
    raise ValueError(
        f"the tokenizer loses part of the prompt: its token ids decode to {after!r} where the prompt says {before!r},"
        f" after {number:,} of {len(given):,} words and signs; {FIX}"
    )


def check_actions(codec: Codec, game: Game) -> None:
    """Raises `ValueError` when a legal action early in `game` cannot be encoded, decoded and parsed again."""
    for state, action in _early_actions(game):
        reply = f"\\boxed{{{action}}}"
        if parse_action(reply, state) != action:
            continue  # the game cannot parse its own action; the tokenizer is not at fault
        text = codec.decode(codec.encode_reply(reply))
        if (read := parse_action(text, state)) != action:
            what = "no legal action" if read is None else f"the action {read!r}"
            raise ValueError(
                f"the tokenizer loses actions of {game.spec}: {reply!r} decodes to {text[:60]!r}, which is {what};"
                f" {FIX}"
            )


def tokenizer_warnings(tokenizer: Any, text: str) -> list[str]:
    """Warnings about case and lines, for a tokenizer that keeps the words of `text`."""
    decoded = _decode(tokenizer, _ids(tokenizer, text))
    found = []
    if _PIECES.findall(decoded) != _PIECES.findall(text):
        found.append("the tokenizer does not distinguish upper and lower case, so the model sees only one of them")
    if decoded.count("\n") != text.count("\n"):
        found.append("the tokenizer loses the line breaks of the prompt, so the model sees a board as one line")
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    # verbose=False: the text is not a prompt, so a warning about its length would be wrong.
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _unknown_pieces(tokenizer: Any, text: str) -> str:
    """Some words or signs that the tokenizer does not know, for a message."""
    text = any_of(special_tokens(tokenizer).values()).sub(" ", text)
    known = {piece: tokenizer.unk_token_id not in _ids(tokenizer, piece)
             for piece in dict.fromkeys(_PIECES.findall(text))}  # fmt: skip
    unknown = [repr(piece) for piece, is_known in known.items() if not is_known]
    return ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "") or "spacing"


def _early_actions(game: Game) -> Iterator[tuple[State, str]]:
    """Legal actions of the first decisions of a random game, with their states."""
    for state in first_decisions(game, random.Random(0)):
        for action in state.legal_actions()[:MAX_ACTIONS]:
            yield state, action
