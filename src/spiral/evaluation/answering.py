"""A model answers questions outside of games, with a bounded number of replies under way."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from spiral.core.policy import Answerer, Question, TurnReply


class UnansweredError(RuntimeError):
    """Some questions got no reply, so there is no result yet. The replies so far are kept."""


def replies_to(answerer: Answerer, questions: Iterable[Question], in_flight: int) -> Generator[TurnReply, None, None]:
    """The replies to the questions, in the order in which they are done; at most `in_flight` are under way at once.

    Close the generator (`contextlib.closing`) to drop the questions that are still under way.
    """
    waiting, pending = iter(questions), 0
    try:
        while True:
            new = [question for _, question in zip(range(in_flight - pending), waiting, strict=False)]
            answerer.submit_questions(new)
            pending += len(new)
            if not pending:
                return
            replies = answerer.poll()
            pending -= len(replies)
            yield from replies
    finally:
        answerer.cancel()
