"""A run as the two folders that `spiral push` sends to the Hugging Face hub: the model with its card, and its episodes.

    RUN/push/
      model/     README.md (the card), the model's files, spiral.json, recipe.toml, results.json
      episodes/  README.md, training/ and evaluation/ with one Parquet file a step
      push.json  says what they were made from

The card is made from the run alone. Absolute paths of this machine are shortened to their last part, and the episodes
of all steps get the same columns, those of the newest schema and the `step`, so that `datasets` loads them as they are.
"""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from spiral.core.files import remove, write_text_atomically
from spiral.core.printable import one_line
from spiral.core.steps import checkpoints_in, latest_checkpoint, models_of_run, numbered
from spiral.core.storage import READ_VERSIONS, SCHEMA, VERSION_KEY, write_table
from spiral.core.versions import versions
from spiral.models.card import CARD, read_card
from spiral.models.hub import is_hub_name
from spiral.models.store import BUILT_IN
from spiral.runs.overview import Overview
from spiral.runs.report import ResultTable, changed_settings, tables

NOT_PUSHED = ("training", "reference", "state.json", "manifest.json")
"""What a checkpoint holds for training alone, and the hashes of all of it."""
MARKER = "push.json"
"""A file beside the folders that says that they may be replaced."""
LINKED = (".safetensors", ".bin")
"""Endings of large files, which are linked rather than copied where the disk can."""
KINDS = ("training", "evaluation")
"""The parts of the data set: games that were trained on, and games of evaluations."""
COLUMNS = pa.schema([("step", pa.int32()), *SCHEMA, ("file", pa.string())])
"""The columns of the data set; `file` tells evaluations of a step apart."""
MARKS = re.compile(r"([\\`*_{}\[\]()#|~!$])")
"""Characters that Markdown acts on."""
USAGE = Path(__file__).with_name("card_usage.md")
"""How to load the model, with {repo} and {game} to be filled in."""
PAPER = "https://arxiv.org/abs/2506.24119"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """The folders that are pushed."""

    step: int
    model: Path
    episodes: Path | None
    """None where the run has kept no games, or none are wanted."""
    turns: int
    """Rows of the data set."""
    left_out: tuple[str, ...]
    """Files that could not be read, with the reason."""


def model_to_push(run: Path, step: int | None) -> tuple[int, Path]:
    """The step and directory of a run's model. Without a step it is the last checkpoint.

    Raises `ValueError` where there is none.
    """
    kept = models_of_run(run)
    if step is None:
        latest = latest_checkpoint(run / "checkpoints")
        for at, path in checkpoints_in(run / "checkpoints"):
            if latest is not None and path.samefile(latest):
                return at, path
        if not kept:
            raise ValueError(f"the run in {run} has no checkpoint to push yet")
        return max(kept), kept[max(kept)]
    if step not in kept:
        there = f"those of steps {', '.join(map(str, kept))}" if kept else "none"
        raise ValueError(f"the run in {run} has kept no model of step {step}; it has {there}")
    return step, kept[step]


def write_publication(
    found: Overview, folder: Path, repo: str, dataset: str | None, step: int | None = None
) -> Publication:
    """Writes the folders, in place of those of an earlier push.

    Args:
        found: The run.
        folder: Where they are put.
        repo: The name of the model on the hub.
        dataset: That of the data set; None leaves the episodes out.
        step: The step of the model; None takes the last checkpoint.

    Raises:
        ValueError: The run has no such model, or the folder holds something else under these names.
    """
    at, source = model_to_push(found.path, step)
    model, marker = folder / "model", folder / MARKER
    for path in (model, folder / "episodes"):
        if os.path.lexists(path) and not marker.is_file():
            raise ValueError(f"{path} is there already, and not of an earlier push; choose another --out")
        remove(path)
    model.mkdir(parents=True)
    write_text_atomically(marker, json.dumps({"run": found.path.resolve().name, "step": at}) + "\n")
    for file in sorted(source.iterdir()):
        if file.name not in NOT_PUSHED and file.is_file():
            _put(file, model / file.name)
    card = model / CARD
    if card.is_file():
        values = json.loads(card.read_text(encoding="utf-8"))
        write_text_atomically(card, json.dumps(without_paths(values), indent=2) + "\n")
    write_text_atomically(model / "recipe.toml", tomli_w.dumps(without_paths(found.settings)))
    results = [{"step": step, **values.to_json()} for step, values in found.evaluations]
    write_text_atomically(model / "results.json", json.dumps({"evaluations": results}, indent=2) + "\n")
    rows, left_out = (0, []) if dataset is None else _write_episodes(found.path, folder / "episodes")
    if dataset is not None and rows:
        write_text_atomically(
            folder / "episodes" / "README.md", dataset_card(found, folder / "episodes", repo, dataset)
        )
    else:
        remove(folder / "episodes")
    trained = read_card(source).versions or versions()
    text = model_card(found, at, repo, dataset if rows else None, trained)
    write_text_atomically(model / "README.md", text)
    return Publication(
        step=at,
        model=model,
        episodes=folder / "episodes" if rows else None,
        turns=rows,
        left_out=tuple(left_out),
    )


