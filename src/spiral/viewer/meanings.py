"""What each metric means, in the words of docs/metrics.md, which is in the wheel as `metrics.md` beside this file."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

PAGES = (Path(__file__).with_name("metrics.md"), Path(__file__).parents[3] / "docs" / "metrics.md")
"""Where the page is in an installed package and in a clone."""
_NAME = "[A-Za-z0-9_.-]+"
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]*) \| (.*) \|$")


def meanings(keys: Iterable[str]) -> dict[str, str]:
    """The meaning and unit of each metric that the page lists."""
    found = {}
    for key in keys:
        for pattern, meaning in _patterns():
            if pattern.fullmatch(key):
                found[key] = meaning
                break
    return found


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of keys with their meanings; keys against an opponent mean what those of self-play do."""
    page = next((page for page in PAGES if page.is_file()), None)
    rows = [] if page is None else [_ROW.match(line) for line in page.read_text(encoding="utf-8").splitlines()]
    patterns = []
    for row in rows:
        if row is None or "/" not in row[1]:
            continue
        unit = row[2].strip()
        meaning = row[3].strip() if unit in ("", "-") else f"{row[3].strip()} Unit: {unit}."
        patterns.append((_pattern(row[1]), meaning))
        if row[1].startswith("selfplay/GAME"):
            patterns.append((_pattern(row[1].replace("selfplay/GAME", "against/GAME/OPPONENT")), meaning))
    # `guard/pull` is a key of its own, and not the guard of that name.
    return tuple(sorted(patterns, key=lambda entry: _NAME in entry[0].pattern))


def _pattern(key: str) -> re.Pattern[str]:
    named = re.sub(r"GAME|OPPONENT|TASK|GUARD", lambda _: _NAME, re.escape(key))
    return re.compile(re.sub(r"N(?=/)", r"\\d+", named))
