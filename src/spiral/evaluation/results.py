"""A result is a directory: the settings, the result itself, and the records it was computed from.

    results/evaluate-tictactoe-minimax-nano-1f0c9a52/
      result.json        schema version, kind, the settings, the result, versions, command, date
      items.jsonl        benchmarks and exploitability: one record per item
      episodes.parquet   games: one row per turn
      .lock              held by the process that writes here

The name ends in a hash of the settings: the model's weights, prompt and sampling, the task and the seed. The same
evaluation therefore has the same name, so it can be found, continued and compared.
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

from spiral.core.files import json_line, read_json, write_atomically, write_jsonl
from spiral.core.locks import locked
from spiral.core.records import Episode
from spiral.core.steps import MANIFEST, SNAPSHOTS, models_of_run
from spiral.core.storage import write_episodes
from spiral.core.versions import versions
from spiral.inference.base import LanguagePolicy
from spiral.models.hub import cached_copy
from spiral.models.loading import model_directory
from spiral.models.store import store_directory
from spiral.models.weights_hash import settings_sha256, weights_in_manifest, weights_sha256
from spiral.policies import is_scripted
from spiral.policies.endpoint.config import ENDPOINT
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.policies.tables import TABLE, table_file

SCHEMA_VERSION = 1
RESULTS_VARIABLE = "SPIRAL_RESULTS"
"""Environment variable with the directory for results, instead of ./results or the run's own."""
LOCK = ".lock"
RESULTS = "results"
"""Name of the directory for results in a run directory or the working directory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultDirectory:
    """The directory of one result."""

    path: Path
    kind: str
    settings: Mapping[str, Any]

    @property
    def result_file(self) -> Path:
        """The result; it exists once the evaluation is complete."""
        return self.path / "result.json"

    @property
    def items_file(self) -> Path:
        """One record per item."""
        return self.path / "items.jsonl"

    @property
    def episodes_file(self) -> Path:
        """The episodes."""
        return self.path / "episodes.parquet"

    def make(self) -> None:
        """Makes the directory. Raises `ValueError` if that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise ValueError(
                f"cannot write results to {self.path}: {error.strerror}; choose another directory with --out DIR"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and locks it against other processes within a `with` block.

        Raises `ValueError` if it cannot be made, or if another process holds the lock.
        """
        self.make()
        with lock_directory(self.path):
            yield

    def append_item(self, record: Mapping[str, Any]) -> None:
        """Appends a record immediately, so that it survives an interruption."""
        with self.items_file.open("a", encoding="utf-8") as file:
            file.write(json_line(record))

    def read_items(self) -> list[dict[str, Any]]:
        """The records so far; a record cut short by a kill is removed from the file."""
        if not self.items_file.exists():
            return []
        content = self.items_file.read_bytes()
        records, complete = [], []
        # Bytes: a kill may cut a character in two, and only a line feed ends a line (a reply may hold U+2028).
        for line in content.split(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
                complete.append(line + b"\n")
        kept = b"".join(complete)
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
        """Writes the records that the result was computed from, the endpoints' usage and, last, the result itself."""
        self.make()  # another process that failed may have removed the empty directory
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
def lock_directory(directory: Path) -> Iterator[None]:
    """Locks a directory against other processes within a `with` block.

    Raises `ValueError` if another process holds the lock, or if the directory is not writable. If the block fails, a
    directory that was left without content is removed.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / LOCK))
        except BlockingIOError as error:
            raise ValueError(
                f"{error.strerror} is writing to {directory} right now; wait until it is done, or choose another"
                " directory with --out DIR"
            ) from error
        except PermissionError as error:
            raise ValueError(
                f"cannot write to {directory}: {error.strerror}; choose another directory with --out DIR"
            ) from error
        try:
            yield
        except BaseException:
            stack.close()
            _remove_if_empty(directory)
            raise


def _remove_if_empty(directory: Path) -> None:
    """Removes a directory that holds only locks and empty directories, and its parent `results` if then empty."""
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
    """The directory of a result, below `out` or else below `default_root(model)`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    name = plain_name(f"{kind}-{label}")[:100]
    return ResultDirectory(path=(out or default_root(model)) / f"{name}-{digest}", kind=kind, settings=settings)


def plain_name(text: str) -> str:
    """Text as a file name: characters other than letters, digits and `_.=-` become dashes."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-")


def default_root(model: str) -> Path:
    """The directory for results: $SPIRAL_RESULTS, else `results` in the model's run directory, else ./results.

    If that is not writable, `results` beside the models kept on this machine.
    """
    if os.environ.get(RESULTS_VARIABLE):
        return Path(os.environ[RESULTS_VARIABLE])
    base = _run_directory(model) or Path()
    return base / RESULTS if os.access(base, os.W_OK) else store_directory().parent / RESULTS


def _run_directory(model: str) -> Path | None:
    """The run directory that a model comes from, if any."""
    if is_scripted(model) or model.startswith(ENDPOINT):
        return None
    try:
        checkpoint = Path(model_directory(model)).absolute()
    except ValueError:
        return None
    return checkpoint.parent.parent if checkpoint.parent.name in ("checkpoints", SNAPSHOTS) else None


def endpoint_usage(*policies: object) -> list[dict[str, Any]]:
    """The usage of each endpoint among the policies: requests, tokens, cost, and parameters that it does not accept."""
    return [
        {"name": policy.name, "model": policy.config.model, **dataclasses.asdict(policy.usage())}
        for policy in policies
        if isinstance(policy, EndpointPolicy)
    ]


def describe_player(name: str, policy: object) -> dict[str, Any]:
    """Everything that determines how a policy plays, for the settings of a result."""
    if isinstance(policy, EndpointPolicy):
        unset = {key for key in ("omit", "rename", "extra") if not getattr(policy.config, key)}
        return {"name": name, "endpoint": policy.config.model_dump(exclude={"budget", *unset})}
    if name.startswith(TABLE):
        return {"name": name, "table_sha256": hashlib.sha256(table_file(name).read_bytes()).hexdigest()}
    if not isinstance(policy, LanguagePolicy):
        return {"name": name}
    source = policy.source or name
    directory = model_directory(source)
    directory = directory if os.path.isdir(directory) else str(cached_copy(directory) or directory)
    weights = weights_sha256(directory)
    return {
        "name": name,
        **({} if source == name else {"model": source}),
        "weights_sha256": weights,
        "settings_sha256": settings_sha256(directory),
        "prompt": policy.codec.config.model_dump(),
        "chat_template": policy.codec.tokenizer.chat_template if policy.codec.config.template == "chat" else None,
        "stop_tokens": sorted(policy.stop_ids),
        "sampling": policy.sampling.model_dump(),
        "engine": type(policy).__name__,
        "precision": policy.precision,
        "context": policy.context,
        # Without a hash it is unknown whether the weights are still the same, so such a result is never reused.
        **({"measured_once": os.urandom(16).hex()} if weights is None else {}),
    }


def read_result(path: Path) -> dict[str, Any]:
    """The result in a result directory or file. Raises `ValueError` if there is none."""
    file = path / "result.json" if path.is_dir() else path
    try:
        values = read_json(file.read_bytes())
        known = values["schema_version"] == SCHEMA_VERSION and isinstance(values["result"], dict)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a result of spiral ({type(error).__name__}); evaluate again") from error
    if not known:
        raise ValueError(f"{file} has schema version {values['schema_version']!r}; this version reads {SCHEMA_VERSION}")
    return dict(values)


def trained_steps(run: Path, player: Mapping[str, Any]) -> int | None:
    """After which step of a run a result's model was: by its name, or else by its weights in the manifests of the run.

    Args:
        run: The run directory.
        player: What `describe_player` gave for the model.

    Returns:
        The step; None where neither tells it, as after the checkpoint was deleted.
    """
    named = re.search(r"(?:^|[/\\])step-(\d{6,18})$|@(\d{1,9})$", str(player.get("name", "")))
    if named is not None:
        return int(named[1] or named[2])
    weights = player.get("weights_sha256")
    for step, model in sorted(models_of_run(run).items(), reverse=True):
        try:
            manifest = json.loads((model / MANIFEST).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if weights and isinstance(manifest, dict) and weights_in_manifest(manifest) == weights:
            return step
    return None
