"""Output that several commands share: JSON, paths and commands to copy, and the cost of endpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from spiral.core.printable import printable


def print_json(value: dict[str, Any]) -> None:
    """Prints one JSON object on standard output."""
    print(json.dumps(value))


def program(name: str) -> str:
    """The command that runs one of our programs in the user's shell.

    Returns `name` where the shell finds it. Otherwise, as in an environment that is not activated, its path beside the
    running command or its Python.
    """
    if shutil.which(name):
        return name
    for running in (sys.argv[0], sys.executable):
        path = os.path.join(os.path.dirname(os.path.abspath(running)), name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return shlex.quote(_typed_path(path))
    return name


def resume_command(path: Path) -> str:
    """The command line that resumes a run."""
    return f"{program('spiral')} train --resume --run-dir {shlex.quote(str(path))}"


def _typed_path(path: str) -> str:
    """A program's path as a person would type it: relative when it lies below the current directory."""
    relative = os.path.relpath(path)
    if relative.startswith(os.pardir + os.sep):
        return path
    return relative if os.sep in relative else os.path.join(os.curdir, relative)


def shown_path(path: Path | str) -> str:
    """A path for the terminal, relative when it lies below the current directory."""
    relative = os.path.relpath(path)
    return printable(str(path) if relative.split(os.sep)[0] == os.pardir else relative)


def endpoint_usage(role: str, policy: object) -> dict[str, Any]:
    """The usage of an endpoint under the key `ROLE_usage`; empty for any other policy."""
    from spiral.policies.endpoint.policy import EndpointPolicy

    if not isinstance(policy, EndpointPolicy):
        return {}
    return {f"{role}_usage": {"model": policy.config.model, **dataclasses.asdict(policy.usage())}}


def print_usage(console: Console, result: dict[str, Any]) -> None:
    """Prints requests, tokens and cost of each endpoint of a result, and parameters that were left out or renamed."""
    for usage in (result.get("model_usage"), result.get("opponent_usage")):
        if usage is None:
            continue
        lines = [_usage_line(usage)]
        changes = [f"without {name}" for name in usage["left_out"]]
        changes += [f"with {other} in place of {name}" for name, other in usage["renamed"].items()]
        if changes:
            lines.append(f"{usage['model']} was asked {', '.join(changes)}")
        for line in lines:
            console.print(printable(line), soft_wrap=True, markup=False, highlight=False)


def _usage_line(usage: dict[str, Any]) -> str:
    cost = f"${usage['cost_usd']:.4f}"
    if usage["cost_usd_unknown"]:
        cost += f", and up to ${usage['cost_usd_unknown']:.4f} more"
    return (
        f"{usage['model']}: {usage['requests']} requests ({usage['retries']} sent again, {usage['faults']} turns"
        f" without a reply), {usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {cost}"
    )
