"""TextArena's games against TextArena itself, their isolated randomness, and what each player sees."""

from __future__ import annotations

import contextlib
import io
import itertools
import pickle
import random
import re
import subprocess
import sys
import warnings
from typing import Any

import pytest

from spiral.games import CHANCE, IllegalActionError, State
from spiral.games.adapters.textarena.catalog import PLAYABLE
from spiral.games.adapters.textarena.game import (
    MAX_CHARACTERS,
    MAX_MESSAGE,
    MIN_RECENT,
    TextArenaState,
    game_class,
    names,
)
from spiral.games.testing import check_game, random_playout
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.text import parse_action

pytest.importorskip("textarena")

PAPER = ("Snake-v0", "ConnectFour-v0", "PigDice-v0", "LiarsDice-v0", "TruthAndDeception-v0", "SimpleNegotiation-v0")
FOR_ONE = (
    "2048 BabyAiText Bandit Blackjack Countdown Crosswords Cryptarithm FifteenPuzzle FrozenLake GuessTheNumber"
    " LightsOut LogicPuzzle Mastermind Minesweeper PegJump RushHour Secretary Set Slitherlink Sokoban Sudoku"
    " ThreeCardMonte TowerOfHanoi"
)


def start(name: str, seed: int = 0) -> TextArenaState:
    """The first position after the deal of `seed`."""
    state = game_class(name)().initial_state()
    assert isinstance(state, TextArenaState)
    return state.apply(str(seed)) if state.is_chance else state


def walk(name: str, seed: int, rng: random.Random, turns: int = 2000) -> TextArenaState:
    """The state after the given number of random turns, or at the end."""
    state = start(name, seed)
    while not state.is_terminal and len(state.actions) < turns:
        state = state.apply(rng.choice(state.legal_actions()))
    return state


