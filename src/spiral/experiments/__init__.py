"""Experiments: a folder with the commands behind one claim, run to its table (`spiral experiment`)."""
