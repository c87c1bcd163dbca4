"""docs/architecture.md is true: its floors are those of the imports, and what it names exists."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "spiral"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def floors() -> list[set[str]]:
    """The table of floors from the top; the first column holds the names."""
    rows = re.findall(r"^\| (`.*?) \|", section("Floors"), re.MULTILINE)
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def height() -> dict[str, int]:
    table = floors()
    return {name: len(table) - place for place, names in enumerate(table) for name in names}


def unit(file: Path) -> str:
    """The module or package directly under `spiral` that a file belongs to."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """The units that a file imports from, imports inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("spiral.")}
    return found - {unit(file)}


def test_every_unit_has_one_floor() -> None:
    units = {unit(file) for file in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert sorted(name for names in floors() for name in names) == sorted(units)


def test_imports_go_down() -> None:
    floor = height()
    files = [file for file in SOURCE.rglob("*.py") if unit(file) in floor]
    upwards = [
        f"{file.relative_to(SOURCE)} imports {name}"
        for file in files
        for name in imports(file)
        if floor[name] >= floor[unit(file)]
    ]
    assert upwards == []
    assert imports(SOURCE / "rollout.py") == {"config", "games", "policies", "records", "seeds", "user_code"}


def test_the_contract_in_pyproject_has_the_same_floors() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layers = [{name.strip().removeprefix("spiral.") for name in layer.split("|")} for layer in contract["layers"]]
    named = set().union(*layers)
    assert layers == [names & named for names in floors() if names & named]


def test_every_module_is_named_and_every_name_is_a_module() -> None:
    named = set(re.findall(r"`(\w+\.py)`", section("Modules")))
    assert named == {file.name for file in SOURCE.rglob("*.py")} - {"__init__.py"}


def test_what_the_text_names_is_in_the_code() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    words = set(re.findall(r"\w+", code))
    titles = ["The path of one turn", "Records", "Randomness without state", "Where to add things"]
    named = {name for title in titles for name in re.findall(r"`([A-Za-z_][\w.]*)", section(title))}
    parts = {part for name in named if "/" not in name for part in name.split(".")}
    outside = {"py", "tests"}
    assert sorted(parts - words - outside) == []
    assert {"derive_seed", "parse_action", "samples_from_episodes", "score_tokens", "TokenScores"} <= parts


def test_text_files_are_utf8_whatever_the_locale() -> None:
    """Every call that reads or writes text names its encoding."""
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            no_path = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("os", "loan")
            words = {word.arg: word.value for word in node.keywords}
            given = [part.value for part in (*node.args, *words.values()) if isinstance(part, ast.Constant)]
            binary = any(isinstance(mode, str) and re.fullmatch(r"[rwax]b\+?|[rwax]\+b", mode) for mode in given)
            if name in ("read_text", "write_text", "open") and not binary and not no_path and "encoding" not in words:
                found.append(f"{file.relative_to(SOURCE)}:{node.lineno}")
    assert found == []
