"""The documents are true: links lead somewhere, and pages made from the code are as the code has them.

`SPIRAL_UPDATE_DOCS=1 pytest tests/test_docs.py` writes these pages anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from documents import NAMES, ROOT, blocks, save_files
from generated_pages import papers_page, recipes_page, settings_page
from spiral.cli.experiment import check_command

PAPERS = ROOT / "docs" / "papers.md"
FRAGMENTS = [
    (name, code)
    for name in NAMES
    for language, code in blocks(name, "toml")
    if re.match(r"\[(?:run|model|prompt|sampling|engine|selfplay|credit|loss|learner|lora|evaluation|cluster)\]", code)
    and "path" not in tomllib.loads(code).get("model", {})
    and "my_trackers" not in code
]
"""Parts of a recipe that the documents show, without those that begin with the name of a file."""


def in_one_line(value: object) -> str:
    """A value of TOML as a command line takes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {in_one_line(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("settings.md", settings_page),
        ("recipes.md", recipes_page),
        ("papers.md", lambda: papers_page(PAPERS.read_text(encoding="utf-8"))),
    ],
)
def test_a_page_is_that_of_the_code(name: str, page) -> None:
    file = ROOT / "docs" / name
    if os.environ.get("SPIRAL_UPDATE_DOCS"):
        file.write_text(page(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == page(), "run SPIRAL_UPDATE_DOCS=1 pytest tests/test_docs.py"


@pytest.mark.parametrize(("name", "code"), FRAGMENTS)
def test_a_part_of_a_recipe_is_one_that_a_recipe_takes(name, code, tmp_path, monkeypatch) -> None:
    save_files(name, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train", "nano"]
    for section, values in tomllib.loads(code).items():
        for key, value in values.items():
            if section == "opponent":
                words += [
                    part for one in value for part in ("--set", f"opponent.{key}.{one}={in_one_line(value[one])}")
                ]
            else:
                words += ["--set", f"{section}.{key}={in_one_line(value)}"]
    assert check_command(words)["model"]["path"] == "nano"
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_every_relative_link_leads_to_a_file() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".github" / "check_links.py")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "every relative link leads to a file\n")
