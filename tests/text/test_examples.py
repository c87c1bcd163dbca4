"""Worked examples: legal in every game, and the same tokens before every position."""

import itertools

import numpy as np
import pytest

from flip import Flip
from spiral.games import game_names, load_game
from spiral.models.nano.tokenizer import END, REPLY, build_tokenizer
from spiral.text import ChatCodec, PromptConfig, parse_action, split_reply, worked_example
from spiral.text.examples import DECISION, _random_example
from spiral.text.prompts import R1_SYSTEM, Example, messages, plain_text, question
from turns import GAMES, random_states

TOKENIZER = build_tokenizer()
TEMPLATES = ("chat", "qwen3", "r1", "llama")
STYLES = [(style, thinking) for style in ("full", "compact") for thinking in (True, False)]


def shown_state(game):
    return (game.example() or _random_example(game))[0]


@pytest.mark.parametrize(("observation", "thinking"), STYLES)
@pytest.mark.parametrize("spec", sorted({*GAMES, *game_names(), "simple_negotiation(turns=1)"}))
def test_the_example_reply_is_legal_in_its_position(spec, observation, thinking):
    game = load_game(spec)
    example = worked_example(game, PromptConfig(observation=observation, thinking=thinking))
    state = shown_state(game)
    assert example.observation == state.observation(state.current_player, observation)
    action = parse_action(example.reply, state)
    assert game.free_text or action in state.legal_actions()
    assert example.answer == f"\\boxed{{{action}}}"
    listed = action.partition(". ")[0]
    said = f"The answer is {action}." if game.instructs else f"{listed} is a legal action."
    assert example.thought == (said if thinking else "")
    assert split_reply(example.reply).answer == example.answer
    assert len(example.reply) < 120


@pytest.mark.parametrize("spec", GAMES)
def test_the_position_is_early_but_not_the_first(spec):
    game = load_game(spec)
    state = shown_state(game)
    first = worked_example(game, PromptConfig()).observation
    assert state.current_player in (0, 1)
    assert first == state.observation(state.current_player)
    made = [action for name in ("moves", "actions", "opening", "log") for action in getattr(state, name, ())]
    assert len(made) == DECISION == 1
    assert first == worked_example(load_game(spec), PromptConfig()).observation


def test_the_whole_example_of_one_game():
    example = worked_example(load_game("kuhn_poker"), PromptConfig(observation="compact"))
    assert example == Example(
        observation="kuhn_poker:K:check",
        thought="check is a legal action.",
        answer="\\boxed{check}",
    )
    assert example.reply == "check is a legal action.\n\\boxed{check}"
    direct = worked_example(load_game("kuhn_poker"), PromptConfig(observation="compact", thinking=False))
    assert direct.reply == "\\boxed{check}"


def test_the_example_of_a_game_with_talk_shows_where_the_words_go():
    game = load_game("simple_negotiation")
    example = worked_example(game, PromptConfig(thinking=False))
    assert example.answer == "\\boxed{offer: 1 wood -> 3 wheat. Yours asks too much.}"
    heard = shown_state(game).apply(parse_action(example.reply, shown_state(game))).observation(0)
    assert 'Turn 2, your opponent: [offer: 1 wood -> 3 wheat], saying "Yours asks too much."' in heard


def test_a_game_with_one_decision_shows_it():
    example = worked_example(Flip(), PromptConfig(thinking=False))
    assert example.observation == "call it"
    assert example.answer in ("\\boxed{heads}", "\\boxed{tails}")


def test_a_game_without_decisions_has_no_example():
    class Nothing(Flip):
        def initial_state(self):
            return super().initial_state().apply("heads")

    with pytest.raises(
        ValueError, match=r"no worked example of .*Nothing: no player made a decision in 20 random games"
    ):
        worked_example(Nothing(), PromptConfig())


# In the prompt.

EXAMPLE = Example(observation="SEEN", thought="THOUGHT", answer="\\boxed{1}")
DIRECT = Example(observation="SEEN", thought="", answer="\\boxed{1}")


def test_the_chat_gets_an_earlier_exchange():
    config = PromptConfig(observation="compact", thinking=False)
    assert messages("NOW", config, DIRECT) == [
        {"role": "user", "content": "SEEN"},
        {"role": "assistant", "content": "\\boxed{1}"},
        {"role": "user", "content": "NOW"},
    ]
    thinking = messages(question("NOW", PromptConfig()), PromptConfig(), EXAMPLE)
    assert [message["role"] for message in thinking] == ["user", "assistant", "user"]
    assert thinking[0]["content"].startswith("SEEN\n\nReason step by step")
    assert thinking[1]["content"] == "THOUGHT\n\\boxed{1}"


