"""Grading of answers to reasoning problems."""
