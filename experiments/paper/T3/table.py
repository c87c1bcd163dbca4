"""Scores early, in the middle and late: against the fixed opponent, and of self-play against its past."""

from spiral.experiments.tables import Results, Table

PAPER = {
    "fixed_early": 0.0,
    "fixed_middle": 0.375,
    "fixed_late": 0.625,
    "itself_early": 0.523,
    "itself_middle": 0.517,
    "itself_late": 0.509,
}
"""Share of games won at steps 16, 128 and 384 of v3."""
ROWS = {
    "fixed": "trained against a fixed opponent, against that opponent",
    "itself": "self-play, against itself 16 steps earlier (2 steps on a laptop)",
}


def tables(results: Results) -> list[Table]:
    """One row for each opponent and stage."""
    entries = [
        entry
        for name, paper in PAPER.items()
        for entry in results.pair(
            f"{ROWS[name.split('_')[0]]}: {name.split('_')[1]}", name, paper={"mean": paper}, mean="mean"
        )
    ]
    note = "Share of games won, a draw counting half; the paper's is the share of games won."
    return [Table(name="opponents", title="A fixed opponent, and oneself", entries=entries, note=note)]
