"""Advantage estimators: how the returns of a step's episodes become the advantages of its turns.

One file an estimator, with its formula and its paper; docs/estimators.md has them in one table. `base` defines the
interface, `groups` finds the attempts at one deal, `turn_rewards` says what each turn is paid, `loading` finds the
estimator that a recipe names.
"""

from spiral.training.advantages.base import (
    AdvantageEstimator,
    Advantages,
    TokenAdvantages,
    TurnAdvantages,
    TurnValues,
    ValueEstimator,
    advantages_by_turn,
    has_result,
)
from spiral.training.advantages.batch_mean import BatchMean
from spiral.training.advantages.delayed_attribution import DelayedAttribution
from spiral.training.advantages.dept import DEPT
from spiral.training.advantages.discounted import DiscountedTurns
from spiral.training.advantages.dr_grpo import DrGRPO
from spiral.training.advantages.gae import GAE
from spiral.training.advantages.grpo import GRPO
from spiral.training.advantages.loading import ESTIMATORS, GROUP_ESTIMATORS, CreditConfig, Estimator, load_estimator
from spiral.training.advantages.marshal import Marshal
from spiral.training.advantages.rae import RAE, RoleBaselines
from spiral.training.advantages.reinforce_plus_plus import ReinforcePlusPlus
from spiral.training.advantages.returns import PlainReturns
from spiral.training.advantages.rloo import RLOO
from spiral.training.advantages.shared import SharedBaseline

__all__ = [
    "DEPT",
    "ESTIMATORS",
    "GAE",
    "GROUP_ESTIMATORS",
    "GRPO",
    "RAE",
    "RLOO",
    "AdvantageEstimator",
    "Advantages",
    "BatchMean",
    "CreditConfig",
    "DelayedAttribution",
    "DiscountedTurns",
    "DrGRPO",
    "Estimator",
    "Marshal",
    "PlainReturns",
    "ReinforcePlusPlus",
    "RoleBaselines",
    "SharedBaseline",
    "TokenAdvantages",
    "TurnAdvantages",
    "TurnValues",
    "ValueEstimator",
    "advantages_by_turn",
    "has_result",
    "load_estimator",
]
