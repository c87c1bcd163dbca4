"""TextArena's games with three players and more: turns, returns, secrets, and what an illegal move costs."""

from __future__ import annotations

import pickle
import random
import re

import pytest

from spiral.games import IllegalActionError, load_game
from spiral.games.adapters.textarena.catalog import PLAYABLE
from spiral.games.adapters.textarena.engine import Position
from spiral.games.adapters.textarena.game import MAX_CHARACTERS, TextArenaState
from spiral.games.testing import check_game
from spiral.policies import ScriptedPolicy, TurnReply
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play

pytest.importorskip("textarena")

CHOSEN = [f"{name}(players={number})" for name in ("Snake-v0", "Surround-v0") for number in (3, 9)]
CHOSEN += ["LiarsDice-v0(players=3)", "LiarsDice-v0(players=6)", "Poker-v0(players=4)", "Taboo-v0(players=6)"]
CHOSEN += ["MarketEntryGame-v0(players=3)", "PublicGoodsGame-v0(players=5)", "SecretMafia-v0(players=9)"]
SEVERAL = [name for name, entry in PLAYABLE.items() if entry.usual_players > 2]


def start(spec: str, seed: int = 0) -> TextArenaState:
    """The first position after the deal of `seed`."""
    state = load_game(f"textarena/{spec}").initial_state()
    assert isinstance(state, TextArenaState)
    return state.apply(str(seed)) if state.is_chance else state


def after(spec: str, *actions: str) -> TextArenaState:
    state = start(spec)
    for action in actions:
        state = state.apply(action)
    return state


def bare(state: TextArenaState) -> tuple[dict[int, float], list[int]]:
    """The rewards and the player of each action, of TextArena's own environment taken through the same game."""
    import textarena

    environment = textarena.make(f"{state.game.environment}-raw")
    environment.reset(num_players=state.game.num_players, seed=state.dealt)
    order = []
    for action in state.actions:
        order.append(environment.state.current_player_id)
        environment.step(action)
    return environment.close()[0], order


def test_the_games_of_several_players_are_known_by_name() -> None:
    assert {name: load_game(f"textarena/{name}").num_players for name in SEVERAL} == {
        "MarketEntryGame-v0": 4,
        "PublicGoodsGame-v0": 3,
        "SecretMafia-v0": 6,
        "Taboo-v0": 4,
        "ThreePlayerGOPS-v0": 3,
        "ThreePlayerIPD-v0": 3,
        "ThreePlayerTicTacToe-v0": 3,
    }
    assert load_game("textarena/LiarsDice-v0").num_players == 2
    assert not load_game("textarena/ThreePlayerGOPS-v0").exact_theory


@pytest.mark.parametrize("spec", CHOSEN)
def test_random_games_end_as_in_textarena(spec: str) -> None:
    """With the same rewards for all, and the same players to act, in the same order."""
    game, player = load_game(f"textarena/{spec}"), RandomPolicy()
    assert game.spec == f"textarena/{spec}"
    for episode in play([Match(game=game, seed=seed, policies=(player,) * game.num_players) for seed in range(2)]):
        assert episode.outcome == "finished"
        assert len(episode.turns) <= game.max_turns
        dealt, *actions = episode.actions if game.initial_state().is_chance else ("0", *episode.actions)
        end = start(spec, int(dealt))
        for action in actions:
            end = end.apply(action)
        rewards, order = bare(end)
        assert rewards == dict(enumerate(episode.returns))
        assert [turn.player for turn in episode.turns] == order
        assert not game.zero_sum or abs(sum(episode.returns)) < 1e-9


@pytest.mark.parametrize(("spec", "players"), [("ThreePlayerGOPS-v0", 3), ("SecretMafia-v0", 6)])
def test_contract(spec: str, players: int) -> None:
    game = load_game(f"textarena/{spec}")
    assert game.num_players == players
    check_game(game, playouts=1)


