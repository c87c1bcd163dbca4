"""How far a classifier agrees with a reader, pattern by pattern, on labelled traces that come with the package.

`data/labelled.jsonl` holds 60 traces of SmolLM2-135M-Instruct (Apache-2.0), each read and labelled by the codebook
before any classifier had seen it. Nothing was tuned on them. They are texts of a small model, which reasons poorly, and
few of them show anything: agreement on the texts of a strong model may be better or worse. `data/README.md` says more.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from spiral.evaluation.patterns.codebook import PATTERNS
from spiral.evaluation.patterns.judge import Verdict
from spiral.evaluation.patterns.traces import Trace
from spiral.evaluation.statistics import Estimate, cohen_kappa, flat_rates


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTrace:
    """A trace with a reader's labels."""

    trace: Trace
    shown: frozenset[str]
    """The names of the patterns that it shows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """A classifier and a reader on one pattern."""

    pattern: str
    traces: int
    unlabelled: int
    """Traces without a verdict of the classifier, which are left out."""
    both: int
    only_reader: int
    only_classifier: int
    neither: int
    kappa: Estimate | None
    """Cohen's kappa; None if reader and classifier say the same of every trace, all yes or all no."""

    def to_json(self) -> dict[str, Any]:
        """Flat keys."""
        values = flat_rates(self)
        return values if self.kappa is not None else values | {"kappa_low": None, "kappa_high": None}


def labelled_traces() -> list[LabelledTrace]:
    """The labelled traces."""
    file = resources.files(__package__) / "data" / "labelled.jsonl"
    found = []
    for line in file.read_text(encoding="utf-8").split("\n"):
        if line:
            record = json.loads(line)
            labels = frozenset(record.pop("shown"))
            trace = Trace(model="smollm2", step=None, unit=record["id"], **record)
            found.append(LabelledTrace(trace=trace, shown=labels))
    return found


def agreement(labelled: Sequence[LabelledTrace], verdicts: Sequence[Verdict], seed: int) -> list[Agreement]:
    """The agreement of verdicts on the labelled traces with their labels, for each named pattern."""
    pairs = [
        (trace.shown, verdict.shown)
        for trace, verdict in zip(labelled, verdicts, strict=True)
        if verdict.shown is not None
    ]
    found = []
    for pattern in PATTERNS:
        reader = [pattern.name in shown for shown, _ in pairs]
        classifier = [pattern.name in shown for _, shown in pairs]
        cells = list(zip(reader, classifier, strict=True))
        found.append(
            Agreement(
                pattern=pattern.name,
                traces=len(pairs),
                unlabelled=len(labelled) - len(pairs),
                both=cells.count((True, True)),
                only_reader=cells.count((True, False)),
                only_classifier=cells.count((False, True)),
                neither=cells.count((False, False)),
                kappa=cohen_kappa(reader, classifier, seed=seed) if pairs else None,
            )
        )
    return found
