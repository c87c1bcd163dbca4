"""Errors of exact theory: invalid policies, unsuitable games, and information states that hide too much."""

import dataclasses
import math
import re
from typing import ClassVar

import pytest

from small_games import Echo, OddOneOut
from spiral.games import CHANCE, TERMINAL, Game, IllegalActionError, State, load_game
from spiral.games.failures import GameError
from spiral.policies import able_opponents, scripted_policy, scripted_table
from spiral.theory import (
    DepthLimited,
    best_response,
    equilibrium,
    expected_returns,
    exploitability,
    information_states,
    minimax_value,
    nash_conv,
    policy_from_table,
    tree_size,
    uniform_policy,
)
from spiral.theory.minimax import require_perfect_information, zero_sum_value
from spiral.theory.tree import build_tree

KUHN = load_game("kuhn_poker")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pennies(Game):
    """Player 0 hides a coin, player 1 wins by guessing it, then player 0 waves. `fault` breaks one rule of games."""

    name: ClassVar[str] = "pennies"
    summary: ClassVar[str] = "matching pennies"
    rules: ClassVar[str] = "the common rules"
    fault: str = ""
    small: bool = True

    def initial_state(self):
        return PenniesState(fault=self.fault)

    @property
    def enumerable(self):
        return self.small


CHANCES = {"negative": (("a", 1.5), ("b", -0.5)), "unknown": (("a", math.nan), ("b", 0.5))}
ENDINGS = {
    "sum": (1.0, 1.0),
    "nan": (math.nan, math.nan),
    "infinite": (math.inf, -math.inf),
    "short": (1.0,),
    "nothing": None,
    "by player": {0: 1.0, 1: -1.0},
    "huge": (1e300, -1e300),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenniesState(State):
    fault: str
    moves: tuple[str, ...] = ()

    @property
    def current_player(self):
        if self.fault in ("third player", "no player") and len(self.moves) == 2:
            return 2 if self.fault == "third player" else None
        if self.fault in CHANCES and len(self.moves) == 2:
            return CHANCE
        return TERMINAL if len(self.moves) == 3 else len(self.moves) % 2

    def chance_outcomes(self):
        return CHANCES.get(self.fault, ())

    def legal_actions(self):
        if len(self.moves) == 1 and self.fault == "actions" and self.moves[0] == "tails":
            return ("heads",)
        return () if self.is_terminal else ("wave",) if len(self.moves) == 2 else ("heads", "tails")

    def apply(self, action):
        if not self.is_legal(action):
            raise IllegalActionError(action)
        return dataclasses.replace(self, moves=(*self.moves, action))

    def returns(self):
        if not self.is_terminal:
            return (0.0, 0.0)
        right = self.moves[0] == self.moves[1]
        if self.fault in ENDINGS:
            return ENDINGS[self.fault]
        return (-1.0, 1.0) if right else (1.0, -1.0)

    def information_state(self, player):
        if player == 1:
            return f"moves {len(self.moves)}"
        return f"moves {len(self.moves)}" if self.fault == "memory" else ",".join(self.moves)

    def observation(self, player, style="full"):
        return self.information_state(player)


class Talk(Pennies):
    name: ClassVar[str] = "talk"
    free_text: ClassVar[bool] = True


def heads(state, player):
    return {state.legal_actions()[0]: 1.0}


def test_a_hidden_coin_is_hidden():
    game = Pennies()
    assert tree_size(game) == 1 + 2 + 4 + 4
    assert nash_conv(game, uniform_policy) == 0.0
    assert best_response(game, heads, 1).value == 1.0
    assert best_response(game, heads, 0).actions == {
        "": "tails",
        "heads,heads": "wave",
        "tails,heads": "wave",
        "heads,tails": "wave",
        "tails,tails": "wave",
    }


@pytest.mark.parametrize(
    ("game", "message"),
    [
        (Talk(), "talk takes free text.*spiral evaluate"),
        (Pennies(small=False), "too large for exact theory; load the game with smaller parameters"),
        (load_game("connect_four"), "tree of connect_four is too large"),
        (load_game("kuhn_poker", hands=5), r"kuhn_poker\(hands=5\) is too large.*hands=1"),
        (Pennies(fault="actions"), "'moves 1' of player 1.*different legal actions"),
        (Pennies(fault="sum"), "returns .* expected a sum of zero"),
        (Pennies(fault="unknown"), "chance outcomes of .* sum to nan .* expected 1"),
        (Pennies(fault="memory"), "'moves 2' of player 0 .* forgets"),
    ],
    ids=lambda value: getattr(value, "spec", None),
)
def test_unsuitable_games_are_refused(game, message):
    for ask in (information_states, tree_size, lambda game: exploitability(game, uniform_policy)):
        with pytest.raises(ValueError, match=message):
            ask(game)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "gave player 0 the return nan; expected a finite number"),
        ("infinite", "gave player 0 the return inf; expected a finite number"),
        ("short", r"gave returns \(1.0,\); expected 2 numbers, one for each player"),
        ("nothing", "gave returns None; expected 2 numbers"),
        ("by player", r"gave returns \{0: 1.0, 1: -1.0\}; expected 2 numbers"),
        ("huge", r"gave player 0 the return 1e\+300; expected -1e\+09 to 1e\+09"),
        ("third player", "gave current_player 2; expected 0 to 1, CHANCE or TERMINAL"),
        ("no player", "gave current_player None; expected 0 to 1, CHANCE or TERMINAL"),
        ("negative", r"gave the chance_outcomes .* expected probabilities of at least 0"),
    ],
)
def test_games_that_break_their_contract_are_named(fault, message):
    game = Pennies(fault=fault)
    shown = f"'{fault}'" if " " in fault else fault
    for ask in (information_states, tree_size, lambda game: exploitability(game, uniform_policy)):
        with pytest.raises(GameError, match=rf"game pennies\(fault={shown}\) {message}"):
            ask(game)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_searches_refuse_returns_that_are_not_finite(value):
    with pytest.raises(ValueError, match="needs a two-player zero-sum game, and this one has the returns"):
        zero_sum_value(PenniesState(fault="nan" if math.isnan(value) else "infinite", moves=("heads",) * 3))


