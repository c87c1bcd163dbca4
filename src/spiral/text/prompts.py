r"""From an observation to what the model is asked: chat messages, or plain text for a base model.

A template only frames the observation; the rules, the seat and the history are already in it. The words asked
for follow the paper (arXiv 2506.24119, appendix A): reason step by step, answer inside `\boxed{}`. A worked example
stands before the question as an earlier exchange in the same frame.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from spiral.core.settings import Section
from spiral.games import Style
from spiral.text.thinking import CLOSE, OPEN

Message = dict[str, str]

INSTRUCTION = {
    True: "Reason step by step, then write your action, exactly one of those allowed, inside \\boxed{}.",
    False: "Answer at once, without explaining: write your action, exactly one of those allowed, inside \\boxed{}.",
}
THINK_MARK = "\nthink"
R1_SYSTEM = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant"
    " first thinks about the reasoning process in the mind and then provides the User with the answer."
)
PLAIN = {
    "qwen3": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
    "r1": ("User: {}\nAssistant: " + OPEN, "\n"),
    "llama": (
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
}
"""What stands around a question, and what ends the reply to it."""
SYSTEM = {
    "qwen3": "<|im_start|>system\n{}<|im_end|>\n",
    "r1": "{}\n",
    "llama": "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
}
"""What stands around a system prompt."""


class PromptConfig(Section):
    """How a game is put to the model."""

    template: Literal["chat", "qwen3", "r1", "llama"] = Field(
        "chat", description="'chat' is the tokenizer's own chat template; the others are plain text for base models."
    )
    observation: Style = Field(
        "full", description="'full' states rules, history and legal actions in words; 'compact' is for small models."
    )
    thinking: bool = Field(True, description="Ask for reasoning before the answer (true) or for the answer at once.")
    example: bool = Field(
        False, description="Show one worked example, made from the game itself, as an earlier exchange of the chat."
    )
    system: str | None = Field(
        None,
        description="A system prompt; left out, the template's own default. It stands before the user's words where the"
        " chat template has no system message, and in place of the first sentences of 'r1'.",
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        """No system prompt is no entry: TOML has no null, and what was measured before there was one stays the same."""
        values: dict[str, object] = serialise(self)
        return {key: value for key, value in values.items() if key != "system" or value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One exchange: what was seen, what was thought (nothing, where none is asked for), and what was answered."""

    observation: str
    thought: str
    answer: str

    @property
    def reply(self) -> str:
        """Thought and answer as one text."""
        return self.joined("\n")

    def joined(self, joint: str) -> str:
        """Thought and answer with `joint` between them; the answer alone where there is no thought."""
        return f"{self.thought}{joint}{self.answer}" if self.thought else self.answer


def question(observation: str, config: PromptConfig) -> str:
    """The user's side of the prompt: the observation and what kind of answer is wanted."""
    if config.observation == "compact":
        return observation + (THINK_MARK if config.thinking else "")
    return f"{observation}\n\n{INSTRUCTION[config.thinking]}"


def messages(
    asked: str, config: PromptConfig, example: Example | None = None, *, system_role: bool = True
) -> list[Message]:
    """The prompt as chat messages, for the tokenizer's own template; `asked` is the whole user's side.

    Without a `system_role` in the template the system prompt stands before the first words of the user.
    """
    exchange = [{"role": "user", "content": asked}]
    if example is not None:
        shown = {"role": "user", "content": question(example.observation, config)}
        exchange = [shown, {"role": "assistant", "content": example.reply}, *exchange]
    if config.system is None:
        return exchange
    if system_role:
        return [{"role": "system", "content": config.system}, *exchange]
    first = {"role": "user", "content": f"{config.system}\n\n{exchange[0]['content']}".lstrip()}
    return [first, *exchange[1:]]


def plain_text(asked: str, config: PromptConfig, example: Example | None = None) -> str:
    """The same as text for a base model. Raises `ValueError` for the template "chat", which has no fixed text."""
    if config.template not in PLAIN:
        raise ValueError(f"template {config.template!r} has no plain text; use messages() and the tokenizer's template")
    around, end = PLAIN[config.template]
    opening, joint = "" if config.system is None else SYSTEM[config.template].format(config.system), "\n"
    if config.template == "r1":
        # Its answers always come after thoughts: an answer at once comes after empty ones.
        opening, joint = opening or f"{R1_SYSTEM}\n", f"{CLOSE}\n"
        around += "" if config.thinking else f"\n\n{CLOSE}\n"
    if example is not None:
        opening += around.format(question(example.observation, config)) + example.joined(joint) + end
    return opening + around.format(asked)
