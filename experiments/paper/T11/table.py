"""Moves a game, tokens of a thought and wins of each player, from the metrics of the run."""

from spiral import read_metrics
from spiral.experiments.tables import Curves, Results, Table, mean_entry

PAPER = {"start": (1.69, 4061), "middle": (7.63, 1609), "end": (9.55, 2032)}
"""Moves a game and tokens of a thought at steps 0, 128 and 400 of v3."""
GAMES = {
    "full": {"tictactoe": "tictactoe", "kuhn_poker-5": "Kuhn poker", "simple_negotiation": "negotiation"},
    "laptop": {"tictactoe": "tictactoe", "kuhn_poker": "Kuhn poker", "simple_negotiation": "negotiation"},
}
WINDOW = 5
"""Steps that a value is the mean of."""


def tables(results: Results) -> list[Table | Curves]:
    """Means over five steps at the beginning, after a third and at the end, and the curves of the first seed."""
    runs = [read_metrics(run) for run in results.runs("multi")]
    wins = {
        f"{game}: wins of player {player}": f"selfplay/{name}/player{player}/win"
        for name, game in GAMES[results.scale].items()
        for player in (0, 1)
    }
    moves = {"moves a game": "rollout/turns_per_game", "tokens of a thought": "thinking/length"}
    entries = []
    for place, label in enumerate(PAPER):
        rows = [_window(run, place) for run in runs]
        for column, key in (moves | wins).items():
            paper = dict(zip(moves, PAPER[label], strict=True)).get(column)
            entries.append(mean_entry(label, column, [_mean(window, key) for window in rows], paper=paper))
    lines = results.curves("multi", "all games", {**moves, "tokens of a reply": "rollout/response_length"})
    for name, game in GAMES[results.scale].items():
        for player in (0, 1):
            key = f"selfplay/{name}/player{player}/win"
            lines += results.curves("multi", f"player {player}", {f"{game}: share of games won": key})
    note = "Start, middle and end are the first five steps, five after a third of the run, and the last five."
    table = Table(name="play", title="Play over training", entries=entries, form="{:.2f}", note=note)
    return [table, Curves(name="curves", title="Play over training, first seed", lines=lines)]


def _window(run: list[dict], place: int) -> list[dict]:
    begin = (0, len(run) // 3, max(0, len(run) - WINDOW))[place]
    return run[begin : begin + WINDOW]


def _mean(rows: list[dict], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else None
