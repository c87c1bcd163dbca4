"""Reasoning benchmarks: problems, a model's replies to them, and their grades."""

from spiral.evaluation.reasoning.grading import Grade, grade, grade_reply

__all__ = ["Grade", "grade", "grade_reply"]
