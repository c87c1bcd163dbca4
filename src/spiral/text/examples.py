r"""Worked examples, one for each game: a position early in random play and a legal reply to it.

A small instruct model that should answer inside `\boxed{}` hardly ever does so; after one example exchange it
often does. The example shows the format only, not good play: its action is a random legal one and its thought is one
true sentence. The thought is short because small models are distracted by longer ones: SmolLM2-135M-Instruct answered
10 of 32 positions of Kuhn poker legally after this example, and 3 after one that lists the legal actions.

A game may name its own example (`Game.example`): the negotiation shows where words go, problems a right answer. Every
other game has one too, since only `legal_actions`, `chance_outcomes`, `apply` and `observation` are needed. All
positions of a game get the same example, so all its prompts begin with the same tokens.
"""

from __future__ import annotations

import functools
import itertools
import random

from spiral.core.seeds import derive_seed
from spiral.games import Game, State
from spiral.games.playout import random_decisions
from spiral.text.prompts import Example, PromptConfig

DECISION = 1
"""Index of the decision that is shown, from 0. A shorter game shows its last decision."""
ATTEMPTS = 20
"""Random games that are tried to reach that decision."""


@functools.lru_cache(maxsize=256)
def worked_example(game: Game, config: PromptConfig) -> Example:
    """The worked example of a game; equal games have equal examples."""
    state, choice = game.example() or _random_example(game)
    action = choice.partition(". ")[0].rstrip(".")  # without the words of a negotiation
    thought = f"The answer is {choice}." if game.instructs else f"{action} is a legal action."
    return Example(
        observation=state.observation(state.current_player, config.observation),
        thought=thought if config.thinking else "",
        answer=f"\\boxed{{{choice}}}",
    )


def _random_example(game: Game) -> tuple[State, str]:
    """An early position of a random game, and a random legal action."""
    seed = derive_seed("worked example", game.spec)
    state, rng = _early_state(game, seed), random.Random(seed)
    return state, rng.choice(state.legal_actions())


def _early_state(game: Game, seed: int) -> State:
    """The state of decision `DECISION` of a random game, or of the last decision when every game is shorter."""
    longest: list[State] = []
    for attempt in range(ATTEMPTS):
        longest = max(longest, first_decisions(game, random.Random(derive_seed(seed, attempt))), key=len)
        if len(longest) > DECISION:
            return longest[DECISION]
    if not longest:
        raise ValueError(
            f"there is no worked example of {game.spec}: no player made a decision in {ATTEMPTS} random games"
        )
    return longest[-1]


def first_decisions(game: Game, rng: random.Random) -> list[State]:
    """The states of one random game in which a player decides, up to decision `DECISION`."""
    return list(itertools.islice(random_decisions(game, rng), DECISION + 1))
