"""A game's tree as flat arrays, so that exact theory is a few numpy passes over it.

The extensive form (Kuhn, 1953) is written out once per game, depth by depth, and kept: nodes and edges are numbered
in that order, so every depth is a slice. A pass down multiplies probabilities, a pass up averages payoffs.

With `merge_positions` histories that reach the same position (`State.position_key`) after the same number of moves
become one node. That is exact only in games of perfect information and for policies that look at the position, not
at the moves that led to it. Tic-tac-toe shrinks from 549,946 nodes to 5,478.

Left out: games that do not fit in memory, and imperfect recall.

Legend: N nodes, E edges, I information states, A the actions of all information states one after another ("slots").
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from spiral.games import CHANCE, TERMINAL, Game, State

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_NODES = 2_000_000
"""Beyond this a tree takes gigabytes and minutes."""

_TOLERANCE = 1e-9


class HiddenInformationError(ValueError):
    """Positions were to be merged in a game that hides something from a player."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InformationState:
    """What one player knows when it has to act, with one state that fits it."""

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
    slots: slice


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
        """A weight for every edge: the slot's for a player's action, the probability for a chance outcome. [E]"""
        return np.where(self.slot_E >= 0, weight_A[self.slot_E], self.chance_E)

    def reach(self, weight_E: Floats) -> Floats:
        """The product of weights on the way to every node, summed over ways where positions are merged. [N]"""
        reach_N = np.zeros(len(self.actor_N))
        reach_N[0] = 1.0
        for level, below in zip(self.levels, self.levels[1:], strict=False):
            flow = reach_N[self.source_E[level.edges]] * weight_E[level.edges]
            size = below.nodes.stop - below.nodes.start
            reach_N[below.nodes] = np.bincount(self.target_E[level.edges] - below.nodes.start, flow, size)
        return reach_N

    def back_up(self, level: Level, weight_E: Floats, value_N: Floats) -> None:
        """Adds to the nodes of `level`, in place, the weighted values of the nodes below them."""
        flow = weight_E[level.edges] * value_N[self.target_E[level.edges]]
        size = level.nodes.stop - level.nodes.start
        value_N[level.nodes] += np.bincount(self.source_E[level.edges] - level.nodes.start, flow, size)

    def values(self, weight_E: Floats) -> Floats:
        """The expected payoff to player 0 from every node on. [N]"""
        value_N = self.payoff_N.copy()
        for level in reversed(self.levels):
            self.back_up(level, weight_E, value_N)
        return value_N


def _smaller(game: Game) -> str:
    """What to do about a tree that is too large; nothing where the game has no parameters."""
    names = [field.name for field in dataclasses.fields(game)]
    if "hands" in names:
        return f"load {game.spec.partition('(')[0]}(hands=1), or "
    return f"load the game with smaller parameters ({', '.join(names)}), or " if names else ""


def require_two_player_zero_sum(game: Game) -> None:
    """Raise `ValueError` for games in which best responses and equilibria do not mean what is computed here."""
    if game.num_players == 2 and game.zero_sum:
        return
    players = f"{game.num_players} player{'s' if game.num_players > 1 else ''}"
    what = players if game.num_players != 2 else "returns that do not sum to zero"
    raise ValueError(
        f"{game.spec} has {what}; exact theory, minimax and equilibria cover zero-sum games of two players only"
    )