def _put(source: Path, target: Path) -> None:
    """Copies a file; links a large one where the disk can."""
    if source.suffix in LINKED:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)


def without_paths(value: Any) -> Any:
    """Settings with absolute paths shortened to their last part: they mean nothing elsewhere, and may name users."""
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute()):
        return PurePath(value).name
    return value


def _write_episodes(run: Path, folder: Path) -> tuple[int, list[str]]:
    """Writes the files of the data set. Returns the number of rows, and the files left out."""
    rows, left_out = 0, []
    files = [("training", step, [file]) for step, file in numbered(run / "episodes", ".parquet")]
    evaluations = [(step, path) for step, path in numbered(run / "evaluation") if path.is_dir()]
    files += [("evaluation", step, sorted(path.glob("*.parquet"))) for step, path in evaluations]
    for kind, step, sources in files:
        parts = []
        for source in sources:
            try:
                parts.append(_same_columns(source, step))
            except (OSError, ValueError, pa.ArrowException) as error:
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                left_out.append(f"{source}: {reason}")
        table = pa.concat_tables(parts) if parts else None
        if table is not None and table.num_rows:
            target = folder / kind / f"step-{step:06d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_table(target, table)
            rows += table.num_rows
    return rows, left_out


def _same_columns(file: Path, step: int) -> pa.Table:
    """The rows of a file with the columns of the data set; those that it lacks are null."""
    table = pq.read_table(file, page_checksum_verification=True)
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version not in READ_VERSIONS:
        raise ValueError(f"schema version {version} is not one of {', '.join(READ_VERSIONS)}")
    count = table.num_rows
    columns = []
    for field in COLUMNS:
        if field.name == "step":
            columns.append(pa.array([step] * count, field.type))
        elif field.name == "file":
            columns.append(pa.array([file.stem] * count, field.type))
        elif field.name in table.schema.names:
            columns.append(table[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(count, field.type))
    return pa.table(columns, schema=COLUMNS)


def model_card(found: Overview, step: int, repo: str, dataset: str | None, trained_with: Mapping[str, str]) -> str:
    """The README.md of the model, with the metadata that the hub reads."""
    model = str(without_paths(found.model or "unknown"))
    of = "" if found.steps is None else f" of {found.steps:,}"
    games = ", ".join(map(_code, found.games)) or "games"
    lines = [
        f"# {_text(repo.rpartition('/')[2])}",
        "",
        f"{_code(model)} after step {step:,}{of} of self-play with SPIRAL: one model is every player of {games}, is"
        f" paid by the result, and is updated with role-conditioned advantage estimation ([paper]({PAPER})).",
        "",
    ]
    if found.opponents:
        lines += [f"It also played against {', '.join(map(_code, found.opponents))}.", ""]
    if dataset is not None:
        lines += [f"The games: [{_text(dataset)}](https://huggingface.co/datasets/{dataset}).", ""]
    lines += ["## Use", "", *_usage(repo, str(next(iter(found.games), "tictactoe"))), ""]
    lines += ["## Results", ""]
    evaluated = found.evaluations[-1][0] if found.evaluations else None
    for table in tables(found):
        lines += [f"### {table.title}", "", f"{table.note}", "", *_markdown(table), ""]
    if not tables(found):
        lines += ["The run has no evaluation.", ""]
    elif evaluated is not None and evaluated != step:
        lines += [f"These are of step {evaluated:,}; the model is that of step {step:,}.", ""]
    raised = [light for light in found.lights if light.state in ("warn", "bad")]
    if raised:
        lines += ["What the health lights of the run warn of:", ""]
        lines += [f"- {light.name}, {_text(light.about)}: {_text(light.reading)}" for light in raised] + [""]
    lines += ["## Recipe", "", "Settings that differ from SPIRAL's defaults; `recipe.toml` has all of them.", ""]
    lines += ["| setting | value |", "|---|---|"]
    pushed = dataclasses.replace(found, settings=without_paths(found.settings))
    lines += [f"| `{key}` | {_code(value)} |" for key, value in changed_settings(pushed)] + [""]
    seed = found.settings.get("run", {}).get("seed", 0)
    lines += [
        "## Reproduce",
        "",
        f"    hf download {repo} recipe.toml --local-dir .",
        f"    spiral train recipe.toml --seed {seed}",
        "",
        "On the same machine with the same number of threads and the same versions, the numbers are the same to the"
        " bit. Paths in the recipe are shortened to their last part. Trained with"
        f" {', '.join(f'{name} {number}' for name, number in trained_with.items())}.",
        "",
    ]
    return f"---\n{_metadata(found, step, repo, dataset, model)}---\n\n" + "\n".join(lines)


def _usage(repo: str, game: str) -> list[str]:
    text = USAGE.read_text(encoding="utf-8")
    return text.format(repo=repo, game=shlex.quote(one_line(game))).splitlines()


def _metadata(found: Overview, step: int, repo: str, dataset: str | None, model: str) -> str:
    """The card's metadata in YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    measured = found.evaluations[-1][1] if found.evaluations and found.evaluations[-1][0] == step else None
    results = []
    if measured is not None:
        results += [
            EvalResult(
                task_type="text-generation",
                dataset_type=one_line(str(row["game"])),
                dataset_name=one_line(f"{row['game']} against {row['opponent']}"),
                dataset_config=one_line(f"against {row['opponent']}"),  # else results of one game become one entry
                metric_type="win_or_draw",
                metric_name="win or draw",
                metric_value=float(row["not_lost"]),
            )
            for row in measured.arena
        ]
        results += [
            EvalResult(
                task_type="text-generation",
                dataset_type=one_line(str(row["task"])),
                dataset_name=one_line(str(row["task"])),
                metric_type="accuracy",
                metric_value=float(row["accuracy"]),
            )
            for row in measured.benchmarks
        ]
    known = "/" in model and is_hub_name(model) and not Path(str(found.model)).exists()
    data = ModelCardData(
        base_model=model if known else None,
        datasets=[dataset] if dataset else None,
        library_name="transformers",
        license="apache-2.0" if found.model in BUILT_IN else None,
        pipeline_tag="text-generation",
        tags=["spiral", "self-play", "reinforcement-learning", "games"],
        model_name=repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def dataset_card(found: Overview, folder: Path, repo: str, name: str) -> str:
    """The README.md of the data set, whose metadata tell `datasets` where the files are."""
    from huggingface_hub import DatasetCardData

    kinds = [kind for kind in KINDS if any((folder / kind).glob("*.parquet"))]
    configs = [{"config_name": kind, "data_files": f"{kind}/*.parquet", "default": kind == kinds[0]} for kind in kinds]
    data = DatasetCardData(
        tags=["spiral", "self-play", "games"],
        task_categories=["text-generation", "reinforcement-learning"],
        configs=[{key: value for key, value in config.items() if value is not False} for config in configs],
    )
    games = ", ".join(map(_code, found.games))
    lines = [
        f"# {_text(name.rpartition('/')[2])}",
        "",
        f"The games of a run of SPIRAL, {games}, from which [{_text(repo)}](https://huggingface.co/{repo}) learned by"
        " self-play: one row a turn.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        *(f'{kind} = load_dataset("{name}", "{kind}", split="train")' for kind in kinds),
        "```",
        "",
        "What belongs to the episode is repeated in each of its turns. `step` is the training step, `file` the file"
        " that a row comes from, `episode` and `turn` count in it. `prompt_ids`, `token_ids` and `logprobs` are the"
        " tokens exactly as they were sampled, with their log-probabilities under the distribution sampled from (nats);"
        " `returns` what each player got, `rewards` what training paid. The texts were written by a model and are kept"
        " as they are.",
        "",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines)


def _markdown(table: ResultTable) -> list[str]:
    """A table of results in Markdown."""
    marks = ["---" if column < table.names else "---:" for column in range(len(table.headers))]
    rows = [table.headers, *table.rows]
    first, *rest = [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]
    return [first, f"|{'|'.join(marks)}|", *rest]


def _text(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return MARKS.sub(r"\\\1", html.escape(one_line(text), quote=False))


def _code(text: str) -> str:
    """Text as code, whatever it holds, also in a table."""
    return f"<code>{_text(one_line(text, max_length=300))}</code>"
