"""The games of a run that say most: the best, the worst, the one with the longest thought, one with an illegal move.

Games against opponents of the last evaluation are considered first for the best and the worst one, since a game of the
policy against itself is won and lost by it at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spiral.core.records import Episode
from spiral.core.steps import numbered, step_name
from spiral.core.storage import read_episodes
from spiral.runs.overview import Overview

MAX_FILES = 10
"""Files of training games that are searched, the last ones."""
COLUMNS = ("episode", "game", "player", "outcome", "returns", "trainable", "policies", "action", "reply")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenGame:
    """A game, why it was chosen, and where it is."""

    title: str
    why: str
    source: str
    """Such as "training, step 100, game 3"."""
    episode: Episode
    turn: int | None = None
    """The turn that the choice is about."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Candidate:
    """What decides whether a game is chosen."""

    file: Path
    index: int
    source: str
    evaluated: bool
    result: int
    """1 if the policy won, -1 if it lost, 0 if neither, or if it was every player."""
    alone: bool
    """Whether the policy was every player."""
    outcome: str
    turns: int
    policy_fault: bool
    """Whether the policy made an illegal move."""
    thought: tuple[int, int]
    """The length of its longest thought in tokens, and the turn."""
    reply: tuple[int, int]
    """The length of its longest reply in characters, and the turn."""


def choose_games(found: Overview) -> tuple[list[ChosenGame], list[str]]:
    """The games to show of a run, and notices about those that there are none of and files that cannot be read."""
    notices: list[str] = []
    candidates: list[_Candidate] = []
    for file, source, evaluated in _files(found):
        try:
            candidates += _candidates(file, source, evaluated, _own_names(found))
        except (OSError, ValueError, KeyError, IndexError, TypeError, pa.ArrowException) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            notices.append(f"{file} cannot be read and is left out: {reason}")
    chosen: list[ChosenGame] = []
    taken: set[tuple[Path, int]] = set()
    for wanted, pick in PICKS.items():
        free = [candidate for candidate in candidates if (candidate.file, candidate.index) not in taken]
        picked = pick(free)
        if picked is None:
            if candidates:
                notices.append(f"the games searched have none {wanted}")
            continue
        candidate, title, why, turn = picked
        try:
            episode = read_episodes(candidate.file, tokens=False)[candidate.index]
        except (ValueError, IndexError) as error:
            notices.append(str(error))
            continue
        taken.add((candidate.file, candidate.index))
        source = f"{candidate.source}, game {candidate.index}"
        chosen.append(ChosenGame(title=title, why=why, source=source, episode=episode, turn=turn))
    return chosen, list(dict.fromkeys(notices))


def _files(found: Overview) -> list[tuple[Path, str, bool]]:
    """The files to search: those of the last evaluation, then those of training from the last step backwards."""
    files = []
    for step, _ in reversed(found.evaluations):
        records = sorted((found.path / "evaluation" / step_name(step)).glob("*.parquet"))
        if records:
            files = [(file, f"evaluation after step {step}", True) for file in records]
            break
    training = sorted(numbered(found.path / "episodes", ".parquet"), reverse=True)[:MAX_FILES]
    return files + [(file, f"training, step {step}", False) for step, file in training]


def _own_names(found: Overview) -> set[str]:
    """The names under which evaluations list the policy."""
    return {str(row["policy"]) for _, results in found.evaluations for row in results.arena if "policy" in row}


def _candidates(file: Path, source: str, evaluated: bool, names: set[str]) -> list[_Candidate]:
    """Every game of a file that was played. Neither tokens nor texts are kept in memory."""
    there = pq.read_schema(file).names
    table = pq.read_table(
        file, columns=[name for name in (*COLUMNS, "thinking_tokens", "has_thought") if name in there]
    )
    table = table.append_column("length", pc.utf8_length(table["reply"])).drop_columns(["reply"])
    games: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        games.setdefault(row["episode"], []).append(row)
    return [
        _candidate(file, index, source, evaluated, rows, names)
        for index, rows in enumerate(games.values())
        if rows[0]["outcome"] != "not_played"
    ]


