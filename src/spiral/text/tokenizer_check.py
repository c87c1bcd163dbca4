r"""Whether a tokenizer holds what a model is asked, and what it may answer.

A tokenizer without a backslash in its vocabulary, or whose decoder is missing, plays a game that nobody can see: the
prompt is full of unknown tokens, or no reply can be read. Token ids are turned back into text and compared with what
went in, by words, case and punctuation; white space may change. A tokenizer that writes everything in lower case loses
little and is only warned of, as long as every legal action can still be read.
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
"""Actions of one position that are tried."""
_PIECES = re.compile(r"[^\W_]+|[^\w\s]|_")
WAY_OUT = "use the tokenizer that the model was trained with"


class Codec(Protocol):
    """What writes replies as token ids and reads them."""

    def encode_reply(self, text: str) -> IntArray:
        """[T] token ids of a reply."""

    def decode(self, token_ids: IntArray) -> str:
        """The text of token ids [T]."""


def check_tokenizer(tokenizer: Any, text: str) -> None:
    """Raises `ValueError` where token ids of `text` do not spell its words and punctuation."""
    ids = _ids(tokenizer, text)
    unknown = tokenizer.unk_token_id
    if unknown is not None and ids.count(unknown) > text.count(tokenizer.unk_token):
        raise ValueError(
            f"the tokenizer cannot write the prompt: {ids.count(unknown):,} of its {len(ids):,} tokens are"
            f" {tokenizer.unk_token!r}, which stands for {_unwritten(tokenizer, text)}; {WAY_OUT}"
        )
    asked, kept = _PIECES.findall(text), _PIECES.findall(_spelled(tokenizer, ids))
    if [piece.casefold() for piece in asked] == [piece.casefold() for piece in kept]:
        return
    pairs = enumerate(zip(asked, kept, strict=False))
    differing = [n for n, (was, became) in pairs if was.casefold() != became.casefold()]
    number = differing[0] if differing else min(len(asked), len(kept))
    said, read = (" ".join(pieces[number : number + 4])[:40] for pieces in (asked, kept))
    raise ValueError(
        f"the tokenizer does not hold the prompt: its token ids read {read!r} where the prompt says {said!r}, after"
        f" {number:,} of {len(asked):,} words and signs; {WAY_OUT}"
    )


def check_actions(codec: Codec, game: Game) -> None:
    """Raises `ValueError` where a legal action at the beginning of `game` cannot be written and read again."""
    for state, action in _early_actions(game):
        reply = f"\\boxed{{{action}}}"
        if parse_action(reply, state) != action:
            continue  # not the tokenizer's doing
        text = codec.decode(codec.encode_reply(reply))
        if (read := parse_action(text, state)) != action:
            what = "no legal action" if read is None else f"the action {read!r}"
            raise ValueError(
                f"the tokenizer does not hold the actions of {game.spec}: {reply!r} becomes {text[:60]!r}, which is"
                f" {what}; {WAY_OUT}"
            )


def tokenizer_warnings(tokenizer: Any, text: str) -> list[str]:
    """What a tokenizer that holds the words of `text` changes about them."""
    spelled = _spelled(tokenizer, _ids(tokenizer, text))
    found = []
    if _PIECES.findall(spelled) != _PIECES.findall(text):
        found.append("the tokenizer does not tell upper from lower case: the model sees the prompt in one of them")
    if spelled.count("\n") != text.count("\n"):
        found.append("the tokenizer loses the lines of the prompt: a board reaches the model as one line")
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Without a word about a length that is none of a prompt's."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def _spelled(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _unwritten(tokenizer: Any, text: str) -> str:
    """Some words or signs that the tokenizer does not know."""
    text = any_of(special_tokens(tokenizer).values()).sub(" ", text)
    known = {piece: tokenizer.unk_token_id not in _ids(tokenizer, piece)
             for piece in dict.fromkeys(_PIECES.findall(text))}  # fmt: skip
    unwritten = [repr(piece) for piece, is_known in known.items() if not is_known]
    return ", ".join(unwritten[:5]) + (f" and {len(unwritten) - 5} more" if len(unwritten) > 5 else "") or "spacing"


def _early_actions(game: Game) -> Iterator[tuple[State, str]]:
    """The first legal actions of the first decisions of a random game."""
    for state in first_decisions(game, random.Random(0)):
        for action in state.legal_actions()[:MAX_ACTIONS]:
            yield state, action
