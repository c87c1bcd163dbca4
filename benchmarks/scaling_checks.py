"""The cost model held against what was measured: on one machine with this software, and by others with theirs.

Measured here is in `benchmarks/results/` and README.md: SmolLM2-135M on two threads of an AMD EPYC. Three figures fit
the model, and the others check it. Published by others, as read in their repositories:

    prime-rl   github.com/PrimeIntellect-ai/prime-rl, benchmarks/results/BENCHMARKS.md of 2026-02-07
    verl       github.com/verl-project/verl, docs/advance/fully_async.md of 2026-02-05
"""

from __future__ import annotations

import dataclasses
import pickle
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.common import Row
from benchmarks.scaling_inputs import H200, QWEN3_4B, SMOLLM2, Device, Shape, Workload
from benchmarks.scaling_model import Constants, Engine, learner_compute_seconds
from benchmarks.scaling_play import Game, play
from spiral.core.metrics import episode_metrics
from spiral.core.records import Episode, Generation, Turn
from spiral.distributed.checks import check_episode
from spiral.games import load_game
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match
from spiral.rollout.loop import play as play_games
from spiral.training.advantages import RAE
from spiral.training.batch import make_batch, samples_from_episodes

MATRIX_RATE = 414e9
"""FLOP/s, learner.md."""
LEARNER_SHARE = 0.41
"""learner.md, the packed row; fitted."""
ALONE_TURN = 1 / 1.61
"""Seconds of a turn with one game in flight, rollout.md; fitted."""
ALONE_TURNS = 11
OFFLINE_SECONDS = 41.2
"""697 turns given to the engine at once, rollout.md; fitted."""
OFFLINE_TURNS = 697
PROMPT = 428
KINDS = 2
"""Kinds of games. What the prompts of a kind share is computed once a row, and once a step."""
REPLY = 8.0
TURNS = (1, 2, 2, 3, 3, 4, 4)
"""Turns of a game in rollout.md: its rows have means of 2.7 to 3.2."""