def _candidate(
    file: Path, index: int, source: str, evaluated: bool, rows: Sequence[dict[str, Any]], names: set[str]
) -> _Candidate:
    first = rows[0]
    trainable, policies = first["trainable"], first["policies"]
    own = [player for player, learns in enumerate(trainable) if learns]
    own = own or [player for player, name in enumerate(policies) if name in names] or list(range(len(policies)))
    returns = first["returns"]
    result = 0
    if len(own) < len(returns) or len(returns) == 1:
        others = [value for player, value in enumerate(returns) if player not in own]
        best, other = max(returns[player] for player in own), max(others, default=0.0)
        result = (best > other) - (best < other)
    turns = [(number, row) for number, row in enumerate(rows) if row["player"] in own]
    thoughts = [(row.get("thinking_tokens") or 0, -number) for number, row in turns if row.get("has_thought")]
    replies = [(row["length"] or 0, -number) for number, row in turns]
    thought, reply = max(thoughts, default=(0, 0)), max(replies, default=(0, 0))
    return _Candidate(
        file=file,
        index=index,
        source=source,
        evaluated=evaluated,
        result=result,
        alone=len(own) == len(returns) and len(returns) > 1,
        outcome=first["outcome"],
        turns=len(rows),
        policy_fault=first["outcome"] == "illegal_move" and rows[-1]["action"] is None and rows[-1]["player"] in own,
        thought=(thought[0], -thought[1]),
        reply=(reply[0], -reply[1]),
    )


_Picked = tuple[_Candidate, str, str, int | None] | None
"""The game, the title, why it was chosen, and the turn that the choice is about."""


def _best(candidates: Sequence[_Candidate]) -> _Picked:
    won = [one for one in candidates if one.outcome == "finished" and one.result > 0]
    if won:
        best = max(won, key=lambda one: (one.evaluated, one.turns))
        return best, "The best game", "the longest win by the rules of the game", None
    fought = [one for one in candidates if one.outcome == "finished" and one.alone]
    longest = max(fought, key=lambda one: one.turns, default=None)
    return None if longest is None else (longest, "The longest game", "the policy against itself", None)


def _worst(candidates: Sequence[_Candidate]) -> _Picked:
    lost = [one for one in candidates if one.outcome == "finished" and one.result < 0]
    if lost:
        worst = min(lost, key=lambda one: (not one.evaluated, one.turns))
        return worst, "The worst game", "the quickest loss without an illegal move", None
    short = [one for one in candidates if one.outcome == "finished" and one.alone]
    shortest = min(short, key=lambda one: one.turns, default=None)
    return None if shortest is None else (shortest, "The shortest game", "the policy against itself", None)


def _longest(candidates: Sequence[_Candidate]) -> _Picked:
    thoughtful = max(candidates, key=lambda one: one.thought[0], default=None)
    if thoughtful is not None and thoughtful.thought[0]:
        length, turn = thoughtful.thought
        return thoughtful, "The longest thought", f"a thought of {length:,} tokens", turn
    wordy = max(candidates, key=lambda one: one.reply[0], default=None)
    if wordy is None or not wordy.reply[0]:
        return None
    length, turn = wordy.reply
    return wordy, "The longest reply", f"a reply of {length:,} characters; none has a thought", turn


def _illegal(candidates: Sequence[_Candidate]) -> _Picked:
    found = next((one for one in candidates if one.policy_fault and not one.evaluated), None)
    found = found or next((one for one in candidates if one.policy_fault), None)
    if found is None:
        return None
    return found, "An illegal move", "the policy's last reply holds no legal move", found.turns - 1


PICKS: dict[str, Callable[[Sequence[_Candidate]], _Picked]] = {
    "that the policy won": _best,
    "that the policy lost": _worst,
    "with a long reply": _longest,
    "with an illegal move of the policy": _illegal,
}
"""What is looked for, and how the game is picked."""
