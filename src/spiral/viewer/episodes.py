"""A table of a run's episodes: filters, full-text search, sorting and pages, by DuckDB over the run's Parquet files.

A file of episodes never changes once it is written, so what the table shows of each episode is read once and kept: the
newest files first, in the background. Until all are read, pages in the order of the steps are complete, since they need
the files at one end only and the footers of the rest count the episodes; a filter answers for the files read so far and
says how many are missing. Search reads the replies in the files that the other filters leave.

Not supported: files that change under the same name, size and time; search by words or with patterns.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from spiral.core.steps import numbered
from spiral.core.storage import READ_VERSIONS, VERSION_KEY
from spiral.viewer.run import ViewedRun, notice, stamp_of

logger = logging.getLogger(__name__)

MEMORY = "400MB"
"""DuckDB's own limit; what does not fit goes to a temporary directory."""
FILES_AT_ONCE = 64
"""Files that are read into the table by one query."""
WAIT_SECONDS = 1.2
"""How long a filter waits for files that are still being read."""
MAX_PAGE = 500
MAX_TEXT = 1000
"""Characters of a text that is searched for."""
EXCERPT = 80
"""Characters of a reply shown on each side of a text that was found."""
KEPT_SEARCHES = 3
FOOTER_THREADS = 4
"""Threads that read footers."""

SORTS = {
    "step": "step",
    "episode": "episode",
    "game": "game",
    "opponent": "opponent",
    "outcome": "outcome",
    "turns": "turns",
    "tokens": "tokens",
    "illegal": "illegal_player",
    "return": "list_extract(returns, $player + 1)",
}
"""What a table can be sorted by, and its expression."""

COLUMNS = """
    step BIGINT, episode INTEGER, game VARCHAR, policies VARCHAR[], trainable BOOLEAN[], opponent VARCHAR,
    outcome VARCHAR, returns DOUBLE[], turns INTEGER, tokens BIGINT, illegal_player TINYINT
"""
EPISODE_OF_ROWS = """
    INSERT INTO {table}
    SELECT CAST(regexp_extract(filename, 'step-(\\d+)\\.parquet$', 1) AS BIGINT), episode, any_value(game),
        any_value(policies), any_value(trainable), '', any_value(outcome), any_value(returns), count(*),
        coalesce(sum(len(token_ids)), 0),
        CASE WHEN any_value(outcome) = 'illegal_move' THEN arg_max(player, turn) END
    FROM read_parquet($files, filename = true, union_by_name = true)
    GROUP BY filename, episode
"""
OPPONENT = """
    UPDATE {table} SET opponent = array_to_string(list_filter(policies, lambda p, i: NOT trainable[i]), ', ')
    WHERE opponent = '' AND list_contains(trainable, true) AND list_contains(trainable, false)
"""
RESULT = """
    sign(list_extract(returns, {player} + 1)
        - CASE WHEN len(returns) = 2 THEN list_extract(returns, 2 - {player}) ELSE 0 END)
"""
"""1 for a win of a player, -1 for a loss, 0 for a draw, as `Episode.result` says it."""


class FilterError(ValueError):
    """A question that the table cannot answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """What a page of the table shows; None leaves a filter out."""

    game: str | None = None
    opponent: str | None = None
    outcome: str | None = None
    illegal: bool | None = None
    """Whether an illegal move ended the game; with `player`, one of this player."""
    player: int | None = None
    """The player of `result`, `illegal` and the order by return; alone: a player that learns."""
    result: Literal["win", "draw", "loss"] | None = None
    """For `player`, or else for the first player that learns."""
    step_min: int | None = None
    step_max: int | None = None
    turns_min: int | None = None
    tokens_min: int | None = None
    q: str | None = None
    """A text in a reply; upper and lower case are the same."""
    sort: str = "step"
    desc: bool = False
    offset: int = 0
    limit: int = 50

    @property
    def narrow(self) -> bool:
        """Whether any episode may be left out."""
        plain = Filters(sort=self.sort, desc=self.desc, offset=self.offset, limit=self.limit)
        return self != plain

    def check(self) -> None:
        """Raises `FilterError` for an order or a page that there cannot be."""
        if self.sort not in SORTS:
            raise FilterError(f"got sort {self.sort[:80]!r}; expected one of {', '.join(SORTS)}")
        if self.offset < 0 or not 1 <= self.limit <= MAX_PAGE:
            raise FilterError(
                f"got offset {self.offset} and limit {self.limit}; expected an offset from 0 and a limit from 1 to"
                f" {MAX_PAGE}"
            )
        if self.player is not None and not 0 <= self.player < 128:
            raise FilterError(f"got player {self.player}; expected a player's number, from 0")
        if self.q is not None and len(self.q) > MAX_TEXT:
            raise FilterError(f"the text searched for has {len(self.q):,} characters; expected at most {MAX_TEXT:,}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """A file of a step's episodes that can be read."""

    step: int
    path: Path
    stamp: object
    episodes: int


