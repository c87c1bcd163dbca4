"""Memory and tokens of a run, computed before it starts, and whether it fits."""

from spiral.plan.fit import Plan, check_plan, check_runnable, describe, make_plan

__all__ = ["Plan", "check_plan", "check_runnable", "describe", "make_plan"]
