"""Curricula: how a step's games are shared out among the kinds of games. `base` has the interface, one file each."""