class EpisodeTable:
    """The episodes of one run. Methods may be called from any thread."""

    def __init__(self, run: ViewedRun) -> None:
        self._run = run
        self._scratch = tempfile.TemporaryDirectory(prefix="spiral-view-")
        self._db = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": MEMORY,
                "temp_directory": self._scratch.name,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        self._db.execute(f"CREATE TABLE episodes ({COLUMNS})")
        self._guard = threading.RLock()
        self._files: dict[int, _File] = {}
        self._faults: dict[int, tuple[object, str]] = {}
        """Files that cannot be read: what changes when they do, and the notice."""
        self._read: dict[int, object] = {}
        """The stamps of the files in the table."""
        self._searches: OrderedDict[object, pa.Table] = OrderedDict()
        self._reader: threading.Thread | None = None
        self._closed = False
        self._whole = threading.Condition(self._guard)
        self._read_in_background()

    def close(self) -> None:
        """Frees the memory and the temporary directory."""
        with self._guard:
            self._closed = True
            reader = self._reader
        if reader is not None:
            reader.join()
        self._db.close()
        self._scratch.cleanup()

    def path(self, step: int) -> Path:
        """The file of a step. Raises `LookupError` with the reason where there is none that can be read."""
        self._list_files()
        with self._guard:
            if step in self._files:
                return self._files[step].path
            if step in self._faults:
                raise LookupError(self._faults[step][1])
        raise LookupError(f"run {self._run.name} has kept no episodes of step {step}")

    def newest(self) -> tuple[int, int]:
        """The last step whose episodes can be read, and the number of such files; grows as the run does."""
        self._list_files()
        with self._guard:
            return max(self._files, default=0), len(self._files)

    @property
    def complete(self) -> bool:
        """Whether every file is in the table."""
        with self._guard:
            return not self._missing()

    def page(self, filters: Filters) -> dict[str, Any]:
        """The rows of a page, the number of all, and the values that filters can have."""
        filters.check()
        self._list_files()
        in_order = filters.sort == "step" and not filters.narrow
        steps: list[int] | None = None
        skipped = 0
        if in_order:
            steps, skipped = self._needed(filters)
            self._add(steps)
        self._read_in_background()
        with self._whole:
            if not in_order:
                self._whole.wait_for(lambda: not self._missing(), WAIT_SECONDS)
            missing, files = len(self._missing()), len(self._files)
            counted = sum(file.episodes for file in self._files.values())
            notices = [text for _, text in self._faults.values()]
        if missing and not in_order:
            notices.append(
                f"{files - missing} of {files} files of episodes are read so far; rows and total are of these."
            )
        rows, total = self._rows(filters, steps, skipped)
        return {
            "total": counted if in_order else total,
            "rows": rows,
            "choices": self._choices(),
            "notices": notices,
            "complete": not missing,
        }

    def _list_files(self) -> None:
        """Brings the list of files up to date, and drops what is no longer there from the table."""
        directory = self._run.path / "episodes"
        found = numbered(directory, ".parquet") if self._run.inside(directory) else []
        with self._guard:
            stamps = {step: (path, stamp_of(path)) for step, path in found}
            for step in [step for step in (*self._files, *self._faults) if step not in stamps]:
                self._files.pop(step, None)
                self._faults.pop(step, None)
            fresh = []
            for step, (path, stamp) in stamps.items():
                known = self._files[step].stamp if step in self._files else self._faults.get(step, (None, ""))[0]
                if known is None or known != stamp:
                    self._files.pop(step, None)
                    self._faults.pop(step, None)
                    fresh.append((step, path, stamp))
            with ThreadPoolExecutor(FOOTER_THREADS) as pool:  # a file costs a millisecond, and runs have thousands
                for (step, _, stamp), found_file in zip(fresh, pool.map(self._look_at, fresh), strict=True):
                    if isinstance(found_file, str):
                        self._faults[step] = (stamp, found_file)
                    else:
                        self._files[step] = found_file
            stale = [
                step
                for step, stamp in self._read.items()
                if step not in self._files or self._files[step].stamp != stamp
            ]
            self._drop(stale)
            if directory.exists() and not self._run.inside(directory):
                self._faults[-1] = (None, "The directory episodes is a link out of the run and is not read.")

    def _look_at(self, fresh: tuple[int, Path, object]) -> _File | str:
        """A file by its footer, with the number of its episodes, or the notice that it cannot be read."""
        step, path, stamp = fresh
        try:
            if not self._run.inside(path):
                raise ValueError("it is a link out of the run")
            with pq.ParquetFile(path) as file:
                _check_version(file.metadata.metadata)
                return _File(step=step, path=path, stamp=stamp, episodes=_count_episodes(file))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return notice(f"{path.name} is left out: {reason}.")

    def _missing(self) -> list[int]:
        """The steps that are not in the table, the newest first."""
        return sorted((step for step in self._files if step not in self._read), reverse=True)

    def _needed(self, filters: Filters) -> tuple[list[int], int]:
        """The steps of a page in the order of the steps, and the number of episodes before the first of them."""
        with self._guard:
            files = sorted(self._files.values(), key=lambda file: file.step, reverse=filters.desc)
        needed, before, skipped = [], 0, 0
        for file in files:
            if before + file.episodes <= filters.offset:
                skipped += file.episodes
            elif before < filters.offset + filters.limit:
                needed.append(file.step)
            before += file.episodes
        return needed, skipped

    def _read_in_background(self) -> None:
        with self._guard:
            listed = self._reader is not None
            if (
                self._closed
                or (listed and not self._missing())
                or (self._reader is not None and self._reader.is_alive())
            ):
                return
            self._reader = threading.Thread(target=self._read_all, name=f"episodes of {self._run.name}", daemon=True)
            self._reader.start()

    def _read_all(self) -> None:
        self._list_files()
        while True:
            with self._guard:
                steps = [] if self._closed else self._missing()[:FILES_AT_ONCE]
            if not steps:
                break
            self._add(steps)
        with self._whole:
            self._whole.notify_all()

    def _add(self, steps: Sequence[int]) -> None:
        """Reads files into the table; one that turns out to be damaged is noted."""
        with self._guard:
            files = [self._files[step] for step in steps if step in self._files and step not in self._read]
            if not files:
                return
        # Not under the guard, since it takes time: two threads may read the same file, and one of them keeps it.
        staged = f"staged_{threading.get_ident()}"
        cursor = self._db.cursor()
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE {staged} ({COLUMNS})")
        try:
            cursor.execute(EPISODE_OF_ROWS.format(table=staged), {"files": [str(file.path) for file in files]})
            cursor.execute(OPPONENT.format(table=staged))
        except duckdb.Error as error:
            cursor.close()
            if len(files) > 1:
                for file in files:
                    self._add([file.step])
                return
            reason = str(error).splitlines()[0].replace(str(files[0].path), files[0].path.name)
            with self._whole:
                self._files.pop(files[0].step, None)
                self._faults[files[0].step] = (
                    files[0].stamp,
                    notice(f"{files[0].path.name} is damaged and left out: {reason}."),
                )
                self._whole.notify_all()
            return
        with self._whole:
            wanted = [file for file in files if self._files.get(file.step) == file and file.step not in self._read]
            cursor.execute(
                f"INSERT INTO episodes SELECT * FROM {staged} WHERE list_contains($steps, step)",
                {"steps": [file.step for file in wanted]},
            )
            self._read |= {file.step: file.stamp for file in wanted}
            self._whole.notify_all()
        cursor.close()

    def _drop(self, steps: Sequence[int]) -> None:
        if steps:
            self._db.cursor().execute("DELETE FROM episodes WHERE list_contains($steps, step)", {"steps": list(steps)})
            for step in steps:
                self._read.pop(step, None)
            self._searches.clear()

    def _rows(self, filters: Filters, steps: Sequence[int] | None, skipped: int) -> tuple[list[dict[str, Any]], int]:
        """The rows of a page and the number of all; with `steps` of these alone, before which `skipped` come."""
        cursor = self._db.cursor()
        where, values = _conditions(filters)
        if steps is not None:
            where, values = "list_contains($steps, step)", {"steps": list(steps)}
        source = "episodes"
        if filters.q:
            hits = self._search(filters, where, values)
            cursor.register("hits", hits)
            source = "(SELECT episodes.*, hits.excerpt FROM episodes JOIN hits USING (step, episode)) AS episodes"
        counted = cursor.execute(f"SELECT count(*) FROM {source} WHERE {where}", values).fetchone()
        order = "DESC" if filters.desc else "ASC"
        sort = SORTS[filters.sort]
        player = {"player": filters.player or 0} if "$player" in sort and "player" not in values else {}
        then = f"step {order}, episode" if filters.sort != "step" else "episode"
        cursor.execute(
            f"SELECT * FROM {source} WHERE {where} ORDER BY {sort} {order} NULLS LAST, {then}"
            " LIMIT $limit OFFSET $offset",
            {**values, **player, "limit": filters.limit, "offset": filters.offset - skipped},
        )
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        cursor.close()
        for row in rows:
            row.setdefault("excerpt", None)
        return rows, int(counted[0]) if counted else 0

    def _search(self, filters: Filters, where: str, values: Mapping[str, Any]) -> pa.Table:
        """The episodes in whose replies the text is, each with the text around its first place; the last are kept."""
        assert filters.q is not None
        with self._guard:
            cursor = self._db.cursor()
            found = cursor.execute(f"SELECT DISTINCT step FROM episodes WHERE {where} ORDER BY step", values).fetchall()
            files = [self._files[step] for (step,) in found if step in self._files]
            key = (filters.q, tuple((file.step, file.stamp) for file in files))
            if key in self._searches:
                self._searches.move_to_end(key)
                return self._searches[key]
        if not files:
            return pa.table({"step": pa.array([], pa.int64()), "episode": pa.array([], pa.int32()), "excerpt": []})
        try:
            table = cursor.sql(
                """
                SELECT CAST(regexp_extract(filename, 'step-(\\d+)\\.parquet$', 1) AS BIGINT) AS step, episode,
                    arg_min(
                        CASE WHEN place > $around THEN '… ' ELSE '' END
                        || substr(reply, greatest(1, place - $around), len($q) + $around + least($around, place))
                        || CASE WHEN place + len($q) + $around <= len(reply) THEN ' …' ELSE '' END,
                        turn
                    ) AS excerpt
                FROM (
                    SELECT *, position(lower($q) IN lower(reply)) AS place
                    FROM read_parquet($files, filename = true, union_by_name = true)
                    WHERE contains(lower(reply), lower($q))
                )
                GROUP BY filename, episode
                """,
                params={"files": [str(file.path) for file in files], "q": filters.q, "around": EXCERPT},
            ).to_arrow_table()
        except duckdb.Error as error:
            raise FilterError(f"the replies cannot be searched: {str(error).splitlines()[0]}") from error
        with self._guard:
            self._searches[key] = table
            while len(self._searches) > KEPT_SEARCHES:
                self._searches.popitem(last=False)
        return table

    def _choices(self) -> dict[str, list[str]]:
        """The values of the filters, as far as the files are read."""
        cursor = self._db.cursor()
        choices = {}
        for name in ("game", "opponent", "outcome"):
            found = cursor.execute(f"SELECT DISTINCT {name} FROM episodes WHERE {name} <> '' ORDER BY 1 LIMIT 1000")
            choices[name] = [str(value) for (value,) in found.fetchall()]
        cursor.close()
        return choices


