"""The learner and the sampler on a CUDA device, at the sizes that recipes name.

    python -m benchmarks.gpu --model Qwen/Qwen3-4B-Base --length 4096

Weights are random where none are to be had: speed and memory do not depend on them, what is said does. The learner's
rows are whole updates (one pass, forward, backward, AdamW) in bfloat16 with float32 weights. Utilisation is useful FLOP
(`benchmarks.learner.flop`: nothing padded, nothing twice) over the best rate of a bfloat16 matrix product measured in
the same run. The sampler's rows are first turns of Kuhn poker, every reply as long as its budget, since random weights
hardly ever say a stop token.

With `--device cpu --model nano` the script itself can be tried anywhere.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.common import clock, matmul_rate, peak_memory, record
from benchmarks.learner import GIB, flop, memory_rows
from spiral.batch import Batch, make_batch
from spiral.games import load_game
from spiral.learner.learner import Learner, LearnerConfig
from spiral.learner.loss import LossConfig
from spiral.policies import SamplingConfig
from spiral.policies.loading import ModelConfig, cast_parameters, load_language_model
from spiral.policies.transformers import TransformersPolicy
from spiral.recipes.nano_tokenizer import build_tokenizer
from spiral.records import Sample
from spiral.rollout import Match, play
from spiral.seating import model_config
from spiral.text import ChatCodec, PromptConfig


def random_model(name: str, device: str) -> Any:
    """A model of that shape with random float32 weights."""
    if name == "nano":
        return load_language_model(ModelConfig(path="nano", device=device)).model
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            model_config(name), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()


def long_batch(vocabulary: int, samples: int, length: int) -> Batch:
    """Samples of exactly `length` tokens, an eighth of them prompt, with nothing in common."""
    rng = np.random.default_rng(0)
    prompt = length // 8
    return make_batch(
        [
            Sample(
                token_ids=rng.integers(0, vocabulary, length),
                action_mask=np.arange(length) >= prompt,
                behaviour_logprobs=np.full(length, -np.log(vocabulary), dtype=np.float32),
                advantage=float(rng.choice([-1.0, 1.0])),
                game="",
                player=0,
                policy_version=0,
            )
            for _ in range(samples)
        ]
    )


def learner_row(options: argparse.Namespace, rate: float, checkpointing: bool, compiled: bool) -> dict[str, str]:
    """Seconds of the second of two updates, the first of which compiles and takes memory."""
    model = random_model(options.model, options.device)
    batch = long_batch(model.config.vocab_size, options.samples, options.length)
    work = flop(model, batch)
    learner = Learner(
        model,
        config=LearnerConfig(
            epochs=1, layout="packed", tokens_per_microbatch=options.tokens,
            gradient_checkpointing=checkpointing,
        ),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=options.length),
        total_steps=10,
        seed=0,
        compute="bfloat16",
        compiled=compiled,
    )  # fmt: skip
    learner.update(batch)
    with peak_memory(options.device) as memory, clock() as time:
        learner.update(batch)
    tokens = options.samples * options.length
    return {
        "checkpointing": "yes" if checkpointing else "no",
        "compiled": "yes" if compiled else "no",
        "seconds": f"{time.seconds:.2f}",
        "tokens/s": f"{tokens / time.seconds:,.0f}",
        "utilisation": f"{work / time.seconds / rate:.0%}",
        "peak memory": f"{memory.peak / GIB:.1f} GiB",
    }


def sampler_rows(options: argparse.Namespace) -> list[dict[str, str]]:
    """The transformers engine, by replies in flight."""
    model = random_model(options.model, options.device)
    cast_parameters(model, torch.bfloat16)
    codec = ChatCodec(build_tokenizer(), PromptConfig(template="qwen3", observation="compact"))
    rows, base = [], 0.0
    for in_flight in (1, 8, 64, 256):
        policy = TransformersPolicy(model, codec, SamplingConfig(max_new_tokens=options.budget))
        game = load_game("kuhn_poker")
        matches = [Match(game=game, seed=seed, policies=(policy, policy)) for seed in range(max(2, in_flight))]
        with clock() as time:
            episodes = play(matches, in_flight)
        lengths = [len(t.generation.token_ids) for e in episodes for t in e.turns if t.generation is not None]
        rate = sum(lengths) / time.seconds
        base = base or rate
        rows.append(
            {
                "games in flight": str(in_flight), "tokens": str(sum(lengths)), "seconds": f"{time.seconds:.1f}",
                "tokens/s": f"{rate:,.0f}", "against one": f"{rate / base:.1f}x",
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Parses the options and runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B-Base")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a sample")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16384, help="tokens a micro-batch")
    parser.add_argument("--budget", type=int, default=256, help="response tokens of the sampler's rows")
    parser.add_argument("--part", choices=("all", "learner", "memory", "sampler"), default="all")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --device cpu --model nano tries the script itself")
    command = f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip()
    settings = {"model": f"{options.model}, random weights", "dtype": "bfloat16, float32 weights"}
    if options.part in ("all", "learner"):
        rate = matmul_rate(torch.bfloat16, torch.get_num_threads(), options.device)
        rows = [learner_row(options, rate, *row) for row in ((True, False), (False, False), (False, True))]
        shape = {"samples": f"{options.samples} of {options.length} tokens", "tokens a micro-batch": options.tokens}
        record("gpu", command, {**settings, **shape, "matrix rate": f"{rate / 1e12:.1f} TFLOP/s"}, rows)
    if options.part in ("all", "memory"):
        model = random_model(options.model, options.device)
        record("gpu", command, settings, memory_rows(model, options.samples * options.length // 16))
    if options.part in ("all", "sampler"):
        record("gpu", command, {**settings, "response budget": options.budget}, sampler_rows(options))


if __name__ == "__main__":
    main()
