"""Checks that engine, learner and a model's own forward pass compute the same log-probabilities."""

from spiral.agreement.cache import agreement_key, is_known, keep
from spiral.agreement.checks import PLAIN_SETTINGS, Check, begin_check, run_check
from spiral.agreement.differences import Difference, DisagreementError, Tolerance, tolerance_of
from spiral.agreement.logprobs import probe_batch
from spiral.agreement.over_processes import LearnerCheck, compare_with_learner, sample_probes
from spiral.agreement.probes import make_probes

__all__ = [
    "PLAIN_SETTINGS",
    "Check",
    "Difference",
    "DisagreementError",
    "LearnerCheck",
    "Tolerance",
    "agreement_key",
    "begin_check",
    "compare_with_learner",
    "is_known",
    "keep",
    "make_probes",
    "probe_batch",
    "run_check",
    "sample_probes",
    "tolerance_of",
]
