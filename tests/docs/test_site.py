"""The site of the documents: every page is in its navigation, every link leads somewhere, nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import spiral
from documents import BLOCK, NAMES, ROOT
from file_modules import module_of

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """docs/_site/repository.py."""
    return module_of(ROOT / "docs" / "_site" / "repository.py")


def navigation(entries: list) -> list[str]:
    """The pages of a navigation, in reading order."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += navigation(value) if isinstance(value, list) else [value]
    return found


def anchors(file: Path) -> set[str]:
    """What links may name in a document: its headings, as GitHub and MkDocs write them."""
    text = BLOCK.sub("", file.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def test_every_page_is_in_the_navigation_once():
    pages = navigation(CONFIG["nav"])
    assert sorted(pages) == sorted(name.removeprefix("docs/") for name in NAMES if name.startswith("docs/"))


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    broken = []
    for target, anchor in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (ROOT / name).parent / target if target else ROOT / name
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_a_list_begins_after_an_empty_line(name):
    """GitHub does without; on the site such a list is a part of the paragraph before it."""
    paragraphs = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    paragraphs = [one.lstrip("\n") for one in paragraphs.split("\n\n")]
    item = re.compile(r"[-*] |\d+\. ")
    glued = [one for one in paragraphs if re.search(r"^(?:[-*] |\d+\. )", one, re.MULTILINE) and not item.match(one)]
    assert [one for one in glued if not one.startswith(" ")] == []


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: (\S+)\n    options: \{ heading: spiral\.(\w+), toc_label: \2 \}$", text, re.MULTILINE)
    homes = {name: getattr(spiral, name) for name in spiral.__all__ if name != "__version__"}
    assert {name: path for path, name in listed} == {
        name: f"{what.__module__}.{what.__qualname__}" for name, what in homes.items()
    }


class TestFilesOfTheRepository:
    def test_a_linked_program_becomes_a_page(self, hook):
        found = hook.linked_files([ROOT / "docs" / "guides" / "add_a_game.md"])
        assert found["repository/examples/add_a_game.py.md"] == ROOT / "examples" / "add_a_game.py"
        assert found["repository/CONTRIBUTING.md"] == ROOT / "CONTRIBUTING.md"
        text = hook.page_text(ROOT / "examples" / "add_a_game.py")
        assert text.startswith('# `examples/add_a_game.py`\n\n`````python\n"""A game in one file')

    def test_links_lead_to_these_pages(self, hook):
        page = type("Page", (), {"file": type("File", (), {"src_uri": "guides/add_a_game.md"})})
        text = (
            "[a](../../examples/add_a_game.py) [b](../games.md#x) [c](https://example.org/a)"
            " [d](../../experiments/paper)"
        )
        assert hook.on_page_markdown(text, page) == (
            "[a](../repository/examples/add_a_game.py.md) [b](../games.md#x) [c](https://example.org/a)"
            " [d](../repository/experiments/paper/README.md)"
        )

    def test_a_picture_in_a_notebook_is_no_link(self, hook):
        file = ROOT / "examples" / "notebooks" / "train_the_built_in_model.ipynb"
        text = hook.page_text(file)
        assert "](data:image/png;base64,iVBOR" in text
        assert set(hook.relative_links(text)) == {
            "../../docs/metrics.md",
            "../../docs/training.md",
            "read_episodes.ipynb",
        }

    def test_a_notebook_is_read(self, hook, tmp_path):
        notebook = tmp_path / "a.ipynb"
        notebook.write_text(
            '{"cells": [{"cell_type": "markdown", "source": ["# A\\n", "b"]},'
            ' {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"data": {"text/plain": ["2"]}}]}]}'
        )
        assert hook.notebook_page(notebook) == "# A\nb\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n"


class Fetched(HTMLParser):
    """The addresses that a browser loads to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, re.findall("WARNING.*|ERROR.*", done.stderr)) == (0, [])
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(navigation(CONFIG["nav"]))
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        loaded = [address for address in fetched.found if not address.startswith("data:")]
        assert [address for address in loaded if "//" in address] == [], page.name
    assert "Trains a run to its last step" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
