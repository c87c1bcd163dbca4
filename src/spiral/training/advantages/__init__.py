"""Advantage estimators: how the returns of a step's episodes become the advantages of its turns.

One file an estimator: `rae`, `batch_mean` and `returns`. `base` defines the interface, `loading` finds the one that
a recipe names.
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
from spiral.training.advantages.loading import ESTIMATORS, CreditConfig, Estimator, load_estimator
from spiral.training.advantages.rae import RAE, RoleBaselines
from spiral.training.advantages.returns import PlainReturns

__all__ = [
    "ESTIMATORS",
    "RAE",
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
