"""What the guards of a run found and what was done, in `guards.jsonl`: a line whenever the findings of a guard change.

    {"step": 12, "guard": "entropy", "state": "collapsed", "findings": [{level, about, message}], "answer": "pull"}

The findings are all those of the guard after that step, none where it is fine again; `answer` is what was given after
it, or null. Metrics have the state of every guard at every step (`guard/GUARD`), and this file says why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spiral.core.files import read_json, sync, write_atomically
from spiral.runs.findings import Finding

GUARDS_FILE = "guards.jsonl"
MAX_FINDINGS = 64
"""Findings of a line."""
MAX_MESSAGE = 1000
"""Characters of a finding's message."""
MAX_BYTES = 4_000_000
"""Bytes that are read of the file: its end."""

GuardLevel = Literal["fine", "warning", "collapsed", "unknown"]
LEVELS: Mapping[float, GuardLevel] = {0.0: "fine", 1.0: "warning", 2.0: "collapsed"}
"""States by their values as metrics."""


class GuardRecord:
    """Writes the file of a run."""

    def __init__(self, run: Path, check: Callable[[], None] = lambda: None) -> None:
        """Takes up the record of a run that is resumed; `check` is called before every write."""
        self._file, self._check = run / GUARDS_FILE, check
        self._known = {str(line["guard"]): kinds(line["findings"]) for line in read_guard_record(run)}

    def add(self, step: int, found: Mapping[str, Sequence[Finding]], answers: Mapping[str, str]) -> None:
        """Adds a line for each guard whose findings have changed, or that has given an answer."""
        lines = []
        for guard, findings in found.items():
            kept = [
                {"level": one.level, "about": one.about[:MAX_MESSAGE], "message": one.message[:MAX_MESSAGE]}
                for one in findings[:MAX_FINDINGS]
            ]
            if kinds(kept) == self._known.get(guard, set()) and guard not in answers:
                continue
            self._known[guard] = kinds(kept)
            levels = {one.level for one in findings}
            state = "collapsed" if "collapsed" in levels else "warning" if levels else "fine"
            line = {"step": step, "guard": guard, "state": state, "findings": kept, "answer": answers.get(guard)}
            lines.append(json.dumps(line) + "\n")
        if lines:
            self._check()
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
            sync(self._file)


def read_guard_record(run: Path) -> list[dict[str, Any]]:
    """The lines of a run, oldest first; damaged ones are left out, and all where a run has none."""
    return [line for _, line in _lines(run / GUARDS_FILE)]


def take_back_guard_record(run: Path, step: int) -> None:
    """Removes the lines after a step."""
    file = run / GUARDS_FILE
    if not file.exists():
        return
    kept = b"".join(text + b"\n" for text, line in _lines(file) if line["step"] <= step)
    if not kept:
        file.unlink()
    elif kept != file.read_bytes():
        write_atomically(file, lambda temporary: temporary.write_bytes(kept))


def _lines(file: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The whole lines of the end of a file, each as it is and as it reads."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - MAX_BYTES))
            texts = opened.read().split(b"\n")[:-1]  # the last may be half written
    except OSError:
        return []
    found = []
    for text in texts:
        try:
            line = read_json(text)
            good = (
                type(line["step"]) is int
                and isinstance(line["guard"], str)
                and line["state"] in LEVELS.values()
                and all(isinstance(one[key], str) for one in line["findings"] for key in ("level", "about", "message"))
                and isinstance(line["answer"], str | None)
            )
        except (ValueError, TypeError, KeyError):
            continue
        if good:
            found.append((text, line))
    return found


def kinds(findings: Sequence[Mapping[str, str]]) -> set[tuple[str, str]]:
    """What makes findings the same, whatever their numbers."""
    return {(one["level"], one["about"]) for one in findings}
