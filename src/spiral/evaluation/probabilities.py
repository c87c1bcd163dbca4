r"""What a policy does in every decision of a game: the one table that exact theory is fed with.

Every information state is put to the policy once; in a game where nothing is hidden, every position, through the first
history in order of play that reaches it. A language model that answers at once is scored: the probability of each legal
reply `\boxed{action}` is read off. One that thinks first, words its answers otherwise, or runs in an engine that cannot
score a given reply is sampled: replies are counted. A scripted policy's probabilities are exact already.

What is left over goes to replies that are not legal. It is kept apart as illegal mass; nothing is renormalised here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from spiral.core.seeds import derive_seed
from spiral.games import Game, State
from spiral.inference.base import LanguagePolicy
from spiral.inference.room import check_states_room
from spiral.inference.scoring import reply_logprobs
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import Policy, TurnRequest
from spiral.theory import TabularPolicy, has_perfect_information
from spiral.theory.policy import policy_probabilities
from spiral.theory.tree import Floats, GameTree, build_tree

Method = Literal["exact", "scored", "sampled"]
Decision = tuple[State, int]
"""A state and the seat that acts in it."""
MOST_ILLEGAL_WHEN_SCORED = 0.05
"""Beyond this mean mass outside the plain replies they are not how the model answers, and it is sampled instead."""
MOST_SAMPLES = 200_000
TheoryWatch = Callable[[str, int, int], object]
"""Is told what is counted (scored replies, sampled replies, games), how many are done, and of how many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateRow:
    """What a policy does in one information state."""

    seat: int
    information_state: str
    """In a game where nothing is hidden, of the history that stands for the position."""
    probabilities: dict[str, float]
    """Of each legal action, as the policy gives them: they sum to one less the illegal mass."""
    illegal: float
    """The probability of a reply that is not legal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """A policy's probabilities in every decision of a game, in order of play, and how they were found."""

    game: Game
    method: Method
    rows: tuple[StateRow, ...]
    samples: int | None = None
    """Replies in each state, where they were sampled."""

    def to_array(self) -> Floats:
        """[A] the probability of every legal action of every row."""
        return np.array([probability for row in self.rows for probability in row.probabilities.values()])

    @property
    def illegal_mass(self) -> float:
        """The mean over the rows."""
        return float(np.mean([row.illegal for row in self.rows]))


def decision_tree(game: Game) -> GameTree:
    """The game's tree, of positions where nothing is hidden; its information states are what a policy is asked.

    Raises `ValueError` for games that are too large or have free text.
    """
    return build_tree(game, has_perfect_information(game))


def decisions(game: Game) -> list[Decision]:
    """All that a policy is asked, in the order of the rows of its table."""
    return [(infoset.state, infoset.player) for infoset in decision_tree(game).infosets]


def unwatched(what: str, done: int, total: int) -> None:
    """Ignores the progress."""


def known_table(
    policy: LanguagePolicy | TabularPolicy, game: Game, watch: TheoryWatch = unwatched
) -> PolicyTable | None:
    """The table of a policy whose probabilities can be known; None for a language model that has to be sampled.

    Raises `ValueError` for a language model to which some state's prompt leaves no room for an answer.
    """
    if not isinstance(policy, LanguagePolicy):
        return _exact_table(policy, game)
    check_states_room(policy, game, decisions(game))
    thinks = policy.codec.config.thinking or policy.codec.opens_thinking
    if thinks or not isinstance(policy, TransformersPolicy):
        return None
    table = scored_table(policy, game, watch)
    return table if table.illegal_mass <= MOST_ILLEGAL_WHEN_SCORED else None


def _exact_table(policy: TabularPolicy, game: Game) -> PolicyTable:
    tree = decision_tree(game)
    probability_A = policy_probabilities(tree, [policy, policy]).tolist()
    rows = []
    for infoset in tree.infosets:
        given = probability_A[infoset.first_slot : infoset.first_slot + len(infoset.actions)]
        rows.append(_row(infoset.state, infoset.player, dict(zip(infoset.actions, given, strict=True)), 0.0))
    return PolicyTable(game=game, method="exact", rows=tuple(rows))


def scored_table(policy: TransformersPolicy, game: Game, watch: TheoryWatch = unwatched) -> PolicyTable:
    """The table of a model that answers at once; states that look the same to it are scored once."""
    asked = decisions(game)
    texts = [state.observation(seat, policy.codec.config.observation) for state, seat in asked]
    pairs = list(
        dict.fromkeys(
            (text, action) for text, (state, _) in zip(texts, asked, strict=True) for action in state.legal_actions()
        )
    )
    prompts = [policy.codec.encode(text, game) for text, _ in pairs]
    replies = [f"\\boxed{{{action}}}" for _, action in pairs]
    scores = reply_logprobs(policy, prompts, replies, functools.partial(watch, "replies scored"))
    probability = {pair: float(np.exp(score)) for pair, score in zip(pairs, scores, strict=True)}
    rows = []
    for text, (state, seat) in zip(texts, asked, strict=True):
        given = {action: probability[text, action] for action in state.legal_actions()}
        rows.append(_row(state, seat, given, max(0.0, 1 - sum(given.values()))))
    return PolicyTable(game=game, method="scored", rows=tuple(rows))


def sampled_table(
    policy: Policy,
    game: Game,
    asked: Sequence[Decision],
    *,
    samples: int,
    seed: int,
    purpose: str,
    watch: TheoryWatch = unwatched,
) -> PolicyTable:
    """The table of the decisions `asked` by counting `samples` replies in each; `purpose` names the random stream."""
    if samples * len(asked) > MOST_SAMPLES:
        raise ValueError(
            f"{game.spec} has {len(asked)} information states; {samples} samples of each are more than"
            f" {MOST_SAMPLES:,} replies; expected --samples of at most {MOST_SAMPLES // len(asked)}"
        )
    policy.submit(
        [
            TurnRequest(key=index, game=game, state=state, player=seat, seed=derive_seed(seed, purpose, index, draw))
            for index, (state, seat) in enumerate(asked)
            for draw in range(samples)
        ]
    )
    counts = [dict.fromkeys((*state.legal_actions(), ""), 0) for state, _ in asked]
    remaining = samples * len(asked)
    while remaining:
        for reply in policy.poll():
            if reply.fault is not None:
                policy.cancel()
                raise ValueError(f"{policy.name} gave no reply in {game.spec}: {reply.fault}")
            counts[reply.key][reply.action or ""] += 1
            remaining -= 1
            watch("replies sampled", samples * len(asked) - remaining, samples * len(asked))
    rows = []
    for (state, seat), count in zip(asked, counts, strict=True):
        illegal = count.pop("") / samples
        rows.append(_row(state, seat, {action: n / samples for action, n in count.items()}, illegal))
    return PolicyTable(game=game, method="sampled", rows=tuple(rows), samples=samples)


def records(rows: Sequence[StateRow]) -> list[dict[str, Any]]:
    """The rows as plain dictionaries, for a result file."""
    return [dataclasses.asdict(row) for row in rows]


def _row(state: State, seat: int, probabilities: dict[str, float], illegal: float) -> StateRow:
    return StateRow(
        seat=seat, information_state=state.information_state(seat), probabilities=probabilities, illegal=illegal
    )
