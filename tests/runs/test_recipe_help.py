"""Every setting is documented, and every section of the documentation fits on one screen."""

from __future__ import annotations

import io
from typing import Literal, get_args, get_origin

import pytest
from rich.console import Console

from commands import spiral
from spiral.cli.train_help import section_tables, sections

SCREEN_COLUMNS = 80
SCREEN_LINES = 28
AROUND = 2
"""The line between two sections, and the one where a pager or the shell waits."""
FIELDS = [(name, field) for name, section in sections().items() for field in section.model_fields]


def test_sections_are_small():
    assert set(sections()) >= {
        "run",
        "model",
        "prompt",
        "sampling",
        "selfplay",
        "credit",
        "loss",
        "learner",
        "evaluation",
    }
    assert max(len(section.model_fields) for section in sections().values()) <= 13


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_every_field_is_described(section, field):
    info = sections()[section].model_fields[field]
    assert info.description
    assert info.description.endswith(".")
    assert not info.is_required()


def test_help_has_every_field_with_its_default_and_choices(monkeypatch):
    monkeypatch.setenv("COLUMNS", "260")
    text = spiral("train", "--help").out
    for option in ("--run-dir", "--steps", "--seed", "--model", "--resume", "--dry-run", "--set"):
        assert option in text
    for name, section in sections().items():
        part = text.partition(f"\n[{name}]")[2].partition("\n[")[0]
        lines = {line.split()[0]: line for line in part.splitlines()[1:] if line.strip()}
        for field, info in section.model_fields.items():
            assert info.description in lines[field], (name, field)
            if isinstance(info.default, int | float) and not isinstance(info.default, bool):
                assert f" {info.default} " in lines[field]
            if get_origin(info.annotation) is Literal:
                assert all(choice in lines[field] for choice in get_args(info.annotation))


def test_each_section_fits_on_one_screen():
    for heading, table in section_tables():
        console = Console(file=io.StringIO(), width=SCREEN_COLUMNS)
        console.print(heading)
        console.print(table)
        lines = console.file.getvalue().splitlines()
        assert len(lines) + AROUND <= SCREEN_LINES, "\n".join(lines)
        assert max(len(line.rstrip()) for line in lines) <= SCREEN_COLUMNS
        assert "…" not in console.file.getvalue(), "nothing is cut off"
