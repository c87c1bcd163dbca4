r"""From a reply to an action: the content of the answer's last `\boxed{}`, and then only exact legality decides.

Forgiven: case, runs of spaces, one pair of square brackets, and LaTeX text commands around the content. Nothing
else is rescued: an unfinished box, two actions in one box, a box inside thinking tags or a move that the rules refuse
is an illegal reply.
"""

from __future__ import annotations

import re

from spiral.games import State
from spiral.text.boxes import last_boxed
from spiral.text.thinking import split_reply

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|texttt|mathrm|mathbf|mathtt|operatorname)\s*\{([^{}]*)\}")


def parse_action(reply: str, state: State) -> str | None:
    """The legal action that `reply` gives in `state`, in the game's own spelling, or None when it is illegal."""
    boxed = last_boxed(split_reply(reply).answer)
    if boxed is None or state.is_terminal or state.is_chance:
        return None
    content = " ".join(_TEXT_COMMAND.sub(r"\1", boxed).split())
    wanted = _normalise(content)
    for action in state.legal_actions():
        if _normalise(action) == wanted:
            return action
    return content if state.is_legal(content) else None


def _normalise(text: str) -> str:
    """Case, spaces and one pair of square brackets removed."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return " ".join(text.casefold().split())
