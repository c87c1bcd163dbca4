"""What endpoints were asked and what it cost, in results and for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from spiral.core.printable import printable


def endpoint_usage(who: str, policy: object) -> dict[str, Any]:
    """The usage of an endpoint under the key `WHO_usage`; nothing for any other player."""
    from spiral.policies.endpoint.policy import EndpointPolicy  # loads torch

    if not isinstance(policy, EndpointPolicy):
        return {}
    return {f"{who}_usage": {"model": policy.config.model, **dataclasses.asdict(policy.usage())}}


def print_usage(console: Console, result: dict[str, Any]) -> None:
    """One line for each endpoint of a result, and one for what it was not asked or asked under another name."""
    for usage in (result.get("model_usage"), result.get("opponent_usage")):
        if usage is None:
            continue
        lines = [_usage_line(usage)]
        changes = [f"without {name}" for name in usage["left_out"]]
        changes += [f"with {other} for {name}" for name, other in usage["renamed"].items()]
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
