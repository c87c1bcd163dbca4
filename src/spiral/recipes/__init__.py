"""Complete runs, one TOML file each, and how the built-in model was made."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent


def recipe_files() -> tuple[Path, ...]:
    """The built-in recipes, in the order of their names."""
    return tuple(sorted(DIRECTORY.glob("*.toml")))
