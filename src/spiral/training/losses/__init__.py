"""Policy losses: what is minimised for a token, from its log-probabilities and its advantage.

A policy loss is a function of `TokenNumbers` that returns a tensor [K], or two of them, the second true where the token
was clipped. A recipe names one in `loss.kind`: a built-in one, an entry point of "spiral.losses" or "module:attribute",
whose keyword arguments are `loss.options`. A class is constructed with them. `spiral.training.loss` applies importance
weights, the entropy bonus, the KL to the reference and the denominator around it.

One file a loss, with its formula and its paper; docs/estimators.md has them in one table. `base` defines the interface,
`loading` finds the loss that a recipe names.
"""

from spiral.training.losses.base import PolicyLoss, TokenNumbers
from spiral.training.losses.loading import LOSSES, make_policy_loss

__all__ = ["LOSSES", "PolicyLoss", "TokenNumbers", "make_policy_loss"]
