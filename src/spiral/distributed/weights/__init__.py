"""Transports of weights from the learner to the rollout workers."""
