"""Advantage estimators: how the returns of a step's episodes become the advantages of its turns.

One file an estimator: `rae`, `rloo`, `grpo`, `batch_mean` and `returns`. `base` defines the interface, `groups` finds
the attempts at one deal, `loading` finds the estimator that a recipe names.
"""

from spiral.training.advantages.base import (
    AdvantageEstimator,
    Advantages,
    TokenAdvantages,
    TurnAdvantages,
    advantages_by_turn,
    has_result,
)
from spiral.training.advantages.batch_mean import BatchMean
from spiral.training.advantages.grpo import GRPO
from spiral.training.advantages.loading import ESTIMATORS, GROUP_ESTIMATORS, CreditConfig, Estimator, load_estimator
from spiral.training.advantages.rae import RAE, RoleBaselines
from spiral.training.advantages.returns import PlainReturns
from spiral.training.advantages.rloo import RLOO

__all__ = [
    "ESTIMATORS",
    "GROUP_ESTIMATORS",
    "GRPO",
    "RAE",
    "RLOO",
    "AdvantageEstimator",
    "Advantages",
    "BatchMean",
    "CreditConfig",
    "Estimator",
    "PlainReturns",
    "RoleBaselines",
    "TokenAdvantages",
    "TurnAdvantages",
    "advantages_by_turn",
    "has_result",
    "load_estimator",
]
