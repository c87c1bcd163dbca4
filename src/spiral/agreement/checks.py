"""The checks at the start of a run or an evaluation: refuse a model that engine and learner compute differently.

    check = run_check(policy, loaded.model, ...)     # the engine samples, the plain model scores
    check.learner(learner, options)                  # the learner scores the same tokens
    check.keep()

The plain forward pass is that of the model's own class, unpadded and without a cache, before the learner changes the
model. All draws have separate seeds and no weight changes, so a run is the same with and without the check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from spiral.agreement.cache import agreement_key, is_known, keep
from spiral.agreement.differences import Difference, DisagreementError, Tolerance, difference, tolerance_of
from spiral.agreement.logprobs import (
    Replies,
    Reply,
    Scores,
    learner_logprobs,
    plain_logprobs,
    probe_batch,
    sample_replies,
)
from spiral.agreement.probes import Probes, make_probes
from spiral.core.records import FloatArray
from spiral.inference.base import LanguagePolicy
from spiral.inference.transformers import TransformersPolicy
from spiral.training.batch import Batch

ENGINE_REMEDY = "another engine.kind (--engine) may compute it as the model does"
PLAIN_SETTINGS = {
    "learner.layout": "padded",
    "learner.gradient_checkpointing": False,
    "model.compile": False,
    "model.compute": "float32",
    "lora.rank": 0,
}
"""Settings of a learner that can cause a difference, the likeliest first, with their plainest values."""


@dataclasses.dataclass(kw_only=True)
class Check:
    """The check of one model. Keeps every comparison; the first beyond the tolerance raises `DisagreementError`."""

    policy: LanguagePolicy
    probes: Probes
    tolerance: Tolerance
    kind: str
    """The model's type, for messages."""
    replies: Replies
    plain_alone: list[FloatArray]
    """[T] log-probabilities by the plain forward pass of each reply sampled alone."""
    plain: list[FloatArray]
    """[T] the same for each reply sampled in a batch."""
    key: str | None = None
    differences: list[Difference] = dataclasses.field(default_factory=list)

    def engine(self) -> None:
        """Compares the log-probabilities that the engine reported with the plain forward pass."""
        name = engine_name(self.policy)
        against = "against the plain forward pass"
        alone, batched = self.replies.alone, self.replies.batched
        if alone:
            self._compare(f"{name} engine, one prompt at a time, {against}", alone, _reported(alone), self.plain_alone)
        self._compare(f"{name} engine, all prompts at once, {against}", batched, _reported(batched), self.plain)

    def learner(
        self, learner: Scores, options: Mapping[str, Any], *, shares_model: bool = False, fewer: bool = False
    ) -> None:
        """Compares the learner with the plain pass, and also the engine again if it shares the learner's model.

        Args:
            learner: scores the tokens that the engine sampled.
            options: values of the settings in `PLAIN_SETTINGS`.
            shares_model: whether engine and learner use the same model.
            fewer: whether to compare only some of a large model's texts.
        """
        pair = f"learner{described(options)} against the plain forward pass"
        chosen = self.probes.again if fewer else range(len(self.plain))
        replies, plain = [self.replies.batched[index] for index in chosen], [self.plain[index] for index in chosen]
        with running("the learner", self.kind):
            scores = learner_logprobs(learner, replies)
        self._compare(pair, replies, scores, plain, remedy_for(options))
        if shares_model and options.get("learner.layout") != "padded":  # attention of padded rows is the model's own
            self._beside_learner(remedy_for(options))

    def trial(self) -> Batch:
        """The batch of a trial update."""
        return probe_batch([self.replies.batched[index] for index in self.probes.again])

    def updated(self, learner: Scores, options: Mapping[str, Any]) -> None:
        """Compares the engine with the learner after an update whose weights the engine was given."""
        replies = sample_replies(self.policy, self.probes, again=True).batched
        pair = f"{engine_name(self.policy)} engine against the learner{described(options)}, after an update"
        remedy = f"{ENGINE_REMEDY}; or {remedy_for(options)}"
        self._compare(pair, replies, _reported(replies), learner_logprobs(learner, replies), remedy)

    def keep(self) -> None:
        """Stores that all agreed, so that the next start skips the check."""
        keep(self.key, self.record())

    def record(self) -> dict[str, Any]:
        """The comparisons, for files and `--json`."""
        return {
            "tolerance": dataclasses.asdict(self.tolerance),
            "differences": [dataclasses.asdict(found) for found in self.differences],
            "not_crossed": list(self.probes.not_crossed),
        }

    def _beside_learner(self, remedy: str) -> None:
        """Compares the engine again, because the learner may have changed the model's attention.

        Replies with other tokens than before are not compared.
        """
        again = sample_replies(self.policy, self.probes, again=True).batched
        pairs = [
            (reply, self.plain[index])
            for reply, index in zip(again, self.probes.again, strict=True)
            if np.array_equal(reply.token_ids, self.replies.batched[index].token_ids)
        ]
        if 2 * len(pairs) < len(again):
            raise DisagreementError(
                f"this model of type {self.kind!r} replies differently once the learner has changed its attention:"
                f" only {len(pairs)} of {len(again)} replies are the same; {remedy}"
            )
        replies, plain = [reply for reply, _ in pairs], [scores for _, scores in pairs]
        pair = f"{engine_name(self.policy)} engine, beside the learner, against the plain forward pass"
        self._compare(pair, replies, _reported(replies), plain, remedy)

    def _compare(
        self,
        pair: str,
        replies: Sequence[Reply],
        first: Sequence[FloatArray],
        second: Sequence[FloatArray],
        remedy: str = ENGINE_REMEDY,
    ) -> None:
        found = difference(pair, [len(reply.prompt_ids) for reply in replies], first, second)
        self.differences.append(found)
        require(found, self.tolerance, self.kind, remedy)


