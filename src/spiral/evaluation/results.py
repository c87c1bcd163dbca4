"""Every result is a directory: what was measured, of which weights, with what, and one record for every item.

    results/evaluate-tictactoe-minimax-nano-1f0c9a52/
      result.json        schema version, kind, the settings, the result, versions, command, date
      items.jsonl        benchmarks and exploitability: one record an item
      episodes.parquet   games: one row a turn
      .lock              held by the process that measures, so that no other does at the same time

The name ends in a hash of the settings: the model's weights, prompt and sampling, the task and the seed. The same
measurement has the same name, so it can be found again, gone on with and compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import json_line, write_atomically, write_jsonl
from spiral.core.locks import locked
from spiral.core.records import Episode
from spiral.core.storage import write_episodes
from spiral.core.versions import versions
from spiral.inference.base import LanguagePolicy
from spiral.models.hub import cached_copy
from spiral.models.loading import model_directory
from spiral.models.store import store_directory
from spiral.models.weights_hash import settings_sha256, weights_sha256
from spiral.policies import is_scripted
from spiral.policies.endpoint.config import ENDPOINT
from spiral.policies.endpoint.policy import EndpointPolicy

SCHEMA_VERSION = 1
RESULTS_VARIABLE = "SPIRAL_RESULTS"
"""Names the directory for results, in place of ./results or the run's own."""
LOCK = ".lock"
RESULTS = "results"
"""The directory for results in a run, or here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultDirectory:
    """Where one measurement goes."""

    path: Path
    kind: str
    settings: Mapping[str, Any]

    @property
    def result_file(self) -> Path:
        """The result; it is there when the measurement is complete."""
        return self.path / "result.json"

    @property
    def items_file(self) -> Path:
        """One record an item."""
        return self.path / "items.jsonl"

    @property
    def episodes_file(self) -> Path:
        """The games played."""
        return self.path / "episodes.parquet"

    def make(self) -> None:
        """Makes the directory. Raises `ValueError` when that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise ValueError(
                f"cannot write results to {self.path}: {error.strerror}; choose another place with --out DIR"
            ) from error

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Makes the directory and keeps other processes from measuring into it for the time of a `with` block.

        Raises `ValueError` when it cannot be made, and when another process is at it.
        """
        self.make()
        with alone_in(self.path):
            yield

    def append_item(self, record: Mapping[str, Any]) -> None:
        """Adds a record at once, so that what is done is kept whatever comes."""
        with self.items_file.open("a", encoding="utf-8") as file:
            file.write(json_line(record))

    def read_items(self) -> list[dict[str, Any]]:
        """The records so far; one cut short by a kill is left out, and taken off the file."""
        if not self.items_file.exists():
            return []
        content = self.items_file.read_bytes()
        records, whole = [], []
        # Bytes: a kill may cut a letter in two, and a line ends at a line feed only (a reply may hold U+2028).
        for line in content.split(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
                whole.append(line + b"\n")
        kept = b"".join(whole)
        if kept != content:
            write_atomically(self.items_file, lambda temporary: temporary.write_bytes(kept))
        return records

    def write(
        self,
        result: Mapping[str, Any],
        *,
        items: Iterable[Mapping[str, Any]] | None = None,
        episodes: Sequence[Episode] | None = None,
        endpoints: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Writes the result, last of all, what it was computed from, and what endpoints were really asked."""
        self.make()  # another process that failed may have taken the empty directory away
        if items is not None:
            write_jsonl(self.items_file, items)
        if episodes is not None:
            write_episodes(self.episodes_file, episodes)
        text = json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "kind": self.kind,
                "settings": dict(self.settings),
                "result": dict(result),
                **({"endpoints": list(endpoints)} if endpoints else {}),
                "versions": versions(),
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
                "command": sys.argv,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
            indent=2,
            ensure_ascii=False,
        )
        write_atomically(self.result_file, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keeps other processes from measuring into a directory for the time of a `with` block.

    Raises `ValueError` when another process is at it, and when the directory may not be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / LOCK))
        except BlockingIOError as error:
            raise ValueError(
                f"{error.strerror} is measuring into {directory} just now; wait until it is done, or choose another"
                " place with --out DIR"
            ) from error
        except PermissionError as error:
            raise ValueError(
                f"cannot write to {directory}: {error.strerror}; choose another place with --out DIR"
            ) from error
        try:
            yield
        except BaseException:
            stack.close()
            _remove_without_content(directory)
            raise


