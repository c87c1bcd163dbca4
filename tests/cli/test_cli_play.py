"""A person at the keyboard: typed lines in, a game out."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil

import pytest

from commands import refused, spiral
from spiral.cli.play import play_game, wrapped
from spiral.games import load_game
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies import ScriptedPolicy, scripted_policy
from spiral.policies.human import read_action, refusal


def script(*lines):
    """Reads the lines one after another and then ends the input; keeps what was written."""
    remaining = list(lines)
    written = []

    def read(prompt):
        if not remaining:
            raise EOFError
        return remaining.pop(0)

    return read, written.append, written


def test_a_whole_game_against_perfect_play():
    typed = "\n".join(str(cell) for cell in range(9)) + "\n"
    result = spiral("play", "minimax", "--game", "tictactoe", "--seat", "0", "--seed", "1", stdin=typed * 3)
    assert (result.status, result.err) == (0, "")
    assert "You are X, your opponent is O." in result.out
    assert "minimax plays: " in result.out
    assert "Result: minimax won (returns: you -1, minimax +1)." in result.out
    assert result.out.rstrip().endswith("Goodbye.")


def test_a_slip_is_asked_about_again_and_forfeits_nothing():
    game = load_game("tictactoe")
    read, write, written = script("9", "", "centre", "{", " [4] ")
    with pytest.raises(EOFError):
        play_game(game, scripted_policy("random", game), 0, 5, read, write)
    slips = [text for text in written if " is not legal here" in text]
    assert slips[0] == "'9' is not legal here; legal: 0, 1, 2, 3, 4, 5, 6, 7, 8"
    assert len(slips) == 3
    assert "Type an action (0, 1, 2, 3, 4, 5, 6, 7, 8), help for the rules, or quit." in written
    assert "X took 4" in written[-1]


def test_playing_second():
    game = load_game("tictactoe")
    read, write, written = script(*[str(cell) for cell in range(9)] * 5)
    episode = play_game(game, scripted_policy("random", game), 1, 5, read, write)
    assert [turn.player for turn in episode.turns][:2] == [0, 1]
    assert [seat.policy for seat in episode.seats] == ["random", "you"]
    assert episode.outcome == "finished"
    assert "You are O, your opponent is X." in written[1]
    assert written[-1].startswith("Result: ")


def test_actions_are_read_as_freely_as_a_models():
    state = load_game("kuhn_poker").initial_state().apply("J").apply("Q")
    assert read_action("BET", state) == "bet"
    assert read_action(" \\boxed{check} ", state) == "check"
    assert read_action("raise", state) is None
    assert refusal("raise", state) == "'raise' is not legal here; legal: check, bet"


@pytest.fixture
def run_directory(tmp_path):
    """A run directory as training leaves it; `games` in its recipe is for the test to set."""
    path = tmp_path / "run"
    shutil.copytree(NANO_DIRECTORY, path / "checkpoints" / "step-000007")
    (path / "checkpoints" / "latest").symlink_to("step-000007")
    return path


@pytest.mark.parametrize(
    ("games", "played"),
    [
        ("{kuhn_poker = 0.5, tictactoe = 0.5}", "tictactoe"),
        ("{'kuhn_poker(hands=2)' = 0.5, leduc_poker = 0.5}", "kuhn_poker(hands=2)"),
    ],
)
@pytest.mark.parametrize("inside", ["", "checkpoints/latest", "checkpoints/step-000007"])
def test_a_run_says_which_game(games, played, inside, run_directory):
    (run_directory / "config.toml").write_text(f"[selfplay]\ngames = {games}\n")
    result = spiral("play", str(run_directory / inside), "--seed", "3")
    assert (result.status, result.err) == (0, "")
    assert f"You play {played} against {run_directory / inside}" in result.out
    asked = spiral("play", str(run_directory / inside), "--game", "connect_four")
    assert "You play connect_four against" in asked.out


def test_without_a_run_the_game_has_to_be_given(run_directory, monkeypatch):
    missing = "Missing option '--game'; see `spiral play --help`"
    for model in ("nano", "random", "nowhere", str(run_directory)):
        assert refused("play", model) == missing
    for config in ("", "[selfplay]\n", "selfplay = 3\n", "[selfplay]\ngames = 3\n"):
        (run_directory / "config.toml").write_text(config)
        assert refused("play", str(run_directory)) == missing
    (run_directory / "config.toml").write_text("[selfplay")
    assert "config.toml is damaged" in refused("play", str(run_directory))
    (run_directory / "random").mkdir()
    monkeypatch.chdir(run_directory)
    assert refused("play", "random") == missing


def test_talk_is_an_action_where_the_game_has_talk():
    result = spiral(
        "play", "random", "--game", "simple_negotiation", "--seed", "2", stdin="pass. Good morning!\n[pass\n"
    )
    assert result.status == 0
    assert "random plays: " in result.out
    assert 'Turn 1, you: [pass], saying "Good morning!"' in result.out


def test_a_negotiation_can_be_played_by_a_person():
    typed = ["acept", "ofer: 2 wood -> 1 sheep", "help", "offer: 30 wood -> 1 ore", "offer: 2 wood -> 1 sheep. Please!"]
    typed += ["deny", "pass"] * 9
    out = spiral("play", "random", "--game", "simple_negotiation", "--seed", "5", stdin="\n".join(typed) + "\nn\n").out
    assert "That is not legal: did you mean 'accept'?" in out
    assert "That is not legal: it is not a complete offer; write it as 'offer: 3 wheat -> 2 wood', with" in out
    assert "That is not legal: you offer more than you hold, by 25 wood" in out
    assert out.count("You are negotiating over 5 resources") == 2  # at the start, and for help
    assert 'Turn 1, you: [offer: 2 wood -> 1 sheep], saying "Please!"' in out
    assert re.search(
        r"Player 0 gained [+-]\d+; worth to player 0: wheat \d+, wood \d+, sheep \d+, brick \d+, ore \d+", out
    )
    assert out.endswith("Goodbye.\n")


def test_quit_ends_as_the_end_of_the_input_does():
    for typed in ("quit\n", "4\nQ\n", ""):
        result = spiral("play", "random", "--game", "tictactoe", "--seat", "0", stdin=typed)
        assert (result.status, result.err) == (0, "")
        assert result.out.endswith("\nGoodbye.\n")


class Thinker(ScriptedPolicy):
    """A player that writes a thought before its action."""

    name = "thinker"

    def choose(self, state, player, rng):
        return state.legal_actions()[0]

    def poll(self):
        said = "<think>The first cell\x1b[2J looks good.</think>\\boxed{{{}}}"
        return [dataclasses.replace(reply, reply=said.format(reply.action)) for reply in super().poll()]


def test_thoughts_are_shown_where_they_are_asked_for():
    game = load_game("tictactoe")
    for thoughts in (False, True):
        read, write, written = script("4")
        with pytest.raises(EOFError):
            play_game(game, Thinker(), 0, 5, read, write, thoughts=thoughts)
        told = "\n".join(written)
        assert "thinker plays: 0" in told
        assert ("thinker thought: The first cell\\u001b[2J looks good." in told) is thoughts
        assert "boxed" not in told


def test_a_model_without_thoughts_says_so():
    typed = ("play", "nano", "--game", "tictactoe", "--seed", "1", "--seat", "0", "--temperature", "0", "--thoughts")
    result = spiral(*typed, stdin="4\n")
    assert result.status == 0
    assert re.search(r"nano plays: \d\nnano thought: \(nothing\)\n", result.out)


@pytest.mark.parametrize(("option", "seats"), [([], ["0", "1", "0"]), (["--seat", "1"], ["1", "1", "1"])])
def test_another_game(option, seats, monkeypatch):
    """Seats change from game to game unless one was asked for."""
    answers = iter(["y", "Yes", "n"])
    actions = itertools.cycle(["check", "call"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers if "Another" in prompt else actions))
    result = spiral("play", "equilibrium", "--game", "kuhn_poker", "--seed", "1", *option)
    games = result.out.split("Result: ")
    assert [re.search("You are seat (.)", game).group(1) for game in games[:-1]] == seats
    assert games[-1].endswith("Goodbye.\n")


@pytest.mark.parametrize("stdin", ["", "4\n", "hello\n"])
def test_end_of_input_exits_cleanly(stdin):
    result = spiral("play", "random", "--game", "tictactoe", stdin=stdin)
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith("\nGoodbye.\n")


def test_ctrl_c_exits_cleanly(monkeypatch):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    result = spiral("play", "random", "--game", "tictactoe")
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith("\nGoodbye.\n")


def typed(monkeypatch, *, moves, answers):
    """What a person types: moves in turn, and an answer after every game."""
    replies, actions = iter(answers), itertools.cycle(moves)
    monkeypatch.setattr("builtins.input", lambda prompt: next(replies if "Another" in prompt else actions))


def test_rules_are_printed_once_per_game():
    cells = "\n".join(str(cell) for cell in range(9)) + "\n"
    out = spiral("play", "random", "--game", "tictactoe", "--seat", "0", "--seed", "1", stdin=cells * 2).out
    assert out.count("You are playing tic-tac-toe.") == 1
    assert out.count("Moves so far: ") == out.count("random plays: ") + 1 + ("you won" in out)


def test_a_move_after_the_end_is_no_answer(monkeypatch):
    typed(monkeypatch, moves=["check", "call"], answers=["6", "yes please", "Y", "bet", ""])
    result = spiral("play", "equilibrium", "--game", "kuhn_poker", "--seed", "1")
    assert result.out.count("Result: ") == 2
    assert "The game is over, so '6' is not a move. Type y for another game or n to end." in result.out
    assert result.out.endswith("Goodbye.\n")


def test_the_score_is_kept_over_games(monkeypatch):
    typed(monkeypatch, moves=["check", "call"], answers=["y", "y", "y", "n"])
    out = spiral("play", "random", "--game", "kuhn_poker", "--seed", "1", "--seat", "1").out
    scores = re.findall(r"Score: you (\d+), random (\d+), draws 0; your returns add up to ([+-]\d+)\.", out)
    returns = [int(value) for value in re.findall(r"Result: .* \(returns: random [+-]\d, you ([+-]\d)\)", out)]
    assert len(returns) == len(scores) == 4
    for games, (wins, losses, total) in enumerate(scores, start=1):
        so_far = returns[:games]
        assert int(wins) == sum(value > 0 for value in so_far)
        assert int(losses) == sum(value < 0 for value in so_far)
        assert int(total) == sum(so_far)


@pytest.mark.parametrize(
    ("game", "hint"),
    [
        ("kuhn_poker", "It is played with hands=1, cards=3; to play with another: --game 'kuhn_poker(hands=...)'."),
        (
            "kuhn_poker(hands=3)",
            "It is played with hands=3, cards=3; to play with another: --game 'kuhn_poker(hands=...)'.",
        ),
    ],
)
def test_what_a_game_can_be_played_with(game, hint):
    assert spiral("play", "random", "--game", game).out.splitlines()[1] == hint
    assert "It is played with" not in spiral("play", "random", "--game", "connect_four").out


def test_no_word_is_broken_at_the_margin():
    text = "the higher player wins, unless an/option-with-hyphens follows " * 3 + "\n 0 | 1 | 2\n" + "x" * 50
    lines = wrapped(text, 30).split("\n")
    assert all(len(line) <= 30 for line in lines[:-1])
    assert " ".join(lines[:-2]).split() == text.partition("\n")[0].split()
    assert lines[-2:] == [" 0 | 1 | 2", "x" * 50]
    assert wrapped("short", 30) == "short"
