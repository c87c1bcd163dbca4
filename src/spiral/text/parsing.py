r"""From a reply to an action: the content of the answer's last `\boxed{}`, and then only exact legality decides.

Forgiven: case, runs of spaces, one pair of square brackets, and the dress of LaTeX and of prose (`latex.plain_text`):
fonts, dollar signs, braces, arrows, quotes, a full stop at the end. Nothing else is rescued: an unfinished box, two
actions in one box, a box inside thinking tags or a move that the rules refuse is an illegal reply.
"""

from __future__ import annotations

from spiral.games import State
from spiral.text.boxes import last_boxed
from spiral.text.latex import plain_text, undress
from spiral.text.thinking import split_reply

MAX_CONTENT = 100_000
"""Characters; a longer box holds no action, since some games take minutes to say so."""


def parse_action(reply: str, state: State) -> str | None:
    """The legal action that `reply` gives in `state`, or None when it is illegal.

    An action that the game lists comes in the game's own spelling, another one of a game with free text as it was said.
    """
    boxed = last_boxed(split_reply(reply).answer)
    if boxed is None or len(boxed) > MAX_CONTENT or state.is_terminal or state.is_chance:
        return None
    legal = {_normalise(action): action for action in reversed(state.legal_actions())}
    readings = [" ".join(text.split()) for text in (undress(boxed, mark_words=False), plain_text(boxed), boxed)]
    for content in readings:
        if (action := legal.get(_normalise(content))) is not None:
            return action
    return next((content for content in dict.fromkeys(readings) if state.is_legal(content)), None)


def _normalise(text: str) -> str:
    """Case, spaces and one pair of square brackets removed."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return " ".join(text.casefold().split())
