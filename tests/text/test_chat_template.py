"""Chat templates that fail, lose words or never end are refused in one line; system prompts; the template report."""

import dataclasses
import json
import resource
import threading
import time

import pytest
from pydantic import ValidationError

from chat_templates import CHATML, FAMILIES, GEMMA, LLAMA, Family, turns
from commands import refused
from spiral.games import load_game
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.text import ChatCodec, PromptConfig, chat_template
from spiral.text.chat_template import render_chat
from spiral.text.prompts import plain_text, question
from spiral.text.template_report import TemplateReport, describe_template

KUHN = load_game("kuhn_poker")
LOOP = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
ENDLESS = {
    "ranges": LOOP,
    "text": "{% for a in messages[0].content * 99 %}{% for b in messages[0].content * 99 %}{% for c in 'ab' * 9999 %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}


def with_template(template, *special):
    return Family(
        template=template, eos="<|im_end|>", ends=("<|im_end|>",), special=("<|im_start|>", *special)
    ).tokenizer()


@pytest.mark.parametrize(
    ("template", "config", "words"),
    [
        # It raises.
        ("{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}" + CHATML, {},
         ("no system message", "set prompt.system")),
        ("{{ raise_exception('never') }}", {}, ("TemplateError: never", "prompt.template")),
        ("{{ messages[1].content }}", {}, ("UndefinedError", "prompt.template")),
        ("{{ 1 / 0 }}", {}, ("ZeroDivisionError", "prompt.template")),
        ("{{ ''.__class__.mro() }}", {}, ("SecurityError", "prompt.template")),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {}, ("RecursionError", "prompt.template")),
        ("{% for i in range(9999999) %}{% endfor %}", {}, ("OverflowError", "prompt.template")),
        ("{% if messages|length > 1 %}{{ raise_exception('one at a time') }}{% endif %}" + CHATML, {"example": True},
         ("one at a time", "prompt.example to false", "prompt.template")),
        # It computes for ever, or fills the memory, in one operation.
        ("{{ messages[0].content }}{{ 9 ** 9 ** 9 ** 9 }}", {}, ("computes a power", "prompt.template")),
        ("{{ messages[0].content }}{{ 'a' * 9999 * (9999 * 9999) }}", {}, ("product of more than 1,000,000",)),
        ("{{ messages[0].content * 99999999 }}", {}, ("product of more than 1,000,000",)),
        # It has syntax errors.
        ("{% for m in messages %}{{ m.content }}", {}, ("TemplateSyntaxError", "prompt.template")),
        ("{{ messages[0].content | nonsense }}", {}, ("nonsense", "prompt.template")),
        ("{{ messages[0].content", {}, ("TemplateSyntaxError", "prompt.template")),
        # It loses the question, or part of it.
        ("<|im_start|>assistant\n", {}, ("loses the question", "prompt.template")),
        ("{{ messages[0].content[:200] }}", {}, ("loses the question",)),
        ("{{ messages[0].content[-200:] }}", {}, ("loses the question",)),
        ("{{ messages[0].content.split('\n')[0] }}", {}, ("loses the question",)),
        ("{{ messages[0].content | upper }}", {}, ("loses the question",)),
        ("{{ messages[0].content | truncate(255) }}", {}, ("loses the question",)),
        ("{{ messages[0].content | striptags }}", {}, ("loses the question",)),
        ("{{ messages[0].text }}", {}, ("loses the question",)),
        # The worked example, or the system prompt.
        ("{{ messages[-1].content }}", {"example": True}, ("loses the worked example", "prompt.example")),
        # It does not open the model's turn.
        (CHATML.partition("{% if add_generation_prompt")[0], {},
         ("ignores add_generation_prompt", "'<|im_start|>assistant'", "prompt.template")),
        (LLAMA.partition("{% if add_generation_prompt")[0], {}, ("ignores add_generation_prompt",)),
        (turns("User: {}\n", "Assistant: {}\n"), {}, ("ignores add_generation_prompt", "'Assistant:'")),
    ],
)  # fmt: skip
def test_an_unusable_template_is_refused_with_the_reason(template, config, words):
    with pytest.raises(ValueError, match="chat template") as caught:
        ChatCodec(with_template(template), PromptConfig(**config))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("kind", "main"), [("ranges", True), ("ranges", False), ("text", True), ("macro", False)])
def test_an_endless_template_is_stopped_in_any_thread(kind, main, monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.3)
    tokenizer, caught = with_template("{{ messages[0].content }}" + ENDLESS[kind]), []

    def build():
        try:
            ChatCodec(tokenizer, PromptConfig())
        except ValueError as error:
            caught.append(str(error))

    began = time.monotonic()
    if main:
        build()
    else:
        thread = threading.Thread(target=build)
        thread.start()
        thread.join(30)
    assert time.monotonic() - began < 20
    assert "still running" in caught[0]
    assert "prompt.template" in caught[0]
    sum(range(200_000))  # nothing arrives later


