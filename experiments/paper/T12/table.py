"""Accuracy after self-play, after verifiable rewards, and after both in either order."""

from spiral.experiments.tables import Results, Table

PAPER = {"base": 0.340, "rlvr": 0.460, "multi": 0.445, "multi_then_rlvr": 0.465, "rlvr_then_multi": 0.479}


def tables(results: Results) -> list[Table]:
    """The mean over benchmarks of each model."""
    entries = [
        results.entry(item, "mean", "reasoning", item, key="mean.accuracy", paper=PAPER[item])
        for item in results.items("reasoning")
    ]
    return [Table(name="rlvr", title="Self-play and verifiable rewards", entries=entries)]
