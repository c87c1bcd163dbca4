"""What a run takes, worked out before it starts: memory of a device and tokens of a step."""

from spiral.plan.fit import Plan, check_plan, check_runnable, describe, make_plan

__all__ = ["Plan", "check_plan", "check_runnable", "describe", "make_plan"]
