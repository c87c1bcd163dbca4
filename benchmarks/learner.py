"""The learner: tokens a second packed and padded, model FLOP utilisation, and the memory of log-probabilities.

    python -m benchmarks.learner --model smollm2

The samples are real: turns that the model itself plays in tic-tac-toe and Kuhn poker, prompts and replies as long as
they come. Every row is a whole update (one pass, forward, backward, AdamW) of the same batch.

- "one padded block": samples in the order in which they were played, as many as fit into the token budget when each
  takes as much room as the longest of all; what a trainer does that pads a batch to a rectangle.
- "padded, sorted" and "packed": `learner.layout`. Packed rows hold what prompts have in common once.

Utilisation is useful FLOP a second (no padding, no recomputation) over the best rate of a matrix product of the same
dtype and number of threads, measured first. FLOP: 6 a weight and token (2 forward, 4 backward), the output head for
action tokens only, and attention. With packed rows, a token that is in the row once for many samples counts once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import clock, matmul_rate, peak_memory, record
from spiral.batch import Batch, make_batch, samples_from_episodes
from spiral.games import load_game
from spiral.learner.layout import MicroBatch, micro_batches
from spiral.learner.learner import Learner, LearnerConfig
from spiral.learner.logprobs import CHUNK_ELEMENTS, score_tokens
from spiral.learner.loss import LossConfig
from spiral.policies import SamplingConfig
from spiral.policies.engines import EngineConfig, make_policy
from spiral.policies.loading import LanguageModel, ModelConfig, load_language_model, model_directory
from spiral.rollout import Match, play
from spiral.text import ChatCodec, PromptConfig

GAMES = ("tictactoe", "kuhn_poker")
GIB = 2**30


class BlockLearner(Learner):
    """Pads the way of a rectangle: arrival order, every sample as wide as the longest of the batch."""

    def _rows(self, batch: Batch, samples: Tensor) -> list[MicroBatch]:
        longest = int(batch.lengths_S.max()) - 1
        rows = max(1, self.config.tokens_per_microbatch // longest)
        return [
            widened(part, longest) for group in torch.split(samples.sort().values, rows) for part in _one(batch, group)
        ]


def _one(batch: Batch, samples: Tensor) -> Iterator[MicroBatch]:
    return micro_batches(batch, samples, "padded", sys.maxsize)


def widened(rows: MicroBatch, width: int) -> MicroBatch:
    """The same rows with padding up to `width`."""
    more = width - rows.token_ids_RW.shape[1]
    old = rows.token_ids_RW.shape[1]
    return MicroBatch(
        token_ids_RW=torch.nn.functional.pad(rows.token_ids_RW, (0, more)),
        position_ids_RW=torch.arange(width).expand(len(rows.token_ids_RW), width),
        predict_K=rows.predict_K // old * width + rows.predict_K % old,
        action_K=rows.action_K,
        segments=None,
    )


def played_batch(loaded: LanguageModel, directory: str, games: int, budget: int) -> Batch:
    """One batch of what the model plays against itself; advantages alternate, for only their presence matters."""
    prompt = loaded.prompt or PromptConfig(example=True, thinking=False)
    sampling = SamplingConfig(max_new_tokens=budget, temperature=0.7)
    policy = make_policy(
        EngineConfig(), loaded, directory, ChatCodec(loaded.tokenizer, prompt), sampling, compute="bfloat16"
    )
    matches = [
        Match(game=load_game(GAMES[seed % 2]), seed=seed, policies=(policy, policy), trainable=(True, True))
        for seed in range(games)
    ]
    episodes = play(matches)
    samples, _ = samples_from_episodes(episodes, [(1.0, -1.0)] * games, drop_zero_advantage=False)
    return make_batch(samples)


def flop(model: Any, batch: Batch, tokens: int | None = None) -> float:
    """What one forward and backward pass over a batch needs, without padding or anything twice.

    `tokens` is how many are fed in when some are fed in once for several samples.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    tied = config.tie_word_embeddings
    linear = sum(p.numel() for p in model.parameters() if p.dim() == 2) - head * (1 if tied else 2)
    lengths = (batch.lengths_S - 1).double()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = 6.0 * config.num_hidden_layers * width * float((lengths**2).sum())  # causal: half of 12
    return float(6.0 * (linear * float(tokens or lengths.sum()) + head * batch.num_action_tokens) + attention)


def fed_once(batch: Batch, max_tokens: int) -> int:
    """Tokens in packed rows, where what prompts have in common stands once."""
    made = micro_batches(batch, torch.arange(batch.num_samples), "packed", max_tokens)
    return sum(rows.token_ids_RW.numel() for rows in made)


