"""Ratings and rankings from a matrix of results: Elo, alpha-rank, Nash averaging, and a measure of cycles.

- Elo is the maximum-likelihood fit of Bradley and Terry (1952), by Newton's method, with draws as half a win each.
- Alpha-rank (Omidshafiei et al., 2019) is the stationary distribution of an evolutionary chain, from OpenSpiel.
- Nash averaging (Balduzzi et al., 2018, arXiv 1806.02643) is the maximum-entropy equilibrium of the game "choose a
  player". It does not change when a player enters twice. Linear programs and null spaces are SciPy's.
- The cyclic part is the share of the results that no rating explains: Hodge decomposition (Jiang et al., 2011; Balduzzi
  et al., 2019, arXiv 1901.08106).

Matrices are [N, N] and hold the payoff of the row player against the column player; leading dimensions, such as
bootstrap draws, are allowed where a shape starts with "...". Not supported: ratings that change over time, and ratings
in more than one dimension.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

ELO_PER_NAT = 400 / math.log(10)
PRIOR_GAMES = 1.0
"""Drawn games added between every two players, so that perfect scores have finite ratings."""
ALPHA_RANK_NOISE = 1e-6
"""Probability of a step against the payoffs; without it the infinite-alpha chain may have several distributions."""
MAX_STEP = 0.75
"""In nats. A Newton step of a logistic likelihood up to this length never leads downhill (Bach, 2010)."""
TOLERANCE = 1e-9


class MissingExtraError(ValueError):
    """A ranking needs an optional package that is not installed."""

    def __init__(self, ranking: str) -> None:
        super().__init__(f"{ranking} needs OpenSpiel and SciPy; pip install open_spiel scipy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cycles:
    """Cyclicity of the results.

    A triple is three players whose pairwise results are all significant; it is cyclic if each beats one of the others.
    `cyclic_part` is the share of the payoffs' sum of squares that remains after subtracting the difference of the
    players' mean payoffs: 0 if payoffs are additive along one ranking, 1 for rock, paper, scissors. Noise alone
    contributes `cyclic_part_by_chance` in expectation, so only an excess over it is evidence of cycles. A ranking whose
    payoffs are not additive, since no one can win more than every game, has a small cyclic part too; its triples are
    not cyclic.
    """

    triples: int
    cyclic_triples: int
    cyclic_part: float
    cyclic_part_by_chance: float


def bradley_terry(wins: FloatArray, prior: float = PRIOR_GAMES) -> FloatArray:
    """Log strengths in nats with mean 0, [..., N], from wins of row over column, [..., N, N]; a draw is half a win.

    Raises `ValueError` if no finite strengths have the largest likelihood, which only happens without a prior.
    """
    players = wins.shape[-1]
    wins = np.where(np.eye(players, dtype=bool), 0.0, wins + prior / 2)
    games, strengths = wins + np.swapaxes(wins, -1, -2), np.zeros(wins.shape[:-1])
    for _ in range(500):
        chance = (1 + np.tanh((strengths[..., :, None] - strengths[..., None, :]) / 2)) / 2
        slope = (wins - games * chance).sum(-1)
        curve = games * chance * (1 - chance)
        # The sum of all strengths is free; adding ones fixes it and makes the matrix regular.
        laplacian = np.eye(players) * curve.sum(-1)[..., None] - curve + curve.mean()
        try:
            step = np.linalg.solve(laplacian, slope[..., None])[..., 0]
        except np.linalg.LinAlgError:
            break
        largest = np.abs(step).max(-1, keepdims=True)
        if largest.max() < TOLERANCE:
            return np.asarray(strengths - strengths.mean(-1, keepdims=True))
        strengths = strengths + step * np.minimum(1.0, MAX_STEP / np.maximum(largest, TOLERANCE))
    raise ValueError("no finite ratings fit these results: a player has only won or only lost; expected a prior > 0")


def elo(wins: FloatArray, anchor: int | None = None, prior: float = PRIOR_GAMES) -> FloatArray:
    """Elo ratings, [..., N]: 400 points are odds of ten to one. The anchor has 0; without one the mean is 0."""
    ratings = ELO_PER_NAT * bradley_terry(wins, prior)
    return ratings if anchor is None else ratings - ratings[..., anchor : anchor + 1]


def antisymmetric(payoffs: FloatArray) -> FloatArray:
    """Half the difference of two players' payoffs against each other, [..., N, N], which is zero-sum.

    Payoffs are zero-sum already, except for illegal moves, which cost the offender more than the other player gains.
    """
    return (payoffs - np.swapaxes(payoffs, -1, -2)) / 2


def alpha_rank(payoffs: FloatArray) -> FloatArray:
    """Share of the time that each player dominates the population, by alpha-rank without selection noise, [N].

    Raises `MissingExtraError` without OpenSpiel.
    """
    try:
        from open_spiel.python.egt import alpharank  # optional, and slow to import
    except ImportError as error:
        raise MissingExtraError("alpha-rank") from error
    results = alpharank.compute([antisymmetric(payoffs)], use_inf_alpha=True, inf_alpha_eps=ALPHA_RANK_NOISE)
    return np.asarray(results[2], dtype=np.float64)


def nash_average(payoffs: FloatArray) -> FloatArray:
    """The maximum-entropy equilibrium of the symmetric zero-sum game with these payoffs, [N].

    Raises `MissingExtraError` without SciPy.
    """
    try:
        from scipy.linalg import null_space  # optional, in the same extra as OpenSpiel
        from scipy.optimize import minimize
    except ImportError as error:
        raise MissingExtraError("Nash averaging") from error
    payoffs = antisymmetric(payoffs)
    payoffs = payoffs / max(float(np.abs(payoffs).max()), TOLERANCE)
    start = _widest_equilibrium(payoffs)
    inside = start > TOLERANCE
    # A player in the support of some equilibrium earns exactly the value, 0, against every equilibrium.
    free = null_space(np.vstack([payoffs[np.ix_(inside, inside)], np.ones(inside.sum())]), rcond=1e-7)
    if free.shape[1] == 0:
        return start
    others = payoffs[np.ix_(~inside, inside)]

    def shares(x: FloatArray) -> FloatArray:
        return np.asarray(np.maximum(start[inside] + free @ x, 1e-12))

    found = minimize(
        lambda x: float(np.sum(shares(x) * np.log(shares(x)))),
        np.zeros(free.shape[1]),
        jac=lambda x: free.T @ (np.log(shares(x)) + 1),
        constraints=[
            {"type": "ineq", "fun": lambda x: start[inside] + free @ x, "jac": lambda _: free},
            {"type": "ineq", "fun": lambda x: -(others @ shares(x)), "jac": lambda _: -(others @ free)},
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    average = np.zeros(len(start))
    average[inside] = shares(found.x)
    return np.asarray(average / average.sum())


def _widest_equilibrium(payoffs: FloatArray) -> FloatArray:
    """An equilibrium whose support contains the support of every equilibrium, [N].

    Without the condition that shares sum to one, the equilibria are a cone; far enough out in it, every share that can
    be positive is above one. The linear program maximises the number of such shares, with one more unknown per player.
    """
    from scipy.optimize import linprog

    players = len(payoffs)
    eye, nothing = np.eye(players), np.zeros((players, players))
    found = linprog(
        np.concatenate([np.zeros(players), -np.ones(players)]),
        A_ub=np.block([[payoffs, nothing], [-eye, eye]]),
        b_ub=np.zeros(2 * players),
        bounds=[(0, None)] * players + [(0, 1)] * players,
        method="highs",
    )
    shares = np.maximum(np.asarray(found.x[:players], dtype=np.float64), 0.0)
    return np.asarray(shares / shares.sum())


def zero_sum_equilibrium(payoffs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """An equilibrium of the zero-sum game in which the rows' player gets these payoffs: shares of rows and of columns.

    Args:
        payoffs: [N, M]

    Returns:
        [N] and [M], by linear programs.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    return _maximin(payoffs), _maximin(-payoffs.T)


