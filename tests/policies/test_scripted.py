"""Names of scripted policies, with parameters, and which games they can play."""

import dataclasses
from typing import ClassVar

import pytest

from commands import spiral
from spiral.evaluation import evaluate
from spiral.games import TERMINAL, Game, State, load_game
from spiral.policies import can_play, check_scripted, is_scripted, scripted_policy, scripted_table
from spiral.theory import expected_returns, exploitability, uniform_policy

TICTACTOE = load_game("tictactoe")
CONNECT_FOUR = load_game("connect_four")
KUHN = load_game("kuhn_poker")
LEDUC = load_game("leduc_poker")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat(Game):
    """One word each; what may be said is not listed."""

    name: ClassVar[str] = "chat"
    summary: ClassVar[str] = "one word each"
    rules: ClassVar[str] = "none"
    free_text: ClassVar[bool] = True

    def initial_state(self):
        return ChatState()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatState(State):
    words: tuple[str, ...] = ()

    @property
    def current_player(self):
        return TERMINAL if len(self.words) == 2 else len(self.words)

    def legal_actions(self):
        return ()

    def is_legal(self, action):
        return not self.is_terminal

    def apply(self, action):
        return ChatState(words=(*self.words, action))

    def observation(self, player, style="full"):
        return " ".join(self.words)

    def information_state(self, player):
        return " ".join(self.words)

    def returns(self):
        return (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "scripted"),
    [
        ("random", True),
        ("minimax", True),
        ("minimax(depth=4)", True),
        ("minimax( depth = 4 )", True),
        ("minimax(deep)", True),
        ("equilibrium", True),
        ("nano", False),
        ("maximin(depth=4)", False),
        ("runs/random", False),
    ],
)
def test_which_names_are_scripted(name, scripted):
    assert is_scripted(name) == scripted


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minimax(deep)", "only minimax takes a parameter, a whole number as in"),
        ("minimax(depth=four)", "only minimax takes a parameter"),
        ("random(depth=4)", "only minimax takes a parameter"),
        ("minimax(depth=0)", "got depth=0; expected a whole number from 1 to 50"),
        ("minimax(depth=4", "there is no scripted policy 'minimax"),
        ("nano", "there is no scripted policy 'nano'; the scripted policies are random, minimax, equilibrium; minimax"),
    ],
)
def test_invalid_names_are_refused(name, words):
    for ask in (check_scripted, lambda name: scripted_policy(name, TICTACTOE)):
        with pytest.raises(ValueError, match=words):
            ask(name)


def test_opponents_of_a_recipe():
    assert opponents("minimax(depth=4)").status == 0
    assert "evaluation.opponents: got 'minimax(deep)'; only minimax" in opponents("minimax(deep)").err


def opponents(name):
    """What `spiral train --dry-run` says to one opponent."""
    settings = ["--set", "selfplay.opening_plies={}", "--set", f"evaluation.opponents=['{name}']"]
    return spiral("train", "nano", "--dry-run", *settings)


def test_names_of_scripted_policies():
    names = ("random", "minimax", "minimax(depth=4)", "equilibrium")
    assert tuple(scripted_policy(name, TICTACTOE).name for name in names) == names
    assert scripted_policy(" minimax( depth=4 )", TICTACTOE).name == "minimax(depth=4)"


def test_tables():
    assert scripted_table("random", KUHN) is uniform_policy
    assert exploitability(LEDUC, scripted_table("equilibrium", LEDUC)) < 0.02
    assert exploitability(TICTACTOE, scripted_table("minimax", TICTACTOE), merge_positions=True) == 0.0
    with pytest.raises(ValueError, match=r"minimax\(depth=2\) has no known action probabilities"):
        scripted_table("minimax(depth=2)", TICTACTOE)


def test_the_leduc_equilibrium_plays_what_its_table_says():
    # Against uniform play the table's expected returns are exact; 600 games of some four chips' spread come near them.
    table = scripted_table("equilibrium", LEDUC)
    expected = expected_returns(LEDUC, [table, uniform_policy])[0], expected_returns(LEDUC, [uniform_policy, table])[1]
    players = scripted_policy("equilibrium", LEDUC), scripted_policy("random", LEDUC)
    result = evaluate(*players, LEDUC, episodes=1200, seed=0)
    assert result.seat_returns == pytest.approx(expected, abs=0.6)
    assert min(expected) > 0.2


def test_games_that_scripted_policies_can_play():
    chat = Chat()
    assert [can_play(name, chat) for name in ("random", "minimax", "minimax(depth=2)", "equilibrium")] == [False] * 4
    assert [can_play(name, KUHN) for name in ("random", "minimax", "minimax(depth=2)", "equilibrium")] == [
        True,
        False,
        False,
        True,
    ]
    assert can_play("minimax(depth=2)", CONNECT_FOUR)
    assert not can_play("equilibrium", CONNECT_FOUR)


def test_minimax_plays_what_is_open_after_the_deal():
    nim = load_game("nim")
    assert can_play("minimax", nim)
    assert not can_play("minimax", load_game("nim(heaps=6,size=31)")), "large deals have too many positions"
    result = evaluate(scripted_policy("minimax", nim), scripted_policy("random", nim), nim, episodes=60, seed=0)
    assert result.win.value > 0.9


@pytest.mark.parametrize("name", ["random", "minimax", "minimax(depth=2)"])
def test_scripted_policies_need_listed_actions(name):
    player = scripted_policy(name, Chat())
    words = f"{name} cannot play chat: it does not list its legal actions".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=words):
        evaluate(player, player, Chat(), episodes=2, seed=0)
