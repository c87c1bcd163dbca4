r"""Builds the built-in model: a small Llama taught to play random legal moves in all native games and some variants.

It sees compact observations and learns, by plain maximum likelihood on random play, the format and what is legal;
nothing about playing well. The moves are uniform over the legal ones, but for the negotiation, where half of the moves
or more are offers of one or two resources for others. In the default style it answers at once, `\boxed{4}`. Asked to
think, it first names one to four candidate actions and then picks one of those, so that thinking has something to do:
the distribution over actions is the same in both styles.

`python -m spiral.models.nano.build DIRECTORY` builds it from nothing, and the same machine builds the same bits.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from spiral.games import Game, State, load_game
from spiral.games.offers import Offer
from spiral.games.playout import draw
from spiral.games.simple_negotiation import SimpleNegotiationState
from spiral.models.card import ModelCard, write_card
from spiral.models.nano.tokenizer import END, MAYBE, REPLY, THINK_CLOSE, THINK_OPEN, build_tokenizer
from spiral.text import ChatCodec, PromptConfig
from spiral.text.prompts import question

SEED = 0
STEPS = 2000
TURNS_PER_STEP = 320
PEAK_LEARNING_RATE = 4e-3
ROWS_PER_PASS = 32
THINKING_SHARE = 0.3
GAMES = {
    "tictactoe": 0.18,
    "tictactoe(size=5,line=4)": 0.14,
    "kuhn_poker": 0.03,
    "kuhn_poker(hands=5)": 0.06,
    "kuhn_poker(cards=5)": 0.03,
    "kuhn_poker(hands=5,cards=5)": 0.05,
    "leduc_poker": 0.06,
    "connect_four": 0.16,
    "simple_negotiation": 0.18,
    "simple_negotiation(resources=8)": 0.06,
    "simple_negotiation(resources=2)": 0.05,
}
GIVEN, ASKED = (1, 2, 3, 5), (1, 2, 3, 5, 8)
"""Numbers of pieces on the sides of random offers. Everybody has five pieces of everything at first."""
SECOND_RESOURCE = 0.2
"""Share of random offers with a second resource on one side."""
DIRECT = PromptConfig(observation="compact", thinking=False)
THINKING = PromptConfig(observation="compact", thinking=True)


def new_model(vocabulary: int, seed: int = SEED) -> Any:
    """A Llama of some 150,000 parameters with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
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


class Example(NamedTuple):
    """One turn to learn."""

    prompt: list[int]
    reply: list[int]
    choices: dict[int, list[int]]
    """The tokens between which chance chose, repeated by their weight, at the positions of the reply where it did."""


def random_reply(candidates: list[str], answer: str) -> str:
    """A reply that gives `answer`, after naming the candidates in a thought if there are any."""
    boxed = f"\\boxed{{{answer}}}"
    if not candidates:
        return boxed
    return f"{THINK_OPEN}{' '.join(MAYBE + action for action in candidates)}{THINK_CLOSE}{boxed}"


def _random_action(state: State, rng: random.Random) -> str:
    """A legal action, uniform over those that the game lists; of a negotiation `_random_trade`."""
    return _random_trade(state, rng) if isinstance(state, SimpleNegotiationState) else rng.choice(state.legal_actions())


def _random_trade(state: SimpleNegotiationState, rng: random.Random) -> str:
    """An answer or a pass, or with a weight of two an offer of other resources and numbers than `legal_actions`."""
    kind = rng.choice(_weighted_kinds(state))
    if not kind.startswith("offer"):
        return kind
    held, kinds = state.holdings(state.current_player), range(state.resources)
    owned = [kind for kind in kinds if held[kind]]
    give, ask = [0] * len(kinds), [0] * len(kinds)
    offered = rng.choice(owned)
    wanted = rng.choice([kind for kind in kinds if kind != offered])
    others = [kind for kind in kinds if kind not in (offered, wanted)]
    give[offered] = rng.choice([number for number in GIVEN if number <= held[offered]])
    ask[wanted] = rng.choice(ASKED)
    if others and rng.random() < SECOND_RESOURCE:
        second = rng.choice(others)
        if rng.random() < 0.5:
            ask[second] = rng.choice(ASKED)
        elif held[second]:
            give[second] = rng.choice([number for number in GIVEN if number <= held[second]])
    return Offer(tuple(give), tuple(ask)).text(state.names)


def random_turns(game: Game, rng: random.Random) -> list[State]:
    """The states in which a player decides, along one random game."""
    state, decisions = game.initial_state(), []
    while not state.is_terminal:
        if state.is_chance:
            state = state.apply(draw(state.chance_outcomes(), rng))
        else:
            decisions.append(state)
            state = state.apply(_random_action(state, rng))
    return decisions


