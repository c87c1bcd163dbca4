"""The base of every configuration section.

A section is a small frozen pydantic model that lives in the file of the thing it configures. Every field has a
description; `spiral train --help` prints them. Unknown keys and wrong types are errors. What the sections add up
to is `spiral.recipe.Recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Section)


def checked(kind: type[Kind], values: Mapping[str, object]) -> Kind:
    """A section with these values. Raises `ValueError` that names the option at fault: "top-p: got 3.0"."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        option = "-".join(str(part) for part in fault["loc"]).replace("_", "-")
        raise ValueError(f"{option}: got {fault['input']!r}; {fault['msg']}") from error
