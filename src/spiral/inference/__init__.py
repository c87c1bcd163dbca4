"""Engines that generate text with a language model, and the scoring of given text."""
