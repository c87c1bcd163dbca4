"""What a run does when a guard finds a collapse: `answer.guards` chooses an answer for each guard.

Answers are given from the next step on. What they change follows from the metrics and from a state that is in every
checkpoint, so that a run that was killed and resumed answers as it would have.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Self

from pydantic import Field

from spiral.core.metrics import Metrics
from spiral.core.settings import Section
from spiral.runs.findings import Finding, Rows
from spiral.training.settings import Answer, RunConfig

logger = logging.getLogger(__name__)

MARGIN = 5
"""Steps before the last healthy one that a rollback goes back at least, since guards judge the mean of five steps."""


class AnswerConfig(Section):
    """What the answers of guards do."""

    guards: dict[str, Answer] = Field(
        {},
        description="Guard to what the run does: 'log' (as without), 'stop', 'anchor', 'pull' or 'rollback'.",
    )
    level: Literal["warning", "collapsed"] = Field("collapsed", description="The state at which a guard answers.")
    steps: int = Field(
        20, ge=1, description="Steps for which 'anchor' and 'pull' last, and before a guard answers again."
    )
    anchor: Literal["random", "minimax", "equilibrium"] = Field(
        "random", description="'anchor': the opponent that is mixed in."
    )
    anchor_share: float = Field(0.25, gt=0, le=1, description="'anchor': its share of the games.")
    pull_factor: float = Field(10.0, gt=1, description="'pull': loss.kl_coefficient is multiplied by it.")
    rollback_rate: float = Field(
        0.3, gt=0, le=1, description="'rollback': the learning rate is multiplied by it, for the rest of the run."
    )


class AnsweringRecipe(Protocol):
    """The sections of a recipe that answers are made from."""

    @property
    def run(self) -> RunConfig: ...  # noqa: D102
    @property
    def answer(self) -> AnswerConfig: ...  # noqa: D102


class Answers:
    """Decides on answers, and knows those in force."""

    def __init__(self, config: AnswerConfig, steps: int) -> None:
        """`steps` is the length of the run."""
        self.config = config
        self.stop_reason = ""
        """Why the run is to stop after this step; empty if it is not."""
        self.rollback_due = False
        """Whether the next step begins with a rollback."""
        self._chosen = {name: answer for name, answer in config.guards.items() if answer != "log"}
        self._steps = steps
        self._answered: dict[str, int] = {}
        self._healthy = 0
        self._until: dict[str, int] = {}
        self._rate = 1.0
        self._undone: list[list[int]] = []

    @classmethod
    def from_recipe(cls, recipe: AnsweringRecipe) -> Self:
        """Those of a recipe, before the first step."""
        return cls(recipe.answer, recipe.run.steps)

    def observe(self, step: int, found: Mapping[str, Sequence[Finding]]) -> Metrics:
        """Takes what the guards found after a step; returns what is in force in the next one, as metrics."""
        if not self._chosen:
            return {}
        if not any(found.get(name) for name in self._chosen):
            self._healthy = step
        levels = ("collapsed",) if self.config.level == "collapsed" else ("warning", "collapsed")
        given = 0
        for name, answer in self._chosen.items():
            reasons = [finding.message for finding in found.get(name, ()) if finding.level in levels]
            waiting = step < self._answered.get(name, -self.config.steps) + self.config.steps
            if reasons and not waiting and step < self._steps:  # nothing follows the last step
                self._answered[name] = step
                self._give(step, name, answer, reasons[0])
                given += 1
        return {
            "guard/answers": float(given),
            "guard/anchor_share": self.anchor_share(step + 1),
            "guard/pull": self.pull(step + 1),
            "guard/rate": self._rate,
        }

    def given(self, step: int) -> dict[str, Answer]:
        """The answers that were given after a step, by guard."""
        return {name: answer for name, answer in self._chosen.items() if self._answered.get(name) == step}

    def _give(self, step: int, name: str, answer: Answer, reason: str) -> None:
        logger.warning("step %d: guard %r answers with %r: %s", step, name, answer, reason)
        if answer == "stop":
            self.stop_reason = f"the guard {name!r} stopped the run: {reason}"
        elif answer == "rollback":
            self.rollback_due = True
        else:
            self._until[answer] = step + self.config.steps

    def anchor_share(self, step: int) -> float:
        """The share of a step's games that is against the anchor."""
        return self.config.anchor_share if step <= self._until.get("anchor", 0) else 0.0

    def pull(self, step: int) -> float:
        """The factor of `loss.kl_coefficient` in a step."""
        return self.config.pull_factor if step <= self._until.get("pull", 0) else 1.0

    @property
    def rate(self) -> float:
        """The factor of the learning rate."""
        return self._rate

    def rollback_to(self, steps: Sequence[int]) -> int:
        """The step to go back to, of those with a checkpoint: the last one well before the collapse, or the first."""
        healthy = [step for step in steps if step <= self._healthy - MARGIN and not self._is_undone(step)]
        return max(healthy, default=min(steps))

    def rolled_back(self, checkpoint: int, step: int) -> None:
        """Takes note that the weights after `step` are again those of a checkpoint."""
        self.rollback_due = False
        self._rate *= self.config.rollback_rate
        self._undone.append([checkpoint, step])
        logger.warning("step %d begins with the weights of step %d again", step + 1, checkpoint)

    def judged(self, rows: Rows) -> Rows:
        """The rows that guards judge: those of steps that were not undone."""
        return [row for row in rows if not self._is_undone(row["step"])] if self._undone else rows

    def _is_undone(self, step: float) -> bool:
        return any(first < step <= last for first, last in self._undone)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; nothing where no guard has an answer."""
        if not self._chosen:
            return {}
        state = {
            "answered": self._answered,
            "healthy": self._healthy,
            "until": self._until,
            "rate": self._rate,
            "undone": self._undone,
            "rollback_due": self.rollback_due,
        }
        return {"answers": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave, from among the state of a checkpoint."""
        if kept := state.get("answers"):
            self._answered, self._healthy = dict(kept["answered"]), int(kept["healthy"])
            self._until, self._rate = dict(kept["until"]), float(kept["rate"])
            self._undone = [list(pair) for pair in kept["undone"]]
            self.rollback_due = bool(kept["rollback_due"])
