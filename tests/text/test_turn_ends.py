"""Tokens that end a reply: in templates, in every family, in the files of a model and in its checkpoints."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chat_templates import FAMILIES, Family
from spiral.core.policy import TurnRequest
from spiral.games import load_game
from spiral.inference.base import LanguagePolicy
from spiral.inference.transformers import TransformersPolicy
from spiral.models.card import ModelCard
from spiral.models.loading import declared_ends, load_language_model
from spiral.models.nano.build import new_model
from spiral.models.nano.tokenizer import END as NANO_END
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig
from spiral.text.turn_ends import end_tokens, ignored_ends, stop_token_ids
from spiral.training.checkpoint import save_checkpoint
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.loss import LossConfig
from turns import replies_of

KUHN = load_game("kuhn_poker")
COMPACT = PromptConfig(observation="compact", thinking=False)


def ids_of(tokenizer, tokens):
    return {tokenizer.convert_tokens_to_ids(token) for token in tokens}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reply_ends_where_its_family_ends_turns(name):
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    declared = ids_of(tokenizer, family.declared)
    assert {end.text for end in end_tokens(tokenizer, declared)} == set(family.ends)
    assert stop_token_ids(tokenizer, declared) == ids_of(tokenizer, family.ends)
    assert all(end.reason for end in end_tokens(tokenizer, declared))


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].template])
def test_prompts_of_every_family_open_the_models_turn(name):
    family = FAMILIES[name]
    codec = ChatCodec(family.tokenizer(), PromptConfig(example=True))
    prompt = codec.render("Your card: J.", KUHN)
    assert "Your card: J.\n\nReason step by step" in prompt
    assert codec.opened == family.opened


def test_inner_tokens_do_not_end_a_reply():
    tokenizer = FAMILIES["gpt-oss"].tokenizer()
    inner = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|startoftext|>", "<think>")
    words = [*ids_of(tokenizer, ("a", "0", "maybe ", *inner)), len(tokenizer), 10**9, -1]
    assert set(ignored_ends(tokenizer, words)) == set(words)
    assert stop_token_ids(tokenizer, words) == ids_of(tokenizer, ("<|return|>", "<|endoftext|>"))
    # In Phi's tokenizer the same token ends a turn.
    phi = FAMILIES["phi-3"].tokenizer()
    assert ids_of(phi, ("<|end|>",)) <= stop_token_ids(phi)


def test_a_model_may_have_no_end_of_turn():
    tokenizer = Family(template=None, eos="</s>", ends=("</s>",)).tokenizer()
    tokenizer.eos_token = None
    assert stop_token_ids(tokenizer) == frozenset()
    assert stop_token_ids(tokenizer, ids_of(tokenizer, ["</s>"])) == ids_of(tokenizer, ["</s>"])


# A model with a fixed reply.


def reciting_model(tokenizer, prompt, reply, ends=None):
    """A Llama that continues the last token of `prompt` with the distinct ids `reply`, and then with "z" forever.

    Each token's embedding is a direction of its own, attention and MLP add nothing, and the head leads to the next.
    """
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size, hidden_size=-(-size // 64) * 64, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=ends,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    chain = [prompt[-1], *reply, tokenizer.convert_tokens_to_ids("z")]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight.fill_diagonal_(1.0)
        for token, following in zip(chain, [*chain[1:], chain[-1]], strict=True):
            model.lm_head.weight[following, token] = 50.0
    return model


def kuhn_reply(policy: LanguagePolicy):
    state = KUHN.initial_state().apply("J").apply("Q")
    return replies_of(policy, [TurnRequest(key=0, game=KUHN, state=state, player=0, seed=0)])[0]


def recital(family, said="abcdefg\\boxed{bet}", end="<|user|>", **declared):
    """A family's tokenizer, and a model that writes `said`, ends its turn, and continues as the user."""
    tokenizer = family.tokenizer()
    prompt = ChatCodec(tokenizer, COMPACT).encode("x", KUHN).tolist()
    reply = tokenizer.encode(said, add_special_tokens=False) + tokenizer.encode(f"{end}XYZ", add_special_tokens=False)
    return tokenizer, reciting_model(tokenizer, prompt, reply, **declared)


