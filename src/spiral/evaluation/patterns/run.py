"""One analysis from traces to tables: discover, classify, compare with the labelled traces, count."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiral.core.policy import Answerer, SamplingConfig
from spiral.core.progress import Progress
from spiral.evaluation.patterns.agreement import Agreement, agreement, labelled_traces
from spiral.evaluation.patterns.analysis import Analysis, analyse, right_shares
from spiral.evaluation.patterns.asking import MAX_REASONS, Judge, UnusableError
from spiral.evaluation.patterns.codebook import PATTERNS, Pattern, described
from spiral.evaluation.patterns.judge import (
    CLASSIFY,
    MERGE,
    NOTE,
    Verdict,
    check_votes,
    discover,
    judge_verdicts,
    lexical_verdicts,
)
from spiral.evaluation.patterns.lexical import CUES
from spiral.evaluation.patterns.traces import Trace
from spiral.evaluation.results import ResultDirectory, describe_player, result_directory
from spiral.evaluation.statistics import flat_rates

LEXICAL = "lexical"
"""The name of the classifier by cues, in place of a judge's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatternsConfig:
    """Settings of an analysis.

    Raises:
        ValueError: A setting needs a judge, or the number of votes is even.
    """

    judge: str = LEXICAL
    """`LEXICAL`, or a language model or endpoint."""
    discover: bool = False
    """Let the judge look for further patterns first."""
    agreement: bool = True
    """Classify the labelled traces too."""
    per_checkpoint: int = 50
    """Games of a checkpoint, and right and wrong solutions each."""
    votes: int = 1
    group: int = 5
    """Traces in a question to the judge."""
    max_characters: int = 8000
    """Characters of a trace that the judge sees; longer ones lose their middle."""
    sampling: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(temperature=0.0, max_new_tokens=4096)
    )
    """The judge's."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_votes(self.votes)
        if self.judge == LEXICAL and (self.discover or self.votes > 1):
            what = "--discover" if self.discover else "--votes"
            raise ValueError(
                f"got {what} for the lexical classifier, which only knows its cues; name a model with --judge, such as"
                " --judge endpoint:NAME"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatternsResult:
    """An analysis: its tables and what is behind them."""

    patterns: tuple[Pattern, ...]
    traces: tuple[Trace, ...]
    """The sampled traces."""
    verdicts: tuple[Verdict, ...]
    """One for each trace."""
    found: int
    """Number of traces from which they were sampled."""
    analysis: Analysis
    agreement: tuple[Agreement, ...] | None
    shortened: int
    """Traces that the judge saw without their middle."""
    asked_again: int
    unusable: dict[str, int]
    """Questions without a usable reply after two attempts, by reason."""

    def to_json(self) -> dict[str, Any]:
        """The tables with flat keys, and the counts."""
        titles = {pattern.name: pattern.counts for pattern in self.patterns}
        return {
            "patterns": titles,
            "traces": len(self.traces),
            "traces_found": self.found,
            "unlabelled": sum(verdict.shown is None for verdict in self.verdicts),
            "split_votes": sum(not verdict.unanimous for verdict in self.verdicts),
            "shortened": self.shortened,
            "asked_again": self.asked_again,
            "unusable": self.unusable,
            "shares": share_records(self.analysis),
            "transfer": [transfer.to_json() for transfer in self.analysis.transfer],
            "agreement": None if self.agreement is None else [row.to_json() for row in self.agreement],
        }


def share_records(analysis: Analysis) -> list[dict[str, Any]]:
    """The shares as flat records."""
    return [flat_rates(share) for share in analysis.shares]


def patterns_directory(
    config: PatternsConfig, traces: Sequence[Trace], answerer: Answerer | None, *, source: Path, out: Path | None = None
) -> ResultDirectory:
    """The result directory; it is the same for the same traces, judge and settings."""
    settings: dict[str, Any] = {
        "judge": {"name": LEXICAL, "cues": _hash([cue.form.pattern for cue in CUES])},
        "prompts": _hash([CLASSIFY, NOTE, MERGE, described(PATTERNS)]),
        "sampled": _hash([dataclasses.asdict(trace) for trace in traces]),
        **{key: value for key, value in vars(config).items() if key not in ("judge", "sampling")},
    }
    if answerer is not None:
        with answerer.sampled_with(config.sampling):
            settings["judge"] = describe_player(config.judge, answerer)
    label = f"{Path(config.judge).name}-{source.resolve().name}"
    return result_directory("patterns", label, settings, model=str(source), out=out)


def run_patterns(
    config: PatternsConfig,
    traces: Sequence[Trace],
    sampled: Sequence[Trace],
    answerer: Answerer | None = None,
    *,
    directory: ResultDirectory | None = None,
    in_flight: int = 16,
    progress: Progress | None = None,
) -> tuple[PatternsResult, list[dict[str, Any]]]:
    """Classifies the sampled traces and counts.

    Args:
        config: The settings.
        traces: All traces, which say how many solutions are right.
        sampled: Those to classify.
        answerer: The judge; None for the lexical classifier.
        directory: Keeps the judge's replies as they come, and holds those of an analysis that was stopped.
        in_flight: Upper bound on the judge's replies under way at once.
        progress: Shows how many questions are answered.

    Returns:
        The result, and the judge's replies as records.

    Raises:
        UnusableError: The judge gave no usable list of patterns, or labelled no trace.
        UnansweredError: The endpoint left questions unanswered; the same call continues with the rest.
    """
    labelled = labelled_traces() if config.agreement else []
    judge = None
    if answerer is None:
        found = _Verdicts(
            sampled=lexical_verdicts(sampled), labelled=lexical_verdicts([entry.trace for entry in labelled])
        )
    else:
        judge = Judge(answerer, config.sampling, seed=config.seed, directory=directory, in_flight=in_flight)
        labelled_texts = [entry.trace.text for entry in labelled]
        found = _judged(config, judge, sampled, labelled_texts, progress or Progress())
    right, verdicts = right_shares(traces), found.sampled
    tables = analyse(sampled, verdicts, PATTERNS, right, config.seed)
    if found.discovered:
        tables += analyse(sampled, found.discovered, found.patterns[len(PATTERNS) :], right, config.seed)
        verdicts = [_joined(pair) for pair in zip(verdicts, found.discovered, strict=True)]
    result = PatternsResult(
        patterns=tuple(found.patterns),
        traces=tuple(sampled),
        verdicts=tuple(verdicts),
        found=len(traces),
        analysis=tables,
        agreement=tuple(agreement(labelled, found.labelled, config.seed)) if labelled else None,
        shortened=0 if judge is None else sum(len(trace.text) > config.max_characters for trace in sampled),
        asked_again=0 if judge is None else judge.asked_again,
        unusable={} if judge is None else dict(judge.unusable.most_common()),
    )
    return result, [] if judge is None else judge.items


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Verdicts:
    """What a classifier says of the sampled and of the labelled traces."""

    patterns: Sequence[Pattern] = PATTERNS
    """The named patterns, then those that were discovered."""
    sampled: list[Verdict]
    """On the named patterns."""
    discovered: list[Verdict] = dataclasses.field(default_factory=list)
    """On the discovered patterns; empty if there are none."""
    labelled: list[Verdict]


def _judged(
    config: PatternsConfig, judge: Judge, sampled: Sequence[Trace], labelled: Sequence[str], shown: Progress
) -> _Verdicts:
    """Asks the judge. Raises `UnusableError` if it labelled no sampled trace."""
    cut = {"max_characters": config.max_characters, "seed": config.seed}
    more: list[Pattern] = []
    if config.discover:
        shown.stage(f"{config.judge} looks for patterns")
        more = discover(judge, sampled, PATTERNS, **cut)
    how: dict[str, Any] = {**cut, "votes": config.votes, "group": config.group, "on_progress": shown.update}

    def classified(texts: Sequence[str], wanted: Sequence[Pattern], label: str) -> list[Verdict]:
        if not texts or not wanted:
            return []
        questions = config.votes * -(-len(texts) // config.group)
        shown.stage(f"{config.judge} reads {len(texts)} traces", questions, "questions")
        return judge_verdicts(judge, texts, wanted, label=label, **how)

    # The named patterns have their own questions, so that discovery does not change their verdicts.
    texts = [trace.text for trace in sampled]
    found = _Verdicts(
        patterns=[*PATTERNS, *more],
        sampled=classified(texts, PATTERNS, "classify"),
        discovered=classified(texts, more, "discovered"),
        labelled=classified(labelled, PATTERNS, "labelled"),
    )
    if all(verdict.shown is None for verdict in found.sampled):
        reasons = "; ".join(
            f"{count} questions x {reason}" for reason, count in judge.unusable.most_common(MAX_REASONS)
        )
        raise UnusableError(
            f"the judge labelled no trace ({reasons}); take a stronger one, or fewer traces in a question with --group"
        )
    return found


def _joined(pair: tuple[Verdict, Verdict]) -> Verdict:
    """Two verdicts on the same trace about different patterns; one of them may be missing."""
    given = [verdict for verdict in pair if verdict.shown is not None]
    if len(given) < 2:
        return given[0] if given else pair[0]
    return Verdict(
        shown=frozenset().union(*(verdict.shown or () for verdict in given)),
        votes=min(verdict.votes for verdict in given),
        unanimous=all(verdict.unanimous for verdict in given),
    )


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]
