"""OpenSpiel's games behind our own protocol: the same play, readable texts, nothing hidden that leaks."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import random
import subprocess
import sys
from typing import Any

import pytest

from spiral.games import CHANCE, Game, State, load_game
from spiral.games.adapters.openspiel import game as adapter
from spiral.games.adapters.openspiel.game import OpenSpielState
from spiral.games.adapters.openspiel.text import action_names, tidy
from spiral.games.testing import check_game, random_playout
from spiral.policies import scripted_policy
from spiral.rollout.loop import Match, play
from spiral.text import parse_action
from spiral.theory import exploitability, minimax_value, tree_size

pyspiel = pytest.importorskip("pyspiel")

EIGHT = (
    "breakthrough",
    "connect_four",
    "hex(board_size=7)",
    "leduc_poker",
    "liars_dice(numdice=2)",
    "nim",
    "othello",
    "pig",
)
OTHERS = ("hex(board_size=4,swap=True)", "repeated_leduc_poker", "phantom_ttt", "universal_poker")
NUM_PLAYOUTS = 200


def load(spec: str) -> Game:
    return load_game(f"openspiel/{spec}")


def play_line(spec: str, *actions: str) -> State:
    """The state after these actions, chance's included."""
    state = load(spec).initial_state()
    for action in actions:
        state = state.apply(action)
    return state


def uniform(state: State, player: int) -> dict[str, float]:
    return dict.fromkeys(state.legal_actions(), 1 / len(state.legal_actions()))


def follow(game: Game, other: Any, rng: random.Random) -> None:
    """One random game here and in OpenSpiel at once, with a look at everything on the way."""
    state = game.initial_state()
    while not other.is_terminal():
        assert state.current_player == other.current_player()
        assert state.returns() == (0.0, 0.0)
        numbers = other.legal_actions()
        if other.is_chance_node():
            assert state.legal_actions() == ()
            assert [chance for _, chance in state.chance_outcomes()] == [
                chance for _, chance in other.chance_outcomes()
            ]
            names = tuple(name for name, _ in state.chance_outcomes())
        else:
            names = state.legal_actions()
        assert len(names) == len(set(names)) == len(numbers)
        index = rng.randrange(len(numbers))
        state = state.apply(names[index])
        other.apply_action(numbers[index])
    assert isinstance(state, OpenSpielState)
    assert state.position.history() == other.history()
    assert state.is_terminal
    assert state.legal_actions() == ()
    assert list(state.returns()) == other.returns()


@pytest.mark.parametrize("spec", [*EIGHT, pytest.param("hex", marks=pytest.mark.slow)])
def test_200_random_games_agree_with_openspiel(spec: str) -> None:
    game, library = load(spec), pyspiel.load_game(spec)
    assert game.max_turns == library.max_game_length()
    for seed in range(NUM_PLAYOUTS):
        follow(game, library.new_initial_state(), random.Random(f"{spec}/{seed}"))


@pytest.mark.parametrize("spec", [*(spec for spec in EIGHT if spec != "leduc_poker"), *OTHERS])
def test_the_contract_is_kept(spec: str) -> None:
    game = load(spec)
    check_game(game, playouts=2)
    actions, last = random_playout(game, seed=2)
    assert actions
    assert last.is_terminal
    assert last.legal_actions() == ()
    assert sum(last.returns()) == 0.0


@pytest.mark.parametrize(
    ("spec", "nodes"),
    [
        ("kuhn_poker", 58),
        ("coordinated_mp", 15),
        ("nim(pile_sizes='2;3')", 86),
        pytest.param("leduc_poker(suit_isomorphism=True)", 1_939, marks=pytest.mark.slow),
        pytest.param("leduc_poker", 9_457, marks=pytest.mark.slow),
    ],
)
def test_the_contract_is_kept_everywhere_in_small_games(spec: str, nodes: int) -> None:
    assert tree_size(load(spec)) == nodes
    check_game(load(spec), playouts=20)


@pytest.mark.slow
def test_every_game_that_is_listed_can_be_played_by_boxed_replies() -> None:
    available = [name for name, reason in adapter.names().items() if reason is None]
    assert len(available) > 40
    for name in available:
        game = load(name)
        actions, last = random_playout(game, seed=1)
        state = game.initial_state()
        for action in actions:
            for player in (0, 1):
                assert f"You are seat {player}" in state.observation(player)
                assert state.observation(player, "compact").startswith(f"openspiel/{name}:{player}:")
            for legal in state.legal_actions():
                assert parse_action(f"Hence \\boxed{{{legal}}}.", state) == legal
            state = state.apply(action)
        assert state == last == pickle.loads(pickle.dumps(last))
        assert sum(last.returns()) == 0.0