def training_examples(codecs: dict[bool, ChatCodec], games: dict[Game, float], rng: random.Random) -> list[Example]:
    """One step's turns from random play, with a random legal reply each.

    The prompts are those of `ChatCodec.encode`, written and tokenised all at once, which is much faster.
    """
    prompts, replies, sampled = [], [], []
    for game, share in games.items():
        wanted = round(share * TURNS_PER_STEP)
        turns: list[State] = []
        while len(turns) < wanted:
            turns.extend(random_turns(game, rng))
        for state in turns[:wanted]:
            thinking = rng.random() < THINKING_SHARE
            candidates = [_random_action(state, rng) for _ in range(rng.randint(1, 4) if thinking else 0)]
            answer = rng.choice(candidates) if thinking else _random_action(state, rng)
            observation = state.observation(state.current_player, "compact")
            prompts.append(question(observation, codecs[thinking].config, game) + REPLY)
            replies.append(random_reply(candidates, answer) + END)
            sampled.append((state, candidates))
    tokenizer = codecs[False].tokenizer
    known = tokenizer.get_vocab()
    encoded = tokenizer([*prompts, *replies], add_special_tokens=False)["input_ids"]
    return [
        Example(prompt, reply, _choices(reply, state, candidates, known))
        for prompt, reply, (state, candidates) in zip(
            encoded[: len(prompts)], encoded[len(prompts) :], sampled, strict=True
        )
    ]


def _choices(reply: list[int], state: State, candidates: list[str], known: dict[str, int]) -> dict[int, list[int]]:
    """The positions of a reply at which an action of one token was chosen, and what could stand there as well.

    Learning from all choices instead of from the sampled one takes most of the noise out of the gradient.
    """
    found = {}
    kinds = _weighted_kinds(state)
    for position, token in enumerate(reply):
        if position and reply[position - 1] == known[MAYBE]:
            options = [[known.get(f"{kind}{end}") for kind in kinds] for end in ("", " ")]
        elif candidates and position:
            options = [[known.get(f"\\boxed{{{action}}}") for action in candidates]]
        else:
            options = [[known.get(f"\\boxed{{{kind}}}", known.get(f"\\boxed{{{kind}")) for kind in kinds]]
        for tokens in options:
            if token in tokens and None not in tokens:
                found[position] = [each for each in tokens if each is not None]
    return found


def _weighted_kinds(state: State) -> tuple[str, ...]:
    """What `_random_action` chooses from first: the legal actions, or the answers and offers of a negotiation."""
    if not isinstance(state, SimpleNegotiationState):
        return state.legal_actions()
    answers = tuple(action for action in state.legal_actions() if not action.startswith("offer"))
    return (*answers, "offer: ", "offer: ") if any(state.holdings(state.current_player)) else answers


def train_step(
    model: Any, optimizer: torch.optim.Optimizer, examples: list[Example], rows_per_pass: int = ROWS_PER_PASS
) -> float:
    """One maximum-likelihood step; returns the mean negative log-likelihood of a reply token, in nats."""
    ordered = sorted(examples, key=lambda example: len(example.prompt) + len(example.reply))
    tokens, total = sum(len(example.reply) for example in examples), 0.0
    for start in range(0, len(ordered), rows_per_pass):
        rows = ordered[start : start + rows_per_pass]
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row.prompt + row.reply) for row in rows], batch_first=True
        )  # padding on the right needs no mask under causal attention
        places = [(line, len(row.prompt) + at - 1) for line, row in enumerate(rows) for at in range(len(row.reply))]
        options = [row.choices.get(at, [token]) for row in rows for at, token in enumerate(row.reply)]
        shares = [(line, token, 1 / len(tokens)) for line, tokens in enumerate(options) for token in tokens]
        lines, tokens_of, weights = (torch.tensor(column) for column in zip(*shares, strict=True))
        wanted = torch.zeros(len(places), len(model.lm_head.weight))
        wanted.index_put_((lines, tokens_of), weights, accumulate=True)
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
        learned = hidden[tuple(torch.tensor(places).T)]
        loss = functional.cross_entropy(model.lm_head(learned), wanted, reduction="sum") / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def fit(
    model: Any, examples: Callable[[], list[Example]], steps: int, peak: float, rows_per_pass: int = ROWS_PER_PASS
) -> None:
    """Trains a model on `steps` lists of examples; the learning rate rises to `peak` and falls along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        warm, cosine = min(1.0, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * warm * cosine
        loss = train_step(model, optimizer, examples(), rows_per_pass)
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}  loss {loss:.4f}", flush=True)


def save(model: Any, tokenizer: Any, directory: Path, prompt: PromptConfig) -> None:
    """Saves a model in Hugging Face format, with the card that says how it is prompted."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)  # Llama's default ends, which are other tokens here
    tokenizer.save_pretrained(directory)
    write_card(directory, ModelCard(prompt=prompt))


def build(directory: Path) -> None:
    """Makes tokenizer and model from nothing and saves them."""
    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer)).train()
    codecs = {False: ChatCodec(tokenizer, DIRECT), True: ChatCodec(tokenizer, THINKING)}
    games = {load_game(spec): share for spec, share in GAMES.items()}
    rng = random.Random(SEED)
    fit(model, lambda: training_examples(codecs, games, rng), STEPS, PEAK_LEARNING_RATE)
    save(model, tokenizer, directory, DIRECT)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m spiral.models.nano.build DIRECTORY")
    build(Path(sys.argv[1]))
