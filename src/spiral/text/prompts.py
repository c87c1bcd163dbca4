r"""Builds the prompt of an observation: chat messages, or plain text for a base model.

A template only frames the observation, which already holds the rules, the player's role and the history. The
instruction follows the paper (arXiv 2506.24119v1, appendix A): reason step by step, answer inside `\boxed{}`. In games
with talk it asks for a message or an action, and says that the opponent receives the box and nothing else, as the
paper's released evaluation does. A worked example stands before the question as an earlier exchange in the same frame.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from spiral.core.settings import Section
from spiral.games import Game, Style
from spiral.text.thinking import CLOSE, OPEN

Message = dict[str, str]

INSTRUCTION = {
    True: "Reason step by step, then write your action, exactly one of those allowed, inside \\boxed{}.",
    False: "Answer at once, without explaining: write your action, exactly one of those allowed, inside \\boxed{}.",
}
TALK_INSTRUCTION = {
    True: "Reason step by step, then write your message or action inside \\boxed{}.",
    False: "Answer at once, without explaining: write your message or action inside \\boxed{}.",
}
"""For games in which the players talk."""
RECEIVED = "Your opponent receives only what is inside \\boxed{}, nothing else of your reply."
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
"""Text around a question, and the text that ends its reply, for each plain template."""
SYSTEM = {
    "qwen3": "<|im_start|>system\n{}<|im_end|>\n",
    "r1": "{}\n",
    "llama": "<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
}
"""Text around a system prompt, for each plain template."""


class PromptConfig(Section):
    """Settings of prompts."""

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
        description="A system prompt; if left out, the template's own default. It goes before the user's words when the"
        " chat template takes no system message, and replaces the first sentences of 'r1'.",
    )

    history: Literal["observation", "chat"] = Field(
        "observation",
        description="'observation' asks every turn by itself, with what the player sees; 'chat' puts the player's"
        " earlier turns of the episode before it as messages, and then asks with what is new.",
    )
    history_thoughts: Literal["keep", "drop"] = Field(
        "drop",
        description="With history = 'chat': 'drop' leaves the thoughts of earlier replies out; 'keep' has these replies"
        " token by token as they were sampled.",
    )

    @model_validator(mode="after")
    def _thoughts_have_a_history(self) -> Self:
        if self.history_thoughts == "keep" and self.history != "chat":
            raise ValueError(
                f"prompt.history_thoughts is 'keep' and prompt.history is {self.history!r}, which has no earlier"
                " replies; set prompt.history to 'chat', or leave prompt.history_thoughts out"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leaves out the system prompt and the history where there is none.

        TOML has no null, and older results were saved without these fields.
        """
        values: dict[str, object] = serialise(self)
        left_out = {"system"} if self.system is None else set()
        left_out |= {"history", "history_thoughts"} if self.history == "observation" else set()
        return {key: value for key, value in values.items() if key not in left_out}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """An example exchange. `thought` is empty when the prompt asks for an answer at once."""

    observation: str
    thought: str
    answer: str

    @property
    def reply(self) -> str:
        """Thought and answer as one text."""
        return self.joined("\n")

    def joined(self, joint: str) -> str:
        """Thought and answer with `joint` between them; the answer alone when there is no thought."""
        return f"{self.thought}{joint}{self.answer}" if self.thought else self.answer


def has_talk(game: Game) -> bool:
    """Whether the players of a game talk to each other, so that a reply is a message or an action."""
    return game.free_text and game.num_players > 1


def question(observation: str, config: PromptConfig, game: Game | None = None) -> str:
    """The user's message: the observation and the instruction, which depends on whether the game has talk.

    Observations that hold their own instruction get none.
    """
    if game is not None and game.instructs:
        return observation
    if config.observation == "compact":
        return observation + (THINK_MARK if config.thinking else "")
    if game is not None and has_talk(game):
        return f"{observation}\n\n{TALK_INSTRUCTION[config.thinking]} {RECEIVED}"
    return f"{observation}\n\n{INSTRUCTION[config.thinking]}"


