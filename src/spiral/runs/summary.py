"""What a finished run amounts to: a table before against after, warnings, and one of its games told in words.

All of it is read from the run directory, except the game, which is played anew by the trained policy.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from spiral.core.metrics import Matchup
from spiral.evaluation.statistics import wilson
from spiral.runs.display import learning_players, plain_table
from spiral.runs.evaluation import EvaluationResults

RATES = ("win", "draw", "loss", "not_lost")
ILLEGAL_LIMIT = 0.5
LOSS_LIMIT = -0.95
SPREAD_LIMIT = 0.05
MIN_STEPS, MIN_GAMES = 5, 100
"""Steps with a game, and games in them, before a player is judged."""
UNKNOWN_LIMIT = 0.9
"""Share of games that end with an illegal move of a model that does not know the game."""
REMEDY = (
    "show it an example (prompt.example=true), leave out thinking (prompt.thinking=false), or start from a larger model"
    " or one trained on examples of the game"
)
MAX_WHOLE = 24
"""Characters of a name that a table never folds."""


def arena_table(before: EvaluationResults, after: EvaluationResults) -> Table:
    """Every game and opponent in two lines: shares of games with their 95% intervals."""
    table = plain_table("game", "against", "", "win", "draw", "loss", "win or draw", "illegal", numbers_from=3)
    earlier = {(row["game"], row["opponent"]): row for row in before.arena}
    for column in table.columns[:2]:  # of a narrow terminal the figures are folded first
        column.no_wrap = all(len(row["game"]) <= MAX_WHOLE and len(row["opponent"]) <= MAX_WHOLE for row in after.arena)
    for row in after.arena:
        key = (row["game"], row["opponent"])
        names = list(key)
        for caption, result in (("before", earlier.get(key)), ("after", row)):
            if result is not None:
                rates = [rate_text(result, rate) for rate in RATES]
                table.add_row(*names, caption, *rates, f"{result['illegal']:.1%}")
                names = ["", ""]
    return table


def exploitability_table(before: EvaluationResults, after: EvaluationResults) -> Table:
    """Exploitability of every game measured."""
    table = plain_table("game", "exploitability before", "after", "illegal before", "after ", "method", numbers_from=1)
    earlier = {row["game"]: row for row in before.exploitability}
    for row in after.exploitability:
        first = earlier.get(row["game"], {})
        table.add_row(
            row["game"],
            _number(first, "exploitability", "{:.4f}"),
            _number(row, "exploitability", "{:.4f}"),
            _number(first, "illegal_mass", "{:.1%}"),
            _number(row, "illegal_mass", "{:.1%}"),
            row["method"],
        )
    return table


def rate_text(result: Mapping[str, Any], rate: str) -> str:
    """A share with its interval, in percent: `61% (56 to 66)`."""
    value, low, high = result[rate], result[f"{rate}_low"], result[f"{rate}_high"]
    return f"{value:.0%} ({100 * low:.0f} to {100 * high:.0f})"


def collapsed_players(rows: Sequence[Mapping[str, Any]], trained: Sequence[Matchup]) -> list[str]:
    """A warning for every player that does not learn, judged by the last tenth of the steps and never by a few games.

    Either more than half of its moves are illegal, by the lower bound of the share's 95% interval, or it loses
    practically every game: a mean return of -0.95 or less (a lost game costs at least 1) that hardly changes from step
    to step, which leaves nothing to learn from.
    """
    tail = rows[-max(MIN_STEPS, len(rows) // 10) :]
    everything = {key: value for row in tail for key, value in row.items()}
    warnings = []
    for matchup in trained:
        for player in learning_players(everything, matchup):
            played = [row for row in tail if matchup.key("return", player) in row]
            # Runs of earlier versions have no games by kind.
            games = sum(row.get(matchup.key("games"), row.get("rollout/games", 0.0)) for row in played)
            if len(played) < MIN_STEPS or games < MIN_GAMES:
                continue
            illegal = statistics.fmean(row[matchup.key("illegal", player)] for row in played)
            returns = [row[matchup.key("return", player)] for row in played]
            mean = statistics.fmean(returns)
            if wilson(illegal * games, games).low > ILLEGAL_LIMIT:
                warnings.append(_illegal_player(rows, matchup, player, illegal))
            elif mean <= LOSS_LIMIT and statistics.pstdev(returns) < SPREAD_LIMIT:
                warnings.append(
                    f"player {player} of {matchup} collapsed: it always loses (mean return {mean:+.2f}) and learns"
                    " nothing"
                )
    return warnings


def _illegal_player(rows: Sequence[Mapping[str, Any]], matchup: Matchup, player: int, illegal: float) -> str:
    """The warning for mostly illegal moves: the player never knew how to move, or it has forgotten."""
    key = matchup.key("illegal", player)
    who = f"player {player} of {matchup}"
    if next(row[key] for row in rows if key in row) > ILLEGAL_LIMIT:
        return f"{who} has not learned to move: {illegal:.0%} of its moves are illegal; {REMEDY}"
    return f"{who} collapsed: {illegal:.0%} of its moves are illegal"


def games_not_known(forfeits: Mapping[str, float]) -> str | None:
    """A warning for games that nearly always end with an illegal move; `forfeits` is that share of games by game."""
    unknown = [f"{game} ({share:.0%} of games)" for game, share in forfeits.items() if share >= UNKNOWN_LIMIT]
    if not unknown:
        return None
    return f"nearly every game ends with an illegal move in {', '.join(unknown)}, which teaches little; {REMEDY}"


def gap_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning when sampler and learner disagreed at some steps."""
    over = [row for row in rows if row.get("sampler/gap_warning")]
    if not over:
        return []
    largest = max(row["sampler/gap_mean"] for row in over)
    return [f"sampler and learner disagreed in {len(over)} of {len(rows)} steps, by up to {largest:.3f} nats a token"]


def _number(row: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(row[key]) if key in row else ""