def _remove_without_content(directory: Path) -> None:
    """Removes a directory in which nothing but locks and empty directories was left, and `results` if that is all."""
    found = list(directory.rglob("*"))
    if any(path.is_file() and not path.name.startswith(LOCK) for path in found):
        return
    with contextlib.suppress(OSError):
        for path in sorted(found, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        directory.rmdir()
        if directory.parent.name == RESULTS:
            directory.parent.rmdir()


def result_directory(
    kind: str, label: str, settings: Mapping[str, Any], *, model: str, out: Path | None = None
) -> ResultDirectory:
    """The place of a measurement: below `out`, or the run that the model comes from, or ./results."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    name = plain_name(f"{kind}-{label}")[:100]
    return ResultDirectory(path=(out or default_root(model)) / f"{name}-{digest}", kind=kind, settings=settings)


def plain_name(text: str) -> str:
    """A name for a file: whatever else than letters, digits and `_.=-` becomes a dash."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-")


def default_root(model: str) -> Path:
    """$SPIRAL_RESULTS; or `results` in the run directory that a model comes from; or ./results.

    Where those cannot be written to, `results` beside the models that are kept on this machine.
    """
    if os.environ.get(RESULTS_VARIABLE):
        return Path(os.environ[RESULTS_VARIABLE])
    base = _run_of(model) or Path()
    return base / RESULTS if os.access(base, os.W_OK) else store_directory().parent / RESULTS


def _run_of(model: str) -> Path | None:
    """The run directory that a model comes from."""
    if is_scripted(model) or model.startswith(ENDPOINT):
        return None
    try:
        checkpoint = Path(model_directory(model)).absolute()
    except ValueError:
        return None
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


def asked_of(*players: object) -> list[dict[str, Any]]:
    """What each endpoint among the players was asked: requests, tokens, cost, and parameters that it does not take."""
    return [
        {"name": player.name, "model": player.config.model, **dataclasses.asdict(player.usage())}
        for player in players
        if isinstance(player, EndpointPolicy)
    ]


def describe_player(name: str, policy: object) -> dict[str, Any]:
    """What fixes a player's play, for the settings of a result."""
    if isinstance(policy, EndpointPolicy):
        unset = {key for key in ("omit", "rename", "extra") if not getattr(policy.config, key)}
        return {"name": name, "endpoint": policy.config.model_dump(exclude={"budget", *unset})}
    if not isinstance(policy, LanguagePolicy):
        return {"name": name}
    directory = model_directory(name)
    directory = directory if os.path.isdir(directory) else str(cached_copy(directory) or directory)
    weights = weights_sha256(directory)
    return {
        "name": name,
        "weights_sha256": weights,
        "settings_sha256": settings_sha256(directory),
        "prompt": policy.codec.config.model_dump(),
        "chat_template": policy.codec.tokenizer.chat_template if policy.codec.config.template == "chat" else None,
        "stop_tokens": sorted(policy.stop_ids),
        "sampling": policy.sampling.model_dump(),
        "engine": type(policy).__name__,
        "precision": policy.precision,
        "context": policy.context,
        # Without a hash nothing says that the weights are still the same, so such a result is never found again.
        **({"measured_once": os.urandom(16).hex()} if weights is None else {}),
    }


def read_result(path: Path) -> dict[str, Any]:
    """The result in a result directory or file. Raises `ValueError` when there is none."""
    file = path / "result.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        known = values["schema_version"] == SCHEMA_VERSION and isinstance(values["result"], dict)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not a result of spiral ({type(error).__name__}); measure again") from error
    if not known:
        raise ValueError(f"{file} has schema version {values['schema_version']!r}; this version reads {SCHEMA_VERSION}")
    return dict(values)
