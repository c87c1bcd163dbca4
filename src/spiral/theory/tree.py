"""A game's tree as flat arrays, so that exact theory is a few numpy passes over it.

The extensive form (Kuhn, 1953) is built once per game and cached. Nodes and edges are numbered by depth, so every depth
is a slice. A pass down multiplies probabilities, a pass up averages payoffs.

With `merge_positions`, histories that reach the same position (`State.position_key`) after the same number of moves
become one node. That is exact only in games of perfect information, and for policies that depend on the position but
not on the moves that led to it. Tic-tac-toe shrinks from 549,946 nodes to 5,478.

Not supported: games that do not fit in memory, and imperfect recall.

Legend: N nodes, E edges, I information states, A the actions of all information states one after another ("slots").
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from spiral.core.contract import checked_numbers, checked_player, checked_returns
from spiral.games import CHANCE, TERMINAL, Game, State
from spiral.games.failures import GameError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_NODES = 2_000_000
"""A larger tree takes gigabytes and minutes."""

_TOLERANCE = 1e-9


class HiddenInformationError(ValueError):
    """Positions cannot be merged, since the game hides information from a player."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InformationState:
    """An information state of the player to act, with one of its states."""

    player: int
    name: str
    state: State
    actions: tuple[str, ...]
    depth: int
    first_slot: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """The nodes of one depth and the edges that leave them."""

    nodes: slice
    edges: slice


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GameTree:
    """A whole game. Node 0 is the root; edges are ordered by their source, and a level's targets are the next level."""

    game: Game
    merged: bool
    actor_N: Ints
    payoff_N: Floats
    """To player 0 at terminal nodes, zero elsewhere."""
    infoset_N: Ints
    """The information state of a decision node, -1 elsewhere."""
    source_E: Ints
    target_E: Ints
    slot_E: Ints
    """The slot of a player's action, -1 for chance."""
    chance_E: Floats
    """The probability of a chance outcome, 1 for a player's action."""
    infosets: tuple[InformationState, ...]
    infoset_A: Ints
    player_A: Ints
    levels: tuple[Level, ...]

    def edge_weights(self, weight_A: Floats) -> Floats:
        """A weight for every edge, [E]: the slot's for a player's action, the probability for a chance outcome."""
        return np.where(self.slot_E >= 0, weight_A[self.slot_E], self.chance_E)

    def reach(self, weight_E: Floats) -> Floats:
        """The product of weights on the path to every node, [N]; summed over paths if positions are merged."""
        reach_N = np.zeros(len(self.actor_N))
        reach_N[0] = 1.0
        for level, below in zip(self.levels, self.levels[1:], strict=False):
            flow = reach_N[self.source_E[level.edges]] * weight_E[level.edges]
            size = below.nodes.stop - below.nodes.start
            reach_N[below.nodes] = np.bincount(self.target_E[level.edges] - below.nodes.start, flow, size)
        return reach_N

    def back_up(self, level: Level, weight_E: Floats, value_N: Floats) -> None:
        """Adds the weighted values of their children to the nodes of `level`, in place."""
        flow = weight_E[level.edges] * value_N[self.target_E[level.edges]]
        size = level.nodes.stop - level.nodes.start
        value_N[level.nodes] += np.bincount(self.source_E[level.edges] - level.nodes.start, flow, size)

    def values(self, weight_E: Floats) -> Floats:
        """The expected payoff to player 0 from every node, [N]."""
        value_N = self.payoff_N.copy()
        for level in reversed(self.levels):
            self.back_up(level, weight_E, value_N)
        return value_N


def _smaller(game: Game) -> str:
    """Advice for a tree that is too large; empty if the game has no parameters."""
    names = [field.name for field in dataclasses.fields(game)]
    if "hands" in names:
        return f"load {game.spec.partition('(')[0]}(hands=1), or "
    return f"load the game with smaller parameters ({', '.join(names)}), or " if names else ""


def require_two_player_zero_sum(game: Game, what: str = "exact theory, minimax and equilibria cover") -> None:
    """Raises `ValueError` for other games, in which `what` would not be what is computed here."""
    if game.num_players == 2 and game.zero_sum:
        return
    players = f"{game.num_players} player{'s' if game.num_players > 1 else ''}"
    problem = players if game.num_players != 2 else "returns that do not sum to zero"
    raise ValueError(f"{game.spec} has {problem}; {what} zero-sum games of two players only")