@pytest.mark.parametrize("name", ["glm-4", "glm-4 without a generation configuration"])
def test_a_glm_reply_stops_before_the_next_turn(name, tmp_path):
    tokenizer, model = recital(FAMILIES[name])
    if FAMILIES[name].declared:
        model.generation_config.eos_token_id = sorted(ids_of(tokenizer, FAMILIES[name].declared))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_language_model(ModelConfig(path=str(tmp_path), device="cpu"))
    policy = TransformersPolicy(loaded.model, loaded.codec(COMPACT), SamplingConfig(max_new_tokens=64))
    reply = kuhn_reply(policy)
    assert len(reply.generation.token_ids) == 9
    assert reply.generation.stop_reason == "stop"
    assert (reply.reply, reply.action) == ("abcdefg\\boxed{bet}", "bet")


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"generation_config.json": {"eos_token_id": [7, 5]}, "config.json": {"eos_token_id": 3}}, (7, 5)),
        ({"generation_config.json": {"eos_token_id": 7}, "config.json": {}}, (7,)),
        ({"generation_config.json": {"temperature": 1.0}, "config.json": {"eos_token_id": [3, 4]}}, (3, 4)),
        ({"config.json": {"eos_token_id": 0}}, (0,)),
        ({"config.json": {"text_config": {"eos_token_id": [9]}}}, (9,)),
        ({"config.json": {"eos_token_id": None}}, ()),
        ({}, ()),
    ],
)
def test_ends_that_a_models_files_declare(files, ends, tmp_path):
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    assert declared_ends(str(tmp_path)) == ends


@pytest.mark.parametrize("text", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [true]}', "\udcff"])
def test_the_error_names_a_damaged_generation_configuration(text, tmp_path):
    (tmp_path / "generation_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        declared_ends(str(tmp_path))


def test_a_checkpoint_keeps_the_ends_of_its_model(tmp_path):
    # transformers loads this configuration and refuses to save it, which would lose the run at its first checkpoint.
    unsavable = {"do_sample": False, "temperature": 0.6}
    tokenizer, model = recital(FAMILIES["glm-4"])
    declared = sorted(ids_of(tokenizer, FAMILIES["glm-4"].declared))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": declared, **unsavable}))
    loaded = load_language_model(ModelConfig(path=str(tmp_path / "model"), device="cpu"))
    assert loaded.declared_ends == tuple(declared)
    learner = Learner(
        loaded.model, config=LearnerConfig(), loss_config=LossConfig(), sampling=SamplingConfig(), total_steps=1, seed=0
    )
    prompt = PromptConfig(observation="compact", system="Be brief.")
    path = save_checkpoint(
        tmp_path / "run", learner=learner, tokenizer=tokenizer, card=ModelCard(prompt=prompt), state={}
    )
    again = load_language_model(ModelConfig(path=str(path), device="cpu"))
    assert again.declared_ends == loaded.declared_ends
    assert again.prompt == prompt
    assert again.codec(COMPACT).stop_ids == loaded.codec(COMPACT).stop_ids == ids_of(tokenizer, FAMILIES["glm-4"].ends)


def test_the_text_has_delimiters_but_no_end():
    family = FAMILIES["glm-4"]
    tokenizer = family.tokenizer()
    codec = ChatCodec(tokenizer, COMPACT, ids_of(tokenizer, family.declared))
    ids = np.array(tokenizer.encode("<think>a</think>b<|observation|>", add_special_tokens=False))
    assert codec.read(ids).text == "<think>a</think>b"


END = "{% if not loop.last %}<|zed|>\n{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        # An end only between turns, also after a system prompt of the template's own.
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + END, {"<|zed|>"}),
        ("<|im_start|>system\nBe kind.<|zed|>\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + END,
         {"<|zed|>"}),
        ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n" + END, {"<|zed|>"}),
        # What opens every turn is no end.
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}", set()),
        # A thought's token after an answer is none.
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|think|>{% endfor %}", set()),
    ],
)  # fmt: skip
def test_an_end_that_only_stands_between_turns(template, ends):
    opens = "{% if add_generation_prompt %}<|zed|>\n<|im_start|>assistant\n{% endif %}"
    made = Family(
        template=template + opens, eos="</s>", ends=("</s>",), special=("<|im_start|>", "<|zed|>", "<|think|>")
    )
    assert {end.text for end in end_tokens(made.tokenizer())} == {"</s>", *ends}


# Templates of one rule each.

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
def test_ends_of_turns_in_a_template(template, special, ends):
    tokenizer = new_tokenizer(template, *special)
    expected = {tokenizer.convert_tokens_to_ids(token) for token in (NANO_END, *ends)}
    assert stop_token_ids(tokenizer) == expected


def test_sampling_stops_at_the_end_of_the_turn():
    tokenizer = new_tokenizer(GEMMA, "<start_of_turn>", "<end_of_turn>")
    turn_end, end = tokenizer.convert_tokens_to_ids(["<end_of_turn>", NANO_END])
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
