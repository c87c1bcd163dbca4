"""What self-play in Kuhn poker learns under each reward, and what more than under a coin."""

import runpy
from pathlib import Path

from spiral.experiments.paired import by_step, compare, curves
from spiral.experiments.tables import Curves, Results, Table

kuhn = runpy.run_path(str(Path(__file__).parents[1] / "kuhn.py"))
ARMS = ("returns", "normalised", "sign", "coin", "legality", "format")


def tables(results: Results) -> list[Table | Curves]:
    """Every reward, and what it has more than the coin with the same seed."""
    columns = {
        "exploitability, second half": kuhn["late_exploitability"],
        "after the last step": kuhn["last_exploitability"],
        "after the last step, less the start": kuhn["exploitability_change"],
        "what it wins of random play": kuhn["against_random"],
        "illegal moves, last ten steps": kuhn["illegal"],
        "distance moved from the start": kuhn["moved"],
    }
    return [
        *compare(results, ARMS, "coin", columns, "Self-play in Kuhn poker by the reward"),
        curves(results, ARMS, lambda run: by_step(run, kuhn["EXPLOITABILITY"]), "Exploitability by the reward"),
    ]
