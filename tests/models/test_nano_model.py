"""The built-in model: what it knows, and that it can be made again."""

import random

import pytest
import torch

from spiral.evaluation import evaluate, evaluate_exploitability
from spiral.evaluation.policy_table import scored_table
from spiral.games import load_game
from spiral.inference.transformers import TransformersPolicy
from spiral.models.nano import build as nano_model
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.policies import SamplingConfig, TurnRequest, scripted_policy
from spiral.text import ChatCodec


def policy_of(nano, prompt):
    return TransformersPolicy(nano.model, ChatCodec(nano.tokenizer, prompt), SamplingConfig(max_new_tokens=64))


def test_it_is_small_and_says_how_it_is_prompted(nano):
    assert sum(parameter.numel() for parameter in nano.model.parameters()) == 148_480
    assert nano.prompt == nano_model.DIRECT


def test_the_recipe_makes_the_tokenizer_that_is_shipped(nano):
    assert build_tokenizer().get_vocab() == nano.tokenizer.get_vocab()
    assert build_tokenizer().chat_template == nano.tokenizer.chat_template


@pytest.mark.parametrize("spec", ["kuhn_poker", "leduc_poker"])
def test_it_plays_uniformly_in_every_information_state(nano, spec):
    table = scored_table(policy_of(nano, nano_model.DIRECT), load_game(spec))
    assert table.illegal_mass < 0.01
    rows = [row.probabilities for row in table.rows]
    distances = [sum(abs(p - 1 / len(row)) for p in row.values()) / 2 for row in rows]
    assert sum(distances) / len(distances) < 0.06
    assert max(distances) < 0.25


def test_its_exploitability_is_that_of_uniform_play(nano):
    result = evaluate_exploitability(policy_of(nano, nano_model.DIRECT), load_game("kuhn_poker"))
    assert result.exploitability == pytest.approx(11 / 24, abs=0.05)


@pytest.mark.parametrize("thinking", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("spec", "most_illegal"),
    [
        ("tictactoe", 0.1),
        ("tictactoe(size=5,line=4)", 0.9),  # it does not know well which of 25 cells are free
        ("kuhn_poker(hands=5)", 0.02),
        ("kuhn_poker(hands=5,cards=5)", 0.02),
        ("leduc_poker", 0.02),
        ("connect_four", 0.15),
        ("simple_negotiation", 0.15),
        ("simple_negotiation(resources=8)", 0.15),
    ],
)
def test_it_plays_all_native_games_in_both_styles(nano, spec, most_illegal, thinking):
    """The share of whole games, against random play, that it ends with an illegal move."""
    game = load_game(spec)
    prompt = nano_model.THINKING if thinking else nano_model.DIRECT
    result = evaluate(policy_of(nano, prompt), scripted_policy("random", game), game, episodes=100, seed=3)
    assert result.illegal <= most_illegal


def test_it_names_candidates_first_when_asked_to_think(nano):
    policy = policy_of(nano, nano_model.THINKING)
    game = load_game("tictactoe")
    state = game.initial_state().apply("4")
    policy.submit([TurnRequest(key=key, game=game, state=state, player=1, seed=key) for key in range(50)])
    replies = []
    while len(replies) < 50:
        replies.extend(policy.poll())
    thoughtful = [reply for reply in replies if reply.reply.startswith("<think>maybe ") and "</think>" in reply.reply]
    assert len(thoughtful) >= 48
    close = nano.tokenizer.convert_tokens_to_ids("</think>")
    for reply in thoughtful:
        generation = reply.generation
        assert generation.has_thought
        assert generation.token_ids.tolist().index(close) + 1 == generation.thinking_tokens
        # What follows is the boxed action and the end of the turn, one token each.
        assert len(generation.token_ids) - generation.thinking_tokens == 2
    assert sum(f"maybe {reply.action}" in reply.reply for reply in thoughtful) >= 45


def test_at_once_it_is_asked_and_answers_without_a_thought(nano):
    game = load_game("kuhn_poker")
    state = game.initial_state().apply("J").apply("Q").apply("bet")
    policy = policy_of(nano, nano_model.DIRECT)
    policy.submit([TurnRequest(key=key, game=game, state=state, player=1, seed=key) for key in range(20)])
    replies = policy.poll()
    asked = [{"role": "user", "content": "kuhn_poker:Q:bet"}]
    for reply in replies:
        assert reply.prompt_ids.tolist() == nano.tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_dict=False
        )
        assert reply.reply == f"\\boxed{{{reply.action}}}"
        assert (reply.generation.thinking_tokens, reply.generation.has_thought) == (0, False)
    assert {reply.action for reply in replies} == {"call", "fold"}


def test_it_learns_from_its_own_prompts_and_from_all_legal_choices():
    tokenizer = build_tokenizer()
    codecs = {
        thinking: ChatCodec(tokenizer, nano_model.THINKING if thinking else nano_model.DIRECT)
        for thinking in (False, True)
    }
    known = tokenizer.get_vocab()
    games = {load_game(spec): 0.03 for spec in nano_model.GAMES}
    examples = nano_model.training_examples(codecs, games, random.Random(0))
    assert len(examples) == len(games) * round(0.03 * nano_model.TURNS_PER_STEP)
    assert sum(bool(example.choices) for example in examples) > 0.9 * len(examples)
    for example in examples:
        text = tokenizer.decode(example.prompt)
        codec = codecs[text.endswith("\nthink<|reply|>")]
        observation = text.removesuffix("<|reply|>").removesuffix("\nthink")
        assert codec.encode(observation).tolist() == example.prompt
        assert all(example.reply[position] in choices for position, choices in example.choices.items())
    opening = load_game("tictactoe").initial_state()
    every = [known[f"\\boxed{{{cell}}}"] for cell in range(9)]
    assert nano_model._choices([every[4], known["<|end|>"]], opening, [], known) == {0: every}
    words = ("<think>", "maybe ", "4 ", "maybe ", "7", "</think>", "\\boxed{7}", "<|end|>")
    assert nano_model._choices([known[word] for word in words], opening, ["4", "7"], known) == {
        2: [known[f"{cell} "] for cell in range(9)],
        4: [known[str(cell)] for cell in range(9)],
        6: [known["\\boxed{4}"], known["\\boxed{7}"]],
    }


def test_the_same_seed_makes_the_same_model():
    def first_steps():
        tokenizer = build_tokenizer()
        model = nano_model.new_model(len(tokenizer))
        codecs = {
            thinking: ChatCodec(tokenizer, nano_model.THINKING if thinking else nano_model.DIRECT)
            for thinking in (False, True)
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        rng = random.Random(0)
        games = {load_game("tictactoe"): 0.1, load_game("kuhn_poker"): 0.05}
        losses = [
            nano_model.train_step(model, optimizer, nano_model.training_examples(codecs, games, rng)) for _ in range(3)
        ]
        return losses, [parameter.detach().clone() for parameter in model.parameters()]

    (losses, weights), (again, same) = first_steps(), first_steps()
    assert losses == again
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
