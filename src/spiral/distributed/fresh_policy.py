"""A policy whose weights are renewed between turns while games are under way.

Turns that are being generated are ended, no further one begins until the newer weights are there, and the games go on
with those, as in PipelineRL (arXiv 2509.19128), which also changes weights within a turn. That is left out here: a
turn's record names the one version that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spiral.policies import Policy, TurnReply, TurnRequest


class FreshPolicy:
    """Hands turns on to a policy, and holds them back while newer weights wait for the pending ones to end."""

    def __init__(self, policy: Policy, *, is_stale: Callable[[], bool], refresh: Callable[[], None]) -> None:
        """`refresh()` gives the policy the newest weights, after which `is_stale()` is false until there are others."""
        self._policy = policy
        self._is_stale = is_stale
        self._refresh = refresh
        self._held: list[TurnRequest] = []
        self._pending = 0

    @property
    def name(self) -> str:
        """The policy's."""
        return self._policy.name

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Takes on turns, or holds them back."""
        if self._is_stale():
            self._held.extend(requests)
        else:
            self._hand_on(requests)

    def poll(self) -> list[TurnReply]:
        """The policy's replies; when it owes none, first the newer weights and what was held back for them."""
        if self._held and not self._pending:
            self._refresh()
            held, self._held = self._held, []
            self._hand_on(held)
        replies = self._policy.poll()
        self._pending -= len(replies)
        return replies

    def cancel(self) -> None:
        """Forgets every pending turn."""
        self._held.clear()
        self._pending = 0
        self._policy.cancel()

    def _hand_on(self, requests: Sequence[TurnRequest]) -> None:
        self._pending += len(requests)
        self._policy.submit(requests)
