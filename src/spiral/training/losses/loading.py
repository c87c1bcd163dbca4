"""The policy loss that a recipe names, with its options, and the output of a user's own checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spiral.core.plugins import resolve
from spiral.games.failures import UserCodeError, describe_error
from spiral.training.losses.base import PolicyLoss, TokenNumbers
from spiral.training.losses.cispo import cispo
from spiral.training.losses.dppo import dppo
from spiral.training.losses.dual_clip import dual_clip
from spiral.training.losses.gspo import gspo
from spiral.training.losses.policy_gradient import policy_gradient
from spiral.training.losses.ppo import ppo
from spiral.training.settings import NLL, LossConfig

LOSSES: dict[str, Callable[..., Any]] = {
    "ppo": ppo,
    "policy_gradient": policy_gradient,
    "dual_clip": dual_clip,
    "cispo": cispo,
    "gspo": gspo,
    "dppo": dppo,
    NLL: policy_gradient,
}
"""The built-in policy losses by their name in a recipe."""


def make_policy_loss(config: LossConfig) -> PolicyLoss:
    """Return the policy loss that a recipe names. Raises `ValueError` when there is none or it cannot be made."""
    config.check()
    found = resolve("losses", config.kind, LOSSES)
    if config.kind in LOSSES:
        return functools.partial(found, **config.builtin_options())
    if not isinstance(found, type):
        return functools.partial(_call, config.kind, functools.partial(found, **config.options))
    try:
        return functools.partial(_call, config.kind, found(**config.options))
    except (Exception, SystemExit) as error:
        raise ValueError(f"the loss {config.kind!r} cannot be made: {describe_error(error)}") from error


def _call(name: str, policy_loss: Callable[[TokenNumbers], Any], tokens: TokenNumbers) -> tuple[Tensor, Tensor]:
    """Call a user's policy loss. Raises `UserCodeError` when it fails, does not return [K] or has no gradient."""
    try:
        result = policy_loss(tokens)
    except (torch.OutOfMemoryError, UserCodeError):
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"the loss {name!r} failed: {describe_error(error)}") from error
    pair = isinstance(result, tuple) and len(result) == 2
    loss_K, clipped_K = result if pair else (result, torch.zeros_like(tokens.advantages_K))
    expected = tokens.advantages_K.shape
    for tensor in (loss_K, clipped_K):
        if not isinstance(tensor, Tensor) or tensor.shape != expected or tensor.is_complex():
            raise UserCodeError(
                f"the loss {name!r} returned {_described(tensor)}; expected a tensor of shape {list(expected)}"
            )
    if tokens.logprobs_K.requires_grad and not loss_K.requires_grad:
        raise UserCodeError(
            f"the loss {name!r} has no gradient, so nothing would be learned; compute it from logprobs_K, neither"
            " detached nor turned into whole numbers"
        )
    return loss_K, clipped_K


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a {'complex ' if value.is_complex() else ''}tensor of shape {list(value.shape)}"
