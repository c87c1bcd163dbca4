"""Whether a game's prompts leave a language model room for its answers.

A prompt that fills the context is answered by nothing, which would look like an illegal move. So a game is refused
before it is played where its first prompts do not fit, and before it is measured where no game of random play does.

Left out: games that fit by some ways of playing alone; replies without room have a fault there (`TurnReply`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from spiral.core.policy import Policy
from spiral.games import Game, State
from spiral.inference.base import LanguagePolicy

GAMES, MAX_ACTIONS = 20, 400
"""Of random play, and how long each of them is followed."""
LONGEST = 20
"""States whose prompts are measured, of many: those whose observations have the most letters."""


class PromptRoomError(ValueError):
    """A prompt leaves a model no room for an answer."""


def check_room(policy: Policy, game: Game, name: str | None = None, *, first: bool = False) -> None:
    """Raises `PromptRoomError` when a language model has no room for its answers in any game of random play.

    Args:
        policy: One that is no language model here has room for everything.
        game: What it is to play.
        name: What the error calls the policy; its own name if left out.
        first: Only each player's first prompt has to fit.
    """
    if not isinstance(policy, LanguagePolicy):
        return
    style, refused = policy.codec.config.observation, None
    for number in range(GAMES):
        asked = _decisions(game, random.Random(number), first)
        if not asked:
            return
        turn = max(range(len(asked)), key=lambda turn: len(asked[turn].observation(asked[turn].current_player, style)))
        which = "the first prompt" if first or turn < game.num_players else f"the prompt after {turn} moves"
        try:
            _check(policy, game, asked[turn], asked[turn].current_player, which, name)
        except PromptRoomError as error:
            refused = error
        else:
            return
    if refused is not None:
        raise refused


def check_states_room(
    policy: LanguagePolicy, game: Game, states: Iterable[tuple[State, int]], name: str | None = None
) -> None:
    """The same for given states, each with the player to act; `name` as above."""
    style = policy.codec.config.observation
    texts = {state.observation(player, style): (state, player) for state, player in states}
    for text in sorted(texts, key=len)[-LONGEST:]:
        _check(policy, game, *texts[text], "one prompt", name)


def _check(policy: LanguagePolicy, game: Game, state: State, player: int, which: str, name: str | None) -> None:
    """Raises `PromptRoomError` with the numbers."""
    style = policy.codec.config.observation
    prompt, answer = len(policy.codec.encode(state.observation(player, style), game)), policy.answer_tokens(state)
    if prompt + answer > policy.context:
        shorter = "" if style == "compact" else " a shorter one, such as with prompt.observation = 'compact', or"
        raise PromptRoomError(
            f"{which} of {game.spec} has {prompt:,} tokens, the shortest answer {answer:,}, and {name or policy.name}"
            f" takes {policy.context:,} together; expected{shorter} a longer context"
        )


def _decisions(game: Game, rng: random.Random, first: bool) -> list[State]:
    """The states of a game of random play in which a player is asked, or is asked for the first time.

    None of a game that fails: what plays it says how.
    """
    asked: list[State] = []
    try:
        state = game.initial_state()
        for _ in range(MAX_ACTIONS):
            if state.is_terminal:
                break
            actions = [action for action, _ in state.chance_outcomes()] if state.is_chance else state.legal_actions()
            if not state.is_chance:
                if first and any(earlier.current_player == state.current_player for earlier in asked):
                    break
                asked.append(state)
            if not actions:
                break
            state = state.apply(rng.choice(actions))
    except Exception:  # a user's game may do anything
        return []
    return asked
