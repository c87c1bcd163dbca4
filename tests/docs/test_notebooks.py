"""The notebooks of examples/ run from top to bottom, and hold nothing that changes from one run to the next."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from documents import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
ALWAYS_THE_SAME = {"exploitability_by_hand"}
"""Notebooks whose numbers are mathematics, and no model's."""


def cells(file: Path, kind: str) -> list[dict]:
    """The cells of a kind."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def printed(notebook_cells: list[dict]) -> list[str]:
    """What each cell that prints has printed on standard output; a slow one's text may come in pieces."""
    texts = (
        "".join("".join(one["text"]) for one in cell["outputs"] if one.get("name") == "stdout")
        for cell in notebook_cells
    )
    return [text for text in texts if text]


def test_every_notebook_is_on_the_page():
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\.\./examples/notebooks/\1\.ipynb\)", page, re.MULTILINE) == [
        file.stem for file in reversed(NOTEBOOKS)
    ]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_whole(file):
    code = cells(file, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        ast.parse("".join(cell["source"]))
        assert [one for one in cell["outputs"] if one["output_type"] == "error" or one.get("name") == "stderr"] == []
        assert "execution" not in cell["metadata"], "it holds times"
    text = "\n".join("".join(cell["source"]) for cell in cells(file, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (file.parent / link).exists()] == []
    assert text.startswith("# ")
    assert "/tmp/" not in file.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install '.[docs]'")
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[docs]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(file, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1800, record_timing=False, resources=resources).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(printed(code)) == len(printed(cells(file, "code")))
    if file.stem in ALWAYS_THE_SAME:
        assert printed(code) == printed(cells(file, "code"))
