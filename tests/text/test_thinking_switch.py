"""Template variables that turn thinking on and off, and templates without one."""

import pytest

from chat_templates import CHATML, FAMILIES, Family
from spiral.text import ChatCodec, PromptConfig
from spiral.text.template_report import describe_template

UNLESS_DEFINED = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
OPEN, SHUT = "<think>\n", "<think>\n\n</think>\n\n"


def replying(reply):
    template = CHATML.replace("<|im_start|>assistant\n{% endif %}", f"<|im_start|>assistant\n{reply}{{% endif %}}")
    return Family(template=template, eos="<|im_end|>", ends=("<|im_end|>",), special=("<|im_start|>",)).tokenizer()


def when(condition, yes, no):
    return f"{{% if {condition} %}}{yes}{{% else %}}{no}{{% endif %}}"


@pytest.mark.parametrize(
    ("variable", "reply"),
    [
        ("thinking", when("thinking is defined and thinking is false", SHUT, OPEN)),
        ("thinking", UNLESS_DEFINED + when("thinking", OPEN, SHUT)),
        ("reasoning", when("reasoning is defined and reasoning == false", SHUT, OPEN)),
        ("enable_reasoning", when("enable_reasoning is defined and not enable_reasoning", SHUT, OPEN)),
        ("thinking_mode", when("thinking_mode is defined and thinking_mode == 'off'", SHUT, OPEN)),
        ("thinking_mode", when("thinking_mode is defined and thinking_mode == 'thinking'", OPEN, SHUT)),
        ("thinking_mode", when("thinking_mode | default('chat') | lower != 'chat'", OPEN, SHUT)),
        ("reasoning_mode", when("reasoning_mode in ['none', 'disabled']", SHUT, OPEN)),
        ("no_think", when("no_think", SHUT, OPEN)),
        ("disable_thinking", when("disable_thinking is defined and disable_thinking", SHUT, OPEN)),
        ("thinking_budget", when("thinking_budget is defined and thinking_budget == 0", SHUT, OPEN)),
        ("reasoning_effort", when("reasoning_effort == 'none'", SHUT, OPEN)),
        ("think", when("think is defined and think == false", SHUT, OPEN)),
        ("with_thoughts", when("with_thoughts", OPEN, "")),
        ("enable_thinking", when("enable_thinking is defined and enable_thinking is false", SHUT, OPEN)),
    ],
)  # fmt: skip
def test_the_variable_that_turns_thinking_on_and_off_is_found(variable, reply):
    tokenizer = replying(reply)
    thinks, answers = (ChatCodec(tokenizer, PromptConfig(thinking=thinking)) for thinking in (True, False))
    assert (thinks.opened, answers.opened) == ("<think>", "")
    assert thinks.render_question("1 + 1?").endswith(OPEN)
    assert not answers.render_question("1 + 1?").endswith(OPEN)
    assert thinks.reads_enable_thinking
    report = describe_template(tokenizer, PromptConfig())
    assert report.thinking_variables == (variable,)
    assert f"on request ({variable})" in "\n".join(report.lines())


@pytest.mark.parametrize("name", ["minimax", "deepseek-r1 distill", "exaone deep"])
def test_a_template_that_always_opens_a_thought_is_refused_without_thinking(name):
    tokenizer = FAMILIES[name].tokenizer()
    with pytest.raises(ValueError, match=r"prompt\.thinking is false, but .* opens a thought"):
        ChatCodec(tokenizer, PromptConfig(thinking=False))
    assert ChatCodec(tokenizer, PromptConfig(thinking=True)).opened
    assert ChatCodec(tokenizer, PromptConfig(thinking=False, template="r1")).opened == ""


def test_a_thought_that_the_template_closes_is_a_warning():
    report = describe_template(replying(SHUT), PromptConfig())
    assert any("closes the thought" in line for line in report.warnings)
    assert not describe_template(replying(SHUT), PromptConfig(thinking=False)).warnings


@pytest.mark.parametrize("name", ["qwen", "llama-3", "gpt-oss", "magistral", "gemma-3"])
def test_templates_without_such_a_variable(name):
    report = describe_template(FAMILIES[name].tokenizer(), PromptConfig())
    assert (report.thinking_variables, report.reads_enable_thinking) == ((), False)


def test_the_reasoning_effort_is_left_to_the_template():
    effort = replying("").chat_template.replace(
        "{% for m", "Reasoning: {{ reasoning_effort | default('medium') }}{% for m", 1
    )
    tokenizer = replying("")
    tokenizer.chat_template = effort
    for thinking in (True, False):
        assert "Reasoning: medium" in ChatCodec(tokenizer, PromptConfig(thinking=thinking)).render_question("?")
