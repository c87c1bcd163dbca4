"""The guards of a run as its files tell: the state of each, since when and why, and what its answers did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import read_json
from spiral.core.metrics import metric_name
from spiral.core.steps import latest_checkpoint
from spiral.runs.guard_record import LEVELS, GuardLevel, kinds
from spiral.runs.guards import BUILTIN
from spiral.runs.rules import RULES
from spiral.training.checkpoint import STATE

MAX_CHANGES = 100
"""Changes of a guard that are shown, the last."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardState:
    """A guard of a run after its last step."""

    name: str
    state: GuardLevel
    """Unknown before the first step, and for a guard that failed and was disabled."""
    since: int | None
    """The step after which it found this; None where that was not recorded."""
    findings: tuple[Mapping[str, str], ...]
    """Level, about (such as "player 0 of tictactoe") and message, as they were at `since`."""
    rule: str
    """What it judges, in words; empty for a guard that is not built in."""
    answer: str
    """What the run does when it finds a collapse (`answer.guards`)."""
    changes: tuple[Mapping[str, Any], ...]
    """The last lines of the record, oldest first, each with `effect`: what its answer did, in words."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def guard_states(
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    record: Sequence[Mapping[str, Any]],
    undone: Sequence[Sequence[int]] = (),
) -> list[GuardState]:
    """The guards of a run.

    Args:
        rows: Its metrics.
        settings: The sections of its `config.toml`, which anybody may have written.
        record: The lines of `read_guard_record`.
        undone: What rollbacks have undone (`undone_steps`).
    """
    config = settings.get("run")
    names = config.get("guards") if isinstance(config, dict) else None
    options = config.get("guard_options") if isinstance(config, dict) else None
    answering = settings.get("answer")
    answering = answering if isinstance(answering, dict) else {}
    chosen = answering.get("guards")
    last = rows[-1] if rows else {}
    found = []
    for name in dict.fromkeys(names) if isinstance(names, list) and all(isinstance(one, str) for one in names) else ():
        lines = [line for line in record if line["guard"] == name]
        value = last.get(f"guard/{metric_name(name)}")
        state = LEVELS.get(value, "unknown") if isinstance(value, int | float) else "unknown"
        now = lines[-1] if lines and lines[-1]["state"] == state else None
        given = options.get(name) if isinstance(options, dict) else None
        found.append(
            GuardState(
                name=name,
                state=state,
                since=_since(lines, now),
                findings=tuple(now["findings"]) if now is not None else (),
                rule=_rule(name, given if isinstance(given, dict) else {}),
                answer=str(chosen.get(name, "log")) if isinstance(chosen, dict) else "log",
                changes=tuple({**line, "effect": _effect(line, answering, undone)} for line in lines[-MAX_CHANGES:]),
            )
        )
    return found


def _since(lines: Sequence[Mapping[str, Any]], now: Mapping[str, Any] | None) -> int | None:
    """The step since which a guard finds what it finds now."""
    if now is None:
        return None
    same, since = kinds(now["findings"]), now["step"]
    for line in reversed(lines):
        if kinds(line["findings"]) != same:
            break
        since = line["step"]
    return int(since)


def _rule(name: str, options: Mapping[str, Any]) -> str:
    """What a built-in rule judges, and its thresholds in a run."""
    make = BUILTIN.get(name)
    words = "" if make is None else " ".join((make.__doc__ or "").split("\n\n")[0].split())
    if name not in RULES:
        return words
    try:
        made = RULES[name](**options)
    except (TypeError, ValueError):  # options of another version
        return words
    return f"{words} Warning at {made.warn:g}, collapsed at {made.limit:g}."


def _effect(line: Mapping[str, Any], config: Mapping[str, Any], undone: Sequence[Sequence[int]]) -> str:
    """What an answer did, in words; empty without one."""
    answer, step = line["answer"], line["step"]
    if answer in ("anchor", "pull"):
        last = config.get("steps")
        during = f" in steps {step + 1} to {step + last}" if type(last) is int else " for some steps"
        if answer == "pull":
            return f"loss.kl_coefficient times {_shown(config.get('pull_factor'))}{during}"
        share = config.get("anchor_share")
        part = f"{share:.0%}" if isinstance(share, int | float) else "a share"
        return f"{part} of the games against {config.get('anchor', 'an anchor')}{during}"
    if answer == "rollback":
        back = next((first for first, at in undone if at == step), None)
        where = "an earlier checkpoint" if back is None else f"step {back}"
        return f"the weights of {where} again, and the learning rate times {_shown(config.get('rollback_rate'))}"
    return {"stop": "the run stopped with a checkpoint"}.get(answer or "", "")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "?"


def undone_steps(run: Path) -> list[list[int]]:
    """What rollbacks have undone up to the last checkpoint: the step gone back to, and the last step undone."""
    try:
        checkpoint = latest_checkpoint(run / "checkpoints")
        pairs = [] if checkpoint is None else read_json((checkpoint / STATE).read_bytes())["answers"]["undone"]
        return [[int(first), int(last)] for first, last in pairs]
    except (OSError, ValueError, KeyError, TypeError):
        return []
