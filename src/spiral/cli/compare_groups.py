"""`spiral compare --group NAME=RUN,RUN --group NAME=RUN,RUN`: runs of several seeds against runs of several seeds."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.cli.output import shown_path
from spiral.core.printable import printable
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.evaluation.group_comparison import GroupRow

EXPECTED = "expected two groups, such as --group BASE=Qwen/Qwen3-4B-Base --group SPIRAL=runs/s0,runs/s1"
MAX_DIFFERENCES = 3
"""Settings in which two runs differ that an error names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ by the seed alone, or one model."""

    name: str
    models: tuple[str, ...]

    @property
    def title(self) -> str:
        """The name, and how many runs there are."""
        return f"{self.name} ({len(self.models)} run{'' if len(self.models) == 1 else 's'})"


def parse_groups(entries: Sequence[str]) -> tuple[Group, Group]:
    """The two groups of `--group NAME=RUN,RUN`; a name that is given again adds runs. Raises `ValueError`."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, equals, models = entry.partition("=")
        given = [model.strip() for model in models.split(",")]
        if not equals or not name.strip() or not all(given):
            raise ValueError(f"got --group {entry!r}; {EXPECTED}")
        found.setdefault(name.strip(), []).extend(given)
    if len(found) != 2:
        raise ValueError(f"got {len(found)} group{'' if len(found) == 1 else 's'}; {EXPECTED}")
    groups = tuple(Group(name=name, models=tuple(models)) for name, models in found.items())
    both = [model for model in groups[0].models if model in groups[1].models]
    if both:
        raise ValueError(f"{both[0]} is in both groups; expected every run in one")
    return groups[0], groups[1]


def check_group(group: Group) -> None:
    """Checks that the runs of a group differ by the seed alone, and are at the same step.

    Raises:
        ValueError: They do not, or several models are no runs, whose settings are not known.
    """
    if len(group.models) == 1:
        return
    first, *others = [(model, *_settings(model)) for model in group.models]
    seeds: dict[int, str] = {first[2]: first[0]}
    for model, settings, seed, step in others:
        differing = [
            f"{key} is {first[1].get(key)!r} in {first[0]} and {settings.get(key)!r} in {model}"
            for key in dict.fromkeys((*first[1], *settings))
            if first[1].get(key) != settings.get(key)
        ]
        if differing:
            more = f"; and {len(differing) - MAX_DIFFERENCES} more" if len(differing) > MAX_DIFFERENCES else ""
            raise ValueError(
                f"the runs of group {group.name} have different settings: {'; '.join(differing[:MAX_DIFFERENCES])}"
                f"{more}; expected runs of one recipe with different seeds"
            )
        if step != first[3]:
            raise ValueError(
                f"{first[0]} is at step {first[3]} and {model} at step {step}; expected the same step of both, such as"
                f" {re.sub(r'@[0-9]+$', '', model)}@{first[3]}"
            )
        if seed in seeds:
            raise ValueError(
                f"{seeds[seed]} and {model} of group {group.name} have the same seed, {seed}; expected runs with"
                " different seeds"
            )
        seeds[seed] = model


def _settings(model: str) -> tuple[dict[str, Any], int, int]:
    """The lasting settings of the run that a model comes from as "section.key", its seed, and the model's step."""
    from spiral.models.loading import model_directory
    from spiral.policies.registry import is_language_model, model_card
    from spiral.runs.directory import lasting_settings
    from spiral.runs.recipe import validate_recipe

    file = None
    if is_language_model(model):
        file = Path(model_directory(model)).absolute().parent.parent / "config.toml"
    if file is None or not file.is_file() or not model_card(model).run:
        raise ValueError(
            f"{model} does not lie in a run directory with its config.toml, so it cannot be checked that only its seed"
            " differs; a group of several models takes runs, and one model can be a group alone"
        )
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    sections = lasting_settings(validate_recipe(values, str(file)))
    flat = {f"{section}.{key}": value for section, own in sections.items() for key, value in own.items()}
    seed = flat.pop("run.seed")
    return flat, int(seed), model_card(model).step


def group_rows(
    groups: tuple[Group, Group],
    found: Mapping[str, Mapping[str, Any]],
    games: Sequence[tuple[str, str]],
    exploitability: Sequence[str],
    tasks: Sequence[str],
) -> list[GroupRow]:
    """The rows of both groups, from the results of every model by game and task."""
    from spiral.evaluation.group_comparison import (
        corrected_groups,
        group_benchmark_row,
        group_exploitability_row,
        group_game_rows,
    )

    def of(key: str) -> tuple[list[Any], list[Any]]:
        a, b = ([found[model][key] for model in group.models] for group in groups)
        return a, b

    rows: list[GroupRow] = []
    for spec, other in games:
        rows += group_game_rows(spec, other, *of(f"{spec} against {other}"))
    rows += [group_exploitability_row(*of(spec), states=of(f"{spec} states")[0][0]) for spec in exploitability]
    rows += [group_benchmark_row(task, *of(task)) for task in tasks]
    return corrected_groups(rows)


def write_groups(
    groups: tuple[Group, Group], rows: Sequence[GroupRow], about: Mapping[str, Any], out: Path | None
) -> tuple[dict[str, Any], Path]:
    """Writes the table as Markdown, CSV and JSON; returns the result and where it lies."""
    from spiral.core.files import write_text_atomically
    from spiral.evaluation.group_comparison import groups_to_csv, groups_to_markdown
    from spiral.evaluation.results import result_directory

    members = {group.name: list(group.models) for group in groups}
    settings = {"groups": members, "rows": [row.items.measure for row in rows], **about}
    directory = result_directory(
        "compare", "-".join(group.name for group in groups), settings, model=groups[1].models[0], out=out
    )
    result = {"groups": members, **about, "rows": [row.to_json() for row in rows]}
    tables = (
        ("table.md", groups_to_markdown(rows, *(group.title for group in groups))),
        ("table.csv", groups_to_csv(rows)),
    )
    with directory.locked():
        for name, text in tables:
            write_text_atomically(directory.path / name, text)
        directory.write(result)
    return result, directory.path


def print_groups(groups: tuple[Group, Group], rows: Sequence[GroupRow], files: Path) -> None:
    """Prints the table."""
    from spiral.evaluation.group_comparison import group_cells

    a, b = groups
    table = plain_table("", "n", a.title, b.title, f"{b.name} - {a.name}", "over items", "p (Holm)")
    for row in rows:
        table.add_row(*(printable(cell) for cell in group_cells(row)))
    console = wide_console()
    console.print(table)
    console.print(
        "Brackets: 95% intervals over runs (Student's, Welch's for differences; none for one run or runs that do not"
        " differ). over items: the interval of the difference over deals or problems, each averaged over the"
        " runs. *: significant at 5% over items after Holm's correction.",
        soft_wrap=True,
    )
    console.print(f"Markdown, CSV and JSON: {shlex.quote(shown_path(files))}", soft_wrap=True)


def all_models(groups: tuple[Group, Group], evaluated: Callable[[str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results of every model, one after the other; only one is loaded at a time."""
    return {model: evaluated(model) for group in groups for model in group.models}