def _maximin(payoffs: FloatArray) -> FloatArray:
    """The shares of the rows whose payoff against the worst column is the largest, [N]."""
    try:
        from scipy.optimize import linprog  # optional, in the same extra as OpenSpiel
    except ImportError as error:
        raise MissingExtraError("an equilibrium of payoffs") from error
    rows, columns = payoffs.shape
    found = linprog(
        np.append(np.zeros(rows), -1.0),  # the last unknown is the payoff that is reached
        A_ub=np.hstack([-payoffs.T, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
        method="highs",
    )
    shares = np.maximum(np.asarray(found.x[:rows], dtype=np.float64), 0.0)
    return np.asarray(shares / shares.sum())


def cyclic_component(payoffs: FloatArray) -> FloatArray:
    """The antisymmetric payoffs minus the difference of the players' mean payoffs, [..., N, N]."""
    payoffs = antisymmetric(payoffs)
    means = payoffs.mean(-1)
    return np.asarray(payoffs - (means[..., :, None] - means[..., None, :]))


def cycles(payoffs: FloatArray, draws: FloatArray) -> Cycles:
    """Cyclicity of the payoffs [N, N]; significance and noise come from bootstrap draws [draws, N, N]."""
    fair, fair_draws = antisymmetric(payoffs), antisymmetric(draws)
    low, high = np.quantile(fair_draws, [0.025, 0.975], axis=0)
    signs = np.where(low > 0, 1, np.where(high < 0, -1, 0))
    rounds = [signs[a, b] + signs[b, c] + signs[c, a] for a, b, c in itertools.combinations(range(len(signs)), 3)
              if signs[a, b] * signs[b, c] * signs[c, a]]  # fmt: skip
    size = float(np.sum(fair**2))
    noise = np.mean(np.sum(cyclic_component(fair_draws - fair) ** 2, axis=(-1, -2)))
    return Cycles(
        triples=len(rounds),
        cyclic_triples=sum(int(abs(total) == 3) for total in rounds),
        cyclic_part=float(np.sum(cyclic_component(fair) ** 2)) / size if size else 0.0,
        cyclic_part_by_chance=min(1.0, float(noise) / size) if size else 0.0,
    )
