"""Self-play in this process: the collector of runs that use no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spiral.core.progress import shown
from spiral.core.records import Episode
from spiral.inference.base import LanguagePolicy
from spiral.policies import scripted_policy
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import LoadOpponent, Matchmaker, SelfPlayConfig


class SelfPlay:
    """Collects the episodes of a step in this process."""

    def __init__(
        self,
        policy: LanguagePolicy,
        config: SelfPlayConfig,
        seed: int,
        *,
        load_opponent: LoadOpponent = scripted_policy,
        sleep: bool = False,
    ) -> None:
        """Take the arguments of `Matchmaker`.

        With `sleep`, the policy's engine sleeps after the games of a step until it is needed again.
        """
        self.policy = policy
        self._matchmaker = Matchmaker(policy, config, seed, load_opponent=load_opponent)
        self._in_flight = config.in_flight
        self._sleep = sleep

    def collect(self, step: int) -> list[Episode]:
        """Play the games of one step."""
        matches, progress = self._matchmaker.matches(step), shown()
        progress.stage(f"step {step}: playing", len(matches), "games")
        episodes = play(matches, self._in_flight, progress.games)
        self._matchmaker.observe(step, episodes)
        if self._sleep:
            self.policy.sleep()
        return episodes

    def state_dict(self) -> dict[str, object]:
        """Return the state of the opponent sampler, for a checkpoint."""
        return self._matchmaker.state_dict()

    def load_state_dict(self, state: Mapping[str, object], source: str = "a checkpoint") -> None:
        """Take the state of `state_dict` from the checkpoint `source`."""
        self._matchmaker.load_state_dict(state, source)

    def add_checkpoint(self, step: int, path: Path) -> None:
        """Show the opponent sampler a checkpoint of the run."""
        self._matchmaker.add_checkpoint(step, path)
