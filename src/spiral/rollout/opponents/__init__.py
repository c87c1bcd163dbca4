"""Opponent samplers: who plays against the policy in training. `base` has the interface, and one file each sampler."""
