"""The settings of a recipe as `spiral train --help` shows them: one table a section."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.table import Table
from rich.text import Text

from spiral.core.settings import Section
from spiral.runs.recipe import Recipe


def sections() -> dict[str, type[Section]]:
    """The sections of a recipe by name; `opponent.NAME` stands for any number of them."""
    found = {}
    for name, field in Recipe.model_fields.items():
        several = get_origin(field.annotation) is dict
        kind = get_args(field.annotation)[1] if several else field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found[f"{name}.NAME" if several else name] = kind
    return found


def about(section: str) -> str:
    """One line on a section."""
    return Recipe.model_fields[section.partition(".")[0]].description or ""


DEFAULT_COLUMNS = 17
"""Wider defaults are wrapped, so that descriptions keep the most of 80 columns."""


def section_tables() -> Iterator[tuple[Text, Table]]:
    """A heading and a table of field, type, default and description for every section."""
    for name, section in sections().items():
        table = Table.grid(padding=(0, 1, 0, 0))
        for column in ("cyan", "dim"):
            table.add_column(style=column, no_wrap=True)
        table.add_column(max_width=DEFAULT_COLUMNS, overflow="fold")
        table.add_column()
        for field, info in section.model_fields.items():
            table.add_row(field, type_name(info), Text(_toml(info.default)), Text(description(info)))
        yield Text(f"[{name}]  {about(name)}", style="bold"), table


def type_name(info: FieldInfo) -> str:
    """One short word for what a field takes."""
    kinds = [kind for kind in get_args(info.annotation) if kind is not type(None)]
    annotation = kinds[0] if len(kinds) == 1 < len(get_args(info.annotation)) else info.annotation
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice"
    if origin is not None:
        return {list: "list", dict: "table"}[origin]
    return str(getattr(annotation, "__name__", annotation))


def description(info: FieldInfo) -> str:
    """The field's description, with its choices unless the description names them."""
    text = info.description or ""
    choices = [str(choice) for choice in get_args(info.annotation)] if get_origin(info.annotation) is Literal else []
    if all(f"'{choice}'" in text for choice in choices):
        return text
    return f"{' | '.join(choices)}. {text}"


def _toml(default: Any) -> str:
    """A default as a recipe writes it, strings without quotes."""
    if isinstance(default, str):
        return default
    if isinstance(default, dict) and default:
        return "{ " + ", ".join(f"{key} = {value}" for key, value in default.items()) + " }"
    if isinstance(default, list | dict):
        return json.dumps(default)
    if default is None:
        return "left out"
    return str(default).lower() if isinstance(default, bool) else str(default)
