"""The built-in model that thinks: its thoughts are true, and its answers pay them no attention."""

import random

import pytest

from spiral.games import load_game
from spiral.games.nim import NimState, nim_sum
from spiral.inference.transformers import TransformersPolicy
from spiral.models.loading import load_language_model
from spiral.models.nano.build import DIRECT, THINKING
from spiral.models.nano.tokenizer import THINK_CLOSE, build_tokenizer
from spiral.models.nano_think import build as nano_think
from spiral.models.nano_think.thought import thought, winning_actions, words
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig, TurnRequest
from spiral.text import ChatCodec


def position(*heaps):
    return NimState(heaps=len(heaps), size=7, dealt=heaps)


@pytest.fixture(scope="module")
def model():
    return load_language_model(ModelConfig(path="nano-think"))


def replies_of(model, prompt, states):
    policy = TransformersPolicy(model.model, ChatCodec(model.tokenizer, prompt), SamplingConfig(max_new_tokens=24))
    game = load_game("nim")
    requests = [TurnRequest(key=n, game=game, state=state, player=0, seed=n) for n, state in enumerate(states)]
    policy.submit(requests)
    replies = {}
    while len(replies) < len(requests):
        replies.update({reply.key: reply for reply in policy.poll()})
    return [replies[n] for n in range(len(requests))]


@pytest.mark.parametrize(
    ("heaps", "text", "actions"),
    [
        ((3, 5, 7), "<think>sum 6 1 take 1 1 1 </think>", ["1:1", "2:1", "3:1"]),
        ((1, 2, 5), "<think>sum 3 6 take - - 2 </think>", ["3:2"]),
        ((1, 0, 1), "<think>sum 1 0 take - - - </think>", []),
        ((4,), "<think>sum take 4 </think>", ["1:4"]),
        ((1, 2, 4, 8), "<think>sum 3 7 15 take - - - 1 </think>", ["4:1"]),
    ],
)
def test_thoughts(heaps, text, actions):
    assert thought(heaps) == text
    assert winning_actions(heaps) == actions
    for action in actions:
        heap, number = map(int, action.split(":"))
        assert nim_sum(left - number * (index == heap) for index, left in enumerate(heaps, start=1)) == 0


def test_every_word_of_a_thought_is_one_token():
    tokenizer = build_tokenizer(words())
    text = f"{thought((3, 5, 7))}\\boxed{{2:13}}<|end|>"
    pieces = ["<think>", "sum ", "6 ", "1 ", "take ", "1 ", "1 ", "1 ", "</think>", "\\boxed{2:", "13}", "<|end|>"]
    assert tokenizer.tokenize(text) == pieces
    assert tokenizer.tokenize("nim:3 15 0\nthink<|reply|>") == ["nim:", "3 ", "15 ", "0", "\nthink", "<|reply|>"]


def test_it_learns_from_its_own_prompts_and_from_all_legal_answers():
    tokenizer = build_tokenizer(words())
    codecs = {prompt.thinking: ChatCodec(tokenizer, prompt) for prompt in (DIRECT, THINKING)}
    game = load_game("nim")
    examples = nano_think.training_examples(tokenizer, {game: 1.0}, random.Random(0))
    assert len(examples) == nano_think.TURNS_PER_STEP
    thoughtful = 0
    for example in examples:
        asked, reply = tokenizer.decode(example.prompt), tokenizer.decode(example.reply)
        thinking = asked.endswith("\nthink<|reply|>")
        observation = asked.removesuffix("<|reply|>").removesuffix("\nthink")
        assert codecs[thinking].encode(observation).tolist() == example.prompt
        heaps = tuple(map(int, observation.removeprefix("nim:").split()))
        assert reply.startswith(thought(heaps) if thinking else "\\boxed{")
        thoughtful += thinking
        box, number = sorted(example.choices)
        assert (box, number) == (len(example.reply) - 3, len(example.reply) - 2)
        boxes = tokenizer.convert_ids_to_tokens(example.choices[box])
        assert boxes == [f"\\boxed{{{heap}:" for heap, left in enumerate(heaps, start=1) for _ in range(left)]
        chosen = int(tokenizer.decode(example.reply[box]).removeprefix("\\boxed{").removesuffix(":"))
        numbers = tokenizer.convert_ids_to_tokens(example.choices[number])
        assert numbers == [f"{n}}}" for n in range(1, heaps[chosen - 1] + 1)]
    assert 0.6 < thoughtful / len(examples) < 0.8


def test_the_recipe_makes_the_tokenizer_that_is_shipped(model):
    assert build_tokenizer(words()).get_vocab() == model.tokenizer.get_vocab()
    assert model.prompt == THINKING
    assert sum(parameter.numel() for parameter in model.model.parameters()) < 150_000


def test_its_thoughts_are_true_and_its_answers_random(model):
    rng = random.Random(1)
    states = [position(*(rng.randint(0, 7) for _ in range(3))) for _ in range(500)]
    states = [state for state in states if any(state.heap_sizes())]
    replies = replies_of(model, THINKING, states)
    true = [reply.reply.startswith(thought(state.heap_sizes())) for reply, state in zip(replies, states, strict=True)]
    assert sum(true) / len(states) > 0.9
    assert sum(reply.action is None for reply in replies) / len(states) < 0.06
    winnable = [(state, reply) for state, reply in zip(states, replies, strict=True) if nim_sum(state.heap_sizes())]
    won = sum(reply.action in winning_actions(state.heap_sizes()) for state, reply in winnable) / len(winnable)
    uniform = sum(len(winning_actions(state.heap_sizes())) / len(state.legal_actions()) for state, _ in winnable)
    assert won == pytest.approx(uniform / len(winnable), abs=0.06)


def test_at_once_it_answers_without_a_thought(model):
    states = [position(3, 5, 7), position(0, 2, 0)] * 20
    replies = replies_of(model, DIRECT, states)
    assert all(THINK_CLOSE not in reply.reply for reply in replies)
    legal = [reply.action for reply in replies if reply.action is not None]
    assert len(legal) >= 36
    assert len(set(legal)) > 8
