"""The documents, taken apart: their pages, code blocks and the commands that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "experiments/paper/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# (\w+\.(?:py|toml))\n")
INDENTED = re.compile(r"(?:^    .*\n(?:\n(?=    ))?)+", re.MULTILINE)
BEFORE = re.compile(r"^(?:(?:\.venv/bin/|\.venv-vllm/bin/|[A-Z_]+=\S+\s+))+(?=spiral )")


def blocks(name: str, *languages: str) -> list[tuple[str, str]]:
    """(language, code) of the fenced blocks of a page; of these languages only, where any are named."""
    found = BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))
    return [(language, code) for language, code in found if not languages or language in languages]


def save_files(name: str, directory: Path) -> None:
    """Saves the blocks that begin with a file's name."""
    for _, code in blocks(name, "python", "toml"):
        named = FILE_NAME.match(code)
        if named:
            (directory / named.group(1)).write_text(code, encoding="utf-8")


def commands(name: str) -> Iterator[list[str]]:
    """The words after `spiral` of every command that a page shows in a block, fenced or indented."""
    text = (ROOT / name).read_text(encoding="utf-8")
    shown = [code for language, code in BLOCK.findall(text) if language in ("", "sh", "bash")]
    shown += [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in INDENTED.findall(BLOCK.sub("", text))]
    for block in shown:
        for line in block.replace("\\\n", " ").splitlines():
            command = BEFORE.sub("", line.strip())
            if command.startswith("spiral ") and not command.startswith("spiral: "):
                for words in _split(shlex.split(command, comments=True)):
                    yield words[1:]


def inline_commands(name: str) -> Iterator[list[str]]:
    """The words after `spiral` of every command that a page names within its text."""
    text = INDENTED.sub("", BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8")))
    for command in re.findall(r"`spiral ([a-z][^`]*)`", text):
        yield command.split()


def _split(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line: `a; b`, `a &`."""
    command: list[str] = []
    for word in words:
        if word in ("&", "&&", "|", ">"):
            break
        command.append(word.rstrip(";"))
        if word.endswith(";"):
            yield command
            command = []
    yield command
