"""Overrides of a recipe's settings: `--set section.key=value` on the command line, and old names of settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from spiral.core.settings import shown

RENAMED = {"learner": {"final_learning_rate": "final_learning_rate_share"}}
"""By section: the names of settings in earlier versions, whose recipes and runs still load, and their current names."""
TABLES = '{"my_module:MyClass" = {limit = 3}}'
"""Example of a setting that holds a table of options for each name."""
_ITEM = re.compile(r"""(?:[^,("']|\([^)]*\)|"[^"]*"|'[^']*')+""")
"""An item of a list: up to a comma that is not in brackets or quotes."""
_VALUE = re.compile(r"=[^=()]*$")
"""The value at the end of `kuhn_poker(hands=5)=2`; `kuhn_poker(hands=5)` has none."""


def with_overrides(
    values: Mapping[str, Any], overrides: Sequence[str], sections: Mapping[str, FieldInfo]
) -> dict[str, Any]:
    """A recipe's values under current names, with overrides applied in order.

    If the games are overridden, the recipe's other settings follow (`_follow_games`).

    Args:
        values: The recipe as nested mappings, of any version.
        overrides: `section.key=value` each; a value is TOML, or else plain text.
        sections: The fields of `Recipe`, which say which settings are tables.

    Raises:
        ValueError: An override cannot be read.
    """
    changed = _renamed(values)
    before = _games(changed)
    named = [_set(changed, override, sections) for override in overrides]
    after = _games(changed)
    if before is not None and after is not None and "selfplay.games" in named:
        _follow_games(changed, named, before, after)
    return changed


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy, two levels deep, with the current name of every setting."""
    changed = {}
    for section, table in values.items():
        names = RENAMED.get(section, {})
        changed[section] = {names.get(key, key): table[key] for key in table} if isinstance(table, dict) else table
    return changed


def _games(values: Mapping[str, Any]) -> list[str] | None:
    """The games that are trained on, or None if the values are not a table of games."""
    selfplay = values.get("selfplay")
    games = selfplay.get("games") if isinstance(selfplay, dict) else None
    return list(games) if isinstance(games, dict) else None


def _follow_games(values: dict[str, Any], named: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
    """Fits the recipe's own settings to overridden games, except settings that are overridden themselves.

    Openings of games that are no longer trained on are dropped. Evaluation of the old games becomes evaluation of the
    new ones; exploitability, which not every game has, is only dropped.
    """
    removed = set(before) - set(after)
    plies = values["selfplay"].get("opening_plies")
    if isinstance(plies, dict) and "selfplay.opening_plies" not in named:
        values["selfplay"]["opening_plies"] = {game: plies[game] for game in plies if game not in removed}
    evaluation = values.get("evaluation")
    if not isinstance(evaluation, dict):
        return
    for key in ("games", "exploitability"):
        evaluated = evaluation.get(key)
        if isinstance(evaluated, list) and f"evaluation.{key}" not in named:
            kept = [game for game in evaluated if game not in removed]
            added = [game for game in after if game not in [*before, *kept]] if key == "games" and evaluated else []
            evaluation[key] = [*kept, *added]


def _set(values: dict[str, Any], override: str, sections: Mapping[str, FieldInfo]) -> str:
    """Applies one override and returns the name of its setting."""
    key, equals, text = override.partition("=")
    section, dot, field = (part.strip() for part in key.partition("."))
    if not equals or not dot or not field:
        raise ValueError(f"got --set {shown(override)}; expected section.key=value, such as learner.epochs=2")
    field = RENAMED.get(section, {}).get(field, field)
    name = f"{section}.{field}"
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ValueError(f"got --set {shown(override)}; {section!r} is not a section")
    value = _parsed(name, text, sections)
    own, dot, setting = field.rpartition(".")
    if dot and get_origin(getattr(sections.get(section), "annotation", None)) is dict:  # opponent.NAME.KEY
        own = own.strip().strip("'\"")
        inner = table.get(own, {})
        if not isinstance(inner, dict):
            raise ValueError(f"got --set {shown(override)}; {section}.{own} is not a table")
        table[own] = {**inner, setting.strip(): value}
    else:
        table[field.strip("'\"")] = value
    return name


def _parsed(name: str, text: str, sections: Mapping[str, FieldInfo]) -> object:
    """The value of a setting on the command line: TOML, `NAME=VALUE, ...` for a table, or plain text."""
    value = _toml_or_text(text)
    if not isinstance(value, str):
        return value
    kind = _table_of(name, sections)
    if text.lstrip().startswith(("{", "[")):
        example = f'{name}=["tictactoe"]' if kind is None else f'{name}={{"openspiel/liars_dice"=1}}'
        also = "" if kind is None else f" or, without braces, {name}=openspiel/liars_dice=1"
        raise ValueError(
            f"{name}: got {shown(text)}, which is not valid TOML; a name that holds / : or ( needs quotes, as does any"
            f" text in a list: {example}{also}"
        )
    return value if kind is None or not value else _table(name, value, kind)


def written_list(text: str) -> str:
    """Names with commas between them as a TOML list: `["kuhn_poker", "tictactoe"]`."""
    items = [item.strip().strip("'\"") for item in _ITEM.findall(text)]
    return json.dumps([item for item in items if item], ensure_ascii=False)


def _toml_or_text(text: str) -> object:
    """A TOML value, or the text itself where it is not TOML."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    return parsed["value"] if list(parsed) == ["value"] else text


def _table_of(name: str, sections: Mapping[str, FieldInfo]) -> type | None:
    """The type of the values of a setting that is a table; None for any other setting."""
    section, _, field = name.partition(".")
    info = sections.get(section)
    fields = getattr(info.annotation, "model_fields", {}) if info is not None else {}
    annotation = fields[field].annotation if field in fields else None
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _table(name: str, text: str, kind: type) -> dict[str, object]:
    """`mirror=3, runs/r1@15=1` as a table. Without a value, a weight is 1, a text empty and an option true."""
    if get_origin(kind) is dict:
        raise ValueError(
            f"{name}: got {shown(text)}; expected a table of tables, such as {TABLES}"
            f" (in a shell, --set '{name}={TABLES}')"
        )
    table: dict[str, object] = {}
    for item in _ITEM.findall(text):
        key, equals, value = item.rpartition("=") if _VALUE.search(item) else (item, "", "")
        plain = key.strip().strip("'\"")
        if plain in table:
            raise ValueError(f"{name}: got {shown(plain)} twice; expected every name once")
        try:
            if kind is object:
                table[plain] = _toml_or_text(value.strip()) if equals else True
            else:
                table[plain] = kind(value.strip().strip("'\"")) if equals or kind is str else kind(1)
        except ValueError as error:
            raise ValueError(f"{name}: got {shown(item.strip())}; expected NAME=NUMBER, NAME=NUMBER, ...") from error
    return table