@functools.lru_cache(maxsize=8)
def build_tree(game: Game, merge_positions: bool = False) -> GameTree:
    """The tree of `game`, cached. Raises `ValueError` for games without exact theory."""
    require_two_player_zero_sum(game)
    if game.free_text:
        raise ValueError(
            f"{game.spec} takes free text, so its actions cannot be listed; exact theory needs a game that lists them."
            " Use `spiral evaluate` instead"
        )
    if not game.enumerable:
        raise ValueError(
            f"the tree of {game.spec} is too large for exact theory; {_smaller(game)}use `spiral evaluate` instead"
        )
    builder = _Builder(game, merge_positions)
    states = [game.initial_state()]
    while states:
        states = builder.add_level(states)
    tree = builder.freeze()
    if not merge_positions:
        _check_recall(tree)
    return tree


class _Builder:
    """Builds a tree one depth at a time."""

    def __init__(self, game: Game, merge: bool) -> None:
        self.game = game
        self.merge = merge
        self.actor: list[int] = []
        self.payoff: list[float] = []
        self.infoset: list[int] = []
        self.edges: list[tuple[int, int, int]] = []
        self.chance: list[float] = []
        self.infosets: list[InformationState] = []
        self.infoset_of: dict[tuple[int, str], int] = {}
        self.levels: list[Level] = []
        self.slots = 0

    def add_level(self, states: list[State]) -> list[State]:
        """Adds the nodes of one depth; returns the states of the next."""
        nodes = slice(len(self.actor), len(self.actor) + len(states))
        first_edge = len(self.edges)
        below: list[State] = []
        index_of: dict[Hashable, int] = {}
        for node, state in enumerate(states, nodes.start):
            actor = _actor(self.game, state)
            self.actor.append(actor)
            self.payoff.append(_payoff(self.game, state) if actor == TERMINAL else 0.0)
            self.infoset.append(self._find_infoset(state, actor) if actor >= 0 else -1)
            for action, probability, slot in self._moves(state, actor):
                child = state.apply(action)
                index = index_of.setdefault(child.position_key(), len(below)) if self.merge else len(below)
                if index == len(below):
                    below.append(child)
                self.edges.append((node, nodes.stop + index, slot))
                self.chance.append(probability)
            if nodes.stop + len(below) > MAX_NODES:
                raise ValueError(
                    f"the tree of {self.game.spec} has more than {MAX_NODES:,} nodes, too many for exact theory;"
                    " load the game with smaller parameters, or use `spiral evaluate` instead"
                )
        self.levels.append(Level(nodes=nodes, edges=slice(first_edge, len(self.edges))))
        return below

    def _moves(self, state: State, actor: int) -> list[tuple[str, float, int]]:
        """`(action, chance probability, slot)` of every edge that leaves the newest node."""
        if actor == TERMINAL:
            return []
        if actor == CHANCE:
            outcomes = state.chance_outcomes()
            total = sum(probability for _, probability in outcomes)
            if not abs(total - 1.0) <= _TOLERANCE:
                raise ValueError(f"chance outcomes of {self.game.spec} sum to {total!r} at {state!r}; expected 1")
            if not all(probability >= 0.0 for _, probability in outcomes):
                raise GameError(
                    f"game {self.game.spec} gave the chance_outcomes {outcomes!r} at {state!r}; expected probabilities"
                    " of at least 0"
                )
            return [(action, probability, -1) for action, probability in outcomes]
        infoset = self.infosets[self.infoset[-1]]
        return [(action, 1.0, infoset.first_slot + index) for index, action in enumerate(infoset.actions)]

    def _find_infoset(self, state: State, player: int) -> int:
        """The index of the acting player's information state, which is added if it is new."""
        name, actions, depth = state.information_state(player), state.legal_actions(), len(self.levels)
        known = self.infoset_of.get((player, name))
        if known is None:
            if not actions:
                raise ValueError(
                    f"{self.game.spec} gives player {player} no legal action at {state!r}; expected one or more"
                )
            number = self.infoset_of[player, name] = len(self.infosets)
            self.infosets.append(
                InformationState(
                    player=player, name=name, state=state, actions=actions, depth=depth, first_slot=self.slots
                )
            )
            self.slots += len(actions)
            return number
        if self.merge:
            raise HiddenInformationError(
                f"{self.game.spec} hides information from player {player} (two positions share {name!r});"
                " merge_positions is only for games of perfect information"
            )
        before = self.infosets[known]
        if before.actions != actions or before.depth != depth:
            raise ValueError(
                f"information state {name!r} of player {player} in {self.game.spec} covers states with different legal"
                f" actions or numbers of moves: {before.actions} after {before.depth}, {actions} after {depth};"
                " make their texts differ"
            )
        return known

    def freeze(self) -> GameTree:
        edges = np.array(self.edges, dtype=np.int64).reshape(-1, 3)
        sizes = [len(infoset.actions) for infoset in self.infosets]
        return GameTree(
            game=self.game,
            merged=self.merge,
            actor_N=np.array(self.actor, dtype=np.int64),
            payoff_N=np.array(self.payoff, dtype=np.float64),
            infoset_N=np.array(self.infoset, dtype=np.int64),
            source_E=edges[:, 0].copy(),
            target_E=edges[:, 1].copy(),
            slot_E=edges[:, 2].copy(),
            chance_E=np.array(self.chance, dtype=np.float64),
            infosets=tuple(self.infosets),
            infoset_A=np.repeat(np.arange(len(sizes)), sizes),
            player_A=np.repeat(np.array([infoset.player for infoset in self.infosets], dtype=np.int64), sizes),
            levels=tuple(self.levels),
        )


