"""States of all games, and requests for turns in them."""

from __future__ import annotations

import random

from spiral.games import load_game
from spiral.models.nano.build import random_turns
from spiral.policies import TurnRequest

GAMES = ("tictactoe", "kuhn_poker", "kuhn_poker(hands=5)", "leduc_poker", "connect_four", "simple_negotiation")


def random_states(count, seed=0, games=GAMES):
    """States of all games in which a player decides, from random play."""
    rng = random.Random(seed)
    return [rng.choice(random_turns(load_game(rng.choice(games)), rng)) for _ in range(count)]


def game_of(state):
    """The game of a state from `random_states`."""
    for game in map(load_game, GAMES):
        first = game.initial_state()
        if type(first) is type(state) and getattr(first, "hands", 0) == getattr(state, "hands", 0):
            return game
    raise AssertionError(f"no game of {state!r}")


def requests_for(states, seed=0):
    """One request for each state; the key is its index."""
    return [
        TurnRequest(key=key, game=game_of(state), state=state, player=state.current_player, seed=1000 * seed + key)
        for key, state in enumerate(states)
    ]


def replies_of(policy, requests):
    """All replies by key, polled until complete."""
    policy.submit(requests)
    replies = {}
    while len(replies) < len(requests):
        replies |= {reply.key: reply for reply in policy.poll()}
    return replies