def test_connect_four_is_the_native_one() -> None:
    ours, theirs = load_game("connect_four"), load("connect_four")
    for seed in range(100):
        state, other, rng = ours.initial_state(), theirs.initial_state(), random.Random(seed)
        while not state.is_terminal:
            assert (other.current_player, other.legal_actions()) == (state.current_player, state.legal_actions())
            action = rng.choice(state.legal_actions())
            state, other = state.apply(action), other.apply(action)
        assert other.is_terminal
        assert other.returns() == state.returns()


@pytest.mark.parametrize(
    ("spec", "nodes", "expected"),
    [
        ("kuhn_poker", 58, 11 / 24),
        ("leduc_poker", 9_457, 4.747222222 / 2),
        ("leduc_poker(suit_isomorphism=True)", 1_939, 4.747222222 / 2),
    ],
)
def test_uniform_play_has_its_known_exploitability(spec: str, nodes: int, expected: float) -> None:
    assert tree_size(load(spec)) == nodes
    assert exploitability(load(spec), uniform) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("spec", ["liars_dice(dice_sides=3)", "liars_dice(numdice=2,dice_sides=2)"])
def test_uniform_play_at_dice_is_as_exploitable_as_openspiel_says(spec: str) -> None:
    library = pyspiel.load_game(spec)
    expected = pyspiel.exploitability(library, pyspiel.UniformRandomPolicy(library))
    assert exploitability(load(spec), uniform) == pytest.approx(expected, abs=1e-9)


def test_perfect_play_in_small_games() -> None:
    assert minimax_value(load("tic_tac_toe").initial_state()) == 0.0
    assert tree_size(load("tic_tac_toe"), merge_positions=True) == 5_478
    assert minimax_value(load("nim(pile_sizes='1;2;3')").initial_state()) == -1.0, "nim-sum 0: the second player wins"
    assert minimax_value(load("nim(pile_sizes='1;2;4')").initial_state()) == 1.0


def test_the_size_of_nim_is_counted() -> None:
    game = load("nim(pile_sizes='1;2;3')")
    assert game.enumerable
    assert tree_size(game) == 447
    assert not load("nim").enumerable
    assert not load("nim(pile_sizes='9;9;9')").enumerable
    assert load("liars_dice").enumerable
    assert not load("liars_dice(numdice=2)").enumerable
    assert not load("chess").enumerable


@pytest.mark.slow
def test_the_tree_of_liars_dice_has_as_many_nodes_as_its_rules_say() -> None:
    """36 rolls; after each, every rising row of the 12 bids, and every such row but the empty one called."""
    assert tree_size(load("liars_dice")) == 1 + 6 + 36 * (2**12 + 2**12 - 1)


def test_episodes_do_not_depend_on_the_games_in_flight() -> None:
    player = scripted_policy("random", load_game("tictactoe"))
    games = [load("pig(winscore=30)" if spec == "pig" else spec) for spec in EIGHT]

    def episodes(in_flight: int) -> list[tuple[object, ...]]:
        matches = [Match(game=games[seed % 8], seed=seed, policies=(player, player)) for seed in range(64)]
        return [(e.game, e.seed, e.actions, e.turns, e.returns, e.outcome) for e in play(matches, in_flight)]

    alone = episodes(1)
    assert episodes(64) == alone
    assert len({actions for _, _, actions, *_ in alone}) > 60


def test_no_global_randomness_is_touched() -> None:
    before = random.getstate()
    random_playout(load("pig"), seed=0)
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("liars_dice(numdice=2)", "liars_dice(numdice=2)"),
        ("liars_dice( numdice = 1 )", "liars_dice"),
        ("nim(pile_sizes=2;3)", "nim(pile_sizes='2;3')"),
        ("nim(pile_sizes='5')", "nim(pile_sizes='5')"),
        ("pig(piglet=True,winscore=20)", "pig(piglet=True,winscore=20)"),
        ("go(komi=0.5,board_size=5)", "go(board_size=5,komi=0.5)"),
        ("universal_poker(betting='limit',raiseSize='100 200',maxRaises='2 2')",) * 2,
    ],
)
def test_specs_are_canonical(spec: str, canonical: str) -> None:
    game = load(spec)
    if "universal" not in spec:
        assert game.spec == f"openspiel/{canonical}"
    assert load_game(game.spec) == game
    assert hash(load_game(game.spec)) == hash(game)
    assert pickle.loads(pickle.dumps(game)) == game


