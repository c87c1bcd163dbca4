r"""A policy's action probabilities at every decision of a game, which exact theory needs.

Every information state is put to the policy once; in a game of perfect information every position, through the first
history in order of play that reaches it. A language model that answers without thinking is scored: the probability of
each legal reply `\boxed{action}` is computed. A model that thinks first, phrases its answers otherwise, or runs in an
engine that cannot score a given reply is sampled: its replies are counted. A scripted policy's probabilities are exact.

The remaining probability belongs to illegal replies. It is kept separately as illegal mass; nothing is renormalised
here.
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
"""A state and the player to act in it."""
MAX_ILLEGAL_WHEN_SCORED = 0.05
"""Mean illegal mass above which the scored replies are not how the model answers, so that it is sampled instead."""
MAX_SAMPLES = 200_000
"""Upper bound on the replies sampled for one table."""
TheoryWatch = Callable[[str, int, int], object]
"""Receives progress: what is counted (replies scored, replies sampled, games), how many are done, and the total."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateRow:
    """A policy's probabilities in one information state."""

    seat: int
    """The player to act."""
    information_state: str
    """In a game of perfect information, that of the history that represents the position."""
    probabilities: dict[str, float]
    """Probability of each legal action as the policy gives it; they sum to one minus the illegal mass."""
    illegal: float
    """Probability of an illegal reply."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """A policy's probabilities at every decision of a game, in order of play, and how they were found."""

    game: Game
    method: Method
    rows: tuple[StateRow, ...]
    samples: int | None = None
    """Replies per state, if they were sampled."""

    def to_array(self) -> Floats:
        """Probability of every legal action of every row, [A]."""
        return np.array([probability for row in self.rows for probability in row.probabilities.values()])

    @property
    def illegal_mass(self) -> float:
        """Mean over the rows."""
        return float(np.mean([row.illegal for row in self.rows]))


def decision_tree(game: Game) -> GameTree:
    """The game's tree, with positions merged in games of perfect information; policies are queried at its infosets.

    Raises `ValueError` for games without exact theory.
    """
    return build_tree(game, has_perfect_information(game))


def decisions(game: Game) -> list[Decision]:
    """Every decision of the game, in the order of a table's rows."""
    return [(infoset.state, infoset.player) for infoset in decision_tree(game).infosets]


def ignore_progress(what: str, done: int, total: int) -> None:
    """A `TheoryWatch` that does nothing."""


def known_table(
    policy: LanguagePolicy | TabularPolicy, game: Game, watch: TheoryWatch = ignore_progress
) -> PolicyTable | None:
    """The table of a policy whose probabilities can be computed; None for a language model that has to be sampled.

    Raises `ValueError` for a language model that is shown its earlier turns, or whose context is too short for some
    state's prompt.
    """
    if not isinstance(policy, LanguagePolicy):
        return _exact_table(policy, game)
    check_no_history(policy)
    check_states_room(policy, game, decisions(game))
    thinks = policy.codec.config.thinking or policy.codec.opens_thinking
    if thinks or not isinstance(policy, TransformersPolicy):
        return None
    table = scored_table(policy, game, watch)
    return table if table.illegal_mass <= MAX_ILLEGAL_WHEN_SCORED else None


def check_no_history(policy: LanguagePolicy) -> None:
    """Raises `ValueError` for a model that is shown its earlier turns: no state alone fixes how it plays."""
    if policy.codec.config.history == "chat":
        raise ValueError(
            f"{policy.name} plays with prompt.history = 'chat', so its move depends on what it replied before and not"
            " on the state alone, and exact theory cannot judge it; expected prompt.history = 'observation'"
            " (--history observation)"
        )


def _exact_table(policy: TabularPolicy, game: Game) -> PolicyTable:
    tree = decision_tree(game)
    probability_A = policy_probabilities(tree, [policy, policy]).tolist()
    rows = []
    for infoset in tree.infosets:
        given = probability_A[infoset.first_slot : infoset.first_slot + len(infoset.actions)]
        rows.append(_row(infoset.state, infoset.player, dict(zip(infoset.actions, given, strict=True)), 0.0))
    return PolicyTable(game=game, method="exact", rows=tuple(rows))


def scored_table(policy: TransformersPolicy, game: Game, watch: TheoryWatch = ignore_progress) -> PolicyTable:
    """The table of a model that answers without thinking; states with the same observation are scored once."""
    asked = decisions(game)
    observations = [state.observation(player, policy.codec.config.observation) for state, player in asked]
    pairs = list(
        dict.fromkeys(
            (observation, action)
            for observation, (state, _) in zip(observations, asked, strict=True)
            for action in state.legal_actions()
        )
    )
    prompts = [policy.codec.encode(observation, game) for observation, _ in pairs]
    replies = [f"\\boxed{{{action}}}" for _, action in pairs]
    scores = reply_logprobs(policy, prompts, replies, functools.partial(watch, "replies scored"))
    probability = {pair: float(np.exp(score)) for pair, score in zip(pairs, scores, strict=True)}
    rows = []
    for observation, (state, player) in zip(observations, asked, strict=True):
        given = {action: probability[observation, action] for action in state.legal_actions()}
        rows.append(_row(state, player, given, max(0.0, 1 - sum(given.values()))))
    return PolicyTable(game=game, method="scored", rows=tuple(rows))


def sampled_table(
    policy: Policy,
    game: Game,
    asked: Sequence[Decision],
    *,
    samples: int,
    seed: int,
    purpose: str,
    watch: TheoryWatch = ignore_progress,
) -> PolicyTable:
    """The table of the decisions `asked`, from `samples` replies each; `purpose` names the random stream.

    Raises `ValueError` if that takes more than `MAX_SAMPLES` replies, and if the policy gives no reply.
    """
    if samples * len(asked) > MAX_SAMPLES:
        raise ValueError(
            f"{game.spec} has {len(asked)} information states; {samples} samples of each are more than"
            f" {MAX_SAMPLES:,} replies; expected --samples of at most {MAX_SAMPLES // len(asked)}"
        )
    policy.submit(
        [
            TurnRequest(key=index, game=game, state=state, player=player, seed=derive_seed(seed, purpose, index, draw))
            for index, (state, player) in enumerate(asked)
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
    for (state, player), count in zip(asked, counts, strict=True):
        illegal = count.pop("") / samples
        rows.append(_row(state, player, {action: n / samples for action, n in count.items()}, illegal))
    return PolicyTable(game=game, method="sampled", rows=tuple(rows), samples=samples)


def row_records(rows: Sequence[StateRow]) -> list[dict[str, Any]]:
    """The rows as plain dictionaries, for a result file."""
    return [dataclasses.asdict(row) for row in rows]


def _row(state: State, player: int, probabilities: dict[str, float], illegal: float) -> StateRow:
    return StateRow(
        seat=player, information_state=state.information_state(player), probabilities=probabilities, illegal=illegal
    )
