"""Scores in the harder variants."""

from spiral.experiments.tables import Results, Table

PAPER = {"base": 0.110, "sft": 0.184, "multi": 0.361}
"""Means over the three variants."""


def tables(results: Results) -> list[Table]:
    """One row a model, one column a variant."""
    entries = [
        entry
        for item in results.items("games")
        for entry in results.pair(item, "games", item, paper={"mean": PAPER[item]})
    ]
    note = "Share of games won, a draw counting half."
    return [Table(name="variants", title="Harder variants, never trained on", entries=entries, note=note)]
