"""Accuracy on every benchmark and in the mean, by model and training."""

from spiral.experiments.tables import Results, Table

PAPER = {
    "base": 0.340, "sft_kuhn": 0.374, "sft_25k": 0.397, "sft_52k": 0.397, "tictactoe": 0.413, "kuhn": 0.434,
    "negotiation": 0.400, "two": 0.413, "multi": 0.445, "against_mistral": 0.296, "against_gemini": 0.334,
    "base_8b": 0.395, "multi_8b": 0.496, "octothinker": 0.258, "multi_octothinker": 0.338, "llama": 0.239,
    "multi_llama": 0.259, "r1_distill": 0.604, "multi_r1_distill": 0.618,
}  # fmt: skip
"""Means of the eight benchmarks in v3."""


def tables(results: Results) -> list[Table]:
    """One row a model, the mean first."""
    entries = []
    for evaluation in ("reasoning", "reasoning_others"):
        for item in results.items(evaluation):
            entries.append(results.entry(item, "mean", evaluation, item, key="mean.accuracy", paper=PAPER[item]))
            found = results.of(evaluation, item)
            for number, task in enumerate(row["task"] for row in (found[0]["tasks"] if found else [])):
                entries.append(
                    results.entry(
                        item, task, evaluation, item, key=f"tasks.{number}.accuracy", n=f"tasks.{number}.items"
                    )
                )
    note = "Intervals are over problems for one seed, and Student's over seeds for several."
    if results.scale == "laptop":
        note = (
            "gsm8k here stands for 16 word problems of our own; the paper's figures are those of Qwen3-4B-Base. " + note
        )
    return [Table(name="reasoning", title="Reasoning after training on games", entries=entries, note=note)]
