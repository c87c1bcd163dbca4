"""How near to perfect a policy plays where nothing is hidden, position by position.

Every position is put to the policy once, through the first history in order of play that reaches it: with prompts that
show the moves made ("full"), that one history stands for the position. Backward induction gives the value of every
move. Three figures follow for each position: the probability of an optimal move, whether the most likely legal move is
optimal, and the regret, which is the value given away, in the game's units. An illegal reply counts as the worst
ending for the seat that gave it, and its mass is reported apart.

They are averaged in three ways: over all positions alike, over those that the policy meets when it plays itself, and
over those that random play meets, as often as they are met. The probabilities of meeting a position are computed, not
sampled. Only where the policy's own probabilities are not known (`probabilities`) everything is sampled: positions,
positions as random play meets them, and games of self-play.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.evaluation.exploitability import ExploitabilityResult, exploitability_of, measure_exploitability
from spiral.evaluation.positions import Judge, Optimality, average, figures, judge_game, random_visits, visits
from spiral.evaluation.probabilities import (
    Method,
    PolicyTable,
    StateRow,
    TheoryWatch,
    known_table,
    records,
    sampled_table,
    unwatched,
)
from spiral.evaluation.statistics import Estimate, avg_at_k, bootstrap_weights, mean_interval, wilson
from spiral.games import Game
from spiral.inference.base import LanguagePolicy
from spiral.rollout.loop import Match, play
from spiral.theory import TabularPolicy, has_perfect_information
from spiral.theory.tree import Floats

POSITIONS = 300
SAMPLES = 20
"""Replies in a position, where they are sampled."""
PLAY_EPISODES = 200
EXPLOITABILITY_SAMPLES = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimalityResult:
    """How near to perfect a policy plays."""

    game: str
    method: Method
    positions: int
    """Positions asked about, out of `all_positions` in which somebody decides."""
    all_positions: int
    uniform: Optimality
    """Every position alike."""
    self_play: Optimality
    """As often as the policy meets them in both seats."""
    random_play: Optimality
    """As often as random play meets them."""
    samples: int | None = None
    bounds: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    """95% intervals of some figures by their name in `to_json`, where replies were sampled."""
    states: tuple[StateRow, ...] = dataclasses.field(default=(), repr=False)

    def to_json(self) -> dict[str, object]:
        """Flat keys: `optimal_share` and `optimal_top` of all positions alike, `regret_uniform`, `regret_self`, ..."""
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
        return records(self.states)


def measure_optimality(
    policy: LanguagePolicy | TabularPolicy,
    game: Game,
    *,
    positions: int = POSITIONS,
    samples: int = SAMPLES,
    play_episodes: int = PLAY_EPISODES,
    seed: int = 0,
) -> OptimalityResult:
    """How near to perfect a language model or a tabular policy plays a game of perfect information.

    Where replies have to be sampled, `samples` are drawn in each of `positions` positions and as often in positions as
    random play meets them, and `play_episodes` games of self-play are played. Raises `ValueError` for games that hide
    something, are too large or have free text.
    """
    if not has_perfect_information(game):
        raise ValueError(
            f"{game.spec} hides something from the seats, so no move is optimal by itself; expected a game of perfect"
            " information, such as tictactoe, or measure its exploitability"
        )
    table = known_table(policy, game)
    if table is not None:
        return optimality_of(table)
    assert isinstance(policy, LanguagePolicy)  # the others are always known
    return _sampled(policy, game, positions, samples, play_episodes, seed)


def optimality_of(table: PolicyTable) -> OptimalityResult:
    """The same from a table of every position of a game of perfect information."""
    judge = judge_game(table.game)
    figures_FI = figures(judge, table.rows, range(len(table.rows)))
    return OptimalityResult(
        game=table.game.spec,
        method=table.method,
        positions=len(table.rows),
        all_positions=len(table.rows),
        uniform=average(figures_FI, np.ones(len(table.rows))),
        self_play=average(figures_FI, visits(judge.tree, table.to_array())),
        random_play=average(figures_FI, random_visits(judge.tree)),
        states=table.rows,
    )


def _sampled(
    policy: LanguagePolicy,
    game: Game,
    positions: int,
    samples: int,
    play_episodes: int,
    seed: int,
    watch: TheoryWatch = unwatched,
) -> OptimalityResult:
    """Counts replies where the probabilities of a language model are not known."""
    judge = judge_game(game)
    total = len(judge.tree.infosets)
    count = min(positions, total)
    rng = np.random.default_rng(derive_seed(seed, "optimality"))
    random_I = random_visits(judge.tree)
    chosen = rng.choice(total, count, replace=False).tolist()
    met = rng.choice(total, count, p=random_I / random_I.sum()).tolist()
    asked = [(judge.tree.infosets[place].state, judge.tree.infosets[place].player) for place in chosen + met]
    table = sampled_table(policy, game, asked, samples=samples, seed=seed, purpose="optimality", watch=watch)
    figures_FN = figures(judge, table.rows, chosen + met)
    chosen_FN, met_FN = figures_FN[:, :count], figures_FN[:, count:]
    self_play, bounds = _self_play(policy, game, judge, play_episodes, seed, watch)
    bounds |= _bounds(chosen_FN, samples, "uniform") | _bounds(met_FN, samples, "random")
    return OptimalityResult(
        game=game.spec,
        method="sampled",
        positions=len({*chosen, *met}),
        all_positions=total,
        uniform=average(chosen_FN, np.ones(count)),
        self_play=self_play,
        random_play=average(met_FN, np.ones(count)),
        samples=samples,
        bounds=bounds,
        states=table.rows,
    )


def _bounds(figures_FN: Floats, samples: int, weighting: str) -> dict[str, Estimate]:
    """Intervals of the figures of N positions drawn at random, with so many replies in each."""
    share_N, top_N, regret_N, _ = figures_FN
    optimal_NK = np.arange(samples) < np.round(share_N * samples)[:, None]
    ending = "" if weighting == "uniform" else f"_{weighting}"
    found: dict[str, Estimate] = {
        f"optimal_share{ending}": avg_at_k(optimal_NK),
        f"optimal_top{ending}": wilson(float(top_N.sum()), len(top_N)),
    }
    return found if len(regret_N) < 2 else {**found, f"regret_{weighting}": mean_interval(regret_N)}


def _self_play(
    policy: LanguagePolicy, game: Game, judge: Judge, episodes: int, seed: int, watch: TheoryWatch
) -> tuple[Optimality, dict[str, Estimate]]:
    """The moves made in games against itself; the intervals draw whole games again."""
    seeds = [derive_seed(seed, "optimality", "game", index) for index in range(episodes)]
    matches = [Match(game=game, seed=match_seed, policies=(policy, policy)) for match_seed in seeds]
    played = play(matches, watch=lambda games, _: watch("games of self-play", games, episodes))
    places = {
        (infoset.player, infoset.state.position_key()): place for place, infoset in enumerate(judge.tree.infosets)
    }
    totals_GF = np.array([_game_totals(episode, game, judge, places) for episode in played])
    moves, share, regret, illegal = (float(total) for total in totals_GF.sum(axis=0))
    weight_DG = bootstrap_weights(episodes, np.random.default_rng(derive_seed(seed, "optimality", "bootstrap")))
    drawn_DF = weight_DG @ totals_GF
    bounds = {}
    for column, name, value in ((1, "optimal_share_self", share / moves), (2, "regret_self", regret / moves)):
        low, high = np.quantile(drawn_DF[:, column] / drawn_DF[:, 0], [0.025, 0.975])
        bounds[name] = Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))
    return Optimality(share=share / moves, top=None, regret=regret / moves, illegal=illegal / moves), bounds


def _game_totals(
    episode: Episode, game: Game, judge: Judge, places: Mapping[tuple[int, Hashable], int]
) -> tuple[float, float, float, float]:
    """Moves, optimal ones, regret and illegal ones of one game."""
    moves = share = regret = illegal = 0.0
    state = game.initial_state()
    fault = [""] if episode.outcome == "illegal_move" else []
    for action in [*episode.actions, *fault]:
        if not state.is_chance:
            infoset = judge.tree.infosets[place := places[state.current_player, state.position_key()]]
            moves += 1
            if action:
                slot = infoset.first_slot + infoset.actions.index(action)
                share, regret = share + judge.optimal_A[slot], regret + judge.regret_A[slot]
            else:
                illegal, regret = illegal + 1, regret + judge.forfeit_I[place]
        state = state.apply(action) if action else state
    return moves, float(share), float(regret), illegal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheoryResult:
    """All that exact theory says of a policy in a game."""

    game: str
    exploitability: ExploitabilityResult | None
    """None where nothing is hidden and the policy's probabilities are not known in every position."""
    optimality: OptimalityResult | None
    """None for games that hide something."""

    def to_json(self) -> dict[str, object]:
        """The keys of both; exploitability and NashConv are None where they are not known."""
        unknown: dict[str, object] = {"exploitability": None, "nash_conv": None}
        flat = {"game": self.game, **(self.exploitability.to_json() if self.exploitability else unknown)}
        return flat | (self.optimality.to_json() if self.optimality else {})

    def records(self) -> list[dict[str, Any]]:
        """What the policy does in every state asked about, for a result file."""
        found = self.exploitability or self.optimality
        return [] if found is None else found.records()


def measure_theory(
    policy: LanguagePolicy | TabularPolicy,
    game: Game,
    *,
    samples: int | None = None,
    seed: int = 0,
    watch: TheoryWatch = unwatched,
) -> TheoryResult:
    """Exploitability, and where nothing is hidden optimality, from one table of the policy's probabilities.

    `samples` replies a state are drawn where they have to be: 200, or 20 where nothing is hidden, if left out.
    `watch` receives the stage and its progress.
    """
    if not has_perfect_information(game):
        found = measure_exploitability(policy, game, samples=samples or EXPLOITABILITY_SAMPLES, seed=seed, watch=watch)
        return TheoryResult(game=game.spec, exploitability=found, optimality=None)
    table = known_table(policy, game, watch)
    if table is None:
        assert isinstance(policy, LanguagePolicy)  # the others are always known
        sampled = _sampled(policy, game, POSITIONS, samples or SAMPLES, PLAY_EPISODES, seed, watch)
        return TheoryResult(game=game.spec, exploitability=None, optimality=sampled)
    return TheoryResult(game=game.spec, exploitability=exploitability_of(table), optimality=optimality_of(table))
