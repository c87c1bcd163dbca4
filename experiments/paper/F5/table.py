"""What each opponent teaches over training: scores at the snapshots, and the curves of training."""

import dataclasses

from spiral.experiments.tables import Curves, Entry, Line, Results, Table

ARMS = {"full": ("self_play", "random", "mistral", "gemini"), "laptop": ("self_play", "random", "minimax")}
PANELS = {
    "tokens of a reply": "rollout/response_length",
    "turns a game": "rollout/turns_per_game",
    "gradient norm": "learner/grad_norm",
}


def tables(results: Results) -> list[Table | Curves]:
    """Rows are arms, columns are steps; all arms begin with the same model."""
    full = results.scale == "full"
    entries: list[Entry] = []
    lines: list[Line] = []
    for arm in ARMS[results.scale]:
        label = "self-play" if arm == "self_play" else f"against {arm}"
        for item in results.items("reasoning" if full else "games"):
            of, _, step = item.partition("@")
            if of == arm or step == "0":
                found = [results.entry(label, "", "reasoning", item, key="mean.accuracy")] if full else []
                found = found or results.pair(label, "games", item, mean="score")
                entries += [dataclasses.replace(entry, column=f"step {step}") for entry in found]
        lines += results.curves(arm, label, PANELS)
    what = "Mean of eight benchmarks" if full else "Score against minimax, a draw counting half"
    return [
        Table(name="opponents", title=f"{what}, by opponent in training", entries=entries),
        Curves(name="training", title="Training against each opponent", lines=lines),
    ]