@pytest.mark.parametrize("game", [KUHN, load_game("leduc_poker"), Pennies()], ids=lambda game: game.name)
def test_merging_positions_needs_perfect_information(game):
    with pytest.raises(ValueError, match=r"hides information from player .*merge_positions is only for"):
        nash_conv(game, uniform_policy, merge_positions=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"check": 0.5, "fold": 0.5}, "gave illegal actions {'fold': 0.5} at {where}; legal there: check, bet"),
        ({"check": 1.5, "bet": -0.5}, "at {where}; expected finite probabilities of at least zero"),
        ({"check": float("nan"), "bet": 1.0}, "at {where}; expected finite probabilities of at least zero"),
        ({"check": 0.5, "bet": 0.4}, "at {where}, which sums to 0.9; expected a sum of 1"),
        ({}, "at {where}, which sums to 0; expected a sum of 1"),
        ("check", "gave 'check' at {where}; expected a mapping from action to probability"),
    ],
)
def test_invalid_policies_are_refused(row, message):
    state, player = information_states(KUHN)[0]
    where = f"information state {state.information_state(player)!r} of player 0"

    def policy(asked, player):
        return row if asked == state else uniform_policy(asked, player)

    for ask in (
        lambda: nash_conv(KUHN, policy),
        lambda: expected_returns(KUHN, [policy, policy]),
        lambda: best_response(KUHN, policy, 1),
    ):
        with pytest.raises(ValueError, match=re.escape(message.replace("{where}", where))):
            ask()


def test_single_precision_and_explicit_zeros_are_accepted():
    def policy(state, player):
        return {**{a: p * (1 + 4e-7) for a, p in uniform_policy(state, player).items()}, "resign": 0.0}

    assert nash_conv(KUHN, policy) == pytest.approx(11 / 12, abs=1e-12)


def test_tables_must_be_complete():
    table = {
        state.information_state(player): uniform_policy(state, player) for state, player in information_states(KUHN)
    }
    assert nash_conv(KUHN, policy_from_table(table)) == pytest.approx(11 / 12, abs=1e-12)
    missing = next(iter(table))
    del table[missing]
    with pytest.raises(ValueError, match=re.escape(f"the policy has no row for {missing!r}; it has 11")):
        nash_conv(KUHN, policy_from_table(table))


def test_wrong_players_are_refused():
    with pytest.raises(ValueError, match="got player 2; expected 0 or 1"):
        best_response(KUHN, uniform_policy, 2)
    with pytest.raises(ValueError, match="got 1 policies; expected one for each of the 2 players"):
        expected_returns(KUHN, [uniform_policy])


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("connect_four", "exact theory; use `spiral evaluate` instead"),
        ("kuhn_poker(hands=5)", "exact theory; load kuhn_poker(hands=1), or use `spiral evaluate` instead"),
    ],
)
def test_advice_for_large_trees_depends_on_the_game(spec, advice):
    with pytest.raises(ValueError, match=re.escape(advice)):
        build_tree(load_game(spec))


@pytest.mark.parametrize("spec", ["kuhn_poker", "leduc_poker", "kuhn_poker(hands=5)"])
def test_minimax_suggests_the_equilibrium_policy(spec):
    game = load_game(spec)
    state = game.initial_state()
    for _ in range(2):
        with pytest.raises(ValueError, match="--opponent equilibrium"):
            require_perfect_information(state)
        state = state.apply(state.chance_outcomes()[0][0] if state.is_chance else state.legal_actions()[0])


class TwoPlayerEcho(Echo):
    num_players = 2


@pytest.mark.parametrize(
    ("game", "what"),
    [
        (OddOneOut(), "has 3 players"),
        (Echo(), "has 1 player"),
        (TwoPlayerEcho(), "has returns that do not sum to zero"),
    ],
)
def test_only_zero_sum_games_of_two_players_have_exact_theory(game, what):
    assert not game.exact_theory
    message = f"{what}; exact theory, minimax and equilibria cover zero-sum games of two players only"
    for refused in (
        lambda: exploitability(game, uniform_policy),
        lambda: nash_conv(game, uniform_policy),
        lambda: best_response(game, uniform_policy, 0),
        lambda: expected_returns(game, [uniform_policy] * game.num_players),
        lambda: tree_size(game),
        lambda: equilibrium(game),
        lambda: scripted_policy("minimax", game),
        lambda: scripted_policy("equilibrium", game),
        lambda: scripted_table("minimax", game),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    assert able_opponents(["random", "minimax", "equilibrium"], game) == ["random"]


def test_minimax_over_states_needs_two_players():
    state = OddOneOut().initial_state()
    with pytest.raises(ValueError, match="minimax needs a two-player zero-sum game, and this one has the returns"):
        minimax_value(state)
    with pytest.raises(ValueError, match="minimax needs a two-player zero-sum game"):
        DepthLimited(4).best_actions(state)
