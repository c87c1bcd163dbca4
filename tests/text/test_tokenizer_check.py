"""Tokenizers that lose parts of prompts or actions are refused; others are accepted."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chat_templates import CHATML
from chat_templates import FAMILIES as TOKENIZERS
from spiral.games import load_game
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.text import ChatCodec, PromptConfig
from spiral.text.template_report import describe_template

TICTACTOE, KUHN = load_game("tictactoe"), load_game("kuhn_poker")
CORPUS = [
    load_game(name).initial_state().apply(first).observation(0, "full")
    for name, first in (("tictactoe", "4"), ("connect_four", "3"))
] + ["You are player 0. Write your action, exactly one of those allowed, inside \\boxed{}."]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def fast(backend, **options):
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", **options)
    made.chat_template = CHATML
    return made


def byte_level(*, normalizer=None, decoder=None):
    """A byte-level tokenizer, which loses nothing unless its normaliser or decoder does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if normalizer is not None:
        backend.normalizer = normalizer
    if decoder is not None:
        backend.decoder = decoder
    return fast(backend)


def word_level(without="", *, split=pre_tokenizers.Whitespace):
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = split()
    words = [text for text, _ in backend.pre_tokenizer.pre_tokenize_str(" ".join(CORPUS))]
    kept = [word for word in dict.fromkeys(words) if not set(word) & set(without)]
    backend.model = models.WordLevel({word: id_ for id_, word in enumerate(["[UNK]", *SPECIAL, *kept])}, "[UNK]")
    made = fast(backend, unk_token="[UNK]")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: word_level("\\{0"), ("cannot encode the prompt", "'[UNK]'", "'0', '<'")),
        (lambda: byte_level(normalizer=normalizers.Replace(" |", "")), ("loses part of the prompt", "'| X |")),
        (lambda: byte_level(normalizer=normalizers.Replace("\\", "")), ("loses part of the prompt",)),
        (lambda: byte_level(normalizer=normalizers.Replace("5", "")), ("loses part of the prompt",)),
        (lambda: byte_level(normalizer=normalizers.Replace("player", "human")), ("'human", "'player")),
        (lambda: byte_level(decoder=decoders.Fuse()), ("loses part of the prompt", "Ġ")),
        (lambda: byte_level(decoder=decoders.Strip(" ", 1, 0)), ("loses part of the prompt",)),
        (lambda: byte_level(decoder=decoders.WordPiece()), ("loses part of the prompt",)),
    ],
)  # fmt: skip
def test_a_tokenizer_that_loses_words_or_signs_is_refused(made, words):
    with pytest.raises(ValueError, match="the tokenizer") as caught:
        ChatCodec(made(), PromptConfig())
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the tokenizer"):
        describe_template(made(), PromptConfig())


def test_compact_prompts_are_checked_for_each_game():
    codec = ChatCodec(byte_level(normalizer=normalizers.Replace("J", "")), PromptConfig(observation="compact"))
    assert len(codec.encode("x", TICTACTOE)) > 5
    with pytest.raises(ValueError, match="loses part of the prompt"):
        codec.encode("card J", KUHN)
    deaf = ChatCodec(byte_level(normalizer=normalizers.Replace("bet", "")), PromptConfig(observation="compact"))
    with pytest.raises(ValueError, match=r"actions of kuhn_poker.*bet.*no legal action"):
        deaf.encode("card J", KUHN)
    other = ChatCodec(byte_level(normalizer=normalizers.Replace("bet", "check")), PromptConfig(observation="compact"))
    with pytest.raises(ValueError, match="the action 'check'"):
        other.encode("card J", KUHN)


def test_lower_case_and_lost_lines_are_warnings():
    lower = describe_template(byte_level(normalizer=normalizers.Lowercase()), PromptConfig())
    assert [line for line in lower.warnings if "upper and lower case" in line]
    flat = describe_template(byte_level(normalizer=normalizers.Replace("\n", " ")), PromptConfig())
    assert [line for line in flat.warnings if "as one line" in line]


@pytest.mark.parametrize("name", ["byte level", "nano", *TOKENIZERS])
def test_sound_tokenizers_are_accepted(name):
    made = {"byte level": byte_level, "nano": build_tokenizer}.get(name) or TOKENIZERS[name].tokenizer
    tokenizer = made()
    for template in ("r1", "chat") if tokenizer.chat_template else ("r1",):
        config = PromptConfig(template=template, example=True)
        codec = ChatCodec(tokenizer, config)
        for game in (TICTACTOE, KUHN):
            assert len(codec.encode("Your card: J. \N{BLACK SPADE SUIT} é", game)) > 10
    assert not [
        line for line in describe_template(tokenizer, config).warnings if "tokenizer" in line and "no token" not in line
    ]


def test_an_unknown_token_that_also_ends_turns_is_accepted():
    made = TOKENIZERS["qwen"].tokenizer()  # as GPT-2's, whose only special token serves for everything
    made.add_special_tokens({"unk_token": "<|im_end|>"})
    assert len(ChatCodec(made, PromptConfig()).encode("x", KUHN)) > 10
