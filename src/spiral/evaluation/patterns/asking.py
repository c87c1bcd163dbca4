"""Asks a judge for JSON: every reply is kept as it comes, and one that cannot be used is asked for once more.

A reply holds exactly one JSON object outside of its thoughts, with exactly the keys that were asked for. What is
missing after the second attempt is counted, never guessed. A judgement that was stopped continues where it was: the
questions follow from the traces and the seed, and those with a kept reply are not sent again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from spiral.core.policy import Answerer, Question, SamplingConfig
from spiral.core.seeds import derive_seed
from spiral.evaluation.answering import UnansweredError, replies_to
from spiral.evaluation.results import ResultDirectory
from spiral.text.thinking import split_reply

MAX_ATTEMPTS = 2
MAX_REASONS = 3
T = TypeVar("T")


class UnusableError(RuntimeError):
    """The judge's replies are of no use, so there is no result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(Generic[T]):
    """A question whose reply is JSON."""

    key: str
    """Names the question within an analysis."""
    text: str
    read: Callable[[dict[str, Any]], T]
    """Makes the answer of the JSON object. Raises `ValueError` that says what is wrong with it."""


class Judge:
    """A model that is asked for JSON."""

    def __init__(
        self,
        answerer: Answerer,
        sampling: SamplingConfig,
        *,
        seed: int,
        directory: ResultDirectory | None = None,
        in_flight: int = 64,
    ) -> None:
        """With a `directory`, replies are kept in its items file, and those that it holds are not asked for again."""
        self.answerer = answerer
        self.unusable: Counter[str] = Counter()
        """Why questions have no usable reply after all attempts."""
        self.asked_again = 0
        """Number of questions that were asked a second time."""
        self._sampling = sampling
        self._seed = seed
        self._directory = directory
        self._in_flight = in_flight
        items = [] if directory is None else directory.read_items()
        self._kept = {(str(item.get("key")), item.get("attempt")): item for item in items}

    def ask(self, requests: Sequence[Request[T]], on_progress: Callable[[int], None] = lambda _: None) -> dict[str, T]:
        """The answers to the requests by key; those without a usable reply are missing.

        Raises:
            UnansweredError: The endpoint left questions unanswered; the replies so far are kept.
        """
        answers: dict[str, T] = {}
        faults: dict[str, str] = {}
        for attempt in range(MAX_ATTEMPTS):
            open_ = [request for request in requests if request.key not in answers]
            self.asked_again += len(open_) if attempt else 0
            questions = [
                Question(
                    key=number,
                    text=request.text + (_again(faults[request.key]) if attempt else ""),
                    seed=derive_seed(self._seed, "judge", request.key, attempt),
                )
                for number, request in enumerate(open_)
            ]
            for number, item in self._replies(questions, [request.key for request in open_], attempt):
                request = open_[number]
                try:
                    answers[request.key] = request.read(_json_object(item))
                    on_progress(len(answers))
                except ValueError as error:
                    faults[request.key] = str(error)
        self.unusable.update(faults[request.key] for request in requests if request.key not in answers)
        return answers

    def _replies(
        self, questions: Sequence[Question], keys: Sequence[str], attempt: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of each question with its reply as it is kept, first those that are known."""
        new = []
        for question in questions:
            known = self._kept.get((keys[question.key], attempt))
            if known is None:
                new.append(question)
            else:
                yield question.key, known
        missing: Counter[str] = Counter()
        with (
            self.answerer.sampled_with(self._sampling),
            contextlib.closing(replies_to(self.answerer, new, self._in_flight)) as replies,
        ):
            for reply in replies:
                if reply.fault is not None or reply.length is None:
                    missing[reply.fault or "no reply"] += 1
                    continue
                item = {
                    "key": keys[reply.key],
                    "attempt": attempt,
                    "reply": self.answerer.opening + reply.reply,
                    "tokens": reply.length.tokens,
                    "truncated": reply.length.truncated,
                }
                if self._directory is not None:
                    self._directory.append_item(item)
                self._kept[keys[reply.key], attempt] = item
                yield reply.key, item
        if missing:
            reasons = "; ".join(f"{count} x {reason}" for reason, count in missing.most_common(MAX_REASONS))
            raise UnansweredError(f"{missing.total()} of {len(new)} questions to the judge got no reply: {reasons}")

    @property
    def items(self) -> list[dict[str, Any]]:
        """Every reply, as kept."""
        return list(self._kept.values())


def _again(fault: str) -> str:
    return f"\n\nAn earlier reply could not be used: {fault}. Reply with the JSON object alone."


def _json_object(item: dict[str, Any]) -> dict[str, Any]:
    """The one JSON object in a reply, outside of its thoughts. Raises `ValueError` if there is not exactly one."""
    if item["truncated"]:
        if not item["tokens"]:
            raise ValueError("the question fills the judge's context")
        raise ValueError("the reply was cut off at its budget")
    thought = split_reply(str(item["reply"]))
    text = thought.answer if thought.delimited else str(item["reply"])
    found, position = [], 0
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)
    while (start := text.find("{", position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, start)
            found.append(value)
        except json.JSONDecodeError:
            position = start + 1
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} JSON objects in place of one")
    return dict(found[0])


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands in the JSON object twice")
    return values
