"""Finds the variable of a chat template that turns thinking on and off, and its values.

Qwen3 and GLM read `enable_thinking`, DeepSeek and Kimi `thinking`, others `thinking_mode` or a budget. Some models
think by default and some do not. The effect of a variable is found by rendering a question with each value.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2

from spiral.text.chat_template import parse_template, render_chat
from spiral.text.thinking import opened_delimiter

USUAL = "enable_thinking"
_VARIABLE = re.compile(r"think|thought|reason", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:no|non|not|disable|skip|without|hide|suppress|stop)(?=_|think|reason)", re.IGNORECASE)
_OFF = re.compile(
    r"(?:off|disabled?|none?|false|0|no[_-]?think(?:ing)?|non[_-]?think(?:ing)?|chat|fast|direct|instant|never)",
    re.IGNORECASE,
)
_UNSET = object()
_ASKED = "What is 7c30d1?"


def thinking_options(tokenizer: Any, *, thinking: bool) -> dict[str, Any]:
    """Template variables that ask the model to think, or to answer at once.

    Always sets `enable_thinking`. Sets another variable when it changes the prompt and `enable_thinking` does not.
    """
    options: dict[str, Any] = {USUAL: thinking}
    for name, (on, off) in _switches(tokenizer).items():
        value = on if thinking else off
        if value is not _UNSET:
            options[name] = value
    return options


def thinking_variables(tokenizer: Any) -> tuple[str, ...]:
    """Names of the template variables that turn thinking on and off."""
    if _render(tokenizer, {USUAL: True}) != _render(tokenizer, {USUAL: False}):
        return (USUAL,)
    return tuple(_switches(tokenizer))


def _switches(tokenizer: Any) -> dict[str, tuple[Any, Any]]:
    """For each variable that works, the values that turn thinking on and off."""
    values = _values(str(tokenizer.get_chat_template()))
    if not values or _render(tokenizer, {USUAL: True}) != _render(tokenizer, {USUAL: False}):
        return {}
    found = {}
    for name, (on_values, off_values) in values.items():
        rendered = {id(value): _render(tokenizer, {} if value is _UNSET else {name: value})
                    for value in (*on_values, *off_values)}  # fmt: skip
        pairs = [
            (on, off)
            for off in off_values
            for on in on_values
            if rendered[id(on)] != rendered[id(off)] and None not in (rendered[id(on)], rendered[id(off)])
        ]
        # Prefer values that open a thought and open none. Others may still ask for thinking in words.
        gains = [_opens(rendered[id(on)]) - _opens(rendered[id(off)]) for on, off in pairs]
        if 1 in gains or 0 in gains:
            found[name] = pairs[gains.index(1 if 1 in gains else 0)]
        elif reversed_pairs := [(off, on) for on, off in pairs if on is not _UNSET]:
            found[name] = reversed_pairs[0]
    return found


@functools.lru_cache(maxsize=64)
def _values(template: str) -> dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Candidate values for on and off, for each variable of the template whose name mentions thinking."""
    try:
        parsed = parse_template(template)
    except jinja2.TemplateError:
        return {}  # rendering reports the syntax error
    names = {node.name for node in parsed.find_all(jinja2.nodes.Name) if _VARIABLE.search(node.name)}
    found: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
    for name in sorted(names - {USUAL}):
        literals = [
            const.value
            for compared in parsed.find_all(jinja2.nodes.Compare)
            if any(node.name == name for node in compared.find_all(jinja2.nodes.Name))
            for const in compared.find_all(jinja2.nodes.Const)
            if isinstance(const.value, str)
        ]
        on: list[Any] = [text for text in literals if not _OFF.fullmatch(text)]
        off: list[Any] = [text for text in literals if _OFF.fullmatch(text)]
        if "budget" in name:
            on, off = [], [*off, 0]
        elif "effort" in name or "level" in name:
            on = []  # the amount of thinking stays the template's own default
        elif _NEGATIVE.match(name):
            on, off = [False, *off], [True, *on]
        else:
            on, off = [True, *on], [False, *off]
        found[name] = (*on, _UNSET), tuple(off)
    return found


def _render(tokenizer: Any, options: dict[str, Any]) -> str | None:
    exchange = [{"role": "user", "content": _ASKED}]
    try:
        return render_chat(tokenizer, exchange, add_generation_prompt=True, **options)
    except ValueError:
        return None


def _opens(prompt: str | None) -> bool:
    return prompt is not None and bool(opened_delimiter(prompt.rpartition(_ASKED)[2]))