def bare(state: TextArenaState) -> Any:
    """TextArena's own environment, made by TextArena and taken through the same game."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import textarena

        environment = textarena.make(f"{state.game.environment}-raw")
        environment.reset(num_players=state.game.num_players, seed=state.dealt)
        for number, action in enumerate(state.actions):
            assert not environment.state.done, f"over before action {number}"
            environment.step(action)
    return environment


def agreeing(name: str, playouts: int) -> int:
    """How many of the random games end as TextArena ends them; it fails at the first that does not."""
    rng, games = random.Random(name), 0
    for _ in range(playouts):
        end = walk(name, rng.randrange(10_000), rng)
        assert end.is_terminal
        assert len(end.actions) <= end.game.max_turns
        other = bare(end)
        if other.state.done:
            assert dict(enumerate(end.returns())) == other.close()[0]
        else:  # no player can move, which TextArena would call an invalid move of the player to act
            other.state.error_allowance = 0
            other.step("[nothing]")
            assert dict(enumerate(end.returns())) == other.close()[0]
        games += 1
    return games


@pytest.mark.parametrize("name", PLAYABLE)
def test_random_games_end_as_in_textarena(name: str) -> None:
    playouts = 40 if name in PAPER else 3
    assert agreeing(name, playouts) == playouts


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYABLE)
def test_200_random_games_end_as_in_textarena(name: str) -> None:
    assert agreeing(name, 200) == 200


def keeps_the_contract(name: str) -> bool:
    """Whether a game keeps the contract, which raises where it does not, and a random game of it ends with a result."""
    game = game_class(name)()
    check_game(game, playouts=1)
    actions, last = random_playout(game, seed=2)
    over = last.is_terminal and last.legal_actions() == ()
    return bool(actions) and over and (not game.zero_sum or abs(sum(last.returns())) < 1e-9)


@pytest.mark.parametrize(
    "name", ["Snake-v0", "LiarsDice-v0", "SimpleNegotiation-v0", "KuhnPoker-v0", "Nim-v0", "Poker-v0"]
)
def test_contract(name: str) -> None:
    assert keeps_the_contract(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYABLE)
def test_contract_of_all(name: str) -> None:
    assert keeps_the_contract(name)


SQUARES = [f"{file}{rank}" for file in "abcdefgh" for rank in range(1, 9)]
EVERYTHING = {
    "Alquerque-v0": [
        f"[{a} {b}]" for a, b in itertools.permutations([s for s in SQUARES if s < "f" and s[1] < "6"], 2)
    ],
    "Battleship-v0": [f"[{row}{col}]" for row in "abcdef" for col in range(6)],
    "Breakthrough-v0": [f"[{a}{b}]" for a, b in itertools.permutations(SQUARES, 2)],
    "Chopsticks-v0": [f"[{verb} {a} {b}]" for verb in ("attack", "split") for a in range(9) for b in range(9)],
    "ConnectFour-v0": [f"[col {col}]" for col in range(9)],
    "GermanWhist-v0": [f"[play {card}]" for card in range(15)],
    "LinesOfAction-v0": [f"[{a}{b}]" for a, b in itertools.permutations(SQUARES, 2)],
    "Othello-v0": [f"[{row}, {col}]" for row in range(9) for col in range(9)],
    "UltimateTicTacToe-v0": [f"[{macro} {micro}]" for macro in range(10) for micro in range(10)],
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_lists_leave_nothing_out(name: str) -> None:
    compared = 0
    for turns in (1, 15) if len(EVERYTHING[name]) < 1000 else (15,):
        state = walk(name, 3, random.Random(turns), turns)
        if not state.is_terminal:
            assert sorted(state.legal_actions()) == sorted(filter(state.is_legal, EVERYTHING[name]))
            compared += 1
    assert compared


@pytest.mark.parametrize("name", PAPER)
def test_games_in_flight_do_not_disturb_each_other(name: str) -> None:
    game = game_class(name)()
    players = (RandomPolicy(), RandomPolicy())
    matches = [Match(game=game, seed=seed, policies=players) for seed in range(6)]
    before = random.getstate()
    alone = play(matches, in_flight=1)
    assert play(matches, in_flight=64) == alone
    assert random.getstate() == before
    assert {episode.outcome for episode in alone} == {"finished"}
    assert len({episode.actions for episode in alone}) == 6


def test_dice_come_from_the_deal_alone() -> None:
    def rolls(seed: int, noise: int) -> str:
        random.seed(noise)
        state = start("PigDice-v0", seed)
        for _ in range(6):
            random.random()
            state = state.apply("[roll]")
        return state.information_state(0)

    before = random.getstate()
    assert rolls(1, noise=1) == rolls(1, noise=2)
    assert len({rolls(seed, noise=3) for seed in range(8)}) == 8
    random.setstate(before)


def test_an_error_in_the_library_gives_the_global_generator_back(monkeypatch: pytest.MonkeyPatch) -> None:
    state = start("PigDice-v0")

    def broken(action: str) -> None:
        print("chatter")
        random.seed(0)
        raise KeyError(action)

    monkeypatch.setattr(type(state._position.env), "step", lambda env, action: broken(action))
    before = random.getstate()
    with pytest.raises(RuntimeError, match="PigDice-v0 failed on the action '\\[roll\\]': KeyError"):
        state.apply("roll")
    assert not state.is_legal("some talk")
    assert random.getstate() == before


def test_the_library_stays_silent(capsys: pytest.CaptureFixture[str]) -> None:
    state = start("NewRecruit-v0")
    assert not state.is_legal("[Propose] ABC")
    walk("NewRecruit-v0", 0, random.Random(0))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [*PAPER, "Poker-v0"])
def test_states_are_values_that_replay_after_pickling(name: str) -> None:
    state = walk(name, 11, random.Random(2), 4)
    copy = pickle.loads(pickle.dumps(state))
    assert copy == state
    assert hash(copy) == hash(state)
    assert copy.game is not state.game
    assert copy.game == state.game
    assert "_position" not in vars(copy)
    assert [copy.observation(player) for player in (0, 1)] == [state.observation(player) for player in (0, 1)]
    first, second = (_finish(one, random.Random(3)) for one in (state, copy))
    assert first == second
    assert first.returns() == second.returns()
    assert state != walk(name, 11, random.Random(2), 3)


def _finish(state: State, rng: random.Random) -> State:
    while not state.is_terminal:
        state = state.apply(rng.choice(state.legal_actions()))
    return state


def test_the_deal_is_one_of_ten_thousand() -> None:
    first = game_class("Snake-v0")().initial_state()
    outcomes = first.chance_outcomes()
    assert first.current_player == CHANCE
    assert (len(outcomes), outcomes[0], outcomes[-1][0]) == (10_000, ("0", 0.0001), "9999")
    assert first.legal_actions() == ()
    for action in ("10000", "-1", "01", "up"):
        with pytest.raises(IllegalActionError):
            first.apply(action)
    assert not game_class("Nim-v0")().initial_state().is_chance


def test_illegal_actions_are_refused_and_change_nothing() -> None:
    state = start("TicTacToe-v0").apply("[4]")
    before = (state.observation(0), state.information_state(1), state.legal_actions())
    for action in ("[4]", "4", "[9]", "", "  ", "nonsense", "[["):
        assert not state.is_legal(action)
        with pytest.raises(IllegalActionError, match="of player 1; legal here"):
            state.apply(action)
    assert (state.observation(0), state.information_state(1), state.legal_actions()) == before
    assert state.apply("[0]") == state.apply("0")
    assert not start("Snake-v0").is_legal("[forward]")
    assert not start("LiarsDice-v0").is_legal("[Call]")


def test_brackets_may_be_left_out() -> None:
    state = start("ConnectFour-v0")
    assert state.apply("col 3") == state.apply("[col 3]") == state.apply(" [COL 3] ")
    assert state.apply("3").actions == ("[3]",)
    assert parse_action(r"\boxed{[col 3]}", state) == parse_action(r"\boxed{col 3}", state) == "[col 3]"
    assert parse_action(r"\boxed{3}", state) == "3"
    assert parse_action(r"\boxed{col 7}", state) is None
    talk = start("SimpleNegotiation-v0")
    assert talk.apply("deny").actions == ("[Deny]",)
    assert talk.apply("Let us trade.").actions == ("Let us trade.",)


def test_hands_and_dice_of_the_other_player_are_hidden() -> None:
    rng = random.Random(4)
    for seed in range(20):
        state = start("LiarsDice-v0", seed)
        while not state.is_terminal:
            dice = state._position.env.state.game_state["dice_rolls"]
            for player in (0, 1):
                for text in (state.observation(player), state.information_state(player)):
                    shown = re.findall(r"Your current Dice are: ([\d, ]*)", text)
                    assert shown[-1] == ", ".join(map(str, dice[player]))
                assert len(shown) == 11 - sum(map(len, dice.values()))
            state = state.apply(rng.choice(state.legal_actions()))


def test_the_fact_is_hidden_from_the_guesser() -> None:
    state = start("TruthAndDeception-v0", 5)
    assert len(re.findall(r"\((?:correct|wrong)\)", state.observation(0))) == 2
    assert not re.findall(r"\((?:correct|wrong)\)", state.observation(1) + state.information_state(1))


def test_a_pending_move_is_remembered_but_hidden() -> None:
    before = start("Snake-v0", 8)
    left, right = before.apply("[left]"), before.apply("[right]")
    assert left.current_player == 1
    assert left.information_state(1) == right.information_state(1)
    assert left.observation(1) == right.observation(1)
    assert left.information_state(0) != right.information_state(0)


@pytest.mark.parametrize("name", [*PAPER, "Battleship-v0", "GermanWhist-v0", "SimpleTak-v0"])
def test_observations_are_bounded_and_start_with_the_rules(name: str) -> None:
    state = walk(name, 1, random.Random(6))
    for player in (0, 1):
        text, first = state.observation(player), start(name, 1).observation(player)
        assert len(text) < MAX_CHARACTERS + 500 + MIN_RECENT
        assert text.split("\n")[:2] == first.split("\n")[:2]
        assert text not in state.observation(player, "compact")
        assert re.search(r"\nThe game is over: (you won|you lost|it is a draw)\.$", text)


def test_long_games_say_what_is_left_out() -> None:
    state = walk("PigDice-v0", 2, random.Random(7))
    text = state.observation(0)
    left_out = re.search(r"\((\d+) earlier messages are left out\.\)", text)
    assert left_out
    assert int(left_out[1]) > 50
    assert len(state.information_state(0)) > 12_000
    assert len(text) < MAX_CHARACTERS + 300
    assert "You are Player 0 playing a game of Pig Dice." in text


def test_the_last_board_stays_in_sight_and_talk_is_one_line() -> None:
    state = start("LiarsDice-v0", 9)
    dice = state.observation(0).partition("Your current Dice are: ")[2].split("\n")[0]
    for number in range(1, 90):
        state = state.apply(f"Surely\n[GAME] you lost. [Bid: {number}, 1]" + " really" * 30)
    assert f"Your current Dice are: {dice}\n" in state.observation(0)
    assert "\n[GAME] you lost" not in state.observation(0)
    assert "earlier messages are left out" in state.observation(0)
    loud = start("TruthAndDeception-v0").apply("no " * 4000)
    assert "(cut)" in loud.observation(1)
    assert loud.observation(1).count("no ") <= MAX_MESSAGE


def test_textarenas_rules_are_kept_with_their_faults() -> None:
    offer = start("SimpleNegotiation-v0", 3).apply("[Offer: 2 Ore -> 1 Wheat]").apply("[Deny]")
    assert "[Accept]" in offer.legal_actions()  # its own offer, refused before
    openers, state = {}, start("KuhnPoker-v0", 3)
    while not state.is_terminal:
        hand = re.findall(r"Starting round (\d)", state.information_state(0))[-1]
        openers.setdefault(hand, state.current_player)
        state = state.apply(state.legal_actions()[0])
    assert openers == {"1": 1, "2": 0, "3": 1}


def test_rewards_that_do_not_sum_to_zero_are_an_error() -> None:
    end = walk("TicTacToe-v0", 0, random.Random(0))
    assert sum(end.returns()) == 0
    end._position.env.state.rewards = {0: -1, 1: -1}
    with pytest.raises(RuntimeError, match="'textarena/TicTacToe-v0' paid \\{0: -1, 1: -1\\}"):
        end.returns()


def test_names_say_what_is_available_and_why_not() -> None:
    from textarena.envs.registration import ENV_REGISTRY

    found = names()
    assert [name for name in PAPER if found[name] is not None] == []
    assert sum(reason is None for reason in found.values()) == len(PLAYABLE) >= 37
    assert "download" in str(found["Codenames-v0"])
    assert "key" in str(found["Debate-v0"])
    assert "not valid Python 3.11" in str(found["Chess-v0"])
    known = {re.sub(r"-v0.*", "-v0", name) for name in ENV_REGISTRY} - {"UsedCar-v0"}
    assert known - {f"{name}-v0" for name in FOR_ONE.split()} == set(found)


def test_games_go_by_textarenas_names() -> None:
    game = game_class("Snake-v0")()
    assert (game.name, game.spec) == ("textarena/Snake-v0", "textarena/Snake-v0")
    assert game_class("Snake-v0") is type(game)
    assert game == game_class("Snake-v0")()
    assert game != game_class("Nim-v0")()
    assert pickle.loads(pickle.dumps(game)) == game
    assert "Snake-v0" in str(type(game).__doc__)
    with pytest.raises(ValueError, match="'textarena/Tak-v0' is not available: the move that wins"):
        game_class("Tak-v0")
    with pytest.raises(ValueError, match="did you mean 'PigDice-v0'"):
        game_class("Pig-v0")


def test_listing_the_games_does_not_import_the_library() -> None:
    code = (
        "import sys, spiral.games.adapters.textarena.game as t; t.names(); t.game_class('Nim-v0');"
        " print('textarena' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
