"""Every estimator's advantages on one recorded step, in one table.

    python experiments/estimators/table.py                                       # the step recorded beside this file
    python experiments/estimators/table.py runs/my-run/episodes/step-000010.parquet
    python experiments/estimators/table.py step.parquet --record                 # play such a step first

Estimators begin without a past, so that baselines are 0 before the first episode, and values are 0. Those that compare
the attempts at one deal need a run with `selfplay.attempts` above 1. Turns that are learned from count.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiral.core.records import Episode
from spiral.core.storage import read_episodes, write_episodes
from spiral.games.failures import UserCodeError
from spiral.training.advantages import ESTIMATORS, GROUP_ESTIMATORS, load_estimator

STEP = Path(__file__).with_name("step.parquet")


def table(episodes: Sequence[Episode]) -> str:
    """The mean, standard deviation and share of zeros of each estimator's advantages, and their means by player."""
    player_of = np.array([turn.player for episode in episodes for turn in episode.turns if episode.learns_from(turn)])
    players = sorted(set(player_of.tolist()))
    titles = ["mean", "std", *(f"player {player}" for player in players), "zero"]
    lines = ["estimator           " + "".join(f"{title:>10}" for title in titles)]
    for name in ESTIMATORS:
        try:
            advantages = _advantages(name, episodes)
        except UserCodeError:
            if name not in GROUP_ESTIMATORS:
                raise
            lines.append(f"{name:<20}  compares attempts at one deal, and there are none")
            continue
        means = [advantages.mean(), *(advantages[player_of == player].mean() for player in players)]
        mean, *of_players = (f"{value if abs(value) >= 5e-4 else 0.0:>10.3f}" for value in means)
        zero = f"{np.mean(advantages == 0):>10.1%}"
        lines.append(f"{name:<20}{mean}{advantages.std():>10.3f}{''.join(of_players)}{zero}")
    return "\n".join(lines)


class _NewHead:
    """A value head that has learned nothing, so that all values are 0."""

    def values(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        return [np.zeros(len(episode.turns)) for episode in episodes]


def _advantages(name: str, episodes: Sequence[Episode]) -> NDArray[np.float64]:
    """The advantages of the turns that are learned from."""
    estimator = load_estimator(name)
    if estimator.needs_values:
        estimator.value_head = _NewHead()
    given = estimator(episodes)
    return np.array(
        [
            float(np.mean(advantage))
            for episode, of_turns in zip(episodes, given, strict=True)
            for turn, advantage in zip(episode.turns, of_turns, strict=True)
            if episode.learns_from(turn)
        ]
    )


def record(path: Path) -> None:
    """Plays a step: four attempts at each of 24 deals of tic-tac-toe and Kuhn poker, by the built-in model."""
    from spiral.inference.engines import Weights, make_policy
    from spiral.models.loading import load_language_model
    from spiral.rollout.collector import SelfPlay
    from spiral.runs.recipe import load_recipe

    # A higher temperature, for the sake of some illegal moves.
    settings = ["selfplay.attempts=4", "selfplay.episodes_per_step=96", "sampling.temperature=1.3"]
    recipe = load_recipe("nano", settings)
    loaded = load_language_model(recipe.model)
    policy = make_policy(recipe.engine, recipe.model, loaded, recipe.prompt, recipe.sampling, weights=Weights.SHARED)
    write_episodes(path, SelfPlay(policy, recipe.selfplay, recipe.run.seed).collect(1))
    policy.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Every estimator's advantages on one recorded step, in one table.")
    parser.add_argument("episodes", nargs="?", type=Path, default=STEP, help="a file of episodes; default: %(default)s")
    parser.add_argument("--record", action="store_true", help="play a step and write it there first")
    given = parser.parse_args()
    if given.record:
        record(given.episodes)
    try:
        print(table(read_episodes(given.episodes)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
