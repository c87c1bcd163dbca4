"""Scores of each specialist against the two others, and the paper's for the best."""

from spiral.experiments.tables import Entry, Results, Table

PAPER = {
    ("tictactoe", "textarena/Snake-v0"): 0.560,
    ("kuhn", "textarena/PigDice-v0"): 0.917,
    ("negotiation", "textarena/TruthAndDeception-v0"): 0.558,
}
ARMS = ("tictactoe", "kuhn", "negotiation")


def tables(results: Results) -> list[Table]:
    """A win counts 1 and a draw 1/2; means over the two others, each with the same number of games."""
    played = [{game["game"]: game for game in result["games"]} for result in results.of("head_to_head")]
    games = [*dict.fromkeys(game for result in played for game in result)]
    games = games or [game for _, game in PAPER]
    entries = []
    for row, arm in enumerate(ARMS):
        for game in games:
            scores = [result[game]["score"][row] for result in played]
            means = [sum(score for other, score in enumerate(line) if other != row) / 2 for line in scores]
            value = sum(means) / len(means) if means else None
            count = sum(result[game]["games"][row][other] for result in played for other in range(3) if other != row)
            entries.append(Entry(row=arm, column=game, value=value, n=count or None, paper=PAPER.get((arm, game))))
    note = "Share of games won, a draw counting half, against the two other specialists together."
    return [Table(name="head_to_head", title="Specialists head to head", entries=entries, note=note)]
