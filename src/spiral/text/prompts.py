r"""From an observation to what the model is asked: chat messages, or plain text for a base model.

A template only frames the observation; the rules, the seat and the history are already in it. The words asked
for follow the paper (arXiv 2506.24119, appendix A): reason step by step, answer inside `\boxed{}`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spiral.config import Section
from spiral.games import Style

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


class PromptConfig(Section):
    """How a game is put to the model."""

    template: Literal["chat", "qwen3", "r1", "llama"] = Field(
        "chat", description="'chat' is the tokenizer's own chat template; the others are plain text for base models."
    )
    observation: Style = Field(
        "full", description="'full' states rules, history and legal actions in words; 'compact' is for small models."
    )
    thinking: bool = Field(True, description="Ask for reasoning before the answer (true) or for the answer at once.")


def question(observation: str, config: PromptConfig) -> str:
    """The user's side of the prompt: the observation and what kind of answer is wanted."""
    if config.observation == "compact":
        return observation + (THINK_MARK if config.thinking else "")
    return f"{observation}\n\n{INSTRUCTION[config.thinking]}"


def messages(observation: str, config: PromptConfig) -> list[Message]:
    """The prompt as chat messages, for the tokenizer's own template."""
    return [{"role": "user", "content": question(observation, config)}]


def plain_text(observation: str, config: PromptConfig) -> str:
    """The prompt as text for a base model. Raises `ValueError` for the template "chat", which has no fixed text."""
    asked = question(observation, config)
    if config.template == "qwen3":
        return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    if config.template == "r1":
        return f"{R1_SYSTEM}\nUser: {asked}\nAssistant: <think>"
    if config.template == "llama":
        return (
            f"<|start_header_id|>user<|end_header_id|>\n\n{asked}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
    raise ValueError(f"template {config.template!r} has no plain text; use messages() and the tokenizer's template")
