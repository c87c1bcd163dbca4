"""Self-play: games and tokens a second by games in flight, against one game at a time, lock-step, and offline.

    python -m benchmarks.rollout --model smollm2 --engine vllm

Every row plays tic-tac-toe and Kuhn poker with the same model, prompts and sampling.

- "1 in flight": one game at a time, as a loop does that owns one environment; what the paper's code does per actor.
  The transformers engine fills a batch up to `MIN_ROWS` rows, so that it computes several for this one.
- "8", "64", "256 in flight": `spiral.rollout.loop.play`, where no game waits for another's turn.
- "in lock-step": as many games as in the last of these, but all wait until every pending turn has its reply.
- "offline": the turns of the last row in flight, given to the engine without a game between them, each with the length
  it had: what the engine can do at best. It is asked directly, past SPIRAL's policy: vLLM for everything at once and
  without a seed for each request; transformers for as many rows at a time as there were games in flight.

Each row runs after the prefix cache was dropped. Short rows play fewer games, so compare rates, not seconds. Replies
are short where the answer is asked for at once; `--thinking` with a larger `--budget` asks for the reasoning first.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from benchmarks.common import clock, record
from spiral.core.policy import SamplingConfig
from spiral.core.records import Episode, Turn
from spiral.games import load_game
from spiral.inference.base import LanguagePolicy
from spiral.inference.engines import Weights, make_policy
from spiral.inference.settings import EngineConfig
from spiral.inference.texts import MIN_ROWS
from spiral.models.loading import load_language_model
from spiral.models.settings import ModelConfig
from spiral.policies import Policy, TurnReply, TurnRequest
from spiral.rollout.loop import Match, play
from spiral.text import PromptConfig

GAMES = ("tictactoe", "kuhn_poker")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One row."""

    label: str
    seconds: float
    games: int
    turns: int
    tokens: int
    """Sampled."""
    prompt_tokens: int

    @property
    def rate(self) -> float:
        """Sampled tokens a second."""
        return self.tokens / self.seconds


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


def time_games(label: str, games: int, work: Callable[[], list[Episode]]) -> tuple[Timing, list[Turn]]:
    """Times some games; the turns are what `offline` repeats."""
    with clock() as time:
        episodes = work()
    turns = [turn for episode in episodes for turn in episode.turns]
    tokens = sum(len(turn.generation.token_ids) for turn in turns if turn.generation is not None)
    prompts = sum(len(turn.prompt_ids) for turn in turns if turn.prompt_ids is not None)
    row = Timing(label=label, seconds=time.seconds, games=games, turns=len(turns), tokens=tokens, prompt_tokens=prompts)
    return row, turns


def offline_vllm(policy: LanguagePolicy, turns: Sequence[Turn], _rows: int) -> float:
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
                temperature=1.0, max_tokens=length, ignore_eos=True, logprobs=0, detokenize=False
            )
            engine.add_request(f"offline-{index}", tokens_input(turn.prompt_ids.tolist()), parameters)
        while engine.has_unfinished_requests():
            engine.step()
    return time.seconds


def offline_transformers(policy: LanguagePolicy, turns: Sequence[Turn], rows: int) -> float:
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
                ids[row, width - len(prompt) :] = torch.from_numpy(prompt.copy())  # the codec's are read-only
                mask[row, width - len(prompt) :] = 1
            longest = max(length for _, length in group)
            model.generate(
                ids.to(model.device), attention_mask=mask.to(model.device), do_sample=True, top_k=0,
                min_new_tokens=longest, max_new_tokens=longest, pad_token_id=0,
            )  # fmt: skip
    return time.seconds


