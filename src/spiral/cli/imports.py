"""Importing torch and transformers quickly."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Pauses garbage collection while a command imports torch and transformers, and exempts from it what they make.

    Imports make a million objects and hardly any garbage, but the collector goes through all of them again and again:
    a fifth of the time of the imports. What a module holds stays until the process ends.
    """
    if "torch" in sys.modules:  # nothing to gain, and what a program made before is not ours to exempt
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