def time_update(kind: str, path: str, batch: Batch, options: argparse.Namespace) -> float:
    """Seconds of the second of two updates."""
    config = LearnerConfig(
        epochs=1, layout="packed" if kind == "packed" else "padded", tokens_per_microbatch=options.tokens
    )
    learner = (BlockLearner if kind == "one padded block" else Learner)(
        load_language_model(ModelConfig(path=path, device=options.device)).model,
        config=config,
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=options.budget),
        total_steps=10,
        seed=0,
        compute="bfloat16",
    )
    learner.update(batch)
    with clock() as time:
        learner.update(batch)
    return time.seconds


def layouts(options: argparse.Namespace) -> None:
    """Tokens a second of every layout."""
    loaded = load_language_model(ModelConfig(path=options.model, device=options.device))
    batch = played_batch(loaded, model_directory(options.model), options.games, options.budget)
    tokens, fewer = int(batch.lengths_S.sum()), fed_once(batch, options.tokens)
    work = dict.fromkeys(("one padded block", "padded, sorted"), flop(loaded.model, batch))
    work["packed"] = flop(loaded.model, batch, fewer)
    rate = matmul_rate(torch.bfloat16, torch.get_num_threads(), loaded.model.device.type)
    seconds = {kind: time_update(kind, options.model, batch, options) for kind in work}
    rows = [
        {
            "layout": kind,
            "seconds": f"{seconds[kind]:.1f}",
            "tokens/s": f"{tokens / seconds[kind]:.0f}",
            "against one padded block": f"{seconds['one padded block'] / seconds[kind]:.2f}x",
            "utilisation": f"{work[kind] / seconds[kind] / rate:.0%}",
        }
        for kind in work
    ]
    longest = int(batch.lengths_S.max())
    settings = {
        "model": options.model, "dtype": "bfloat16, float32 weights", "threads": torch.get_num_threads(),
        "samples": batch.num_samples, "tokens": tokens, "tokens packed": fewer,
        "action tokens": batch.num_action_tokens,
        "sample length": f"mean {tokens / batch.num_samples:.0f}, longest {longest}",
        "tokens a micro-batch": options.tokens, "matrix rate": f"{rate / 1e9:.0f} GFLOP/s",
    }  # fmt: skip
    record("learner", command(), settings, rows)


def memory_rows(model: Any, count: int) -> list[dict[str, str]]:
    """Peak memory of scoring `count` action tokens, forward and backward, with all logits at once and in chunks."""
    device, head = model.device, model.get_output_embeddings().to(torch.bfloat16)
    targets = torch.randint(head.weight.shape[0], (count,), device=device)
    measured: dict[str, tuple[float, float]] = {}
    for kind, elements in (("all at once", count * head.weight.shape[0]), ("chunked", CHUNK_ELEMENTS)):
        hidden = torch.randn(count, head.weight.shape[1], device=device, dtype=torch.bfloat16, requires_grad=True)
        with peak_memory(device.type) as memory, clock() as time:
            scores = score_tokens(hidden, head, targets, 1.0, entropy_gradient=False, chunk_elements=elements)
            scores.logprobs_K.sum().backward()  # type: ignore[no-untyped-call]
        head.zero_grad(set_to_none=True)
        measured[kind] = (memory.added / GIB, time.seconds)
    whole, _ = measured["all at once"]
    return [
        {
            "log-probabilities": f"{count} tokens, {kind}",
            "added memory": f"{gib:.2f} GiB",
            "share of all at once": f"{gib / max(whole, 1e-9):.2f}",
            "seconds": f"{seconds:.1f}",
        }
        for kind, (gib, seconds) in measured.items()
    ]


def logprob_memory(options: argparse.Namespace) -> None:
    """The memory part."""
    model = load_language_model(ModelConfig(path=options.model, device=options.device)).model
    settings = {"model": options.model, "vocabulary": model.config.vocab_size}
    record("learner", command(), settings, memory_rows(model, options.logprob_tokens))


def command() -> str:
    """What was typed."""
    return f"python -m benchmarks.learner {' '.join(sys.argv[1:])}".strip()


def main() -> None:
    """Parses the options and runs both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--games", type=int, default=10)
    parser.add_argument("--budget", type=int, default=96, help="response tokens")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens a micro-batch")
    parser.add_argument("--logprob-tokens", type=int, default=4096)
    parser.add_argument("--part", choices=("all", "layouts", "memory"), default="all")
    options = parser.parse_args()
    if options.part != "memory":
        layouts(options)
    if options.part != "layouts":
        logprob_memory(options)


if __name__ == "__main__":
    main()
