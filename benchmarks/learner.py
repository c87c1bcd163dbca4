"""The learner: tokens a second packed and padded, model FLOP utilisation, and the memory of log-probabilities.

    python -m benchmarks.learner --model smollm2

The samples are real: turns that the model itself plays in tic-tac-toe and Kuhn poker, prompts and replies as long as
they come. Every row is a whole update (one pass, forward, backward, AdamW) of the same batch.

- "one padded block": samples in the order in which they were played, as many as fit into the token budget when each
  takes as much room as the longest of all; what a trainer does that pads a batch to a rectangle.
- "padded, sorted" and "packed": `learner.layout`. Packed rows hold what prompts have in common once.

Utilisation is useful FLOP a second (no padding, no recomputation) over the best rate of a matrix product of the same
dtype and number of threads, measured first. FLOP: 6 a weight and token (2 forward, 4 backward), the output head for
action tokens only, and attention: half of a square, since it is causal. With packed rows, what samples share counts
once everywhere: p shared tokens and own lengths g attend to p^2 + sum(g^2 + 2 g p).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import GIB, attempt, clock, matmul_rate, peak_memory, record
from spiral.games import load_game
from spiral.inference.engines import Weights, make_policy
from spiral.inference.settings import EngineConfig
from spiral.models.loading import LanguageModel, load_language_model
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.rollout.loop import Match, play
from spiral.text import PromptConfig
from spiral.training.advantages import advantages_by_turn
from spiral.training.batch import Batch, make_batch, samples_from_episodes
from spiral.training.learner import Learner
from spiral.training.logprobs import CHUNK_ELEMENTS, score_tokens
from spiral.training.packing import Family, MicroBatch, micro_batches, packed_rows, shared_prefixes
from spiral.training.settings import LearnerConfig, LossConfig

GAMES = ("tictactoe", "kuhn_poker")
LAYOUTS = ("one padded block", "padded, sorted", "packed")


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


def played_batch(loaded: LanguageModel, model: str, games: int, budget: int) -> Batch:
    """One batch of what the model plays against itself; advantages alternate, for only their presence matters."""
    prompt = loaded.prompt or PromptConfig(example=True, thinking=False)
    sampling = SamplingConfig(max_new_tokens=budget, temperature=0.7)
    config = ModelConfig(path=model, compute="bfloat16")
    policy = make_policy(EngineConfig(), config, loaded, prompt, sampling, weights=Weights.SHARED)
    matches = [
        Match(game=load_game(GAMES[seed % 2]), seed=seed, policies=(policy, policy), trainable=(True, True))
        for seed in range(games)
    ]
    episodes = play(matches)
    advantages = [advantages_by_turn(episode, {0: 1.0, 1: -1.0}) for episode in episodes]
    samples, _ = samples_from_episodes(episodes, advantages, drop_zero_advantage=False)
    return make_batch(samples)


def flop(model: Any, batch: Batch, families: Sequence[Family] | None = None) -> float:
    """What one forward and backward pass over a batch needs, without padding or anything twice.

    `families` are samples that are fed in with their common beginning once; None feeds in every sample whole.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    tied = config.tie_word_embeddings
    linear = sum(p.numel() for p in model.parameters() if p.dim() == 2) - head * (1 if tied else 2)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    inputs = (batch.lengths_S - 1).tolist()
    tokens, pairs = 0, 0
    for family in families or [Family((sample,)) for sample in range(batch.num_samples)]:
        own = [inputs[sample] - family.shared for sample in family.samples]
        tokens += family.size(inputs)
        pairs += family.shared**2 + sum(g**2 + 2 * g * family.shared for g in own)
    attention = config.num_hidden_layers * width * pairs  # causal: half of 12
    return 6.0 * float(linear * tokens + head * batch.num_action_tokens + attention)


def packed_families(batch: Batch, max_tokens: int) -> list[Family]:
    """The samples as packed rows hold them, with what their prompts have in common once a row."""
    inputs = (batch.lengths_S - 1).tolist()
    rows = packed_rows(shared_prefixes(batch, range(batch.num_samples)), inputs, max_tokens)
    return [family for row in rows for family in row]


