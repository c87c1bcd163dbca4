"""What can sit in a seat: scripted players and language models behind one protocol."""

from spiral.policies.base import Policy, ScriptedPolicy, TurnReply, TurnRequest
from spiral.policies.sampling import SamplingConfig
from spiral.policies.scripted import SCRIPTED_NAMES, scripted_policy

__all__ = [
    "SCRIPTED_NAMES",
    "Policy",
    "SamplingConfig",
    "ScriptedPolicy",
    "TurnReply",
    "TurnRequest",
    "scripted_policy",
]