def _conditions(filters: Filters) -> tuple[str, dict[str, Any]]:
    """A condition in SQL and its values."""
    parts, values = ["true"], dict[str, Any]()
    for name in ("game", "opponent", "outcome"):
        value = getattr(filters, name)
        if value is not None:
            parts.append(f"{name} = ${name}")
            values[name] = value
    for name, column, compared in (
        ("step_min", "step", ">="),
        ("step_max", "step", "<="),
        ("turns_min", "turns", ">="),
        ("tokens_min", "tokens", ">="),
    ):
        if (number := getattr(filters, name)) is not None:
            parts.append(f"{column} {compared} ${name}")
            values[name] = number
    if filters.illegal is not None:
        of_player = "" if filters.player is None or not filters.illegal else " AND illegal_player = $player"
        parts.append(f"(outcome = 'illegal_move'{of_player})" if filters.illegal else "outcome <> 'illegal_move'")
    if filters.result is not None:
        player = "$player" if filters.player is not None else "coalesce(list_position(trainable, true), 1) - 1"
        wanted = {"win": 1, "draw": 0, "loss": -1}[filters.result]
        parts.append(f"outcome <> 'not_played' AND ({RESULT.format(player=f'({player})')}) = {wanted}")
    elif filters.player is not None and filters.illegal is None and filters.sort != "return":
        parts.append("list_extract(trainable, $player + 1)")
    condition = " AND ".join(parts)
    if "$player" in condition:
        values["player"] = filters.player
    return condition, values


def _check_version(metadata: Mapping[bytes, bytes] | None) -> None:
    """Raises `ValueError` for files of another schema."""
    version = (metadata or {}).get(VERSION_KEY, b"none").decode("utf-8", "replace")
    if version not in READ_VERSIONS:
        raise ValueError(f"it has schema version {version[:20]}, and this spiral reads {', '.join(READ_VERSIONS)}")


def _count_episodes(file: pq.ParquetFile) -> int:
    """The number of episodes, by the statistics in the footer where there are any."""
    metadata = file.metadata
    if not metadata.num_rows:
        return 0
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(0) for group in groups]
    if any(column.path_in_schema != "episode" for column in columns):
        raise ValueError("its first column is not the number of an episode")
    statistics = [column.statistics for column in columns]
    if all(found is not None and found.has_min_max for found in statistics):
        return 1 + max(int(found.max) for found in statistics)
    return len(set(file.read(columns=["episode"])["episode"].to_pylist()))
