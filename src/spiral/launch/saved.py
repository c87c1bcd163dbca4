"""The recipe that a run has saved, in `config.toml` and in its last checkpoint, and what of it may change."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from spiral.core.steps import latest_checkpoint
from spiral.runs.directory import WATCHING, RunDirectory, lasting_settings
from spiral.runs.recipe import Recipe, validate_recipe
from spiral.training.checkpoint import STATE

logger = logging.getLogger(__name__)

REPLACE_CONFIG = "replace it by a good copy; `spiral train RECIPE --dry-run` prints that of a recipe"
OPPONENTS: Mapping[str, tuple[str, ...]] = {
    "selfplay": ("opponents", "opponent_options"),
    "evaluation": ("games", "opponents"),
}
"""The settings, by section, of a run's opponents, beside their tables `[opponent.NAME]`."""


def saved_recipe(path: Path, *, new_opponents: bool = False) -> Recipe:
    """The recipe of a run directory.

    Args:
        path: The run directory.
        new_opponents: Whether its opponents may differ from those in the last checkpoint.

    Raises:
        ValueError: There is none, it is damaged, or its lasting settings differ from those in the last checkpoint.
    """
    file = RunDirectory(path).config_file
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not a run directory: there is no {file.name} in it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}; {REPLACE_CONFIG}") from error
    if "run" not in values:
        raise ValueError(f"{file} is damaged: it has no section [run]; {REPLACE_CONFIG}")
    recipe = validate_recipe(values, str(file))
    edited = [
        f"{section}.{key} is {new!r} in it and {old!r} in the last checkpoint"
        for section, key, new, old in changes(recipe, path)
        if not (new_opponents and (section == "opponent" or key in OPPONENTS.get(section, ())))
    ]
    if edited:
        raise ValueError(
            f"{file} was changed: {'; '.join(edited)}; a run keeps its settings, so change them back, or start"
            " a new run"
        )
    return recipe


def changes(recipe: Recipe, path: Path) -> Iterator[tuple[str, str, object, object]]:
    """The lasting settings in which a recipe differs from that in the last checkpoint of a run.

    Yields:
        Section, key, and both values; nothing where the checkpoint holds no recipe.
    """
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        return
    try:
        kept = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["recipe"]
        lasting = lasting_settings(validate_recipe(kept, str(checkpoint / STATE)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("%s holds no recipe: %s", checkpoint, error)
        return
    for section, values in lasting_settings(recipe).items():
        for key in dict.fromkeys((*values, *lasting[section])):  # tables of opponents may be in one of them alone
            if values.get(key) != lasting[section].get(key):
                yield section, key, values.get(key), lasting[section].get(key)


def continued_as(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe of a run with what another one may change of it.

    These are the opponents, in training and in evaluations, and all settings that are not lasting
    (`spiral.runs.directory.lasting_settings`) but the number of steps: processes, trackers, guards; and the path of the
    model that it began with, which may have been moved.
    """
    changing = {**OPPONENTS, "model": ("path",), "run": WATCHING, "answer": ("guards",), "hardware": ("devices",)}
    sections = {
        section: getattr(recipe, section).model_copy(
            update={key: getattr(getattr(other, section), key) for key in keys}
        )
        for section, keys in changing.items()
    }
    return recipe.model_copy(update={**sections, "opponent": other.opponent, "cluster": other.cluster})
