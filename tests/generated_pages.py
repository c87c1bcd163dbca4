"""The documents that are made from the code: settings, recipes, and the table of the paper's experiments."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from documents import ROOT
from spiral.cli.listing import _length, _recipe_row
from spiral.cli.train_help import _toml, about, description, sections, type_name
from spiral.runs.recipe import recipe_files

GROUPS = {
    "On a CPU": lambda row: row["hardware"] == "a CPU",
    "On one GPU": lambda row: row["name"].endswith("-1gpu"),
    "As in version 3 of the paper": lambda row: row["name"].endswith("-v3"),
    "As in version 1 of the paper": lambda row: row["passes"] is None and not row["name"].startswith("rlvr"),
    "Beside self-play": lambda row: True,
}
"""Headings of the recipes; each recipe is under the first that fits."""


def settings_page() -> str:
    """Every section of a recipe as a table of its settings."""
    lines = [
        "# Settings",
        "",
        "Every setting of a recipe by section, as in `spiral train --help`. In a recipe file they stand under",
        "`[section]`; on the command line, `--set section.key=value`.",
    ]
    for name, section in sections().items():
        lines += ["", f"## [{name}]", "", about(name), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, info in section.model_fields.items():
            default = _toml(info.default).replace("|", "\\|")
            meaning = description(info).replace("|", "\\|")
            lines.append(f"| `{key}` | {type_name(info)} | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """Every built-in recipe, in the words of its file."""
    rows = [_recipe_row(file) | {"file": file} for file in recipe_files()]
    lines = [
        "# Recipes",
        "",
        "A recipe is the whole configuration of a run, one TOML file. `spiral recipes` lists those that are built in;",
        "`spiral train NAME --dry-run` prints one with every default, and what it takes. Each explains itself in the",
        "comments of its file, which are repeated here. To change one, give `--set section.key=value`",
        "([settings](settings.md)), or copy the file.",
        "",
        "*Trained* means to the last step. The others were planned with `--dry-run` and tried in part only.",
    ]
    for heading, fits in GROUPS.items():
        chosen, rows = [row for row in rows if fits(row)], [row for row in rows if not fits(row)]
        lines += ["", f"## {heading}", ""]
        lines += ["| recipe | model | games | length | hardware | trained |", "|---|---|---|---|---|---|"]
        for row in chosen:
            games = ", ".join(f"`{game}`" for game in row["games"])
            lines.append(
                f"| [{row['name']}](#{row['name'].replace('.', '')}) | {row['model']} | {games} | {_length(row)} |"
                f" {row['hardware']} | {'yes' if row['trained'] else 'no'} |"
            )
        for row in chosen:
            command = f"spiral sft {row['name']} --data DIR" if row["passes"] else f"spiral train {row['name']}"
            lines += ["", f"### {row['name']}", "", row["summary"], "", f"    {command}", ""]
            lines += comments(row["file"])
    return "\n".join(lines).rstrip() + "\n"


def comments(file: Path) -> list[str]:
    """The comments at the top of a recipe as Markdown: paragraphs, and lists after an empty line."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").removeprefix(" ").replace("<", "&lt;").replace("*", "\\*")
        if text.startswith("- ") and lines and not lines[-1].startswith(("- ", "  ")):
            lines.append("")
        lines.append(text)
    return lines


def experiments_table(prefix: str = "") -> str:
    """The experiments of the paper: what each claims, the recipes behind it, and its command."""
    lines = ["| table or figure | claim | recipes | command |", "|---|---|---|---|"]
    for file in sorted((ROOT / "experiments" / "paper").glob("*/sweep.toml"), key=_order):
        sweep, folder = tomllib.loads(file.read_text(encoding="utf-8")), file.parent.name
        recipes = dict.fromkeys(_recipes(sweep))
        links = ", ".join(f"[{name}](recipes.md#{name.replace('.', '')})" for name in recipes)
        source = sweep["source"].removeprefix("v3, ")
        lines.append(
            f"| [{source}]({prefix}../experiments/paper/{folder}/README.md) | {sweep['summary']} | {links or '-'} |"
            f" `spiral experiment experiments/paper/{folder}` |"
        )
    return "\n".join(lines) + "\n"


def _order(file: Path) -> tuple[str, int]:
    kind, number = re.match(r"([TF])(\d+)", file.parent.name).groups()
    return ("TF".index(kind), int(number))


def _recipes(sweep: dict[str, Any]) -> list[str]:
    """The built-in recipes that the commands of an experiment name."""
    known = {file.stem for file in recipe_files()}
    commands = [arm["full"] for arm in sweep.get("arms", {}).values() if "full" in arm]
    return [word for command in commands for word in shlex.split(command)[1:2] if word in known]


def papers_page(page: str) -> str:
    """docs/papers.md with today's table of experiments."""
    table = re.compile(r"^\| table or figure \|.*\n(?:\|.*\n)*", re.MULTILINE)
    return table.sub(lambda _: experiments_table(), page, count=1)
