"""Self-play in this process: the collector of runs that use no cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from spiral.core.metrics import DROPPED_TURNS, Metrics
from spiral.core.progress import shown
from spiral.core.records import Episode
from spiral.inference.base import LanguagePolicy
from spiral.policies import Policy, scripted_policy
from spiral.policies.past_selves import SharedEngine
from spiral.rollout.curriculum.loading import CurriculumConfig
from spiral.rollout.loop import Match, play, play_as_completed
from spiral.rollout.matchmaking import FIXED, LoadOpponent, Matchmaker, Pairing, SelfPlayConfig
from spiral.rollout.sampled_step import SampledStep


class SelfPlay:
    """Collects the episodes of a step in this process."""

    def __init__(
        self,
        policy: LanguagePolicy,
        config: SelfPlayConfig,
        seed: int,
        *,
        load_opponent: LoadOpponent = scripted_policy,
        sleep: Sequence[Callable[[], None]] = (),
        shared_engine: SharedEngine | None = None,
        curriculum: CurriculumConfig = FIXED,
    ) -> None:
        """Take the arguments of `Matchmaker`.

        `sleep` puts engines to sleep after the games of a step; the policy gets new weights before it is needed again.
        `shared_engine` shares out the policy's engine among the policy, its past selves and other opponents.
        """
        self.policy = policy
        self._shared_engine = shared_engine
        player: Policy = policy
        if shared_engine is not None:
            player, load_opponent = shared_engine.policy, shared_engine.opponents(load_opponent)
        self._matchmaker = Matchmaker(player, config, seed, load_opponent=load_opponent, curriculum=curriculum)
        self._in_flight = config.in_flight
        self._samples_per_step, self._attempts = config.samples_per_step, config.attempts
        self._metrics: Metrics = {}
        self._sleep = sleep

    def collect(self, step: int) -> list[Episode]:
        """Play the games of one step.

        Raises:
            NotPlayedError: The games have too few turns for `selfplay.samples_per_step`.
        """
        try:
            episodes = self._collect_samples(step) if self._samples_per_step else self._collect_games(step)
        finally:
            if self._shared_engine is not None:
                self._shared_engine.restore()  # the learner may share these weights
        self._matchmaker.observe(step, episodes)
        for put_to_sleep in self._sleep:
            put_to_sleep()
        return episodes

    def metrics(self) -> Metrics:
        """Return the metrics of the last step that its episodes do not show."""
        return {**self._metrics, **self._matchmaker.metrics()}

    def mix_in(self, opponent: str, share: float) -> None:
        """Replace the opponents of a share of the games by another one, from the next step on."""
        self._matchmaker.anchor = (opponent, share)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return self._matchmaker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], source: str = "a checkpoint") -> None:
        """Take what `state_dict` gave from among the state of the checkpoint `source`."""
        self._matchmaker.load_state_dict(state, source)

    def add_checkpoint(self, step: int, path: Path) -> None:
        """Show the opponent sampler a checkpoint of the run."""
        self._matchmaker.add_checkpoint(step, path)

    def keeps(self, step: int) -> bool:
        """Return whether the opponent sampler wants the weights of a step as a past self."""
        return self._matchmaker.keeps(step)

    def add_past_self(self, step: int) -> None:
        """Notify the opponent sampler of a past self that was kept."""
        self._matchmaker.add_past_self(step)

    def past_selves(self) -> list[str]:
        """Return the past selves that may play from now on."""
        return self._matchmaker.past_selves()

    def _collect_games(self, step: int) -> list[Episode]:
        """Play the step's number of games."""
        matches, progress = self._matchmaker.matches(step), shown()
        progress.stage(f"step {step}: playing", len(matches), "games")
        return play(matches, self._in_flight, progress.games)

    def _collect_samples(self, step: int) -> list[Episode]:
        """Play games until the first of them have the step's number of turns to learn from."""
        pairings, progress = self._matchmaker.pairings(step), shown()
        progress.stage(f"step {step}: playing", self._samples_per_step, "turns")
        sampled = SampledStep(
            step, self._samples_per_step, len(pairings), self._matchmaker.turns_per_game, self._attempts
        )
        played = 0

        def watch(_finished: int, turns: int) -> None:
            nonlocal played
            played = turns
            progress.update(min(turns, self._samples_per_step))

        games = _Begun(self._matchmaker, pairings, sampled)
        with closing(play_as_completed(games, self._in_flight, watch)) as finished:
            for index, episode in finished:
                sampled.add(index, episode)
                if sampled.complete:
                    break
        self._matchmaker.turns_per_game = sampled.turns_per_game
        episodes = sampled.episodes
        self._metrics = {DROPPED_TURNS: float(played - sum(len(episode.turns) for episode in episodes))}
        return episodes


class _Begun:
    """Iterates over the games of a step that are wanted by now; it may have more after it had none."""

    def __init__(self, matchmaker: Matchmaker, pairings: Sequence[Pairing], sampled: SampledStep) -> None:
        self._matchmaker = matchmaker
        self._pairings = pairings
        self._sampled = sampled
        self._begun = 0

    def __iter__(self) -> Iterator[Match]:
        return self

    def __next__(self) -> Match:
        if self._begun >= self._sampled.wanted():
            raise StopIteration
        self._begun += 1
        return self._matchmaker.match(self._pairings[self._begun - 1])
