"""Chat templates that fill the memory, draw at random, or open the wrong turn are refused in one line."""

import resource
import time

import pytest

from chat_templates import CHATML, FAMILIES, Family
from spiral.text import ChatCodec, PromptConfig, template_limits
from spiral.text.template_report import describe_template

ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
KIND = "<|im_start|>system\nBe kind.<|im_end|>\n"
BOMBS = {
    "ljust": "{{ 'x'.ljust(3000000000) | length }}",
    "zfill": "{{ '1'.zfill(3000000000) | length }}",
    "center": "{{ 'x' | center(2000000000) }}",
    "indent": "{{ 'a\nb' | indent(2000000000) }}",
    "percent": "{{ '%2000000000d' | format(1) }}",
    "star": "{{ '%*d' % (2000000000, 1) }}",
    "format": "{{ '{:>2000000000}'.format(1) }}",
    "join": "{{ range(99999) | join('x' * 99999) | length }}",
    "twice": "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "plus": "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "replace": "{% set a = 'a' * 1000 %}{% set b = a | replace('a', a) %}{{ b | replace('a', b) | length }}",
    "expand": "{{ '\t\t'.expandtabs(2000000000) | length }}",
}


def made(template):
    return Family(template=template, eos="<|im_end|>", ends=("<|im_end|>",), special=("<|im_start|>",)).tokenizer()


def refusal(template, config=None):
    with pytest.raises(ValueError, match="chat template") as caught:
        ChatCodec(made(template), config or PromptConfig())
    message = str(caught.value)
    assert "\n" not in message
    assert message.count("prompt.template") == 1
    return message


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_limited(name, monkeypatch):
    monkeypatch.setattr(template_limits, "MAX_BYTES", 1 << 28)
    before, began = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(BOMBS[name] + CHATML)
    assert "memory" in message or "product" in message or "still running" in message
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1 << 19  # kilobytes
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ ['Be kind', 'Be brief'] | random }}" + CHATML, "at random ('random')"),
        ("{% set pick = range(9) | random %}{{ pick }}" + CHATML, "at random ('random')"),
        ("{{ lipsum(n=1) }}" + CHATML, "at random ('lipsum')"),
        ("{{ raise_exception }}" + CHATML, "an address in memory"),
        ("{% set ns = namespace(n=9) %}{% for i in range(40) %}{% set ns.n = ns.n * ns.n %}{% endfor %}", "square"),
        ("{{ 9 ** 9 }}" + CHATML, "a power"),
        ("{{ messages[0].content * 99999999 }}", "a product"),
        ("{% for i in range(9999) %}{{ messages[0].content }}{% endfor %}" + CHATML, "characters"),
        # The model's turn is opened twice, or the user's.
        (CHATML + ASK, "opens the model's turn twice"),
        (CHATML + ASK + ASK, "opens the model's turn twice"),
        (CHATML.replace(ASK, f"<|im_start|>assistant\n{ASK}"), "opens the model's turn twice"),
        (CHATML.replace(ASK, ASK.replace("assistant", "user")), "opens the user's turn"),
        (CHATML.replace(ASK, "<|im_start|>user\n"), "opens the user's turn"),
        (KIND + CHATML.replace(ASK, ASK.replace("assistant", "user")), "opens the user's turn"),
    ],
)  # fmt: skip
def test_what_a_template_may_not_do(template, words):
    assert words in refusal(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'random' }}" + CHATML,
        "{{ '  ' * 4 }}" + CHATML,
        "{% for n in range(3) %}{{ '-' * n }}{% endfor %}" + CHATML,
        CHATML.replace("{{ m.content | trim }}", "{{ m.content | trim | indent(0) | replace('@@', '') }}"),
    ],
)
def test_ordinary_operations_are_allowed(template):
    assert ChatCodec(made(template), PromptConfig()).render_question("1 + 1?")


@pytest.mark.parametrize(
    ("before", "system"),
    [
        ("<|im_start|>system\nBe kind.<|im_end|>\n", "Be kind."),
        ("<|im_start|>system\nThe task: {{ messages[0].content }}<|im_end|>\n", "The task:"),
        ("{{ messages[0].content }}\n", ""),
        ("", ""),
    ],
)
def test_the_default_system_prompt_is_what_every_question_gets(before, system):
    assert describe_template(made(before + CHATML), PromptConfig()).default_system == system


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].template])
def test_every_family_is_within_the_limits(name):
    assert ChatCodec(FAMILIES[name].tokenizer(), PromptConfig()).stop_ids
