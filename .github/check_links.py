"""Checks that every relative link of the documents leads to a file. Prints the broken ones; exit status 1 if any."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def broken_links() -> list[str]:
    """`document: target` for every relative link without a file."""
    return [
        f"{document.relative_to(ROOT)}: {target}"
        for document in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
        for target in LINK.findall(document.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("mailto:") and not (document.parent / target).exists()
    ]


if __name__ == "__main__":
    found = broken_links()
    print("\n".join(found) or "every relative link leads to a file")
    sys.exit(bool(found))
