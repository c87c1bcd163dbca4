"""The learner and the transformers engine on a CUDA device, at the sizes that recipes name, with random weights.

    python -m benchmarks.gpu --model Qwen/Qwen3-4B-Base --length 4096

Weights are random where none are to be had: speed and memory do not depend on them, what is said does. So prompts are
made up, replies end at a token drawn by chance, and every game is over after one reply, which says nothing legal.

- "learner": whole updates (one pass, forward, backward, AdamW) of samples of equal length, in bfloat16 with float32
  weights. Without checkpointing the micro-batch is smaller, since activations are kept. FLOP are the useful ones
  (`benchmarks.learner.flop`: nothing padded, nothing twice). Utilisation is their rate over the best rate of a bfloat16
  matrix product measured in the same run, MFU over the peak on the card's data sheet.
- "layouts": the rows of `benchmarks.learner` for samples of two made-up games, whose prompts begin alike.
- "memory": that of the log-probabilities, as in `benchmarks.learner`.
- "sampler": the rows of `benchmarks.rollout`.

A row that fails says so in its cells. With `--device cpu --model nano` the script itself can be tried anywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.common import GIB, Row, attempt, clock, matmul_rate, peak_memory, published_peak, record
from benchmarks.learner import about, flop, layout_rows, memory_rows
from benchmarks.rollout import Timing, offline_transformers, table, timed_rows
from spiral.core.records import IntArray, Sample
from spiral.core.seeds import derive_seed
from spiral.games import Game
from spiral.inference.texts import MIN_ROWS
from spiral.inference.transformers import TransformersPolicy
from spiral.models.loading import cast_parameters, load_language_model
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.models.settings import ModelConfig
from spiral.models.shapes import model_config
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig
from spiral.text.chat import ParsedReply
from spiral.training.batch import Batch, make_batch
from spiral.training.learner import Learner
from spiral.training.settings import LearnerConfig, LossConfig

UPDATES = ((True, False), (False, False), (False, True))
"""Whether activations are checkpointed, and whether blocks are compiled."""
IN_FLIGHT = (1, 8, 64, 256)
PROMPT = 448
"""Tokens of a made-up prompt, as many as SmolLM2's of tic-tac-toe and Kuhn poker with a worked example have."""
SHARED = 384
"""Of those, how many a game's prompts begin with alike."""


def random_model(name: str, device: str) -> Any:
    """A model of that shape with random float32 weights."""
    if name == "nano":
        return load_language_model(ModelConfig(path="nano", device=device)).model
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            model_config(name), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()


def made_up(token_ids: IntArray, prompt: int, vocabulary: int) -> Sample:
    """A sample of those tokens; only the presence of its advantage matters."""
    return Sample(
        prompt_ids=token_ids[:prompt],
        action_ids=token_ids[prompt:],
        behaviour_logprobs=np.full(len(token_ids) - prompt, -np.log(vocabulary), dtype=np.float32),
        advantages=np.ones(len(token_ids) - prompt, dtype=np.float32),
        game="",
        player=0,
        policy_version=0,
    )


