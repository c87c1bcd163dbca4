"""Replies that were cut off: an opponent whose thoughts do not fit its budget loses games that it could have won."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence

from spiral.core.records import Episode, Generation, Turn, past_step

logger = logging.getLogger(__name__)

MAX_SHARE = 0.05
"""Share of cut off replies above which there is a warning."""
MIN_CUT_OFF = 3
"""Smallest number of cut off replies that gives a warning."""


@dataclasses.dataclass(kw_only=True)
class CutOff:
    """Counts the replies of one policy that a model generated, and those that were cut off."""

    replies: int = 0
    by_budget: int = 0
    by_context: int = 0
    budget: int = 0
    """The largest response budget, in tokens."""

    @classmethod
    def of(cls, turns: Iterable[Turn]) -> CutOff:
        """Count the replies of some turns."""
        counted = cls()
        for turn in turns:
            if turn.generation is not None:
                counted.add(turn.generation)
        return counted

    @classmethod
    def together(cls, parts: Iterable[CutOff]) -> CutOff:
        """Sum up several counts."""
        total = cls()
        for part in parts:
            total.replies += part.replies
            total.by_budget += part.by_budget
            total.by_context += part.by_context
            total.budget = max(total.budget, part.budget)
        return total

    def add(self, generation: Generation) -> None:
        """Count a reply."""
        self.replies += 1
        self.by_budget += generation.stop_reason == "length"
        self.by_context += generation.stop_reason == "context"
        self.budget = max(self.budget, generation.budget)

    @property
    def share(self) -> float:
        """Share of the replies that were cut off; 0 without replies."""
        return (self.by_budget + self.by_context) / max(1, self.replies)

    def warning(self, name: str, setting: str) -> str | None:
        """Say that the replies of a policy are cut off too often; None where they are not.

        Args:
            name: The policy, such as "the opponent mistral".
            setting: How a setting of it is named, such as "opponent.mistral.{}".
        """
        if self.by_budget + self.by_context < MIN_CUT_OFF or self.share <= MAX_SHARE:
            return None
        field, why = "max_new_tokens", f"at its budget of {self.budget:,} tokens"
        if self.by_context > self.by_budget:
            field, why = "context", "where prompt and reply filled its context"
        raised = setting.format(field)
        if setting.startswith("--"):  # of a command line, where all models share one context
            raised = "--context" if field == "context" else raised.replace("_", "-")
        return (
            f"{self.share:.0%} of {self.replies:,} replies of {name} were cut off {why}; one that ends before its"
            f" action loses the game, so raise {raised}"
        )


class CutOffWatch:
    """Warns once of each opponent whose replies are often cut off."""

    def __init__(self) -> None:
        self._counted: dict[str, CutOff] = {}
        self._warned: set[str] = set()

    def observe(self, episodes: Sequence[Episode], where: str) -> None:
        """Count the replies of players that do not learn.

        Args:
            episodes: Games against opponents, among others.
            where: Where they were played, for the warning, such as "in training".
        """
        for episode in episodes:
            for turn in episode.turns if episode.opponent else ():
                seat = episode.seats[turn.player]
                past = past_step(seat.policy) is not None  # its replies are as long as the policy's own
                if turn.generation is not None and not seat.trainable and not past:
                    self._counted.setdefault(seat.policy, CutOff()).add(turn.generation)
        for name in self._counted.keys() - self._warned:
            warning = self._counted[name].warning(f"the opponent {name} {where}", f"opponent.{name}.{{}}")
            if warning is not None:
                self._warned.add(name)
                logger.warning("%s", warning)
