"""What a guard finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

Level = Literal["warning", "collapsed"]
Rows = Sequence[Mapping[str, float]]
"""Metrics by step, oldest first; each with `step`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem that a guard has found."""

    level: Level
    about: str
    """The subject, such as "player 0 of tictactoe"; a run is warned once about each."""
    message: str
    """The problem and what to do, without a full stop at the end."""

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ValueError(f"a Finding got level={self.level!r}; expected {' or '.join(map(repr, get_args(Level)))}")
        for name, value in (("about", self.about), ("message", self.message)):
            if not isinstance(value, str):
                raise ValueError(f"a Finding got {name}={value!r}; expected a text")
