"""The interface of curricula, and how a recipe names one.

A curriculum gives the kinds of games of a step their weights. A recipe names a built-in one, one of an installed
package (entry points of the group `spiral.curricula`), or a class of your own by "module:Class":

    class Worst(Curriculum):
        def __init__(self, games, *, share=0.5):
            self.games, self.share, self.worst = games, share, ""

        def weights(self, step, games):
            return {game: weight * (1 + (game == self.worst) * self.share) for game, weight in games.items()}

        def observe(self, step, episodes):
            self.worst = min(episodes, key=lambda episode: min(episode.rewards)).game

        def state_dict(self):
            return {"worst": self.worst}

        def load_state_dict(self, state):
            self.worst = str(state["worst"])

    [selfplay]
    games = { tictactoe = 1.0, kuhn_poker = 1.0 }

    [curriculum]
    kind = "my_module:Worst"
    options = { share = 1.0 }
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence

from spiral.core.records import Episode


class Curriculum(ABC):
    """Weighs the kinds of games, step by step.

    The constructor is called as `Curriculum(games, **options)`, with `selfplay.games` and the recipe's
    `curriculum.options`. What it gives may depend only on its arguments and its state, so that a resumed run
    plays the games that it would have played without the interruption.
    """

    @abstractmethod
    def weights(self, step: int, games: Mapping[str, float]) -> Mapping[str, float]:
        """Return the weights of the games in a step; they need not sum to 1.

        Args:
            step: The training step, from 1.
            games: The recipe's weights of the games that may be played in this step: those above zero that have
                entered (`selfplay.starts`).
        """

    def observe(self, step: int, episodes: Sequence[Episode]) -> None:  # noqa: B027
        """Take the episodes of a step, after they were played."""

    def state_dict(self) -> dict[str, object]:
        """Return state that JSON gives back as it is, with texts as keys; it is saved in every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:  # noqa: B027
        """Take the state of `state_dict`."""


def mean_rewards(episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """Return each game's mean reward by player that learns; games that could not be played are left out.

    Players are texts, as keys of JSON are. Players of games against an opponent are those of games among itself.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        if episode.outcome != "not_played":
            for player in episode.learning_players:
                found[episode.game][str(player)].append(episode.rewards[player])
    return {
        game: {player: statistics.fmean(values) for player, values in sorted(players.items())}
        for game, players in found.items()
    }


def shared_out(games: Mapping[str, float], scores: Mapping[str, float], floor: float) -> dict[str, float]:
    """Return weights that sum to 1: the share `floor` by the recipe's weights, the rest by these times the scores.

    A game without a score, such as one that has just entered, gets the largest of the others', so that it is tried.
    """
    highest = max(scores.values(), default=0.0)
    scored = {game: weight * scores.get(game, highest) for game, weight in games.items()}
    total, base = sum(scored.values()), sum(games.values())
    return {
        game: floor * weight / base + (1 - floor) * (scored[game] / total if total > 0 else weight / base)
        for game, weight in games.items()
    }


def checked_share(name: str, option: str, value: object) -> float:
    """Return an option that is a share above 0 and up to 1.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"the curriculum {name!r} got {option}={value!r}; expected a share above 0 and up to 1")
    return float(value)