def _actor(game: Game, state: State) -> int:
    actor = state.current_player
    if actor in (CHANCE, TERMINAL):
        return actor
    try:
        return checked_player(game, actor)
    except ValueError as error:
        raise _broken(game, state, error) from None


def _payoff(game: Game, state: State) -> float:
    given = state.returns()
    try:
        first, second = checked_numbers(game, given, "returns")
    except ValueError as error:
        raise _broken(game, state, error) from None
    if abs(first + second) > _TOLERANCE:
        raise ValueError(f"returns of {game.spec} are {(first, second)} at {state!r}; expected a sum of zero")
    try:
        return checked_returns(game, (first, second))[0]
    except ValueError as error:
        raise _broken(game, state, error) from None


def _broken(game: Game, state: State, error: ValueError) -> GameError:
    """The error of a game that breaks its contract at `state`."""
    return GameError(
        f"game {game.spec} {error} (at {state!r}); spiral.check_game(game) finds such faults without a model"
    )


def _check_recall(tree: GameTree) -> None:
    """Raises `ValueError` for imperfect recall, with which best responses would be silently wrong."""
    for player in (0, 1):
        last_slot_N = np.full(len(tree.actor_N), -1)
        for level in tree.levels:
            source, slot = tree.source_E[level.edges], tree.slot_E[level.edges]
            mine = tree.actor_N[source] == player
            last_slot_N[tree.target_E[level.edges]] = np.where(mine, slot, last_slot_N[source])
        nodes = np.flatnonzero(tree.actor_N == player)
        infoset = tree.infoset_N[nodes]
        lowest = np.full(len(tree.infosets), np.iinfo(np.int64).max)
        highest = np.full(len(tree.infosets), -2)
        np.minimum.at(lowest, infoset, last_slot_N[nodes])
        np.maximum.at(highest, infoset, last_slot_N[nodes])
        for number in np.flatnonzero(highest > lowest):
            raise ValueError(
                f"information state {tree.infosets[number].name!r} of player {player} in {tree.game.spec} forgets what"
                " the player knew or did before; exact theory needs perfect recall, so add its history to the text"
            )


def has_perfect_information(game: Game) -> bool:
    """Whether both players always know the position. Raises `ValueError` for games without exact theory."""
    try:
        build_tree(game, True)
    except HiddenInformationError:
        return False
    return True


def tree_size(game: Game, *, merge_positions: bool = False) -> int:
    """Number of nodes of the tree, chance nodes and endings included; of distinct positions if they are merged."""
    return len(build_tree(game, merge_positions).actor_N)


def information_states(game: Game, *, merge_positions: bool = False) -> list[tuple[State, int]]:
    """One `(state, player to act)` for every information state, in order of play.

    These are all the decisions a policy has to make, so a model can make them in one batch.
    """
    return [(infoset.state, infoset.player) for infoset in build_tree(game, merge_positions).infosets]
