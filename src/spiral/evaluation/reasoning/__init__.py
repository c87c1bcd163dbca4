"""Reasoning benchmarks: problems, a model's replies to them, and right or wrong."""

from spiral.evaluation.reasoning.grading.grade import Grade, grade, grade_reply

__all__ = ["Grade", "grade", "grade_reply"]
