"""Checks that a game's prompts leave a language model space for its replies.

The reply to a prompt that fills the context is empty, which would look like an illegal move. So a game is refused
before training if its first prompts do not fit, and before an evaluation if no randomly played game fits.

Not refused: games in which only some lines of play fit. There a reply without space has a fault (`TurnReply`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from spiral.core.policy import Policy
from spiral.games import Game, State
from spiral.inference.base import LanguagePolicy

GAMES, MAX_ACTIONS = 20, 400
"""Number of randomly played games, and of actions in each."""
MAX_STATES = 20
"""Prompts are encoded for at most this many states: those with the longest observations."""


class PromptRoomError(ValueError):
    """The prompt fills the model's context, so there is no space for a reply."""


def check_room(policy: Policy, game: Game, name: str | None = None, *, first: bool = False) -> None:
    """Checks that a language model has space for its replies in at least one randomly played game.

    Args:
        policy: Other policies than language models always pass.
        game: The game to play.
        name: The policy's name in the error; by default its own name.
        first: Only each player's first prompt has to fit.

    Raises:
        PromptRoomError: No game fits, or `prompt.history` is "chat" and no earlier turn ever would.
    """
    if not isinstance(policy, LanguagePolicy):
        return
    if policy.codec.config.history == "chat":
        _check_history(policy, game, name)
    style, refused = policy.codec.config.observation, None
    for number in range(GAMES):
        states = _decisions(game, random.Random(number), first)
        if not states:
            return
        turn = max(
            range(len(states)), key=lambda turn: len(states[turn].observation(states[turn].current_player, style))
        )
        which = "the first prompt" if first or turn < game.num_players else f"the prompt after {turn} moves"
        try:
            _check(policy, game, states[turn], states[turn].current_player, which, name)
        except PromptRoomError as error:
            refused = error
        else:
            return
    if refused is not None:
        raise refused


def _check_history(policy: LanguagePolicy, game: Game, name: str | None) -> None:
    """Checks that a first prompt leaves some of the context to earlier turns, which get what no reply can need."""
    for state in _decisions(game, random.Random(0), first=True):
        observation = state.observation(state.current_player, policy.codec.config.observation)
        prompt, budget = len(policy.codec.encode(observation, game)), policy.sampling.max_new_tokens
        if prompt + budget > policy.context:
            raise PromptRoomError(
                f"the first prompt of {game.spec} has {prompt:,} tokens, a reply may have {budget:,}, and"
                f" {name or policy.name} takes {policy.context:,} together, so no earlier turn would ever fit; expected"
                " a lower max_new_tokens, a longer context, or prompt.history = 'observation'"
            )


def check_states_room(
    policy: LanguagePolicy, game: Game, states: Iterable[tuple[State, int]], name: str | None = None
) -> None:
    """Checks the prompts of given states, each with its player; `name` as in `check_room`."""
    style = policy.codec.config.observation
    texts = {state.observation(player, style): (state, player) for state, player in states}
    for text in sorted(texts, key=len)[-MAX_STATES:]:
        _check(policy, game, *texts[text], "one prompt", name)


def _check(policy: LanguagePolicy, game: Game, state: State, player: int, which: str, name: str | None) -> None:
    style = policy.codec.config.observation
    prompt, answer = len(policy.codec.encode(state.observation(player, style), game)), policy.answer_tokens(state)
    if prompt + answer > policy.context:
        shorter = "" if style == "compact" else " a shorter one, such as with prompt.observation = 'compact', or"
        raise PromptRoomError(
            f"{which} of {game.spec} has {prompt:,} tokens, the shortest answer {answer:,}, and {name or policy.name}"
            f" takes {policy.context:,} together; expected{shorter} a longer context"
        )


def _decisions(game: Game, rng: random.Random, first: bool) -> list[State]:
    """The states of a randomly played game in which a player decides, or with `first` decides for the first time.

    Empty for a game that fails; playing it reports the error.
    """
    states: list[State] = []
    try:
        state = game.initial_state()
        for _ in range(MAX_ACTIONS):
            if state.is_terminal:
                break
            actions = [action for action, _ in state.chance_outcomes()] if state.is_chance else state.legal_actions()
            if not state.is_chance:
                if first and any(earlier.current_player == state.current_player for earlier in states):
                    break
                states.append(state)
            if not actions:
                break
            state = state.apply(rng.choice(actions))
    except Exception:  # a user's game may do anything
        return []
    return states