def long_batch(vocabulary: int, samples: int, length: int) -> Batch:
    """Samples of exactly `length` tokens, an eighth of them prompt, with nothing in common."""
    rng = np.random.default_rng(0)
    return make_batch([made_up(rng.integers(0, vocabulary, length), length // 8, vocabulary) for _ in range(samples)])


def mixed_batch(vocabulary: int, samples: int, budget: int) -> Batch:
    """Samples of two games in turn; replies of 1 to `budget` tokens, every length as likely."""
    rng = np.random.default_rng(0)
    beginnings = rng.integers(0, vocabulary, (2, SHARED))
    made = []
    for number in range(samples):
        own = rng.integers(0, vocabulary, PROMPT - SHARED + int(rng.integers(1, budget + 1)))
        made.append(made_up(np.concatenate([beginnings[number % 2], own]), PROMPT, vocabulary))
    return make_batch(made)


class MadeUpCodec(ChatCodec):
    """Prompts of `PROMPT` random tokens, so that no tokenizer of the model's is needed."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__(build_tokenizer(), PromptConfig(template="qwen3"))
        self._vocabulary = vocabulary

    def encode(self, observation: str, game: Game | None = None) -> IntArray:
        """[P] another prompt for every observation."""
        rng = np.random.default_rng(derive_seed(observation))
        return rng.integers(0, self._vocabulary, PROMPT)

    def read(self, token_ids: IntArray) -> ParsedReply:
        """Nothing: the tokens mean nothing."""
        return ParsedReply(text="", answer="", thinking_tokens=0, has_thought=False)


def update_cells(options: argparse.Namespace, rate: float, tokens: int, checkpointing: bool, compiled: bool) -> Row:
    """Measures the second of two updates, the first of which compiles and takes memory."""
    model = random_model(options.model, options.device)
    batch = long_batch(model.config.vocab_size, options.samples, options.length)
    work = flop(model, batch)
    learner = Learner(
        model,
        config=LearnerConfig(
            epochs=1, layout="packed", tokens_per_microbatch=tokens, gradient_checkpointing=checkpointing
        ),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=options.length),
        total_steps=10,
        seed=0,
        compute="bfloat16",
        compiled=compiled,
    )
    learner.update(batch)
    with peak_memory(options.device) as memory, clock() as time:
        learner.update(batch)
    peak = published_peak(options.device)
    return {
        "seconds": f"{time.seconds:.2f}",
        "tokens/s": f"{options.samples * options.length / time.seconds:,.0f}",
        "utilisation": f"{work / time.seconds / rate:.0%}",
        "MFU": "-" if peak is None else f"{work / time.seconds / peak:.0%}",
        "peak memory": f"{memory.peak / GIB:.1f} GiB",
    }


def learner_row(options: argparse.Namespace, rate: float, checkpointing: bool, compiled: bool) -> Row:
    """One row, whether its update works or not."""
    tokens = options.tokens if checkpointing else options.kept_tokens
    cells = attempt(partial(update_cells, options, rate, tokens, checkpointing, compiled))
    if compiled:
        torch.compiler.reset()  # what was compiled holds on to the model
    columns = ("seconds", "tokens/s", "utilisation", "MFU", "peak memory")
    row: Row = {
        "checkpointing": "yes" if checkpointing else "no",
        "compiled": "yes" if compiled else "no",
        "tokens a micro-batch": tokens,
        **(dict.fromkeys(columns, cells) if isinstance(cells, str) else cells),
    }
    print(dict(row), file=sys.stderr, flush=True)  # should the process be killed before the table is written
    return row


def sampler_rows(options: argparse.Namespace, in_flight: tuple[int, ...] = IN_FLIGHT) -> list[dict[str, object]]:
    """The transformers engine, by replies in flight; rows measured before one that fails are kept."""
    model = random_model(options.model, options.device)
    cast_parameters(model, torch.bfloat16)
    vocabulary = model.config.vocab_size
    # So hot that every token is as likely as any other: random weights with tied embeddings repeat themselves.
    sampling = SamplingConfig(max_new_tokens=options.budget, temperature=1e4)
    policy = TransformersPolicy(model, MadeUpCodec(vocabulary), sampling, context=PROMPT + options.budget)
    policy.stop_ids = frozenset(range(max(1, 2 * vocabulary // options.budget)))  # lengths vary
    sizes = [(count, 2 * max(2, count)) for count in in_flight]
    rows: list[Timing] = []

    def time_all() -> None:
        for row in timed_rows(policy, sizes, lambda: None, offline_transformers):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)

    failed = attempt(time_all)
    made = table(rows)
    if isinstance(failed, str):
        made.append({**dict.fromkeys(made[0] if made else (), failed), "games": f"the next: {failed}"})
    return made


def new_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B-Base")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a sample of the learner's rows")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16384, help="tokens a micro-batch")
    parser.add_argument("--kept-tokens", type=int, default=4096, help="the same where activations are kept")
    parser.add_argument("--budget", type=int, default=256, help="response tokens of the layouts' and sampler's rows")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    return parser


def learner_part(options: argparse.Namespace) -> tuple[dict[str, object], list[Row]]:
    """Settings and rows of updates of long samples."""
    rate = matmul_rate(torch.bfloat16, torch.get_num_threads(), options.device)
    rows = [learner_row(options, rate, *choice) for choice in UPDATES]
    peak = published_peak(options.device)
    return {
        "samples": f"{options.samples} of {options.length} tokens", "matrix rate": f"{rate / 1e12:.1f} TFLOP/s",
        "published peak": "unknown" if peak is None else f"{peak / 1e12:.0f} TFLOP/s",
    }, rows  # fmt: skip


def layouts_part(options: argparse.Namespace) -> tuple[dict[str, object], list[Row]]:
    """Settings and rows of the layouts."""
    rate = matmul_rate(torch.bfloat16, torch.get_num_threads(), options.device)
    batch = mixed_batch(model_config(options.model).vocab_size, 4 * options.samples, options.budget)
    rows = layout_rows(lambda: random_model(options.model, options.device), batch, options.kept_tokens, rate)
    return about(batch, options.kept_tokens, rate), list(rows)


def memory_part(options: argparse.Namespace) -> tuple[dict[str, object], list[Row]]:
    """Settings and rows of the log-probabilities' memory."""
    model = random_model(options.model, options.device)
    return {"vocabulary": model.config.vocab_size}, list(memory_rows(model, options.samples * options.length // 16))


def sampler_part(options: argparse.Namespace) -> tuple[dict[str, object], list[Row]]:
    """Settings and rows of the engine."""
    about_it = {"prompt tokens": PROMPT, "response budget": options.budget, "rows of a batch": f"at least {MIN_ROWS}"}
    return about_it, list(sampler_rows(options))


PARTS: dict[str, Callable[[argparse.Namespace], tuple[dict[str, object], list[Row]]]] = {
    "learner": learner_part, "layouts": layouts_part, "memory": memory_part, "sampler": sampler_part,
}  # fmt: skip


def main() -> None:
    """Parses the options and runs the parts asked for."""
    options = new_parser().parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --device cpu --model nano tries the script itself")
    command = f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip()
    for name in options.part:
        done = attempt(partial(PARTS[name], options))
        if isinstance(done, str):
            done = ({}, [{"part": name, "measured": done}])
        settings = {"model": f"{options.model}, random weights", "dtype": "bfloat16, float32 weights", **done[0]}
        record("gpu", command, settings, done[1])


if __name__ == "__main__":
    main()
