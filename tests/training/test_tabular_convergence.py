"""Self-play with role-conditioned advantages approaches equilibrium, and comes closer with a KL to a reference.

In a game without a pure equilibrium the last iterate of plain policy gradients moves in circles. A KL to a reference
that is refreshed every fifty steps turns them into a spiral. The table is trained by the code that trains language
models: the game loop, the advantage estimator, the batch and the loss.
"""

import numpy as np
import pytest

from spiral.rollout.loop import Match, play
from spiral.training.loss import LossConfig
from tabular import KUHN, NAMES, TablePlayer, train_table

STEPS = 300
UNIFORM = 11 / 24
"""The exploitability of uniform play, in chips."""


@pytest.fixture(scope="module")
def trained():
    """Exploitability after every step, without and with the KL to a refreshed reference."""
    settings = {"steps": STEPS, "episodes": 96, "learning_rate": 5.0, "seed": 0}
    plain = train_table(LossConfig(), **settings)
    held = train_table(LossConfig(kl_coefficient=0.2, reference_refresh_steps=50), **settings)
    return np.array(plain), np.array(held)


def test_self_play_comes_closer_to_equilibrium():
    plain = np.array(train_table(LossConfig(), steps=60, episodes=48, learning_rate=5.0, seed=0))
    assert plain[0] == pytest.approx(UNIFORM, abs=1e-12)
    # Seeds 0 to 2 give a mean of 0.12 and a best value of 0.09 to 0.10.
    assert plain[30:].mean() < UNIFORM / 2.5
    assert plain.min() < 0.12


@pytest.mark.slow
def test_plain_self_play_learns_but_wanders(trained):
    plain, _ = trained
    late = plain[STEPS // 2 :]
    # Seeds 0 to 3 give a mean of 0.15 to 0.20, and a best value of 0.08 to 0.10 that is not held.
    assert late.mean() < UNIFORM / 2
    assert plain.min() < 0.12
    assert late.max() > 1.5 * plain.min()


@pytest.mark.slow
def test_a_refreshed_reference_comes_closer(trained):
    plain, held = trained
    late = held[STEPS // 2 :]
    # Seeds 0 to 3 give a mean of 0.06 to 0.09, and a best value of 0.02 to 0.03.
    assert late.mean() < 0.11
    assert late.mean() < 0.75 * plain[STEPS // 2 :].mean()
    assert held.min() < 0.05


def test_the_same_seed_learns_the_same():
    runs = [train_table(LossConfig(), steps=5, episodes=32, learning_rate=5.0, seed=seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_player_samples_from_its_table():
    probabilities = np.tile([0.25, 0.75], (len(NAMES), 1))
    player = TablePlayer(probabilities)
    episodes = play([Match(game=KUHN, seed=seed, policies=(player, player)) for seed in range(400)])
    turns = [turn for episode in episodes for turn in episode.turns]
    share = sum(int(turn.generation.token_ids[0]) for turn in turns) / len(turns)
    assert share == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / len(turns)) ** 0.5)
    for turn in turns:
        choice = int(turn.generation.token_ids[0])
        assert turn.action == NAMES[int(turn.prompt_ids[0])][1][choice]
        assert turn.generation.logprobs[0] == pytest.approx(np.log(probabilities[0, choice]))