def require(found: Difference, tolerance: Tolerance, kind: str, remedy: str) -> None:
    """Raises `DisagreementError` for a difference that rounding does not explain."""
    if not found.within(tolerance):
        raise DisagreementError(
            f"two ways to compute this model of type {kind!r} disagree: {found}; rounding explains"
            f" {tolerance.mean:.2g} in the mean and {tolerance.max:.2g} at most; {remedy}"
        )


def begin_check(
    policy: LanguagePolicy,
    model: Any,
    compute: str,
    *,
    games: Sequence[str] = ("tictactoe",),
    key: str | None = None,
) -> Check:
    """Samples with the engine and scores with the plain `model`; compares nothing yet.

    Raises:
        DisagreementError: One of them cannot compute this model at all.
    """
    kind = str(model.config.model_type)
    probes = make_probes(
        policy.codec,
        model.config,
        parameters=model.num_parameters(),
        device=str(model.device.type),
        context=policy.context,
        games=games,
    )
    with running(f"the {engine_name(policy)} engine", kind):
        replies = sample_replies(policy, probes)
    with running("the plain forward pass", kind):
        plain = plain_logprobs(model, [*replies.alone, *replies.batched], replies.temperature)
    return Check(
        policy=policy,
        probes=probes,
        tolerance=tolerance_of(compute, replies.temperature),
        kind=kind,
        replies=replies,
        plain_alone=plain[: len(replies.alone)],
        plain=plain[len(replies.alone) :],
        key=key,
    )


def run_check(
    policy: LanguagePolicy,
    load_plain: Callable[[], Any],
    directory: str,
    compute: str,
    settings: Mapping[str, Any],
    *,
    games: Sequence[str] = ("tictactoe",),
    kept: bool = False,
    reload: bool = False,
    sleeps: bool = False,
) -> Check | None:
    """Checks the engine; a check of the learner may follow. None if this was checked before.

    Args:
        policy: The engine, with the weights of the plain model.
        load_plain: Returns the unchanged model, or None if there is not enough memory for it.
        directory: The model's directory.
        compute: "float32" or "bfloat16".
        settings: Other settings that decide what is computed; with the weights they are the key of the result.
        games: Games whose prompts are used.
        kept: Whether this is the whole check, so that its result is stored.
        reload: Whether the engine is first given the model's weights as after an update, so that this is checked too.
        sleeps: Whether it then sleeps before it is given them, as after the games of a step.

    Raises:
        DisagreementError: Engine and model differ.
    """
    shown = {"compute": compute, "context": policy.context, "temperature": policy.sampling.temperature}
    key = agreement_key(directory, {"engine": engine_name(policy), **shown, **settings})
    if is_known(key):
        return None
    model = load_plain()
    if model is None:
        return None
    if reload:
        if sleeps:
            policy.sleep(until_weights=True)
        policy.load_weights(model.named_parameters(), policy.version)
    check = begin_check(policy, model, compute, games=games, key=key)
    check.engine()
    if kept:
        check.keep()
    return check


@contextmanager
def running(who: str, kind: str) -> Iterator[None]:
    """Context manager that turns an error of a model's code into a `DisagreementError` of one line."""
    try:
        yield
    except (DisagreementError, MemoryError):
        raise
    except Exception as error:  # the code of a model family may raise anything
        name, lines = type(error).__name__, str(error).strip().splitlines()
        if name == "OutOfMemoryError" or str(error).startswith(("vLLM", "the model with weights")):
            raise
        raise DisagreementError(
            f"{who} cannot compute this model of type {kind!r}: {name}: {lines[0] if lines else 'no reason given'}"
        ) from error


def engine_name(policy: LanguagePolicy) -> str:
    """The `engine.kind` of a policy."""
    return "transformers" if isinstance(policy, TransformersPolicy) else "vllm"


def _reported(replies: Sequence[Reply]) -> list[FloatArray]:
    return [reply.logprobs for reply in replies]


def described(options: Mapping[str, Any]) -> str:
    """The options that differ from the plainest, for the name of a comparison."""
    chosen = [
        f"{name} = {_toml(options[name])}"
        for name, plain in PLAIN_SETTINGS.items()
        if options.get(name, plain) != plain
    ]
    return f" ({', '.join(chosen)})" if chosen else ""


def remedy_for(options: Mapping[str, Any]) -> str:
    """Advice on which settings to change."""
    changed = [
        f"{name} = {_toml(plain)}" for name, plain in PLAIN_SETTINGS.items() if options.get(name, plain) != plain
    ]
    return f"set {' or '.join(changed)} and try again" if changed else "this model cannot be trained here"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)
