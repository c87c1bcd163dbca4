"""The base of every configuration section.

A section is a small frozen pydantic model in the file of the thing it configures, or in a `settings.py` beside it.
Every field has a description, which `spiral train --help` prints. Unknown keys, wrong types and absurdly large numbers
are errors. `spiral.runs.recipe.Recipe` holds all sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

MAX_INTEGER = 10**9
MAX_SEED = 2**63 - 1
MIN_FLOAT, MAX_FLOAT = 1e-30, 1e30
"""Sums and quotients of numbers in these bounds neither overflow nor vanish."""
MAX_SHOWN = 80
"""Maximum number of characters of a wrong value that an error repeats."""


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers beyond the bounds, in lists and tables too; types are checked afterwards."""
        if isinstance(cls.model_fields[info.field_name or ""].default_factory, type):
            return value  # a section, which checks its own
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        max_integer = MAX_SEED if info.field_name == "seed" else MAX_INTEGER
        for number in values:
            if type(number) is int and abs(number) > max_integer:
                raise PydanticCustomError("too_large", f"expected an integer of at most {max_integer:,}")
            if type(number) is float and number and not MIN_FLOAT <= abs(number) <= MAX_FLOAT:
                raise PydanticCustomError("out_of_range", f"expected 0 or a number from {MIN_FLOAT:g} to {MAX_FLOAT:g}")
        return value


Kind = TypeVar("Kind", bound=Section)


def checked(kind: type[Kind], values: Mapping[str, object]) -> Kind:
    """Return a section with these values.

    Raises:
        ValueError: A value is wrong; the message names the option, as in "top-p: got 3.0".
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        if not fault["loc"] and fault["type"] == "value_error":  # a rule of several settings names them itself
            raise ValueError(str(fault["ctx"]["error"])) from error
        option = "-".join(str(part) for part in fault["loc"]).replace("_", "-")
        raise ValueError(f"{shortened(option)}: got {shown(fault['input'])}; {fault['msg']}") from error


def names_in(value: object) -> list[str]:
    """Return the names in a table, or a list, of a configuration that anybody may have written."""
    return [name for name in value if isinstance(name, str)] if isinstance(value, dict | list) else []


def shown(value: object) -> str:
    """Return a value as text for an error, of at most `MAX_SHOWN` characters."""
    try:
        return shortened(repr(value))
    except ValueError:  # Python does not write out an integer of thousands of digits
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def shortened(text: str, max_length: int = MAX_SHOWN) -> str:
    """Return a text, cut off after `max_length` characters."""
    return text if len(text) <= max_length else text[:max_length] + "..."