@pytest.mark.parametrize(
    ("template", "thinking", "text"),
    [
        (
            "qwen3",
            True,
            "<|im_start|>user\nSEEN\nthink<|im_end|>\n<|im_start|>assistant\nTHOUGHT\n\\boxed{1}<|im_end|>\n"
            "<|im_start|>user\nNOW\nthink<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama",
            False,
            "<|start_header_id|>user<|end_header_id|>\n\nSEEN<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n\\boxed{1}<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nNOW<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "r1",
            True,
            f"{R1_SYSTEM}\nUser: SEEN\nthink\nAssistant: <think>THOUGHT</think>\n\\boxed{{1}}\n"
            "User: NOW\nthink\nAssistant: <think>",
        ),
        (
            "r1",
            False,
            f"{R1_SYSTEM}\nUser: SEEN\nAssistant: <think>\n\n</think>\n\\boxed{{1}}\n"
            "User: NOW\nAssistant: <think>\n\n</think>\n",
        ),
    ],
)
def test_plain_templates_frame_the_example_in_their_own_markup(template, thinking, text):
    config = PromptConfig(template=template, observation="compact", thinking=thinking)
    assert plain_text(question("NOW", config), config, EXAMPLE if thinking else DIRECT) == text


def test_the_tokens_of_a_chat_with_an_example():
    codec = ChatCodec(TOKENIZER, PromptConfig(observation="compact", thinking=False, example=True))
    text = TOKENIZER.decode(codec.encode("kuhn_poker:J:", load_game("kuhn_poker")))
    assert text == f"kuhn_poker:K:check{REPLY}\\boxed{{check}}{END}kuhn_poker:J:{REPLY}"


def test_an_example_needs_the_game():
    codec = ChatCodec(TOKENIZER, PromptConfig(example=True))
    with pytest.raises(ValueError, match=r"prompt.example is true, but encode\(\) got no game"):
        codec.encode("kuhn_poker:J:")
    plain = ChatCodec(TOKENIZER, PromptConfig())
    assert plain.encode("kuhn_poker:J:") is plain.encode("kuhn_poker:J:", load_game("tictactoe"))


def test_each_game_has_its_own_example():
    codec = ChatCodec(TOKENIZER, PromptConfig(observation="compact", thinking=False, example=True))
    texts = {spec: TOKENIZER.decode(codec.encode("same", load_game(spec))) for spec in GAMES}
    assert len(set(texts.values())) == len(GAMES)
    assert all(texts[spec].startswith(load_game(spec).name + ":") for spec in GAMES)
    assert codec.encode("same", load_game("tictactoe")) is codec.encode("same", load_game("tictactoe"))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("observation", "thinking"), STYLES)
@pytest.mark.parametrize("spec", GAMES)
def test_all_positions_of_a_game_begin_with_the_same_tokens(spec, observation, thinking, template):
    game = load_game(spec)
    config = PromptConfig(template=template, observation=observation, thinking=thinking, example=True)
    codec = ChatCodec(TOKENIZER, config)
    states = random_states(12, seed=5, games=(spec,))
    prompts = [codec.encode(state.observation(state.current_player, observation), game).tolist() for state in states]
    assert len({tuple(prompt) for prompt in prompts}) > 1
    shared = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    common = TOKENIZER.decode([tokens[0] for tokens in shared])
    # The whole earlier exchange, up to its answer at the least, is common to all.
    example = worked_example(game, config)
    assert common.count(example.answer) == 1
    assert common.index(example.observation) < common.index(example.answer)


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_example_only_adds_a_prefix(template):
    game = load_game("tictactoe")
    for observation, thinking in STYLES:
        plain, shown = (
            ChatCodec(
                TOKENIZER,
                PromptConfig(template=template, observation=observation, thinking=thinking, example=example),
            ).encode(game.initial_state().observation(0, observation), game)
            for example in (False, True)
        )
        kept = len(plain) - len(TOKENIZER.encode(R1_SYSTEM)) if template == "r1" else len(plain)
        assert np.array_equal(shown[-kept:], plain[-kept:])
        assert len(shown) > len(plain)


def test_special_tokens_in_an_example_are_removed():
    class Spelling(Flip):
        def initial_state(self):
            state = super().initial_state()
            state.__class__ = type("Spelled", (type(state),), {"observation": lambda *_: f"call{END}it"})
            return state

    codec = ChatCodec(TOKENIZER, PromptConfig(thinking=False, observation="compact", example=True))
    text = TOKENIZER.decode(codec.encode("now", Spelling()))
    assert text.startswith(f"call it{REPLY}\\boxed{{")
    assert text.endswith(f"}}{END}now{REPLY}")
