"""Engines that generate text with a language model, and the log-probabilities of given text."""
