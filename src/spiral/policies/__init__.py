"""Policies by name: scripted ones, people, models behind servers, and language models."""

from spiral.core.policy import Policy, RemotePolicy, SamplingConfig, ScriptedPolicy, TurnReply, TurnRequest
from spiral.policies.scripted import (
    SCRIPTED_NAMES,
    able_opponents,
    can_play,
    check_scripted,
    is_scripted,
    scripted_policy,
    scripted_table,
)

__all__ = [
    "SCRIPTED_NAMES",
    "Policy",
    "RemotePolicy",
    "SamplingConfig",
    "ScriptedPolicy",
    "TurnReply",
    "TurnRequest",
    "able_opponents",
    "can_play",
    "check_scripted",
    "is_scripted",
    "scripted_policy",
    "scripted_table",
]
