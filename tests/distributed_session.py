"""One small Ray for all tests of a session, and what the tests compare."""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import spiral
from spiral.distributed import pool
from spiral.distributed.session import cluster_session
from spiral.distributed.weights.base import WeightsHandle
from spiral.distributed.weights.object_store import pack
from spiral.rollout.collector import SelfPlay
from spiral.rollout.matchmaking import SelfPlayConfig
from spiral.runs.cluster import ClusterConfig

GAMES = SelfPlayConfig(
    games={"tictactoe": 1.0, "kuhn_poker(hands=2)": 1.0}, episodes_per_step=14, opening_plies={"tictactoe": 3}
)
WORKER_PATH = os.pathsep.join(map(str, (Path(__file__).parent, Path(spiral.__file__).parents[1])))
"""Where the processes of Ray find the tests' modules and this version of the package."""
_shared = ExitStack()
atexit.register(_shared.close)


def cluster(**settings):
    """A small cluster's configuration: workers share two logical CPUs."""
    return ClusterConfig(**{"rollout_workers": 2, "cpus_per_worker": 0.5, "learner_seconds": 120.0, **settings})


@contextmanager
def small_ray():
    """A Ray of two logical CPUs whose workers find the tests' modules; all who ask share one, which stays."""
    import ray

    os.environ["PYTHONPATH"] = WORKER_PATH
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112 (others may take most of the memory)
    pool.PLACING_SECONDS = 120.0  # on a busy machine processes take their time
    if not ray.is_initialized():
        _shared.enter_context(cluster_session(cluster(rollout_workers=1, object_store_gib=0.2)))
    yield


def end_small_ray():
    """For tests that need another one in this process."""
    _shared.close()


def stored(weights, version, dtype=None):
    """What a learner publishes through the object store."""
    import ray

    packed = pack(weights, dtype)
    return WeightsHandle(version=version, payload=ray.put(packed), num_bytes=packed.num_bytes)


def facts(episode):
    """Everything in an episode, to the last bit."""
    turns = [
        (
            turn.player, turn.observation, turn.reply, turn.action,
            None if turn.prompt_ids is None else turn.prompt_ids.tolist(),
            None if turn.generation is None else (
                turn.generation.token_ids.tolist(), turn.generation.logprobs.tobytes(), turn.generation.stop_reason,
                turn.generation.policy_version, turn.generation.thinking_tokens,
            ),
        )
        for turn in episode.turns
    ]  # fmt: skip
    return (
        episode.game, episode.seed, episode.seats, turns, episode.actions, episode.returns, episode.outcome,
    )  # fmt: skip


def versions(episodes):
    """Every version that acted."""
    return {turn.generation.policy_version for episode in episodes for turn in episode.turns if turn.generation}


def one_process(policy, weights, step, config=GAMES, seed=3):
    """The facts of one step's games as one process plays them with these weights."""
    policy.load_weights(*weights)
    return [facts(episode) for episode in SelfPlay(policy, config, seed).collect(step)]
