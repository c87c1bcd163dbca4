r"""A player's earlier turns of an episode as messages before the question of now (`prompt.history = "chat"`).

The first message holds the whole observation, later ones what is new in theirs (`new_lines`), so that a conversation
says everything once. It has the player's own turns only; what the others did is in the observations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from spiral.core.records import Turn
from spiral.core.transcript import new_lines
from spiral.games import Game
from spiral.text.prompts import Message, PromptConfig, question
from spiral.text.thinking import split_reply


def questions(
    history: Sequence[Turn],
    observation: str,
    config: PromptConfig,
    game: Game | None = None,
    clean: Callable[[str], str] = str,
) -> list[str]:
    """The user's messages of a conversation, [turns of the history, and one].

    Args:
        history: The player's earlier turns.
        observation: What the player sees now.
        config: The prompt settings.
        game: The game, by which the instruction asks for an action or for a message or action.
        clean: Replaces what must not come from an observation.
    """
    seen = [*(turn.observation for turn in history), observation]
    shown = [seen[0], *(new_lines(before, now) or now for before, now in itertools.pairwise(seen))]
    return [question(clean(text), config, game) for text in shown]


def answer_text(turn: Turn, opened: str = "") -> str:
    """The reply of a turn without its thought. `opened` is the delimiter of a thought that its prompt opened."""
    return split_reply(turn.reply, opened).answer.strip() or f"\\boxed{{{turn.action}}}"


def conversation(
    history: Sequence[Turn], observation: str, config: PromptConfig, game: Game | None = None
) -> list[Message]:
    """The turns as messages of user and assistant in turn, without thoughts; the last one asks for the next reply."""
    asked = questions(history, observation, config, game)
    exchange: list[Message] = []
    for text, turn in zip(asked, history, strict=False):
        exchange.append({"role": "user", "content": text})
        exchange.append({"role": "assistant", "content": answer_text(turn)})
    return [*exchange, {"role": "user", "content": asked[-1]}]
