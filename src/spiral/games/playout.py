"""Walking through games: chance resolved, random play, replay."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from spiral.games.base import Game, State


def draw(outcomes: Sequence[tuple[str, float]], rng: random.Random) -> str:
    """Draw one of the `(action, probability)` pairs of a chance node and return its action."""
    return rng.choices([name for name, _ in outcomes], weights=[probability for _, probability in outcomes])[0]


def resolve_chance(state: State, rng: random.Random | None = None) -> State:
    """Return the next state in which a player acts or the game is over.

    Args:
        state: Any state.
        rng: Draws the outcomes of chance; None takes the first that is listed.
    """
    while state.is_chance:
        state = state.apply(state.chance_outcomes()[0][0] if rng is None else draw(state.chance_outcomes(), rng))
    return state


def random_game(game: Game, rng: random.Random) -> Iterator[tuple[State, str]]:
    """Yield every state of one game between uniform players with the action taken in it, except the last state."""
    state = game.initial_state()
    while not state.is_terminal:
        action = draw(state.chance_outcomes(), rng) if state.is_chance else rng.choice(state.legal_actions())
        yield state, action
        state = state.apply(action)


def random_decisions(game: Game, rng: random.Random) -> Iterator[State]:
    """Yield the states of `random_game` in which a player acts."""
    return (state for state, _ in random_game(game, rng) if not state.is_chance)


def replay(game: Game, actions: Iterable[str]) -> State:
    """Return the state that `actions`, those of chance included, lead to."""
    state = game.initial_state()
    for action in actions:
        state = state.apply(action)
    return state
