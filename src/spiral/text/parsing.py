r"""Reads the action of a reply: the content of the last `\boxed{}` of the answer.

The parser ignores case, repeated spaces, one pair of square brackets, and the formatting of LaTeX and prose
(`latex.latex_to_text`): fonts, dollar signs, braces, arrows, quotes and a final full stop. Everything else is an
illegal reply: an unclosed box, two actions in one box, a box inside thinking tags, or an action that is not legal.
"""

from __future__ import annotations

from spiral.games import State
from spiral.text.boxes import last_boxed
from spiral.text.latex import latex_to_text, strip_formatting
from spiral.text.thinking import split_reply

MAX_CONTENT = 100_000
"""Characters. A longer box is illegal at once, because some games take minutes to reject it."""


def parse_action(reply: str, state: State) -> str | None:
    """The legal action that `reply` gives in `state`, or None when the reply is illegal.

    An action that the game lists is returned in the game's spelling. An action of a game with free text is returned
    as the reply spells it.
    """
    boxed = last_boxed(split_reply(reply).answer)
    if boxed is None or len(boxed) > MAX_CONTENT or state.is_terminal or state.is_chance:
        return None
    legal = {_normalise(action): action for action in reversed(state.legal_actions())}
    texts = (strip_formatting(boxed, mark_words=False), latex_to_text(boxed), boxed)
    candidates = [" ".join(text.split()) for text in texts]
    for content in candidates:
        if (action := legal.get(_normalise(content))) is not None:
            return action
    return next((content for content in dict.fromkeys(candidates) if state.is_legal(content)), None)


def _normalise(text: str) -> str:
    """Lower case, single spaces, and no square brackets around the whole."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return " ".join(text.casefold().split())