@functools.lru_cache(maxsize=8)
def build_tree(game: Game, merge_positions: bool = False) -> GameTree:
    """The tree of `game`, kept for the next call. Raises `ValueError` for games without exact theory."""
    require_two_player_zero_sum(game)
    if game.free_text:
        raise ValueError(
            f"{game.spec} takes free text, so its actions cannot be listed; exact theory needs a game that lists them."
            " Measure play in it with `spiral evaluate`"
        )
    if not game.enumerable:
        raise ValueError(
            f"the tree of {game.spec} is too large for exact theory; {_smaller(game)}measure play with"
            " `spiral evaluate`"
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
    """The lists a tree grows in, one depth at a time."""

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
        """Adds the nodes of one depth; returns the states below them."""
        nodes = slice(len(self.actor), len(self.actor) + len(states))
        first_edge, first_slot = len(self.edges), self.slots
        below: list[State] = []
        place_of: dict[Hashable, int] = {}
        for node, state in enumerate(states, nodes.start):
            actor = state.current_player
            self.actor.append(actor)
            self.payoff.append(_payoff(self.game, state) if actor == TERMINAL else 0.0)
            self.infoset.append(self._find_infoset(state, actor) if actor >= 0 else -1)
            for action, probability, slot in self._moves(state, actor):
                child = state.apply(action)
                place = place_of.setdefault(child.position_key(), len(below)) if self.merge else len(below)
                if place == len(below):
                    below.append(child)
                self.edges.append((node, nodes.stop + place, slot))
                self.chance.append(probability)
            if nodes.stop + len(below) > MAX_NODES:
                raise ValueError(
                    f"the tree of {self.game.spec} has more than {MAX_NODES:,} nodes, too many for exact theory;"
                    " load the game with smaller parameters, or measure play with `spiral evaluate`"
                )
        self.levels.append(
            Level(nodes=nodes, edges=slice(first_edge, len(self.edges)), slots=slice(first_slot, self.slots))
        )
        return below

    def _moves(self, state: State, actor: int) -> list[tuple[str, float, int]]:
        """`(action, chance probability, slot)` of every way on from the newest node."""
        if actor == TERMINAL:
            return []
        if actor == CHANCE:
            outcomes = state.chance_outcomes()
            total = sum(probability for _, probability in outcomes)
            if abs(total - 1.0) > _TOLERANCE:
                raise ValueError(f"chance outcomes of {self.game.spec} sum to {total!r} at {state!r}; expected 1")
            return [(action, probability, -1) for action, probability in outcomes]
        infoset = self.infosets[self.infoset[-1]]
        return [(action, 1.0, infoset.first_slot + place) for place, action in enumerate(infoset.actions)]

    def _find_infoset(self, state: State, player: int) -> int:
        """The number of the acting player's information state, a new one when it was not met before."""
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
                f"{self.game.spec} hides something from player {player} (two positions share {name!r})"
                "; merge_positions is for games of perfect information, leave it out here"
            )
        before = self.infosets[known]
        if before.actions != actions or before.depth != depth:
            raise ValueError(
                f"information state {name!r} of player {player} in {self.game.spec} covers states with different legal"
                f" actions or numbers of moves: {before.actions} after {before.depth}, {actions} after {depth};"
                " make its text tell them apart"
            )
        return known

    def freeze(self) -> GameTree:
        """The finished tree."""
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


def _payoff(game: Game, state: State) -> float:
    """What player 0 gets at the end of a game."""
    first, second = state.returns()
    if abs(first + second) > _TOLERANCE:
        raise ValueError(f"returns of {game.spec} are {(first, second)} at {state!r}; expected a sum of zero")
    return float(first)


def _check_recall(tree: GameTree) -> None:
    """Raises `ValueError` when a player forgets what it knew or did: best responses would then be wrong, silently."""
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
                " the player knew or did before; exact theory needs perfect recall, so put its past in its text"
            )


def has_perfect_information(game: Game) -> bool:
    """Whether both players always know the position. Raises `ValueError` for games without exact theory."""
    try:
        build_tree(game, True)
    except HiddenInformationError:
        return False
    return True


def tree_size(game: Game, *, merge_positions: bool = False) -> int:
    """The number of nodes of the whole tree: chance, decisions and endings; of positions when they are merged."""
    return len(build_tree(game, merge_positions).actor_N)


def information_states(game: Game, *, merge_positions: bool = False) -> list[tuple[State, int]]:
    """One `(state, player to act)` for every information state of either player, in the order of play.

    This is all that a policy is ever asked, so it can be put to a model in one batch.
    """
    return [(infoset.state, infoset.player) for infoset in build_tree(game, merge_positions).infosets]