def test_a_template_that_finishes_in_time_is_not_stopped(monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.05)
    tokenizer = with_template("{{ messages[0].content }}")
    texts = [render_chat(tokenizer, [{"role": "user", "content": str(number)}]) for number in range(50)]
    time.sleep(0.05 + 2 * chat_template.TICK)
    assert texts == [str(number) for number in range(50)]


def test_losing_part_of_a_later_question_is_an_error():
    codec = ChatCodec(with_template("{{ messages[0].content[:6000] }}"), PromptConfig(observation="compact"))
    assert codec.render("word " * 1000, KUHN)
    with pytest.raises(ValueError, match="loses the question"):
        codec.encode("word " * 2000 + "last", KUHN)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content | replace('\n', ' ') }}",
        "{{ messages[0].content.split() | join(' ') }}",
        "<s>{{ messages[0].content | trim }}</s>",
        "{{ (messages | last).content }}",
        "{% generation %}{{ messages[0].content ~ ' ' * 4 }}{% endgeneration %}",
    ],
)
def test_a_template_may_change_white_space(template):
    assert "Your card" in ChatCodec(with_template(template), PromptConfig()).render("Your card: J.", KUHN)


def save_model(path, nano, template):
    nano.model.save_pretrained(path)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)


def test_commands_refuse_a_template_that_always_thinks_without_thinking(tmp_path, nano):
    template = FAMILIES["deepseek-r1 distill"].template
    assert "<think>" in template
    save_model(tmp_path, nano, template)
    evaluate = ["evaluate", str(tmp_path), "--game", "kuhn_poker", "--opponent", "random", "--episodes", "2"]
    train = ["train", "nano", "--model", str(tmp_path), "--dry-run", "--set", "prompt.template=chat"]
    for command in ([*evaluate, "--no-thinking"], [*train, "--set", "prompt.thinking=false"]):
        assert refused(*command).endswith(
            "prompt.thinking is false, but the model's chat template always opens a thought with '<think>', so every"
            " reply would begin inside one; set prompt.thinking to true (--thinking), or set prompt.template to"
            " 'qwen3' or 'llama'"
        )


def test_commands_refuse_a_bad_template_in_one_line(tmp_path, nano):
    save_model(tmp_path, nano, "{{ raise_exception('wants tools') }}")
    for arguments in (
        ["evaluate", str(tmp_path), "--game", "kuhn_poker", "--opponent", "random", "--episodes", "2"],
        ["train", "nano", "--model", str(tmp_path), "--dry-run", "--set", "prompt.template=chat"],
    ):
        message = refused(*arguments)
        assert "wants tools" in message
        assert "prompt.template" in message
        assert "fault in spiral" not in message


# Operations that a template may not use.

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


def refusal(template, config=None):
    with pytest.raises(ValueError, match="chat template") as caught:
        ChatCodec(with_template(template), config or PromptConfig())
    message = str(caught.value)
    assert "\n" not in message
    assert message.count("prompt.template") == 1
    return message


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_limited(name, monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_BYTES", 1 << 28)
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
        ("{{ raise_exception }}" + CHATML, "a memory address"),
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
def test_forbidden_operations_are_refused(template, words):
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
    assert ChatCodec(with_template(template), PromptConfig()).render_question("1 + 1?")


@pytest.mark.parametrize(
    ("before", "system"),
    [
        ("<|im_start|>system\nBe kind.<|im_end|>\n", "Be kind."),
        ("<|im_start|>system\nThe task: {{ messages[0].content }}<|im_end|>\n", "The task:"),
        ("{{ messages[0].content }}\n", ""),
        ("", ""),
    ],
)
def test_the_default_system_prompt_is_found(before, system):
    assert describe_template(with_template(before + CHATML), PromptConfig()).default_system == system


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].template])
def test_every_family_is_within_the_limits(name):
    assert ChatCodec(FAMILIES[name].tokenizer(), PromptConfig()).stop_ids


# System prompts.

SYSTEM = "You are a careful player."


def prompt_of(name, **config):
    codec = ChatCodec(
        FAMILIES[name].tokenizer(), PromptConfig(**{"observation": "compact", "thinking": False, **config})
    )
    return codec.render("Your card: J.", KUHN)


