"""RAE on and off: what is evaluated at each snapshot, and gradient norm, replies and returns at every step."""

from spiral.experiments.tables import Curves, Entry, Line, Results, Table

ARMS = {"rae": "RAE", "no_baseline": "no baseline"}
PAPER = {("RAE", "0"): 0.35, ("no baseline", "0"): 0.35, ("no baseline", "256"): 0.12}
"""Accuracy in mathematics falls from 35 to 12% within 100 to 200 steps without RAE; v3."""
GAME = {"full": "kuhn_poker-5", "laptop": "kuhn_poker"}
PANELS = {
    "gradient norm": "learner/grad_norm",
    "tokens of a reply": "rollout/response_length",
    "entropy, nats a token": "loss/entropy",
}


def tables(results: Results) -> list[Table | Curves]:
    """Rows are arms, columns are steps; both arms begin with the same model."""
    full = results.scale == "full"
    name, key = ("reasoning", "mean.accuracy") if full else ("exploitability", "exploitability")
    returns = {
        f"return of player {player}": f"selfplay/{GAME[results.scale]}/player{player}/return" for player in (0, 1)
    }
    entries: list[Entry] = []
    lines: list[Line] = []
    for arm, label in ARMS.items():
        for item in results.items(name):
            of, _, step = item.partition("@")
            if of == arm or step == "0":
                paper = PAPER.get((label, step)) if full else None
                entries.append(results.entry(label, f"step {step}", name, item, key=key, paper=paper))
        lines += results.curves(arm, label, PANELS | returns)
    title = "Accuracy in mathematics" if full else "Exploitability of Kuhn poker, chips"
    form = "{:.1%}" if full else "{:.3f}"
    return [
        Table(name="rae", title=f"{title}, with RAE and without", entries=entries, form=form),
        Curves(name="training", title="Training with RAE and without", lines=lines),
    ]
