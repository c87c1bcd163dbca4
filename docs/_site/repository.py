"""A hook of MkDocs: files of the repository that the documents link to become pages of the site.

The documents are read on GitHub too, where `../examples/add_a_game.py` leads to the file. The site has no such file,
and no address of a repository either, since it works offline. So every file that a link leads to outside docs/ is shown
on a page under `repository/`, and the links are rewritten to lead there.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FOLDER = "repository"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=(?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".jsonl": "json", ".sh": "bash"}
MEDIA = {".png", ".svg", ".jpg"}


def relative_links(text: str) -> Iterator[str]:
    """The targets of the links of a document that lead to files."""
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith(("mailto:", "data:")):
            yield target


def target_of(document: Path, link: str) -> Path:
    """The file that a link of a document leads to; of a directory with a README, that."""
    file = (document.parent / link).resolve()
    readme = file / "README.md"
    return readme if file.is_dir() and readme.exists() else file


def page_name(file: Path) -> str:
    """Where a file of the repository is in the site: the path of its source, in MkDocs's words."""
    path = file.relative_to(ROOT).as_posix()
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if file.is_dir():
        return f"{FOLDER}/{path}/index.md"
    return f"{FOLDER}/{path}" if file.suffix in {".md", *MEDIA} else f"{FOLDER}/{path}.md"


def notebook_page(file: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what it printed."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![What the cell draws](data:image/png;base64,{data['image/png'].strip()})")
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def page_text(file: Path) -> str:
    """A file, or the list of a directory, as Markdown."""
    title = f"# `{file.relative_to(ROOT).as_posix()}`\n\n"
    if file.is_dir():
        return title + "".join(f"- [{one.name}]({one.name})\n" for one in sorted(file.iterdir()) if one.is_file())
    if file.suffix == ".ipynb":
        return notebook_page(file)
    text = file.read_text(encoding="utf-8")
    return text if file.suffix == ".md" else f"{title}`````{LANGUAGES.get(file.suffix, 'text')}\n{text}`````\n"


def linked_files(documents: list[Path]) -> dict[str, Path]:
    """The files outside docs/ to which links lead from the documents and from each other, by the name of their page."""
    found: dict[str, Path] = {}
    waiting = list(documents)
    while waiting:
        document = waiting.pop()
        text = page_text(document) if document.suffix in ("", ".md", ".ipynb") else ""
        base = document / "README.md" if document.is_dir() else document
        for link in relative_links(text):
            file = target_of(base, link)
            if file.exists() and not file.is_relative_to(ROOT / "docs") and page_name(file) not in found:
                found[page_name(file)] = file
                waiting.append(file)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the linked files."""
    from mkdocs.structure.files import File

    documents = [Path(str(file.abs_src_path)) for file in files.documentation_pages()]
    for name, file in sorted(linked_files(documents).items()):
        content = file.read_bytes() if file.suffix in MEDIA else page_text(file)
        files.append(File.generated(config, name, content=content))
        SOURCES[name] = file
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrites links to files of the repository."""
    name = page.file.src_uri
    document = SOURCES.get(name, ROOT / "docs" / name)
    base = document / "README.md" if document.is_dir() else document
    folder = posixpath.dirname(name)

    def rewritten(match: re.Match[str]) -> str:
        link = match.group(1)
        if link not in set(relative_links(f"]({link})")):
            return link
        file = target_of(base, link)
        return posixpath.relpath(page_name(file), folder) if file.exists() and file.is_relative_to(ROOT) else link

    return LINK.sub(rewritten, markdown)


SOURCES: dict[str, Path] = {}
"""The file behind each page under `repository/`."""
