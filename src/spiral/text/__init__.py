"""Text around the games: observation to prompt, prompt to token ids, reply to action."""

from spiral.text.chat import ChatCodec
from spiral.text.parsing import last_boxed, parse_action
from spiral.text.prompts import PromptConfig

__all__ = ["ChatCodec", "PromptConfig", "last_boxed", "parse_action"]
