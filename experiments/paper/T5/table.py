"""Scores of every model against the opponent, by game and in the mean."""

from spiral.experiments.tables import Results, Table

PAPER = {"base": 0.187, "multi": 0.595}
"""Means over six games; the specialists are at 48.6 to 52.9%."""


def tables(results: Results) -> list[Table]:
    """One row a model, one column a game."""
    entries = [
        entry
        for item in results.items("games")
        for entry in results.pair(item, "games", item, paper={"mean": PAPER[item]} if item in PAPER else {})
    ]
    note = "Share of games won, a draw counting half. The paper's specialists are at 48.6 to 52.9% in the mean."
    return [Table(name="opponent", title="Against one opponent in six games", entries=entries, note=note)]