def test_template_positions_the_system_prompt():
    assert prompt_of("qwen", system=SYSTEM).startswith(
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nYour"
    )
    assert f"[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]Your card" in prompt_of("mistral", system=SYSTEM)
    assert "First think" not in prompt_of("magistral", system="")
    assert "First think" in prompt_of("magistral")
    assert prompt_of("qwen") == "<|im_start|>user\nYour card: J.<|im_end|>\n<|im_start|>assistant\n"
    assert SYSTEM in ChatCodec(FAMILIES["qwen"].tokenizer(), PromptConfig(system=SYSTEM)).render_question("1 + 1?")


def test_without_a_system_role_the_system_prompt_goes_before_the_question():
    start = "<bos><start_of_turn>user\n"
    assert prompt_of("gemma-3", system=SYSTEM).startswith(f"{start}{SYSTEM}\n\nYour card: J.<end_of_turn>")
    shown = prompt_of("gemma-3", system=SYSTEM, example=True)
    assert shown.startswith(f"{start}{SYSTEM}\n\n")
    assert shown.count(SYSTEM) == 1
    dropping = with_template(
        CHATML.replace("{{ m.content | trim }}", "", 0).replace("system\n{{ m.content | trim }}", "system\n")
    )
    report = describe_template(dropping, PromptConfig(system=SYSTEM))
    assert not report.system_role
    assert f"<|im_start|>user\n{SYSTEM}\n\n" in report.user_prompt


def test_plain_templates_take_a_system_prompt():
    asked = question("X", PromptConfig())
    for template, start in (
        ("qwen3", f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nX"),
        ("llama", f"<|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|><|start_header_id|>user"),
        ("r1", f"{SYSTEM}\nUser: X"),
    ):
        assert plain_text(asked, PromptConfig(template=template, system=SYSTEM)).startswith(start)
        braces = "Use {} and {0}."
        assert braces in plain_text(asked, PromptConfig(template=template, system=braces))


def test_settings_without_a_system_prompt_have_no_such_field():
    assert "system" not in PromptConfig().model_dump()
    assert PromptConfig(system="").model_dump()["system"] == ""
    assert json.loads(PromptConfig(system="a").model_dump_json())["system"] == "a"
    assert PromptConfig.model_validate({"template": "chat"}).system is None
    with pytest.raises(ValidationError):
        PromptConfig(system=3)


# The report.


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].template])
def test_every_family_is_described(name):
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    report = describe_template(tokenizer, PromptConfig(), [tokenizer.convert_tokens_to_ids(t) for t in family.declared])
    assert {end.text for end in report.ends} == set(family.ends)
    assert report.opens_thought is bool(family.opened)
    assert report.question_survives
    assert report.system_role is (family.template != GEMMA)
    assert "tic-tac-toe" in report.game_prompt.lower()
    assert "Which of the numbers 2 and 3 is even?" in report.user_prompt
    assert report.beginning[:1] == (
        (family.bos,) if report.user_prompt.startswith(family.bos or "?") else report.beginning[:1]
    )
    assert len(report.lines()) == 6
    if name not in ("magistral", "gpt-oss", "llama-3"):
        assert report.default_system == ""


def test_fields_and_warnings_of_the_report():
    def report(name, config=None, **change):
        family = dataclasses.replace(FAMILIES[name], **change)
        return describe_template(family.tokenizer(), config or PromptConfig())

    assert report("qwen").turn_end == "<|im_end|>\n"
    assert report("qwen").generation_prompt == "<|im_end|>\n<|im_start|>assistant\n"
    assert report("glm-4").turn_end == ""
    assert report("qwen").warnings == []
    assert report("glm-4.5").reads_enable_thinking
    assert not report("qwen").reads_enable_thinking
    assert (report("magistral").thinking, report("gpt-oss").thinking) == ("magistral", "harmony")
    assert "First think" in report("magistral").default_system
    assert any("its own system prompt" in line for line in report("magistral").warnings)
    assert report("magistral", PromptConfig(system="a")).warnings == []
    twice = report("qwen", template="{{ bos_token }}" + LLAMA, bos="<s>", special=("<|im_start|>",))
    assert twice.beginning == ("<s>", "<s>")
    assert any("begin twice with '<s>'" in line for line in twice.warnings)
    words = report("qwen", template=turns("User: {}\n", "Assistant: {}</over>\n", reply="Assistant: "))
    assert any("'</over>', which is not a token" in line for line in words.warnings)
    squeezed = report("qwen", template="{{ messages[0].content.split() | join(' ') }}")
    assert not squeezed.question_survives
    assert any("spacing" in line for line in squeezed.warnings)
    plain = report("gemma-3", PromptConfig(template="qwen3"))
    assert isinstance(plain, TemplateReport)
    assert any("<|im_start|>" in line for line in plain.warnings)