def test_a_line_of_four_wins_against_two() -> None:
    state = after("ThreePlayerTicTacToe-v0", "0", "5", "10", "1", "6", "11", "2", "7", "12")
    assert (state.current_player, state.returns()) == (0, (0.0, 0.0, 0.0))
    assert state.observation(1).endswith("It is player 0's turn.")
    end = state.apply("[3]")
    assert (end.is_terminal, end.returns()) == (True, (1.0, -1.0, -1.0))
    assert end.observation(2).endswith("The returns of players 0 to 2: +1, -1, -1.")


def test_illegal_actions_are_refused_and_change_nothing() -> None:
    state = after("ThreePlayerTicTacToe-v0", "12")
    for action in ("12", "[25]", "nonsense", ""):
        assert not state.is_legal(action)
        with pytest.raises(IllegalActionError, match="of player 1; legal here"):
            state.apply(action)
    assert (state.current_player, len(state.legal_actions())) == (1, 24)


class Fails(ScriptedPolicy):
    """Replies without an action."""

    name = "fails"

    def choose(self, state, player, rng):
        return "never asked"

    def _reply(self, request):
        return TurnReply(key=request.key, observation="", reply="?", action=None)


@pytest.mark.parametrize(
    ("spec", "returns"), [("LiarsDice-v0(players=3)", (-1.5, 0.25, 0.25)), ("ThreePlayerGOPS-v0", (-1.5, 0.0, 0.0))]
)
def test_the_others_share_the_price_of_an_illegal_move_where_the_game_is_zero_sum(spec: str, returns: tuple) -> None:
    game, others = load_game(f"textarena/{spec}"), RandomPolicy()
    (episode,) = play([Match(game=game, seed=0, policies=(Fails(), others, others))])
    assert (episode.outcome, episode.returns) == ("illegal_move", returns)


def test_dice_of_the_others_are_hidden() -> None:
    rng = random.Random(4)
    for seed in range(5):
        state = start("LiarsDice-v0(players=3)", seed)
        while not state.is_terminal:
            dice = state._position.env.state.game_state["dice_rolls"]
            for player in range(3):
                for text in (state.observation(player), state.information_state(player)):
                    shown = re.findall(r"Your current Dice are: ([\d, ]*)", text)
                    assert shown[-1] == ", ".join(map(str, dice[player]))
            state = state.apply(rng.choice(state.legal_actions()))


def test_only_the_mafia_knows_who_is_of_the_mafia() -> None:
    state = start("SecretMafia-v0(players=8)", 3)
    roles = state._position.env.player_roles
    assert sorted(roles.values()) == ["Detective", "Doctor", "Mafia", "Mafia", *["Villager"] * 4]
    for player, role in roles.items():
        assert f"Your role: {role}\n" in state.observation(player)
        assert ("Your teammates are:" in state.observation(player)) == (role == "Mafia")
    voter = state.current_player
    assert roles[voter] == "Mafia"
    victims = [state.apply(action) for action in state.legal_actions()]
    for player, role in roles.items():
        assert (len({state.information_state(player) for state in victims}) > 1) == (role == "Mafia")


def test_a_bid_is_hidden_until_all_have_bid() -> None:
    low, high = (after("ThreePlayerGOPS-v0", bid) for bid in ("[A]", "[K]"))
    for player in (1, 2):
        assert low.information_state(player) == high.information_state(player)
        assert low.observation(player) == high.observation(player)
    assert low.information_state(0) != high.information_state(0)
    shown = [state.apply("[5]").apply("[6]").observation(2) for state in (low, high)]
    assert "P0:A, P1:5, P2:6" in shown[0]
    assert "P0:K, P1:5, P2:6" in shown[1]


def test_talk_reaches_the_others_and_choices_are_made_for_each_of_them() -> None:
    state = after("ThreePlayerIPD-v0", "Trust me,\nboth of you.")
    assert "[Player 0] Trust me, both of you." in state.observation(2)
    state = state.apply("Yes.").apply("No.")
    assert sorted(state.legal_actions()) == [
        f"[1 {one}] [2 {two}]" for one in ("cooperate", "defect") for two in ("cooperate", "defect")
    ]
    for action in ("[1 cooperate] [2 defect]", "[0 defect] [2 defect]", "[0 cooperate] [1 cooperate]"):
        state = state.apply(action)
    assert "Current scores: Player 0 (5); Player 1 (10); Player 2 (0)" in state.observation(1)