PRIME_RL = {("RL", 16384): 27_440.0, ("RL", 65536): 29_540.0, ("supervised", 16384): 53_140.0}
"""Tokens/s of Qwen3-4B-Instruct-2507 on 8 H200, all parameters, activations recomputed, by kind and sequence length."""
VERL_PHASES = {32: (357.41, 269.80), 64: (150.72, 133.41)}
"""Seconds of generation and of the update, by GPUs of the synchronous trainer; Qwen2.5-Math-7B, 28K tokens, H20."""
VERL_STEPS = {128: (356.30, 150.63), 64: (365.28, 189.26)}
"""Seconds of a whole step, synchronous and fully asynchronous on half and half, by GPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """A prediction beside a measurement."""

    what: str
    predicted: float
    measured: float
    unit: str
    source: str
    fitted: bool = False

    def row(self) -> Row:
        """As a row of a table."""
        return {
            "what": self.what,
            "predicted": self.predicted,
            "measured": self.measured,
            "unit": self.unit,
            "predicted/measured": f"{self.predicted / self.measured:.2f}",
            "source": self.source + (" (fitted)" if self.fitted else ""),
        }


def fitted_engine(rows: int = 256) -> Engine:
    """An engine for SmolLM2, vLLM on two CPU threads: seconds of a pass and of a prompt from two rows of rollout.md.

    A token's FLOP run at the learner's share of the matrix rate. Keys, values and reading weights are in the rest.
    """
    low, high = 0.0, OFFLINE_SECONDS / OFFLINE_TURNS
    for _ in range(50):
        middle = (low + high) / 2
        offline = play_from_cold(_engine(middle, 256), [(REPLY,)] * OFFLINE_TURNS)
        low, high = (middle, high) if offline < OFFLINE_SECONDS else (low, middle)
    return _engine(low, rows)


def play_from_cold(made: Engine, games: list[Game]) -> float:
    """Seconds of some games when no prompt is known to the engine yet."""
    return cold_seconds(made) + play(made, 0.0, games)


def cold_seconds(made: Engine) -> float:
    """Seconds of computing what the prompts of each kind of game have in common."""
    return KINDS * (PROMPT * made.row_seconds - made.prompt_seconds)


def _engine(prompt: float, rows: int) -> Engine:
    """An engine that takes `prompt` seconds for what is new in a prompt, and for a game alone what was measured."""
    row = 2 * SMOLLM2.active / (LEARNER_SHARE * MATRIX_RATE)
    made = Engine(
        pass_seconds=0.0, weights_seconds=0.0, row_seconds=row, cache_seconds=0.0, prompt_seconds=prompt, rows=rows
    )
    alone = ALONE_TURN - cold_seconds(made) / ALONE_TURNS
    return dataclasses.replace(made, pass_seconds=(alone - prompt) / REPLY - row)


def games_of(count: int, turns: tuple[int, ...] = TURNS, seed: int = 0) -> list[Game]:
    """Games with random numbers of turns."""
    drawn = random.Random(seed)
    return [(REPLY,) * drawn.choice(turns) for _ in range(count)]


def turn_rate(games: int, in_flight: int, repeats: int = 20) -> float:
    """Turns a second of `games` games with `in_flight` of them in flight, as `benchmarks.rollout` counts them."""
    made = fitted_engine(in_flight)
    drawn = [games_of(games, seed=seed) for seed in range(repeats)]
    seconds = sum(play_from_cold(made, chunk) for chunk in drawn)
    return sum(len(game) for chunk in drawn for game in chunk) / seconds


def update_seconds(tokens: float, square: float, action_tokens: float, passes: int = 1) -> float:
    """An update on this machine: tokens fed in, the sum of squared sample lengths, and tokens with a prediction."""
    shape = SMOLLM2
    flop = 6.0 * (shape.blocks * tokens + shape.head * action_tokens) + 6.0 * shape.layers * shape.query_size * square
    return passes * flop / (LEARNER_SHARE * MATRIX_RATE)


def measured_here() -> list[Check]:
    """SmolLM2-135M on two threads. Token counts are those of the sections named; packed ones of step.md and of the
    README's run were counted again, with random games.
    """
    sim = fitted_engine(24)
    run_play = sum(play_from_cold(sim, games_of(24, (2, 2, 3, 6, 7, 7), seed=seed)) for seed in range(20)) / 20
    step_play = play_from_cold(fitted_engine(6), [(10.4,) * turns for turns in (1, 1, 2, 2, 2, 2)])
    rollout, learner, step = "rollout.md", "learner.md", "step.md"
    update = "update, 26 samples, "
    return [
        Check(what="turns/s, 1 in flight", predicted=turn_rate(4, 1), measured=1.61, unit="1/s", source=rollout,
              fitted=True),
        Check(what="turns/s, 8 in flight", predicted=turn_rate(12, 8), measured=5.09, unit="1/s", source=rollout),
        Check(what="turns/s, 64 in flight", predicted=turn_rate(64, 64), measured=11.68, unit="1/s", source=rollout),
        Check(what="turns/s, 256 in flight", predicted=turn_rate(256, 256), measured=16.03, unit="1/s",
              source=rollout),
        Check(what="games of a step, 6 games", predicted=step_play, measured=3.09, unit="s", source=step),
        Check(what=f"{update}packed", predicted=update_seconds(4227, 4.92e6, 190), measured=19.0, unit="s",
              source=learner, fitted=True),
        Check(what=f"{update}padded", predicted=update_seconds(11324, 4.92e6, 190), measured=46.6, unit="s",
              source=learner),
        Check(what="update of a step, 10 samples", predicted=update_seconds(2118, 1.9e6, 104, passes=2), measured=25.4,
              unit="s", source=step),
        Check(what="a step of smollm2-cpu, 24 games", predicted=run_play + update_seconds(14616, 19.9e6, 870) + 0.4,
              measured=80.0, unit="s", source="an earlier run in bfloat16, 30 steps in 40 minutes"),
    ]  # fmt: skip


def driver_checks(games: int = 60, repeats: int = 5) -> list[Check]:
    """CPU seconds that the driver takes for a turn, measured now, the median of some repetitions.

    Games that come in are unpickled, copied by pickling and checked; then credited, cut into samples and batched.
    """
    constants = Constants()
    matches = [
        Match(game=load_game("kuhn_poker(hands=5)"), seed=seed, policies=(RandomPolicy(),) * 2, trainable=(True, True))
        for seed in range(games)
    ]
    played = spoken(play_games(matches))
    turns = sum(len(episode.turns) for episode in played)
    answer = pickle.dumps(played)
    coming_in, into_the_batch = [], []
    for _ in range(repeats):
        start = time.process_time()
        played = pickle.loads(pickle.dumps(pickle.loads(answer)))
        faults = [check_episode(each, match, 1000, range(1)) for each, match in zip(played, matches, strict=True)]
        handled = time.process_time()
        advantages = RAE()(played)
        samples, _ = samples_from_episodes(played, advantages, drop_zero_advantage=False)
        make_batch(samples)
        episode_metrics(played, {})
        coming_in.append(handled - start)
        into_the_batch.append(time.process_time() - handled)
        assert not any(faults), faults
    return [
        Check(what=f"driver, a turn, {phase}", predicted=1e6 * constant, unit="us",
              measured=1e6 * statistics.median(seconds) / turns, source="this run", fitted=True)
        for phase, constant, seconds in (
            ("coming in", constants.handling_seconds, coming_in),
            ("into the batch", constants.batching_seconds, into_the_batch),
        )
    ]  # fmt: skip


def spoken(episodes: Sequence[Episode], prompt: int = 343, reply: int = 2048) -> list[Episode]:
    """The same games as if a language model had played them with replies of that length."""
    drawn = np.random.default_rng(0)

    def say(turn: Turn) -> Turn:
        said = Generation(
            token_ids=drawn.integers(0, 1000, reply),
            logprobs=-drawn.random(reply).astype(np.float32),
            stop_reason="stop",
            policy_version=0,
        )
        return dataclasses.replace(turn, prompt_ids=drawn.integers(0, 1000, prompt), generation=said, reply="x" * reply)

    return [dataclasses.replace(episode, turns=tuple(map(say, episode.turns))) for episode in episodes]


def prime_rl_mfu(shape: Shape, length: int, tokens_per_second: float, gpus: int, peak: float) -> float:
    """Utilisation in prime-rl's convention: attention not causal, heads as wide as hidden size over their number."""
    flop = 6.0 * shape.active + 12.0 * shape.layers * shape.hidden * length
    return flop * tokens_per_second / (gpus * peak)


