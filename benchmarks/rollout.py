"""Self-play: games and tokens a second by games in flight, against one game at a time, lock-step, and offline.

    python -m benchmarks.rollout --model smollm2 --engine vllm

Every row plays tic-tac-toe and Kuhn poker with the same model, prompts and sampling.

- "1 in flight": one game at a time, as a loop does that owns one environment; what the paper's code does per actor.
- "8", "64", "256 in flight": `spiral.rollout.play`, where no game waits for another's turn.
- "in lock-step": as many games as in the last of these, but all wait until every pending turn has its reply.
- "offline": the turns of the row before it, all given to the engine at once, each with the length it had and
  without a game between them: what the engine can do at best. It is asked directly, past SPIRAL's policy.

Each row runs after the prefix cache was dropped. Short rows play fewer games, so compare rates, not seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.common import clock, record
from spiral.games import load_game
from spiral.policies import Policy, TurnReply, TurnRequest
from spiral.policies.engines import EngineConfig, make_policy
from spiral.policies.language import LanguagePolicy
from spiral.policies.loading import ModelConfig, load_language_model, model_directory
from spiral.policies.sampling import SamplingConfig
from spiral.records import Episode, Turn
from spiral.rollout import Match, play
from spiral.text import ChatCodec, PromptConfig

GAMES = ("tictactoe", "kuhn_poker")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One row."""

    label: str
    seconds: float
    games: int
    turns: int
    tokens: int
    """Sampled."""


class LockStep:
    """Hands replies out only when every pending turn has one."""

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self._policy = policy
        self._pending = 0

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Takes on turns."""
        self._pending += len(requests)
        self._policy.submit(requests)

    def poll(self) -> list[TurnReply]:
        """Waits for all of them."""
        replies: list[TurnReply] = []
        while len(replies) < self._pending:
            replies.extend(self._policy.poll())
        self._pending = 0
        return replies

    def cancel(self) -> None:
        """Forgets every pending turn."""
        self._policy.cancel()
        self._pending = 0


def played(policy: Policy, games: int, in_flight: int) -> list[Episode]:
    """Games alternate between the two kinds."""
    matches = [Match(game=load_game(GAMES[seed % 2]), seed=seed, policies=(policy, policy)) for seed in range(games)]
    return play(matches, in_flight)


def measure(label: str, games: int, work: Callable[[], list[Episode]]) -> tuple[Measured, list[Turn]]:
    """Times some games; the turns are what `offline` repeats."""
    with clock() as time:
        episodes = work()
    turns = [turn for episode in episodes for turn in episode.turns]
    tokens = sum(len(turn.generation.token_ids) for turn in turns if turn.generation is not None)
    return Measured(label=label, seconds=time.seconds, games=games, turns=len(turns), tokens=tokens), turns


def offline_vllm(policy: LanguagePolicy, turns: Sequence[Turn]) -> float:
    """Seconds of vLLM itself for the same prompts and lengths, in one list."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    engine = policy._engine  # type: ignore[attr-defined]
    with clock() as time:
        for index, turn in enumerate(turns):
            assert turn.prompt_ids is not None
            assert turn.generation is not None
            length = len(turn.generation.token_ids)
            parameters = SamplingParams(
                temperature=1.0, max_tokens=length, ignore_eos=True, logprobs=0, detokenize=False, seed=index
            )
            engine.add_request(f"offline-{index}", tokens_input(turn.prompt_ids.tolist()), parameters)
        while engine.has_unfinished_requests():
            engine.step()
    return time.seconds


def offline_transformers(policy: LanguagePolicy, turns: Sequence[Turn], rows: int = 64) -> float:
    """Seconds of transformers' own `generate` for the same prompts, sorted by length, `rows` at a time.

    Each batch runs to the length of its longest reply, which is the best that `generate` can do.
    """
    model = policy.model  # type: ignore[attr-defined]
    pairs = [
        (turn.prompt_ids, len(turn.generation.token_ids))
        for turn in turns
        if turn.generation is not None and turn.prompt_ids is not None
    ]
    pairs.sort(key=lambda pair: pair[1])
    with clock() as time, torch.no_grad():
        for start in range(0, len(pairs), rows):
            group = pairs[start : start + rows]
            width = max(len(prompt) for prompt, _ in group)
            ids = torch.zeros((len(group), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, (prompt, _) in enumerate(group):
                ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
                mask[row, width - len(prompt) :] = 1
            longest = max(length for _, length in group)
            model.generate(
                ids.to(model.device), attention_mask=mask.to(model.device), do_sample=True, top_k=0,
                min_new_tokens=longest, max_new_tokens=longest, pad_token_id=0,
            )  # fmt: skip
    return time.seconds


def main() -> None:
    """Parses the options, measures every row and records the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=int, default=32, help="response tokens")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 64, 256], help="of each row, from 1")
    parser.add_argument("--games", type=int, nargs="+", default=[4, 16, 64, 256], help="games of each row")
    options = parser.parse_args()
    loaded = load_language_model(ModelConfig(path=options.model, device=options.device))
    codec = ChatCodec(loaded.tokenizer, loaded.prompt or PromptConfig(example=True, thinking=False))
    policy = make_policy(
        EngineConfig(kind=options.engine, context=1024), loaded, model_directory(options.model), codec,
        SamplingConfig(max_new_tokens=options.budget, temperature=0.7), compute="bfloat16",
    )  # fmt: skip
    most = options.in_flight[-1]
    weights = [(name, tensor.detach().clone()) for name, tensor in loaded.model.named_parameters()]

    def fresh(version: int) -> None:
        policy.load_weights(weights, version)

    played(policy, 4, 4)  # kernels are chosen and memory is taken
    rows: list[Measured] = []
    for version, (games, in_flight) in enumerate(zip(options.games, options.in_flight, strict=True)):
        fresh(version)
        row, turns = measure(f"{in_flight} in flight", games, partial(played, policy, games, in_flight))
        rows.append(row)
    fresh(10)
    lock, _ = measure("256 in lock-step", options.games[-1], partial(played, LockStep(policy), options.games[-1], 256))
    fresh(11)
    seconds = (offline_vllm if options.engine == "vllm" else offline_transformers)(policy, turns)
    offline = dataclasses.replace(rows[-1], label=f"{most} offline", seconds=seconds)
    rows += [lock, offline]

    def rate(row: Measured) -> float:
        return row.tokens / row.seconds

    table = [
        {
            "games": row.label, "played": row.games, "seconds": f"{row.seconds:.1f}",
            "games/s": f"{row.games / row.seconds:.2f}", "turns/s": f"{row.turns / row.seconds:.2f}",
            "tokens/s": f"{rate(row):.0f}", "against one game": f"{rate(row) / rate(rows[0]):.1f}x",
            "share of offline": f"{rate(row) / rate(offline):.0%}",
        }
        for row in rows
    ]  # fmt: skip
    settings = {
        "model": options.model, "engine": options.engine, "dtype": "bfloat16", "threads": torch.get_num_threads(),
        "response budget": options.budget,
        "prompt tokens": f"mean {sum(len(t.prompt_ids) for t in turns if t.prompt_ids is not None) / len(turns):.0f}",
        "response tokens": f"mean {offline.tokens / offline.turns:.1f}",
    }  # fmt: skip
    record("rollout", f"python -m benchmarks.rollout {' '.join(sys.argv[1:])}".strip(), settings, table)


if __name__ == "__main__":
    main()
