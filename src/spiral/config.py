"""The base of every configuration section.

A section is a small frozen pydantic model that lives in the file of the thing it configures. Every field has a
description; `spiral train --help` prints them. Unknown keys and wrong types are errors. What the sections add up
to is `spiral.recipe.Recipe`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