def time_update(kind: str, new_model: Callable[[], Any], batch: Batch, tokens: int) -> float:
    """Seconds of the second of two updates in micro-batches of `tokens` tokens."""
    learner = (BlockLearner if kind == "one padded block" else Learner)(
        new_model(),
        config=LearnerConfig(epochs=1, layout="packed" if kind == "packed" else "padded", tokens_per_microbatch=tokens),
        loss_config=LossConfig(),
        sampling=SamplingConfig(),
        total_steps=10,
        seed=0,
        compute="bfloat16",
    )
    learner.update(batch)
    with clock() as time:
        learner.update(batch)
    return time.seconds


def layout_rows(new_model: Callable[[], Any], batch: Batch, max_tokens: int, rate: float) -> list[dict[str, str]]:
    """One row for each layout, every one with a model of its own; `rate` is that of a matrix product, in FLOP/s."""
    tokens, model = int(batch.lengths_S.sum()), new_model()
    work = dict.fromkeys(LAYOUTS, flop(model, batch))
    work["packed"] = flop(model, batch, packed_families(batch, max_tokens))
    del model
    measured = {kind: attempt(partial(time_update, kind, new_model, batch, max_tokens)) for kind in LAYOUTS}
    block = measured[LAYOUTS[0]]
    rows = []
    for kind, seconds in measured.items():
        cells = dict.fromkeys(("seconds", "tokens/s", "against one padded block", "utilisation"), str(seconds))
        if isinstance(seconds, float):
            cells["seconds"] = f"{seconds:.2f}"
            cells["tokens/s"] = f"{tokens / seconds:,.0f}"
            cells["against one padded block"] = f"{block / seconds:.2f}x" if isinstance(block, float) else "-"
            cells["utilisation"] = f"{work[kind] / seconds / rate:.0%}"
        rows.append({"layout": kind, **cells})
    return rows


def about(batch: Batch, max_tokens: int, rate: float) -> dict[str, object]:
    """What is said of a batch beside its rows."""
    tokens, longest = int(batch.lengths_S.sum()), int(batch.lengths_S.max())
    inputs = (batch.lengths_S - 1).tolist()
    return {
        "samples": batch.num_samples, "tokens": tokens,
        "tokens packed": sum(family.size(inputs) for family in packed_families(batch, max_tokens)),
        "action tokens": batch.num_action_tokens,
        "sample length": f"mean {tokens / batch.num_samples:.0f}, longest {longest}",
        "tokens a micro-batch": max_tokens, "matrix rate": f"{rate / 1e9:,.0f} GFLOP/s",
    }  # fmt: skip


def layouts(options: argparse.Namespace) -> None:
    """Tokens a second of every layout."""
    loaded = load_language_model(ModelConfig(path=options.model, device=options.device))
    batch = played_batch(loaded, options.model, options.games, options.budget)
    rate = matmul_rate(torch.bfloat16, torch.get_num_threads(), loaded.model.device.type)
    settings = {"model": options.model, "dtype": "bfloat16, float32 weights", "threads": torch.get_num_threads()}

    def new_model() -> Any:
        return load_language_model(ModelConfig(path=options.model, device=options.device)).model

    rows = layout_rows(new_model, batch, options.tokens, rate)
    record("learner", command(), {**settings, **about(batch, options.tokens, rate)}, rows)


def memory_rows(model: Any, count: int) -> list[dict[str, str]]:
    """Peak memory of scoring `count` action tokens, forward and backward, with all logits at once and in chunks.

    Each is done twice and the second measured: the first chooses kernels and takes their work space.
    """
    device, head = model.device, model.get_output_embeddings().to(torch.bfloat16)
    targets = torch.randint(head.weight.shape[0], (count,), device=device)

    def score(elements: int) -> tuple[float, float]:
        """GiB added, and seconds."""
        hidden = torch.randn(count, head.weight.shape[1], device=device, dtype=torch.bfloat16, requires_grad=True)
        with peak_memory(device.type) as memory, clock() as time:
            scores = score_tokens(hidden, head, targets, 1.0, entropy_gradient=False, chunk_elements=elements)
            scores.logprobs_K.sum().backward()  # type: ignore[no-untyped-call]
        head.zero_grad(set_to_none=True)
        return memory.added / GIB, time.seconds

    kinds = {"all at once": count * head.weight.shape[0], "chunked": CHUNK_ELEMENTS}
    for elements in kinds.values():
        score(elements)
    measured = {kind: score(elements) for kind, elements in kinds.items()}
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