def test_classes_are_made_once_and_games_compare_by_parameters() -> None:
    assert type(load("pig")) is type(load("pig(winscore=10)")) is adapter.game_class("pig")
    assert adapter.game_class("pig").name == "openspiel/pig"
    assert load("pig") == load("pig(winscore=100)") != load("pig(winscore=10)")
    assert load("tic_tac_toe") != load("othello")
    assert load_game("openspiel/nim", pile_sizes="1;1") == load("nim(pile_sizes='1;1')")


def test_states_are_rebuilt_in_another_process() -> None:
    states = [random_playout(load(spec), seed=3)[1] for spec in ("leduc_poker", "phantom_ttt", "nim(pile_sizes='2;9')")]
    code = (
        "import pickle, sys\n"
        "for state in pickle.load(sys.stdin.buffer):\n"
        "    print(state.returns(), state.information_state(1).encode())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(states), capture_output=True, check=True)
    expected = [f"{state.returns()} {state.information_state(1).encode()!r}" for state in states]
    assert done.stdout.decode().splitlines() == expected


def test_leduc_shows_a_card_to_its_owner_only() -> None:
    """Over the whole tree: what a player reads follows from their own card, the public card and the betting."""
    texts: dict[tuple[object, ...], set[tuple[str, ...]]] = {}
    own_cards: dict[str, set[str]] = {}
    stack = [load("leduc_poker").initial_state()]
    while stack:
        state = stack.pop()
        assert isinstance(state, OpenSpielState)
        cards = [name for player, name in state.moves if player == CHANCE]
        if len(cards) >= 2:
            public = tuple(move for move in state.moves if move[0] != CHANCE)
            for player in (0, 1):
                full, compact = state.observation(player), state.observation(player, "compact")
                seen = (full, compact, state.information_state(player))
                if not state.is_terminal:
                    texts.setdefault((player, cards[player], tuple(cards[2:]), public), set()).add(seen)
                own_cards.setdefault(cards[player], set()).add(seen[0].split("Your card: ")[1][0])
        following = state.legal_actions() or [name for name, _ in state.chance_outcomes()]
        stack.extend(state.apply(action) for action in following)
    assert len(texts) > 1_000
    assert all(len(seen) == 1 for seen in texts.values())
    assert [own_cards[str(card)] for card in range(6)] == [{"J"}, {"J"}, {"Q"}, {"Q"}, {"K"}, {"K"}]


def test_liars_dice_shows_dice_to_their_owner_only() -> None:
    rng = random.Random(0)
    for _ in range(100):
        mine, theirs, others = (tuple(f"Roll {rng.randint(1, 6)}" for _ in range(2)) for _ in range(3))
        states = [play_line("liars_dice(numdice=2)", *mine, *dice) for dice in (theirs, others)]
        while not states[0].is_terminal:
            for style in ("full", "compact"):
                assert states[0].observation(0, style) == states[1].observation(0, style)
            assert states[0].information_state(0) == states[1].information_state(0)
            dice = sorted(roll.removeprefix("Roll ") for roll in mine)
            assert f"Your dice show {' '.join(dice)}." in states[0].observation(0)
            action = rng.choice(states[0].legal_actions())
            states = [state.apply(action) for state in states]


def test_hidden_moves_are_not_shown() -> None:
    quiet, seen = (play_line("phantom_ttt", "x(0,0)", reply, "x(0,1)") for reply in ("o(1,1)", "o(2,2)"))
    assert quiet.observation(0) == seen.observation(0)
    assert "Your own moves so far: x(0,0); x(0,1)." in quiet.observation(0)
    assert quiet.observation(1) != seen.observation(1)


@pytest.mark.parametrize(
    ("spec", "actions", "returns"),
    [
        ("liars_dice", ["Roll 6", "Roll 3", "2-3", "Liar"], (1.0, -1.0)),  # a six counts as a three
        ("liars_dice", ["Roll 6", "Roll 3", "2-4", "Liar"], (-1.0, 1.0)),
        ("nim(pile_sizes='2')", ["take 1 from pile 1", "take 1 from pile 1"], (1.0, -1.0)),
        ("nim(pile_sizes='2',is_misere=False)", ["take 2 from pile 1"], (1.0, -1.0)),
        ("hex(board_size=2)", ["a1", "b1", "a2"], (1.0, -1.0)),  # x from top to bottom
        ("hex(board_size=2)", ["b2", "a2", "a1", "b1"], (-1.0, 1.0)),  # o from left to right: a2 touches b1
        ("leduc_poker", ["0", "4", "Call", "Call", "1", "Raise", "Call"], (5.0, -5.0)),  # a pair of J beats K
        ("leduc_poker", ["0", "2", "Raise", "Fold"], (1.0, -1.0)),
        ("leduc_poker", ["4", "5", "Raise", "Raise", "Call", "0", "Call", "Call"], (0.0, 0.0)),
        ("pig(winscore=5)", ["roll", "Roll 5", "stop"], (1.0, -1.0)),
        ("pig(winscore=5)", ["roll", "Roll 4", "roll", "Roll 1", "roll", "Roll 6", "stop"], (-1.0, 1.0)),
        ("pig(horizon=2)", ["stop", "stop"], (0.0, 0.0)),
        ("breakthrough(rows=3,columns=2)", ["a3a2", "b1a2*", "b3b2", "a2a3"], (-1.0, 1.0)),
        ("connect_four(rows=3,columns=3,x_in_row=2)", ["0", "2", "1"], (1.0, -1.0)),
        ("kuhn_poker", ["0", "2", "Bet", "Bet"], (-2.0, 2.0)),
    ],
)
def test_the_rules_are_what_the_text_says(spec: str, actions: list[str], returns: tuple[float, float]) -> None:
    actions = [f"Deal:{card}" if spec == "kuhn_poker" and card.isdigit() else card for card in actions]
    state = play_line(spec, *actions)
    assert state.is_terminal
    assert state.returns() == returns
    assert state.observation(1).endswith(f"The game is over. Your return is {returns[1]:g}.")


def test_an_observation_in_full() -> None:
    assert play_line("nim(pile_sizes='2;1')", "take 1 from pile 1").observation(1).split("\n") == [
        "You are playing Nim. The game begins with piles of objects of these sizes: 2, 1. Players take turns removing"
        " one or more objects from a single pile. Whoever takes the very last object loses.",
        "You are seat 1, your opponent is seat 0.",
        "Moves so far: seat 0: take 1 from pile 1.",
        "Now: 1 in pile 1, 1 in pile 2.",
        "It is your turn. Your legal actions: take 1 from pile 1, take 1 from pile 2.",
    ]


@pytest.mark.parametrize(
    ("spec", "actions", "player", "lines"),
    [
        ("connect_four(rows=4,columns=4)", ["1", "1"], 0, ["0 1 2 3", ". . . .", ". . . .", ". o . .", ". x . ."]),
        ("hex(board_size=2)", ["b1", "a2"], 0, ["   a b", " 1 . x", " 2  o ."]),
        ("breakthrough(rows=3,columns=2)", ["a3a2"], 1, [" 3 .b", " 2 b.", " 1 ww", "   ab"]),
        ("pig", ["roll", "Roll 4"], 0, ["Your score: 0. Your opponent's score: 0. Points of your turn: 4."]),
        (
            "leduc_poker",
            ["0", "3", "Raise", "Call", "4"],
            1,
            ["Your card: Q. Public card: K. Betting round 2. Chips put in: 3 by you, 3 by your opponent."],
        ),
        ("leduc_poker", ["0", "3", "Raise"], 1, ["Moves so far: seat 0: Raise."]),
        ("leduc_poker", [], 1, ["Your card is not dealt yet."]),
        ("liars_dice(numdice=2)", ["Roll 5"], 0, ["Your dice are not all rolled yet."]),
        ("liars_dice", ["Roll 5", "Roll 2"], 0, ["Your die shows 5.", "Moves so far: none."]),
        ("kuhn_poker", ["Deal:2", "Deal:0", "Bet"], 1, ["Your card: 0.", "Moves so far: seat 0: Bet."]),
        ("othello", [], 0, ["You are seat 0 (x), your opponent is seat 1 (o)."]),
        (
            "tic_tac_toe",
            [],
            0,
            [f"It is your turn. Your legal actions: {'; '.join(f'x({i},{j})' for i in range(3) for j in range(3))}."],
        ),
    ],
)
def test_positions_are_written_for_a_reader(spec: str, actions: list[str], player: int, lines: list[str]) -> None:
    assert set(lines) <= set(play_line(spec, *actions).observation(player).split("\n"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("connect_four(rows=4,x_in_row=3)", ["4 rows and 7 columns", "with 3 discs"]),
        ("liars_dice(numdice=2,dice_sides=4)", ["2 dice with 4 faces", "all 4 dice", "shows 4 counts as any face"]),
        ("liars_dice(bidding_rule='reset-quantity')", ["any quantity of a higher face"]),
        ("pig(piglet=True,winscore=7)", ["any other roll adds 1 point", "a score of 7"]),
        ("nim(is_misere=False)", ["the very last object wins"]),
        ("hex(board_size=3,swap=True)", ["answer the first stone with swap"]),
        ("leduc_poker(action_mapping=True,starting_player=1)", ["seat 1 acts first", "count as Call"]),
        ("breakthrough(rows=6)", ["6 rows and 8 columns", "towards row 6"]),
        ("clobber(rows=4)", ["Clobber by the rules of clobber in OpenSpiel, columns 6, rows 4. Nothing is hidden."]),
        ("gin_rummy", ["Some things are hidden from each player", "at most 123."]),
    ],
)
def test_rules_follow_the_parameters(spec: str, words: list[str]) -> None:
    introduction = load(spec).initial_state().observation(0).split("\n")[0]
    for word in words:
        assert word in introduction


def test_names_of_actions() -> None:
    assert action_names("chess", ["bxc3", "Bxc3", "Nf3"]) == ("bxc3 (1)", "Bxc3 (2)", "Nf3")
    assert action_names("nim", ["pile:3, take:12;"]) == ("take 12 from pile 3",)
    assert action_names("connect_four", ["x0", "x6"]) == ("0", "6")
    assert action_names("backgammon", ["137 -  8/2 6/4", "138 - Pass"]) == ("8/2 6/4", "Pass")
    assert action_names("leduc_poker", ["Chance outcome:5"]) == ("5",)
    assert action_names("gin_rummy", ["Player: 0 Action: Draw stock"]) == ("Draw stock",)
    assert action_names("universal_poker", ["player=1 move=Fold"]) == ("Fold",)
    assert tidy("\x1b[91ma\x1b[0m  \n\n b \n") == "a\n\n b"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("blotto", "its moves are simultaneous"),
        ("matching_pennies_3p", "not for two players"),
        ("sheriff", "not zero-sum"),
        ("turn_based_simultaneous_game", "made out of another game or a file"),
        ("liars_dice_ir", "its players have imperfect recall"),
        ("quoridor", "OpenSpiel itself warns of known faults in it"),
    ],
)
def test_what_is_not_available_says_why(name: str, reason: str) -> None:
    assert adapter.names()[name] == reason
    with pytest.raises(ValueError, match=f"game 'openspiel/{name}' is not available: {reason}"):
        load(name)