def messages(
    user_text: str,
    config: PromptConfig,
    example: Example | None = None,
    *,
    game: Game | None = None,
    system_role: bool = True,
) -> list[Message]:
    """The prompt as chat messages for the tokenizer's own template.

    Args:
        user_text: The user's message, as `question` returns it.
        config: The prompt settings.
        example: An exchange to show before the question.
        game: The game of the example.
        system_role: Whether the template takes a system message. If not, the system prompt goes before the user's
            first words.
    """
    exchange = [{"role": "user", "content": user_text}]
    if example is not None:
        shown = {"role": "user", "content": question(example.observation, config, game)}
        exchange = [shown, {"role": "assistant", "content": example.reply}, *exchange]
    if config.system is None:
        return exchange
    if system_role:
        return [{"role": "system", "content": config.system}, *exchange]
    first = {"role": "user", "content": f"{config.system}\n\n{exchange[0]['content']}".lstrip()}
    return [first, *exchange[1:]]


def plain_text(user_text: str, config: PromptConfig, example: Example | None = None, game: Game | None = None) -> str:
    """The prompt as text for a base model. Raises `ValueError` for the template "chat", which has no fixed text."""
    if config.template not in PLAIN:
        raise ValueError(
            f"prompt.template {config.template!r} has no plain text; use messages() and the tokenizer's chat template"
        )
    around, end = PLAIN[config.template]
    opening, joint = "" if config.system is None else SYSTEM[config.template].format(config.system), "\n"
    if config.template == "r1":
        # An answer always follows a thought here; an answer at once follows an empty one.
        opening, joint = opening or f"{R1_SYSTEM}\n", f"{CLOSE}\n"
        around += "" if config.thinking else f"\n\n{CLOSE}\n"
    if example is not None:
        opening += around.format(question(example.observation, config, game)) + example.joined(joint) + end
    return opening + around.format(user_text)


def plain_continuation(user_text: str, config: PromptConfig) -> str:
    """What a plain template writes between a reply and the next one: the end of the reply, and a further question."""
    around, end = PLAIN[config.template]
    if config.template == "r1" and not config.thinking:
        around += f"\n\n{CLOSE}\n"
    return end + around.format(user_text)


def plain_conversation(exchange: Sequence[Message], config: PromptConfig) -> str:
    """A conversation as text for a base model; its last message is the user's, and the reply follows it.

    Args:
        exchange: Messages of the roles system (only the first), user and assistant. Without a system message the
            settings' own goes first.
        config: The prompt settings, with a plain template.
    """
    around, end = PLAIN[config.template]
    system = exchange[0]["content"] if exchange[0]["role"] == "system" else config.system
    text = "" if system is None else SYSTEM[config.template].format(system)
    if config.template == "r1":
        text = text or f"{R1_SYSTEM}\n"
        around += "" if config.thinking else f"\n\n{CLOSE}\n"
    for message in exchange:
        if message["role"] == "user":
            text += around.replace("{}", message["content"], 1)
        elif message["role"] == "assistant":
            text += message["content"] + end
    return text


def plain_chat_template(config: PromptConfig, *, begins: bool = False) -> str:
    """A Jinja chat template that writes what `plain_conversation` does, for servers that want one.

    Args:
        config: The prompt settings, with a plain template.
        begins: Whether the text begins with the tokenizer's token for that.
    """
    around, end = PLAIN[config.template]
    opening = "" if config.system is None else SYSTEM[config.template].format(config.system)
    if config.template == "r1":
        opening = opening or f"{R1_SYSTEM}\n"
        around += "" if config.thinking else f"\n\n{CLOSE}\n"
    system, user = (
        " + message['content'] + ".join(json.dumps(part) for part in text.split("{}"))
        for text in (SYSTEM[config.template], around)
    )
    return (
        f"{'{{ bos_token }}' if begins else ''}"
        f"{{% if messages[0]['role'] != 'system' %}}{{{{ {json.dumps(opening)} }}}}{{% endif %}}"
        "{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{{{{ {system} }}}}"
        f"{{% elif message['role'] == 'user' %}}{{{{ {user} }}}}"
        f"{{% else %}}{{{{ message['content'] + {json.dumps(end)} }}}}{{% endif %}}"
        "{% endfor %}"
    )
