"""The training loop says so when an update has changed nothing."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from made_up import new_episode, new_turn
from spiral.training.advantages import CreditConfig, load_estimator
from spiral.training.loop import train
from spiral.training.settings import RunConfig


class Updates:
    """A learner that returns the given metrics, one after the other."""

    def __init__(self, metrics):
        self.version = 0
        self._metrics = metrics

    def score(self, batch, *, split):
        return np.zeros(batch.num_action_tokens, dtype=np.float32)

    def update(self, batch):
        self.version += 1
        return self._metrics[self.version - 1]


SKIPPED = {"learner/skipped_steps": 8.0}
ZERO = {"learner/skipped_steps": 0.0, "learner/grad_norm": 0.0}
FINE = {"learner/skipped_steps": 1.0, "learner/grad_norm": 0.3}
NO_SAMPLES = {"learner/skipped_steps": 0.0}


@pytest.mark.parametrize(
    ("updates", "warning"),
    [
        ([SKIPPED], "step 1: no gradient was finite, so all 8 optimizer steps were skipped"),
        ([FINE, SKIPPED, SKIPPED], "step 2: no gradient was finite"),
        ([ZERO, ZERO], "step 1: the gradient of all samples was zero"),
        ([FINE, NO_SAMPLES], None),
    ],
)
def test_an_update_that_changes_nothing_is_reported_once(updates, warning, caplog):
    collector = mock.Mock()
    collector.collect.return_value = [new_episode((1.0, -1.0), [new_turn(0), new_turn(1)])]
    train(
        RunConfig(steps=len(updates)),
        CreditConfig(),
        load_estimator("returns"),
        collector,
        Updates(updates),
        publish=lambda: None,
        recorder=mock.Mock(),
    )
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (warning is not None)
    assert all(line.startswith(warning) for line in lines)
