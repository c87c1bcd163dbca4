"""The command line `spiral`: one file for each group of commands.

    listing     games, recipes, models
    training    train
    measuring   evaluate, exploitability
    playing     play

A command parses, calls and prints; whatever it calls lives elsewhere. Packages that load torch are imported inside the
commands that need them, so that `spiral games` and `--help` answer at once.
"""

from spiral.cli.app import main

__all__ = ["main"]