def trainer_rate(shape: Shape, device: Device, gpus: int, length: int, constants: Constants) -> float:
    """Tokens a second of the learner alone on samples of one length, with checkpointing."""
    workload = Workload(games=gpus, turns=(1,), prompt=0.0, reply=float(length), budget=length, epochs=1)
    return workload.tokens / learner_compute_seconds(shape, device, gpus, workload, constants)


def published() -> list[Check]:
    """The model for other people's settings, with nothing fitted to them.

    verl: predicted from the phases of its synchronous trainer. With half of the GPUs for games and half for updates, an
    overlapped step is as long as the longer of what half as many GPUs took for each phase; if no game waits for the
    longest reply any more, as long as the update alone.
    """
    constants = Constants()
    rate = {length: trainer_rate(QWEN3_4B, H200, 8, length, constants) for length in (16384, 65536)}
    mfu = prime_rl_mfu(QWEN3_4B, 16384, PRIME_RL["RL", 16384], 8, H200.flop)
    trainers = [
        Check(what=f"Qwen3-4B on 8 H200, {kind}, {length:,} tokens", predicted=rate[length], measured=measured,
              unit="tokens/s", source="prime-rl")
        for (kind, length), measured in PRIME_RL.items()
    ]  # fmt: skip
    trainers.append(
        Check(what="MFU of its RL, 16,384 tokens", predicted=100 * mfu, measured=14.7, unit="%", source="prime-rl")
    )
    for gpus, (sync, asynchronous) in VERL_STEPS.items():
        play_seconds, update = VERL_PHASES[gpus // 2]
        for what, step in (("overlap", max(play_seconds, update)), ("no wait for the longest", update)):
            trainers.append(
                Check(what=f"7B on {gpus // 2} + {gpus // 2} GPUs, gain of {what}", predicted=sync / step,
                      measured=sync / asynchronous, unit="x", source="verl")
            )  # fmt: skip
    return trainers