def test_every_registered_game_is_listed() -> None:
    listed = adapter.names()
    assert set(listed) == set(pyspiel.registered_names())
    assert [listed[name] for name in adapter.TESTED] == [None] * 8


def test_without_openspiel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(adapter, "game_class", adapter.game_class.__wrapped__)  # whatever was loaded before
    assert set(adapter.names()) == set(adapter.TESTED)
    for name in ("oware", "no_such_game"):
        with pytest.raises(ValueError, match=r"is not available: .* pip install open_spiel"):
            load(name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("connect_four(rows=0)", "got rows=0; expected 1 or more"),
        ("connect_four(row=3)", "has no parameter 'row'; it has: columns, egocentric_obs_tensor, rows, x_in_row"),
        ("pig(winscore=ten)", "got winscore='ten'; expected a value of type int, such as 100"),
        ("pig(players=3)", r"game 'openspiel/pig\(players=3\)' is for 3 players; expected 2"),
        ("nim(pile_sizes=a;b)", "OpenSpiel refuses nim with pile_sizes='a;b': Could not parse size 'a'"),
        ("nim(pile_sizes='0')", "is over before its first move; give it other parameters"),
        ("go(board_size=100)", "OpenSpiel refuses go with board_size=100: .*up to 19"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(spec: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "OpenSpiel's own lines are kept back"


def test_parameters_that_cannot_be_fields_are_left_out() -> None:
    names = {field.name for field in dataclasses.fields(load("kriegspiel"))}
    assert names == {"board_size", "fen", "threefold_repetition"}, "50_move_rule is no name in Python"


def test_returns_that_do_not_sum_to_zero_are_refused() -> None:
    class Generous:
        def current_player(self) -> int:
            return -4

        def returns(self) -> list[float]:
            return [1.0, 1.0]

    game = load("pig")
    assert isinstance(game, adapter.OpenSpielGame)
    with pytest.raises(ValueError, match=r"OpenSpiel pays \(1\.0, 1\.0\) in openspiel/pig; expected a sum of zero"):
        OpenSpielState(game=game, position=Generous()).returns()
