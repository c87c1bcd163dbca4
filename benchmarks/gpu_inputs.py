"""What the benchmark of a GPU computes with: random models, made-up samples and prompts, a whole model on disk.

Weights are random: speed and memory do not depend on them, what is said does. So prompts are made
up, replies end at a token drawn by chance, and every game is over after one reply, which says nothing legal.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from benchmarks.common import ROOT
from benchmarks.scaling_inputs import Shape
from spiral.core.records import IntArray, Sample
from spiral.core.seeds import derive_seed
from spiral.games import Game
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.models.shapes import model_config
from spiral.text import ChatCodec, PromptConfig
from spiral.text.chat import ParsedReply
from spiral.training.batch import Batch, make_batch

SMALL, LARGE = "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-4B-Base"
HOT = 1e4
"""A temperature at which every token is as likely as any other: random weights with tied embeddings repeat a token."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of everything that is measured."""

    device: str = "cuda"
    lengths: tuple[int, ...] = (16384, 4096)
    """Tokens of a sequence of the updates; the first is also the size of a micro-batch."""
    updates: int = 3
    """Updates that count, after one that does not."""
    budget: int = 128
    """Tokens of a reply, at most."""
    prompt: int = 448
    """Tokens of a made-up prompt, as many as SmolLM2's of tic-tac-toe and Kuhn poker with a worked example have."""
    shared: int = 384
    """Of those, how many a game's prompts begin with alike."""
    in_flight: tuple[tuple[int, int], ...] = ((1, 2), (64, 128), (256, 256))
    """Replies in flight and games played of the rows of self-play."""
    publishings: int = 5
    steps: int = 20
    """Of the recipe."""
    games: int = 127
    """A step of the recipe: its 33 games have about 127 turns, and here a game has one."""
    mixed: int = 64
    """Samples of the batch for the layouts."""
    kept_tokens: int = 4096
    """Tokens of a micro-batch of the layouts, whose activations are kept."""
    scored: int = 4096
    """Tokens whose log-probabilities are computed at once or in chunks."""
    tiny: bool = False
    """Whether models have two small layers and few tokens, to try the benchmark itself."""


REHEARSAL = Plan(
    device="cpu", lengths=(64, 16), updates=1, budget=6, prompt=24, shared=16, in_flight=((1, 2), (4, 4)),
    publishings=1, steps=2, games=3, mixed=4, kept_tokens=64, scored=16, tiny=True,
)  # fmt: skip
"""Every part and every table in about a minute of one CPU thread; its figures mean nothing."""


def shape_config(name: str, plan: Plan) -> Any:
    """The configuration of a model by that name, or of a tiny one of the same family."""
    config = model_config(name)
    if plan.tiny:
        config.update(
            {
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 1024, "layer_types": ["full_attention"] * 2,
                "bos_token_id": 0, "eos_token_id": 0,
            }
        )  # fmt: skip
    return config


def shape_of(config: Any) -> Shape:
    """A configuration as the cost model knows it."""
    return Shape(
        name=config.model_type, layers=config.num_hidden_layers, hidden=config.hidden_size,
        intermediate=config.intermediate_size, query_size=config.num_attention_heads * config.head_dim,
        key_size=config.num_key_value_heads * config.head_dim, vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
    )  # fmt: skip


def random_model(name: str, plan: Plan) -> Any:
    """A model of that shape on the device, with random float32 weights."""
    torch.manual_seed(0)
    with torch.device(plan.device):
        return AutoModelForCausalLM.from_config(
            shape_config(name, plan), dtype=torch.float32, attn_implementation="sdpa"
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
    """Samples of exactly `length` tokens with nothing in common, all of them learned from but the first."""
    rng = np.random.default_rng(0)
    return make_batch([made_up(rng.integers(0, vocabulary, length), 1, vocabulary) for _ in range(samples)])


def mixed_batch(vocabulary: int, samples: int, plan: Plan) -> Batch:
    """Samples of two games in turn; replies of 1 to `plan.budget` tokens, every length as likely."""
    rng = np.random.default_rng(0)
    beginnings = rng.integers(0, vocabulary, (2, plan.shared))
    made = []
    for number in range(samples):
        own = rng.integers(0, vocabulary, plan.prompt - plan.shared + int(rng.integers(1, plan.budget + 1)))
        made.append(made_up(np.concatenate([beginnings[number % 2], own]), plan.prompt, vocabulary))
    return make_batch(made)


class MadeUpCodec(ChatCodec):
    """Prompts of random tokens, so that no tokenizer of the model's is needed."""

    def __init__(self, vocabulary: int, prompt: int) -> None:
        super().__init__(build_tokenizer(), PromptConfig(template="qwen3"))
        self._vocabulary = vocabulary
        self._length = prompt

    def encode(self, observation: str, game: Game | None = None) -> IntArray:
        """[P] another prompt for every observation."""
        rng = np.random.default_rng(derive_seed(observation))
        return rng.integers(0, self._vocabulary, self._length)

    def read(self, token_ids: IntArray) -> ParsedReply:
        """Nothing: the tokens mean nothing."""
        return ParsedReply(text="", answer="", thinking_tokens=0, has_thought=False)


def english_tokenizer(size: int) -> Any:
    """A tokenizer learned from this project's documents, so that prompts have about as many tokens as a real one's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((file.read_text("utf-8") for file in sorted(ROOT.glob("docs/*.md"))), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], clean_up_tokenization_spaces=False)


def model_on_disk(directory: Path, plan: Plan) -> Path:
    """A model of random weights in the shape of the small one, with a tokenizer, as any other program would load it.

    Many tokens end its replies, enough of them for a reply to take half of its budget on average.
    """
    path = directory / "random-model"
    if (path / "tokenizer.json").is_file():
        return path
    config = shape_config(SMALL, plan)
    tokenizer = english_tokenizer(min(8192, config.vocab_size))
    model = random_model(SMALL, plan)
    ends = range(config.vocab_size - ends_for(config.vocab_size, plan.budget), config.vocab_size)
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, *ends])
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def ends_for(vocabulary: int, budget: int) -> int:
    """How many tokens have to end a reply for it to have half of its budget on average, when all are as likely."""
    return max(1, 2 * vocabulary // budget)
