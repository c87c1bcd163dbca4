r"""One worked example a game, made from the game itself: a position early in random play, and a legal reply to it.

A small instruct model that is only told to answer inside `\boxed{}` hardly ever does; shown one earlier exchange that
does, it often will. The example shows the format, never how to play well: its action is a random legal one, and its
thought says no more than is true. The thought is short because small models lose the thread of longer ones: of 32
positions of Kuhn poker SmolLM2-135M-Instruct answered 10 legally after this one, 3 after one that lists the actions.

Any game has an example, since only `legal_actions`, `chance_outcomes`, `apply` and `observation` are used.
The same example precedes every position of a game, so that all its prompts begin with the same tokens.
"""

from __future__ import annotations

import functools
import random

from spiral.core.seeds import derive_seed
from spiral.games import Game, State
from spiral.text.prompts import Example, PromptConfig

DECISION = 1
"""Which decision of the game is shown, counted from 0; the last one of a shorter game."""
ATTEMPTS = 20
"""Random games played in search of one with that many decisions."""


@functools.lru_cache(maxsize=256)
def worked_example(game: Game, config: PromptConfig) -> Example:
    """The game's example: always the same one for equal games."""
    seed = derive_seed("worked example", game.spec)
    state, rng = _early_state(game, seed), random.Random(seed)
    choice = rng.choice(state.legal_actions())
    return Example(
        observation=state.observation(state.current_player, config.observation),
        thought=f"{choice} is a legal action." if config.thinking else "",
        answer=f"\\boxed{{{choice}}}",
    )


def _early_state(game: Game, seed: int) -> State:
    """The state of decision number `DECISION` in a random game, or of the last one where no game has as many."""
    longest: list[State] = []
    for attempt in range(ATTEMPTS):
        longest = max(longest, first_decisions(game, random.Random(derive_seed(seed, attempt))), key=len)
        if len(longest) > DECISION:
            return longest[DECISION]
    if not longest:
        raise ValueError(f"no worked example: {ATTEMPTS} random games of {game.spec} had no decision of a seat")
    return longest[-1]


def first_decisions(game: Game, rng: random.Random) -> list[State]:
    """The states in which a seat decides, along one random game, up to the one wanted."""
    state = game.initial_state()
    decisions: list[State] = []
    while not state.is_terminal and len(decisions) <= DECISION:
        if state.is_chance:
            names, chances = zip(*state.chance_outcomes(), strict=True)
            action = rng.choices(names, weights=chances)[0]
        else:
            decisions.append(state)
            action = rng.choice(state.legal_actions())
        state = state.apply(action)
    return decisions
