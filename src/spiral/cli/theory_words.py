"""What exact theory says of a policy, in words: figures with their units, and a yardstick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from spiral.games import Game
from spiral.runs.display import plain_table

CHIPS = ("kuhn_poker", "leduc_poker")
"""Games whose returns are chips."""
METHODS = {
    "exact": "its probabilities are known exactly",
    "scored": "read off the model: every legal reply was scored in every state",
    "sampled": "counted from sampled replies",
}
KUHN = {
    "bet_with_j": "bets with J when first to act (a bluff)",
    "bet_with_k": "bets with K when first to act",
    "call_with_q": "calls with Q after check and bet",
}
WEIGHTINGS = {"": "all positions alike", "_self": "positions met in self-play", "_random": "positions of random play"}


def unit(game: Game) -> str:
    """What a return of the game is counted in."""
    single = getattr(game, "hands", 1) == 1  # a match of several hands is won or lost
    return "chips a hand" if single and game.spec.partition("(")[0] in CHIPS else "points a game"


def headline(name: str, game: Game, result: Mapping[str, Any], uniform: float) -> str:
    """The exploitability in one sentence, beside that of uniform play and of an equilibrium."""
    value = result["exploitability"]
    if value is None:
        return (
            f"{name} in {game.spec}: exploitability is not known, for that takes the probabilities of every position;"
            " how near to perfect it plays was sampled"
        )
    bounds = _interval(result, "exploitability")
    return (
        f"{name} in {game.spec}: exploitability {value:.4f}{bounds} {unit(game)}; uniform play {uniform:.4f},"
        " equilibrium 0"
    )


def theory_table(game: Game, result: Mapping[str, Any]) -> Table:
    """Every figure of a `TheoryResult` in its JSON form."""
    table = plain_table("figure", "value")
    each = unit(game)
    if result["nash_conv"] is not None:
        first, second = result["best_response_values"]
        table.add_row("a best response wins, on average over both seats", f"{result['exploitability']:.4f} {each}")
        table.add_row("  from seat 0, from seat 1", f"{first:+.4f}, {second:+.4f}")
        table.add_row("NashConv, the sum of both", f"{result['nash_conv']:.4f}")
    table.add_row("probability of a reply that is not legal", f"{result['illegal_mass']:.2%}")
    method = METHODS[result["method"]]
    if result.get("samples") is not None:
        method += f", {result['samples']} in each state"
    table.add_row("how it was measured", method)
    for key, words in KUHN.items():
        if key in result:
            table.add_row(words, f"{result[key]:.1%}")
    if "positions" in result:
        _add_optimality(table, result, each)
    return table


def _add_optimality(table: Table, result: Mapping[str, Any], each: str) -> None:
    """How near to perfect it plays where nothing is hidden, under three ways to weigh positions."""
    table.add_row("positions asked about", f"{result['positions']:,} of {result['all_positions']:,}")
    for key, words in WEIGHTINGS.items():
        table.add_row(f"{words}:", "")
        share, regret = f"optimal_share{key}", f"regret{key or '_uniform'}"
        table.add_row("  plays an optimal move", f"{result[share]:.1%}{_interval(result, share, percent=True)}")
        top = f"optimal_top{key}"
        if result.get(top) is not None:
            table.add_row(
                "  its most likely move is optimal", f"{result[top]:.1%}{_interval(result, top, percent=True)}"
            )
        table.add_row("  gives away by a move", f"{result[regret]:.4f}{_interval(result, regret)} {each}")
        if result.get(f"illegal{key}") is not None:
            table.add_row("  not legal", f"{result[f'illegal{key}']:.2%}")


def _interval(result: Mapping[str, Any], key: str, *, percent: bool = False) -> str:
    """The 95% interval of a sampled figure."""
    if result.get(f"{key}_low") is None:
        return ""
    low, high = result[f"{key}_low"], result[f"{key}_high"]
    return f" ({100 * low:.0f} to {100 * high:.0f})" if percent else f" ({low:.4f} to {high:.4f})"