def timed_rows(
    policy: LanguagePolicy,
    sizes: Sequence[tuple[int, int]],
    fresh: Callable[[], None],
    offline: Callable[[LanguagePolicy, Sequence[Turn], int], float],
) -> Iterator[Timing]:
    """Every row, as soon as it is measured. `sizes` are games in flight and games played; `fresh` goes before each."""
    played(policy, 4, 4)  # kernels are chosen and memory is taken, here as before "offline"
    for in_flight, games in sizes:
        fresh()
        row, turns = time_games(f"{in_flight} in flight", games, partial(played, policy, games, in_flight))
        yield row
    fresh()
    lock, _ = time_games(f"{in_flight} in lock-step", games, partial(played, LockStep(policy), games, in_flight))
    yield lock
    offline(policy, turns[:4], in_flight)
    fresh()
    yield dataclasses.replace(row, label=f"{in_flight} offline", seconds=offline(policy, turns, in_flight))


def table(rows: Sequence[Timing]) -> list[dict[str, object]]:
    """The rows in words, against the first of them, and against "offline" if that was measured."""
    offline = next((row for row in rows if row.label.endswith(" offline")), None)
    return [
        {**row_cells(row, rows[0]), "share of offline": "-" if offline is None else f"{row.rate / offline.rate:.0%}"}
        for row in rows
    ]


def row_cells(row: Timing, first: Timing) -> dict[str, object]:
    """One row in words, against the first of its table."""
    return {
        "games": row.label, "played": row.games, "seconds": f"{row.seconds:.1f}",
        "games/s": f"{row.games / row.seconds:.2f}", "turns/s": f"{row.turns / row.seconds:.2f}",
        "tokens/s": f"{row.rate:,.0f}", "against one game": f"{row.rate / first.rate:.1f}x",
    }  # fmt: skip


def new_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=int, default=32, help="response tokens")
    parser.add_argument("--thinking", action="store_true", help="ask for reasoning before the answer; raise --budget")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 64, 256], help="of each row, from 1")
    parser.add_argument("--games", type=int, nargs="+", default=[16, 16, 64, 256], help="games of each row")
    return parser


def main() -> None:
    """Parses the options, measures every row and records the table."""
    parser = new_parser()
    options = parser.parse_args()
    if len(options.games) != len(options.in_flight):
        parser.error(f"got {len(options.games)} --games for {len(options.in_flight)} --in-flight; give equally many")
    loaded = load_language_model(ModelConfig(path=options.model, device=options.device))
    prompt = loaded.prompt or PromptConfig(example=True, thinking=False)
    if options.thinking:
        prompt = prompt.model_copy(update={"thinking": True})
    policy = make_policy(
        EngineConfig(kind=options.engine, context=max(1024, 768 + options.budget)),
        ModelConfig(path=options.model, device=options.device, compute="bfloat16"),
        loaded,
        prompt,
        SamplingConfig(max_new_tokens=options.budget, temperature=0.7),
        weights=Weights.SHARED,
    )
    codec = policy.codec
    weights = [(name, tensor.detach().clone()) for name, tensor in loaded.model.named_parameters()]

    def fresh() -> None:
        policy.load_weights(weights, policy.version + 1)

    offline = offline_vllm if options.engine == "vllm" else offline_transformers
    rows = list(timed_rows(policy, list(zip(options.in_flight, options.games, strict=True)), fresh, offline))
    last = rows[-1]
    settings: dict[str, object] = {
        "model": options.model, "engine": options.engine, "dtype": "bfloat16", "threads": torch.get_num_threads(),
        "asked for": "reasoning, then the answer" if codec.config.thinking else "the answer at once",
        "response budget": options.budget,
        "prompt tokens": f"mean {last.prompt_tokens / last.turns:.0f}",
        "response tokens": f"mean {last.tokens / last.turns:.1f}",
    }  # fmt: skip
    if options.engine == "transformers":
        settings["rows of a batch"] = f"at least {MIN_ROWS}"
    record("rollout", f"python -m benchmarks.rollout {' '.join(sys.argv[1:])}".strip(), settings, table(rows))


if __name__ == "__main__":
    main()
