"""Text between a game and a model: observation to prompt to token ids; reply to thinking, answer and action."""

from spiral.text.boxes import last_boxed
from spiral.text.chat import ChatCodec
from spiral.text.examples import worked_example
from spiral.text.parsing import parse_action
from spiral.text.prompts import Example, PromptConfig
from spiral.text.thinking import Thought, split_reply

__all__ = [
    "ChatCodec",
    "Example",
    "PromptConfig",
    "Thought",
    "last_boxed",
    "parse_action",
    "split_reply",
    "worked_example",
]
