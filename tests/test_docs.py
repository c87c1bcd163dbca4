"""The documents are true: links lead somewhere, and docs/settings.md lists the settings as the code has them.

`SPIRAL_UPDATE_DOCS=1 pytest tests/test_docs.py` writes docs/settings.md anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from spiral.cli.train_help import _toml, about, description, sections, type_name

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "docs" / "settings.md"


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


def test_the_settings_page_is_that_of_the_code() -> None:
    page = settings_page()
    if os.environ.get("SPIRAL_UPDATE_DOCS"):
        SETTINGS.write_text(page, encoding="utf-8")
    assert SETTINGS.read_text(encoding="utf-8") == page, "run SPIRAL_UPDATE_DOCS=1 pytest tests/test_docs.py"


def test_every_relative_link_leads_to_a_file() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".github" / "check_links.py")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "every relative link leads to a file\n")
