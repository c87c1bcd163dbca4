"""Accuracy of an instruction model before and after."""

from spiral.experiments.tables import Results, Table

PAPER = {"base": 0.741, "sft": 0.719, "multi": 0.759}


def tables(results: Results) -> list[Table]:
    """The mean over benchmarks of each model."""
    entries = [
        results.entry(item, "mean", "reasoning", item, key="mean.accuracy", paper=PAPER[item])
        for item in results.items("reasoning")
    ]
    return [Table(name="instruct", title="An instruction model after training on games", entries=entries)]
