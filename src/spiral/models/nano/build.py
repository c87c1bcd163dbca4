r"""Builds the built-in model: a small Llama taught to play uniformly random legal moves in all five games.

It sees compact observations and learns, by plain maximum likelihood on random play, the format and what is legal;
nothing about playing well. In the default style it answers at once, `\boxed{4}`. Asked to think, it first names one
to four candidate actions and then picks one of those, so that thinking has something to do: the marginal over
actions is uniform in both styles.

`python -m spiral.models.nano.build DIRECTORY` builds it from nothing, and the same machine builds the same bits.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from spiral.games import Game, State, load_game
from spiral.games.playout import random_decisions
from spiral.models.card import ModelCard, write_card
from spiral.models.nano.tokenizer import END, MAYBE, THINK_CLOSE, THINK_OPEN, build_tokenizer
from spiral.text import ChatCodec, PromptConfig

SEED = 0
STEPS = 2000
TURNS_PER_STEP = 512
PEAK_LEARNING_RATE = 4e-3
ROWS_PER_PASS = 64
IGNORED = -100
"""The label of a token that is not learned."""
THINKING_SHARE = 0.25
GAMES = {
    "tictactoe": 0.3,
    "kuhn_poker": 0.05,
    "kuhn_poker(hands=5)": 0.1,
    "leduc_poker": 0.1,
    "connect_four": 0.15,
    "simple_negotiation": 0.3,
}
DIRECT = PromptConfig(observation="compact", thinking=False)
THINKING = PromptConfig(observation="compact", thinking=True)


def new_model(vocabulary: int) -> Any:
    """A Llama of some 140,000 parameters with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def random_reply(state: State, thinking: bool, rng: random.Random) -> str:
    """A reply that plays uniformly over the legal actions, with or without naming candidates first."""
    candidates = [_random_action(state, rng) for _ in range(rng.randint(1, 4) if thinking else 1)]
    answer = f"\\boxed{{{rng.choice(candidates)}}}"
    if not thinking:
        return answer
    return f"{THINK_OPEN}{' '.join(MAYBE + action for action in candidates)}{THINK_CLOSE}{answer}"


def _random_action(state: State, rng: random.Random) -> str:
    return rng.choice(state.legal_actions())


def random_turns(game: Game, rng: random.Random) -> list[State]:
    """The states in which a seat decides, along one random game."""
    return list(random_decisions(game, rng))


def training_pairs(
    codecs: dict[bool, ChatCodec], games: dict[Game, float], rng: random.Random
) -> list[tuple[list[int], list[int]]]:
    """One step's turns from random play as (prompt ids, reply ids), with a random legal reply each."""
    pairs = []
    for game, share in games.items():
        wanted = round(share * TURNS_PER_STEP)
        turns: list[State] = []
        while len(turns) < wanted:
            turns.extend(random_turns(game, rng))
        for state in turns[:wanted]:
            thinking = rng.random() < THINKING_SHARE
            codec, reply = codecs[thinking], random_reply(state, thinking, rng)
            prompt_ids = codec.encode(state.observation(state.current_player, "compact"), game)
            pairs.append(([*prompt_ids], codec.tokenizer.encode(reply + END, add_special_tokens=False)))
    return pairs


def train_step(model: Any, optimizer: torch.optim.Optimizer, pairs: list[tuple[list[int], list[int]]]) -> float:
    """One maximum-likelihood step; returns the mean negative log-likelihood of a reply token, in nats."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    tokens, total = sum(len(reply) for _, reply in pairs), 0.0
    for start in range(0, len(ordered), ROWS_PER_PASS):
        rows = ordered[start : start + ROWS_PER_PASS]
        ids, labels = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in made], batch_first=True, padding_value=fill)
            for made, fill in (
                ([prompt + reply for prompt, reply in rows], 0),
                ([[IGNORED] * len(prompt) + reply for prompt, reply in rows], IGNORED),
            )
        )  # padding on the right needs no mask under causal attention
        logits = model(input_ids=ids).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def build(directory: Path) -> None:
    """Makes tokenizer and model from nothing and saves them in Hugging Face format."""
    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer)).train()
    codecs = {False: ChatCodec(tokenizer, DIRECT), True: ChatCodec(tokenizer, THINKING)}
    games = {load_game(spec): share for spec, share in GAMES.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    rng = random.Random(SEED)
    for step in range(STEPS):
        warm, cosine = min(1.0, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * warm * cosine
        loss = train_step(model, optimizer, training_pairs(codecs, games, rng))
        if step % 100 == 99:
            print(f"step {step + 1}/{STEPS}  loss {loss:.4f}", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_card(directory, ModelCard(prompt=DIRECT))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m spiral.models.nano.build DIRECTORY")
    build(Path(sys.argv[1]))
