"""What ends a reply: the end of sequence, the usual ends of a turn, and what the chat template ends one with."""

import pytest

from spiral.core.policy import TurnRequest
from spiral.games import load_game
from spiral.inference.transformers import TransformersPolicy
from spiral.models.nano.build import new_model
from spiral.models.nano.tokenizer import END, build_tokenizer
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig
from spiral.text.turn_ends import stop_token_ids
from turns import replies_of

KUHN = load_game("kuhn_poker")
GEMMA = (
    "{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n'"
    " + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end_of_turn|>' }}"
    "{% endfor %}{{ '<|assistant|>' if add_generation_prompt else eos_token }}"
)
HARMONY = (
    "{% for message in messages %}{{ '<start>' + message['content'] + ('<return>' if loop.last else '<end>') }}"
    "{% endfor %}"
)
ONLY_USERS_LAST = "{% if messages[-1].role != 'user' %}{{ raise_exception('no') }}{% endif %}<end_of_turn>"
IN_PARTS = "{{ messages[-1].content[0].text + messages[-1].content[1] + 1 }}<end_of_turn>"


def new_tokenizer(template, *special):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "special", "ends"),
    [
        (GEMMA, ("<start_of_turn>", "<end_of_turn>"), {"<end_of_turn>"}),
        (PHI, ("<|end_of_turn|>", "<|user|>", "<|assistant|>"), {"<|end_of_turn|>"}),
        # Only what ends the last message: a model may go on after the end of another kind of message.
        (HARMONY, ("<start>", "<end>", "<return>"), {"<return>"}),
        ("{{ messages[-1].content }}\n<e><end>", ("<e>", "<end>"), {"<e>"}),
        ("{{ messages[-1].content }}<end>", ("<e", "<end>"), {"<end>"}),
        # Nothing: no end, one that is plain text, one before the message, no message, no leave to ask, no template.
        ("{{ messages[-1].content }}", ("<end>",), set()),
        ("{{ messages[-1].content }}</s>", ("<end>",), set()),
        ("<end>{{ messages[-1].content }}", ("<end>",), set()),
        ("{{ messages[0].content }}<end>", ("<end>",), set()),
        (ONLY_USERS_LAST, ("<end_of_turn>",), set()),
        (IN_PARTS, ("<end_of_turn>",), set()),
        (None, ("<end>",), set()),
        # The ends of turns of our plain templates, whatever a base model's own template says.
        (None, ("<|im_end|>", "<|eot_id|>", "<|other|>"), {"<|im_end|>", "<|eot_id|>"}),
    ],
)
def test_tokens_that_end_a_reply(template, special, ends):
    tokenizer = new_tokenizer(template, *special)
    expected = {tokenizer.convert_tokens_to_ids(token) for token in (END, *ends)}
    assert stop_token_ids(tokenizer) == expected


def test_sampling_stops_at_the_end_of_the_turn():
    tokenizer = new_tokenizer(GEMMA, "<start_of_turn>", "<end_of_turn>")
    turn_end, end = tokenizer.convert_tokens_to_ids(["<end_of_turn>", END])
    sampling = SamplingConfig(max_new_tokens=150, temperature=1e4)  # every token as likely as any other
    codec = ChatCodec(tokenizer, PromptConfig(observation="compact"))
    policy = TransformersPolicy(new_model(len(tokenizer)).eval(), codec, sampling)
    state = KUHN.initial_state().apply("J").apply("Q")
    replies = replies_of(
        policy, [TurnRequest(key=key, game=KUHN, state=state, player=0, seed=key) for key in range(60)]
    )
    written = [reply.generation.token_ids.tolist() for reply in replies.values()]
    assert {ids[-1] for ids in written} >= {turn_end, end}
    assert not any({turn_end, end} & set(ids[:-1]) for ids in written)
    assert not any("<end_of_turn>" in reply.reply for reply in replies.values())
