"""docs/architecture.md is true: its floors are those of the imports, and what it names exists."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "spiral"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def floors() -> list[set[str]]:
    """The table of rooms from the top; the first column holds the names."""
    rows = re.findall(r"^\| (`.*?) \|", section("Rooms"), re.MULTILINE)
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def room(module: str) -> str:
    """The room of a module, `spiral.NAME...`."""
    return module.split(".")[1]


@functools.cache
def imports() -> dict[str, set[str]]:
    """The modules that each module imports, imports inside functions included."""
    graph = grimp.build_graph("spiral", cache_dir=None)
    modules = graph.modules - {"spiral", "spiral.__main__"}
    return {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}


def test_every_room_has_one_floor() -> None:
    assert sorted(name for names in floors() for name in names) == sorted({room(module) for module in imports()})


def test_imports_go_down() -> None:
    table = floors()
    floor = {name: len(table) - level for level, names in enumerate(table) for name in names}
    arrows = {(room(module), room(used)) for module, uses in imports().items() for used in uses}
    arrows = {(above, below) for above, below in arrows if above != below}
    assert sorted(arrow for arrow in arrows if floor[arrow[0]] <= floor[arrow[1]]) == []
    assert len(arrows) <= 125


def test_no_module_imports_itself_through_others() -> None:
    order = graphlib.TopologicalSorter(
        {module: {used for used in uses if not used.startswith(module)} for module, uses in imports().items()}
    )
    assert len([*order.static_order()]) == len(imports())  # CycleError names the modules of a cycle


def test_the_contract_in_pyproject_has_the_same_floors() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layers = [{name.strip().removeprefix("spiral.") for name in layer.split("|")} for layer in contract["layers"]]
    assert layers == floors()


def test_what_the_text_names_is_in_the_code() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    words = set(re.findall(r"\w+", code))
    titles = ["The path of one turn", "Randomness without state", "Where to add things", "Sockets"]
    named = {name for title in titles for name in re.findall(r"`([A-Za-z_][\w./]*)", section(title))}
    files = {name for name in named if "/" in name and not name.startswith(("docs/", "tests/"))}
    assert sorted(file for file in files if not (SOURCE / file).exists() and file not in {"time/"}) == []
    parts = {part for name in named if "/" not in name for part in name.split(".")}
    outside = {"py", "toml", "json"}
    assert sorted(parts - words - outside) == []
    assert {"derive_seed", "parse_action", "samples_from_episodes", "score_tokens", "RAE"} <= parts
    starts = re.findall(
        r"^\| `(\w+)`(?:, `(\w+)`)? \|.*\| `(\w+\.py)`(?:; `(\w+\.py)`)? \|$", section("Rooms"), re.MULTILINE
    )
    assert len(starts) == 16
    for first, second, file, other in starts:
        assert (SOURCE / first / file).is_file()
        assert not second or (SOURCE / second / other).is_file()


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
