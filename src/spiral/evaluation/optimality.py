"""Optimality of a policy in a game of perfect information, position by position.

The policy sees every position once, through the first history in order of play that reaches it: with prompts that show
the moves made ("full"), that one history represents the position. Backward induction gives the value of every move to
the player who makes it, averaged over chance. Three numbers follow for each position: the probability of an optimal
move, whether the most likely legal move is optimal, and the regret, the expected loss of value in the game's units. An
illegal reply counts as the worst ending for the player who gave it; its probability is also reported separately.

They are averaged in three ways: over all positions equally, over those that the policy meets in self-play, and over
those that random play meets, weighted by how often. These weights are computed, not sampled. Only if the policy's
probabilities are not known (`policy_table`) everything is sampled: positions, positions as random play meets them, and
games of self-play.

Legend: I positions with a decision, A their moves one after another, N rows of a table, F the numbers of `Optimality`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.evaluation.policy_table import (
    Method,
    PolicyTable,
    StateRow,
    TheoryWatch,
    decision_tree,
    ignore_progress,
    known_table,
    row_records,
    sampled_table,
)
from spiral.evaluation.statistics import Estimate, avg_at_k, bootstrap_weights, mean_interval, wilson
from spiral.games import Game
from spiral.inference.base import LanguagePolicy
from spiral.rollout.loop import Match, play
from spiral.theory import TabularPolicy, has_perfect_information
from spiral.theory.minimax import optimal_values
from spiral.theory.tree import Floats, GameTree

POSITIONS = 300
"""Number of positions when replies are sampled."""
SAMPLES = 20
"""Replies per position when they are sampled."""
SELF_PLAY_EPISODES = 200
TIE = 1e-9
"""Difference of values below which moves count as equally good."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimality:
    """Averages over positions."""

    share: float
    """Probability of an optimal move."""
    top: float | None
    """Share of positions whose most likely legal move is optimal; equally likely moves count in proportion."""
    regret: float
    """Expected loss of value by one move."""
    illegal: float
    """Probability of an illegal reply."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimalityResult:
    """Optimality of a policy in one game."""

    game: str
    method: Method
    positions: int
    """Positions used, out of the `all_positions` with a decision."""
    all_positions: int
    uniform: Optimality
    """Over all positions equally."""
    self_play: Optimality
    """Weighted by how often the policy meets a position in self-play."""
    random_play: Optimality
    """Weighted by how often random play meets a position."""
    samples: int | None = None
    bounds: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    """95% intervals by key of `to_json`, if replies were sampled."""
    states: tuple[StateRow, ...] = dataclasses.field(default=(), repr=False)

    def to_json(self) -> dict[str, object]:
        """Flat keys: `optimal_share` and `optimal_top` over all positions, `regret_uniform`, `regret_self`, ..."""
        flat: dict[str, object] = {
            "game": self.game,
            "method": self.method,
            "illegal_mass": self.uniform.illegal,
            "positions": self.positions,
            "all_positions": self.all_positions,
            "optimal_share": self.uniform.share,
            "optimal_top": self.uniform.top,
            "regret_uniform": self.uniform.regret,
        }
        for name, played in (("self", self.self_play), ("random", self.random_play)):
            flat |= {
                f"regret_{name}": played.regret,
                f"optimal_share_{name}": played.share,
                f"optimal_top_{name}": played.top,
                f"illegal_{name}": played.illegal,
            }
        for name, estimate in self.bounds.items():
            flat |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return {key: value for key, value in {**flat, "samples": self.samples}.items() if value is not None}

    def records(self) -> list[dict[str, Any]]:
        """The positions as plain dictionaries, for a result file."""
        return row_records(self.states)


def evaluate_optimality(
    policy: LanguagePolicy | TabularPolicy,
    game: Game,
    *,
    positions: int = POSITIONS,
    samples: int = SAMPLES,
    play_episodes: int = SELF_PLAY_EPISODES,
    seed: int = 0,
) -> OptimalityResult:
    """Computes how close to perfect a language model or a tabular policy plays.

    Args:
        policy: A language model or a tabular policy.
        game: A game of perfect information.
        positions: If replies have to be sampled: number of positions, drawn once uniformly and once as random play
            meets them.
        samples: If replies have to be sampled: replies per position.
        play_episodes: If replies have to be sampled: number of games of self-play.
        seed: Fixes all random draws.

    Raises:
        ValueError: The game hides information from a player, or has no exact theory.
    """
    if not has_perfect_information(game):
        raise ValueError(
            f"{game.spec} hides information from the players, so no move is optimal by itself; expected a game of"
            " perfect information, such as tictactoe, or evaluate its exploitability"
        )
    table = known_table(policy, game)
    if table is not None:
        return optimality_of_table(table)
    assert isinstance(policy, LanguagePolicy)  # the others are always known
    return sampled_optimality(policy, game, positions, samples, play_episodes, seed)


def optimality_of_table(table: PolicyTable) -> OptimalityResult:
    """`evaluate_optimality` of a table that covers every position of a game of perfect information."""
    values = move_values(table.game)
    values_FI = position_values(values, table.rows, range(len(table.rows)))
    return OptimalityResult(
        game=table.game.spec,
        method=table.method,
        positions=len(table.rows),
        all_positions=len(table.rows),
        uniform=average(values_FI, np.ones(len(table.rows))),
        self_play=average(values_FI, visits(values.tree, table.to_array())),
        random_play=average(values_FI, random_visits(values.tree)),
        states=table.rows,
    )


def sampled_optimality(
    policy: LanguagePolicy,
    game: Game,
    positions: int,
    samples: int,
    play_episodes: int,
    seed: int,
    watch: TheoryWatch = ignore_progress,
) -> OptimalityResult:
    """`evaluate_optimality` from sampled replies, for a language model whose probabilities are not known."""
    values = move_values(game)
    total = len(values.tree.infosets)
    count = min(positions, total)
    rng = np.random.default_rng(derive_seed(seed, "optimality"))
    random_I = random_visits(values.tree)
    uniform = rng.choice(total, count, replace=False).tolist()
    visited = rng.choice(total, count, p=random_I / random_I.sum()).tolist()
    asked = [(values.tree.infosets[index].state, values.tree.infosets[index].player) for index in uniform + visited]
    table = sampled_table(policy, game, asked, samples=samples, seed=seed, purpose="optimality", watch=watch)
    values_FN = position_values(values, table.rows, uniform + visited)
    uniform_FN, visited_FN = values_FN[:, :count], values_FN[:, count:]
    self_play, bounds = _self_play(policy, game, values, play_episodes, seed, watch)
    bounds |= _bounds(uniform_FN, samples, "uniform") | _bounds(visited_FN, samples, "random")
    return OptimalityResult(
        game=game.spec,
        method="sampled",
        positions=len({*uniform, *visited}),
        all_positions=total,
        uniform=average(uniform_FN, np.ones(count)),
        self_play=self_play,
        random_play=average(visited_FN, np.ones(count)),
        samples=samples,
        bounds=bounds,
        states=table.rows,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoveValues:
    """The value of every move of a game."""

    tree: GameTree
    optimal_A: npt.NDArray[np.bool_]
    regret_A: Floats
    forfeit_I: Floats
    """Regret of an illegal reply."""


def move_values(game: Game) -> MoveValues:
    """The value of every move of a game of perfect information, by backward induction."""
    tree = decision_tree(game)
    value_N = optimal_values(tree)
    moves = tree.slot_E >= 0
    sign_A = np.where(tree.player_A == 0, 1.0, -1.0)
    regret_A = np.zeros(len(sign_A))
    regret_A[tree.slot_E[moves]] = value_N[tree.source_E[moves]] - value_N[tree.target_E[moves]]
    regret_A *= sign_A
    nodes = np.flatnonzero(tree.infoset_N >= 0)
    value_I = np.zeros(len(tree.infosets))
    value_I[tree.infoset_N[nodes]] = value_N[nodes]
    first_I = np.array([infoset.player == 0 for infoset in tree.infosets])
    forfeit_I = np.where(first_I, value_I - tree.payoff_N.min(), tree.payoff_N.max() - value_I)
    return MoveValues(tree=tree, optimal_A=regret_A <= TIE, regret_A=regret_A, forfeit_I=forfeit_I)


def position_values(values: MoveValues, rows: Sequence[StateRow], positions: Iterable[int]) -> Floats:
    """The numbers of `Optimality`, in their order, for each row of a table and the position it belongs to, [F, N]."""
    values_NF = []
    for row, position in zip(rows, positions, strict=True):
        first = values.tree.infosets[position].first_slot
        slots = slice(first, first + len(row.probabilities))
        probabilities, optimal = np.array(list(row.probabilities.values())), values.optimal_A[slots]
        top = (probabilities >= probabilities.max() - TIE) & (probabilities > 0.0)
        values_NF.append(
            (
                probabilities @ optimal,
                int(np.sum(top & optimal)) / max(1, int(np.sum(top))),
                probabilities @ values.regret_A[slots] + row.illegal * values.forfeit_I[position],
                row.illegal,
            )
        )
    return np.array(values_NF).T


def average(values_FN: Floats, weight_N: Floats) -> Optimality:
    """The weighted average over positions."""
    share, top, regret, illegal = (float(value) for value in np.average(values_FN, axis=1, weights=weight_N))
    return Optimality(share=share, top=top, regret=regret, illegal=illegal)


def visits(tree: GameTree, probability_A: Floats) -> Floats:
    """Probability that a game meets each position, [I]; illegal mass ends the game."""
    nodes = np.flatnonzero(tree.infoset_N >= 0)
    visits_I = np.zeros(len(tree.infosets))
    visits_I[tree.infoset_N[nodes]] = tree.reach(tree.edge_weights(probability_A))[nodes]
    return visits_I


def random_visits(tree: GameTree) -> Floats:
    """Probability that a game of random play meets each position, [I]."""
    return visits(tree, 1.0 / np.bincount(tree.infoset_A)[tree.infoset_A])


def _bounds(values_FN: Floats, samples: int, weighting: str) -> dict[str, Estimate]:
    """Intervals for N positions drawn at random, with `samples` replies in each."""
    share_N, top_N, regret_N, _ = values_FN
    optimal_NK = np.arange(samples) < np.round(share_N * samples)[:, None]
    ending = "" if weighting == "uniform" else f"_{weighting}"
    bounds: dict[str, Estimate] = {
        f"optimal_share{ending}": avg_at_k(optimal_NK),
        f"optimal_top{ending}": wilson(float(top_N.sum()), len(top_N)),
    }
    return bounds if len(regret_N) < 2 else {**bounds, f"regret_{weighting}": mean_interval(regret_N)}


def _self_play(
    policy: LanguagePolicy, game: Game, values: MoveValues, episodes: int, seed: int, watch: TheoryWatch
) -> tuple[Optimality, dict[str, Estimate]]:
    """Averages over the moves of self-play games, with bootstrap intervals that resample whole games."""
    seeds = [derive_seed(seed, "optimality", "game", index) for index in range(episodes)]
    matches = [Match(game=game, seed=match_seed, policies=(policy, policy)) for match_seed in seeds]
    played = play(matches, watch=lambda games, _: watch("games of self-play", games, episodes))
    positions = {
        (infoset.player, infoset.state.position_key()): index for index, infoset in enumerate(values.tree.infosets)
    }
    totals_GF = np.array([_game_totals(episode, game, values, positions) for episode in played])
    moves, share, regret, illegal = (float(total) for total in totals_GF.sum(axis=0))
    weight_DG = bootstrap_weights(episodes, np.random.default_rng(derive_seed(seed, "optimality", "bootstrap")))
    drawn_DF = weight_DG @ totals_GF
    bounds = {}
    for column, name, value in ((1, "optimal_share_self", share / moves), (2, "regret_self", regret / moves)):
        low, high = np.quantile(drawn_DF[:, column] / drawn_DF[:, 0], [0.025, 0.975])
        bounds[name] = Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))
    return Optimality(share=share / moves, top=None, regret=regret / moves, illegal=illegal / moves), bounds


def _game_totals(
    episode: Episode, game: Game, values: MoveValues, positions: Mapping[tuple[int, Hashable], int]
) -> tuple[float, float, float, float]:
    """Sums over one game: moves, optimal moves, regret, illegal moves."""
    moves = share = regret = illegal = 0.0
    state = game.initial_state()
    illegal_move = [""] if episode.outcome == "illegal_move" else []
    for action in [*episode.actions, *illegal_move]:
        if not state.is_chance:
            infoset = values.tree.infosets[position := positions[state.current_player, state.position_key()]]
            moves += 1
            if action:
                slot = infoset.first_slot + infoset.actions.index(action)
                share, regret = share + values.optimal_A[slot], regret + values.regret_A[slot]
            else:
                illegal, regret = illegal + 1, regret + values.forfeit_I[position]
        state = state.apply(action) if action else state
    return moves, float(share), float(regret), illegal