def test_a_long_message_does_not_hide_those_of_the_others():
    """TextArena hands the messages of a turn out in one of its own, which is cut where it is too long."""
    state = after("PublicGoodsGame-v0", "{" + "blah " * 1000 + "}", "{I give ten.}", "{So do I.}")
    text = state.observation(1)
    assert re.search(r"\nPlayer 0: [blah ]+ \(cut\)\nPlayer 1: I give ten\.\nPlayer 2: So do I\.\n", text)
    assert text.count("blah") > 250, "what the others leave goes to the long one"
    assert len(text) < MAX_CHARACTERS + 500


@pytest.mark.parametrize("part", ["[", "[0 ", "{", "a"])
def test_what_textarena_would_read_for_minutes_is_refused_at_once(part, monkeypatch):
    states = [start("SecretMafia-v0"), start("PublicGoodsGame-v0")]
    monkeypatch.setattr(Position, "step", lambda *_: pytest.fail("TextArena was asked"))
    assert [state.is_legal(part * 30_000) for state in states] == [False, False]


def test_talk_may_be_long() -> None:
    assert start("PublicGoodsGame-v0").is_legal("{" + "I give [10] of them. " * 190 + "}")


def test_the_messages_of_many_players_are_cut_alike():
    said = [f"{{{chr(97 + player) * 200}}}" for player in range(15)]
    text = after("PublicGoodsGame-v0(players=15)", *said).observation(3)
    shown = re.findall(r"Player (\d+): ([a-o]+) \(cut\)", text)
    assert [int(player) for player, _ in shown] == list(range(15))
    lengths = [len(message) for _, message in shown]
    assert min(lengths) > 80
    assert max(lengths) - min(lengths) <= 1


def test_partners_alone_hear_a_clue_and_every_word_can_be_clued() -> None:
    words = start("Taboo-v0")._position.env.data
    assert not [word for word, forbidden in words.items() if "hm" in {text.casefold() for text in (word, *forbidden)}]
    state = start("Taboo-v0", 7)
    target = state._position.env.state.game_state["word_to_guess"]
    assert (state.current_player, state.is_legal(f"It is {target}.")) == (0, False)
    state = state.apply("You know this one.")
    assert (state.current_player, f"[{target}]" in state.legal_actions()) == (1, True)
    assert ["You know this one." in state.observation(player) for player in range(4)] == [True, True, False, False]
    assert [target in state.observation(player) for player in range(4)] == [True, False, False, False]
    assert state.apply(f"[{target}]")._position.env.state.game_state["score"] == {0: 1, 1: 0}


@pytest.mark.parametrize("spec", ["LiarsDice-v0(players=5)", "PublicGoodsGame-v0"])
def test_games_and_states_survive_pickling(spec: str) -> None:
    state = start(spec, 2)
    state = state.apply(state.legal_actions()[0])
    copy = pickle.loads(pickle.dumps(state))
    assert (copy, copy.game, copy.current_player) == (state, state.game, 1)
    assert [copy.observation(player) for player in range(3)] == [state.observation(player) for player in range(3)]
    assert load_game(state.game.spec) == state.game


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("LiarsDice-v0(players=1)", r"'textarena/LiarsDice-v0' got players=1; expected a number from 2 to 15"),
        ("Snake-v0(players=10)", "expected a number from 2 to 9"),
        ("Taboo-v0(players=5)", "expected an even number from 4 to 14"),
        ("SecretMafia-v0(players=3)", "expected a number from 6 to 15"),
        ("ThreePlayerGOPS-v0(players=4)", "has no parameter 'players'"),
        ("Golf-v0(players=3)", "has no parameter 'players'"),
        ("CharacterConclave-v0", "is not available: every move fails inside TextArena"),
        ("SettlersOfCatan-v0", "is not available: has no turn limit"),
    ],
)
def test_what_textarena_cannot_play_is_refused(spec: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        load_game(f"textarena/{spec}")
