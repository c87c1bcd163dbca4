"""Checks of values that a user's code returns: numbers, and state that is saved as JSON.

Python and JSON accept more than is meant. A loop over a dictionary gives its keys, `float("1.5")` is a number, numpy
drops the imaginary part of a complex number, and JSON turns keys into texts. Each of these would train on the wrong
numbers without an error, so they are refused here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 100
"""Lists and dictionaries inside each other in a state."""


class StateError(ValueError):
    """A state that JSON cannot hold, or would change; the message names the key."""


def json_copy(state: object) -> dict[str, Any]:
    """Return a copy of a state as a checkpoint gives it back.

    Raises:
        StateError: The state is not a dictionary, or would not come back from JSON as it is.
    """
    if not isinstance(state, dict):
        raise StateError(f"state_dict() gave a {type(state).__name__}; expected a dictionary")
    _check_json(state, "", 0)
    copied: dict[str, Any] = json.loads(json.dumps(state, allow_nan=False))
    return copied


def _check_json(value: object, where: str, depth: int) -> None:
    """Refuse what JSON would change."""
    if depth > MAX_DEPTH:
        raise StateError(f"the state holds lists or dictionaries inside each other more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                holder = f"the dictionary at {where}" if where else "it"
                raise StateError(
                    f"{holder} has the key {key!r} of type {type(key).__name__}, which JSON does not keep; expected"
                    " texts as keys, such as str(key)"
                )
            _check_json(item, f"{where}[{key!r}]", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise StateError(f"{where} is {value!r}; expected a finite number")
    elif isinstance(value, tuple):
        raise StateError(f"{where} is a tuple, which JSON gives back as a list; save a list")
    elif not (value is None or isinstance(value, str | int | float)):
        raise StateError(f"{where} is of type {type(value).__name__}; expected a number, text, list or dictionary")


def number_list(values: object) -> list[NDArray[np.float64]]:
    """Return a user's numbers, or arrays of numbers, in order.

    Raises:
        TypeError: They have no order, are text, or one of them is not a real number.
    """
    if not in_order(values):
        raise TypeError(f"got a {type(values).__name__}; expected a list")
    return [_real(value) for value in values]  # type: ignore[attr-defined]


def in_order(values: object) -> bool:
    """Whether values can be read one by one in a meaningful order: not a dictionary, a set or a text."""
    if isinstance(values, Mapping | Set | str | bytes | bytearray | memoryview):
        return False
    try:
        iter(values)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def _real(value: Any) -> NDArray[np.float64]:
    """Return a number, or an array of numbers, as float64."""
    if not isinstance(value, np.ndarray | np.generic) and hasattr(value, "tolist"):
        value = value.tolist()  # a torch tensor, which numpy cannot read from a GPU or in bfloat16
    array = np.asarray(value)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"got {array.dtype}; expected real numbers")
    if array.dtype.kind == "O" and any(not hasattr(item, "__float__") for item in array.flat):
        raise TypeError("expected real numbers")
    return array.astype(np.float64)
