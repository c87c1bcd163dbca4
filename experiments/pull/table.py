"""What a pull does to self-play in Kuhn poker, and who walks in circles."""

import runpy
from pathlib import Path

from spiral.experiments.paired import compare, curves
from spiral.experiments.tables import Curves, Results, Table

kuhn = runpy.run_path(str(Path(__file__).parents[1] / "kuhn.py"))
ARMS = ("none", "start", "refreshed")


def tables(results: Results) -> list[Table | Curves]:
    """Every pull, and what it has more than none with the same seed."""
    columns = {
        "exploitability, second half": kuhn["late_exploitability"],
        "after the last step": kuhn["last_exploitability"],
        "way walked, second half": kuhn["walked"],
        "distance got away": kuhn["got_away"],
        "pairs in which the later self loses": kuhn["beaten_by_earlier"],
        "illegal moves, last ten steps": kuhn["illegal"],
    }
    title = "Self-play in Kuhn poker by the pull to a reference"
    lines = curves(results, ARMS, kuhn["exploitability"], "Exploitability")
    return [*compare(results, ARMS, "none", columns, title), lines]
