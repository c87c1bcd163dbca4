"""The command line `spiral`. Each command is a file; `app` puts them together."""

from spiral.cli.app import main

__all__ = ["main"]
