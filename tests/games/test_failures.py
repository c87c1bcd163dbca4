"""A user's game or estimator that fails is named, with game, turn and player, and what to do."""

from __future__ import annotations

import dataclasses

import pytest

from spiral.cli.app import main
from spiral.games import load_game
from spiral.games.failures import UserCodeError, find_game_failure
from spiral.inference.sampling import SamplingConfig
from spiral.inference.transformers import TransformersPolicy
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.runs.directory import read_metrics
from spiral.text import ChatCodec
from spiral.training.advantages import load_estimator
from tests.broken_game import Broken
from tests.made_up import new_episode, new_turn


def play_one(fault, opponent=None):
    players = (RandomPolicy(), opponent or RandomPolicy())
    return play([Match(game=Broken(fault=fault), seed=5, policies=players)])


FAULTS = {
    "initial": "failed in initial_state: KeyError: 'first' (broken_game.py",
    "no first state": "gave None from initial_state(); expected a State",
    "player": "gave current_player 7; expected 0 to 1, CHANCE or TERMINAL",
    "disk": "No space left on device",
    "endless chance": "has played 10,000 chance actions in a row",
    "chance outcomes": "gave the chance_outcomes (1, 2)",
    "legal": "failed in legal_actions: ValueError: not enough values to unpack",
    "exit": "failed in legal_actions: SystemExit: 3",
    "numbers": "lists the action",
    "apply": "failed in apply: KeyError: 'boom' (broken_game.py",
    "no return": "from apply(",
    "nan": "gave player 0 the return nan; expected a finite number",
    "inf": "gave player 0 the return inf; expected a finite number",
    "huge": "gave player 0 the return 1e+300; expected -1e+09 to 1e+09",
    "bounds": "gave player 0 the return 2.5; expected -2 to 2",
    "sum": "gave returns 5 and 3; expected a sum of zero",
    "three": "gave returns (1.0, 0.0, -1.0); expected 2 numbers, one for each player",
    "one": "gave returns (1.0,); expected 2 numbers, one for each player",
    "words": "gave returns ('won', 'lost'); expected 2 numbers, one for each player",
    "nothing": "gave returns None; expected 2 numbers, one for each player",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_game_that_breaks_the_contract_is_named(fault):
    with pytest.raises(UserCodeError) as caught:
        play_one(fault)
    message = str(caught.value)
    shown = f"'{fault}'" if " " in fault else fault
    assert message.startswith(f"game tests.broken_game:Broken(fault={shown}) ")
    assert FAULTS[fault] in message
    assert "seed 5" in message


def test_errors_name_turn_player_and_actions():
    with pytest.raises(UserCodeError, match=r"at turn 3, player 0 to act, seed 5, after [01], [01], [01]\)"):
        play_one("apply")
    with pytest.raises(UserCodeError, match=r"at turn 2, player 1 to act, seed 5, after [01]\)"):
        play_one("legal")
    with pytest.raises(UserCodeError, match="before the first turn"):
        play_one("endless chance")


def test_whole_numbers_are_returns():
    (episode,) = play_one("integers")
    assert episode.returns == (1.0, -1.0)
    assert all(type(value) is float for value in episode.returns)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("observation", "failed in observation: ZeroDivisionError"), ("no observation", "observation None")],
)
def test_an_observation_that_fails_in_a_models_prompt(fault, said, nano):
    policy = TransformersPolicy(nano.model, ChatCodec(nano.tokenizer, nano.prompt), SamplingConfig(max_new_tokens=4))
    with pytest.raises(UserCodeError) as caught:
        play_one(fault, policy)
    assert said in str(caught.value)
    assert "turn 2, player 1 to act" in str(caught.value)


def test_a_policys_own_failure_is_not_the_games():
    class Failing(RandomPolicy):
        def poll(self):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        play_one("none", Failing())


ESTIMATORS = {
    "raising": "failed: KeyError: 'estimator boom' (broken_game.py",
    "exiting": "failed: SystemExit: 7",
    "short": "gave 1 pairs of advantages for 2 episodes",
    "nan": "gave player 1 of an episode of tictactoe (seed 0), with rewards (1.0, -1.0), the advantage nan",
    "words": "gave ('a', 'b') to an episode of tictactoe",
    "digits": "gave [1, '0.5'] to an episode of tictactoe (seed 0); expected two numbers, one for each player",
    "nan_baseline": "got the return nan; expected a finite number",
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_that_fails_is_named_and_leaves_the_baselines(name):
    estimator = load_estimator(f"tests.broken_game:{name}")
    estimator.load_state_dict({"decay": 0.95, "values": [["tictactoe", 1, -0.05]]})
    before = estimator.state_dict()
    with pytest.raises(UserCodeError) as caught:
        estimator([new_episode((1.0, -1.0))] * 2)
    assert str(caught.value).startswith(f"the advantage estimator 'tests.broken_game:{name}' ")
    assert ESTIMATORS[name] in str(caught.value)
    assert estimator.state_dict() == before


def test_an_estimators_numbers_become_floats():
    (advantages,) = load_estimator("tests.broken_game:halves")([new_episode((1.0, -1.0), [new_turn(0), new_turn(1)])])
    assert advantages.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests.broken_game:RETURNS", "expected a class or function"),
        ("tests.broken_game:missing", "cannot be imported"),
        ("unittest.__main__:x", "cannot be imported: SystemExit"),
    ],
)
def test_an_estimator_that_cannot_be_had(name, said):
    with pytest.raises(ValueError, match=said):
        load_estimator(name)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("unittest.__main__:x", "cannot be imported.*SystemExit"),
        (f"kuhn_poker(hands={'-' * 900}1)", "expected a value of type int"),
        (f"kuhn_poker(hands={'(' * 900}1)", "expected a value of type int"),
        ("x" * 5_000, "expected a name such as"),
        (f"kuhn_poker(hands={'9' * 5_000})", "expected a name such as"),
    ],
)
def test_game_names_that_no_game_has(spec, said):
    with pytest.raises(ValueError, match=said) as caught:
        load_game(spec)
    assert len(str(caught.value)) < 2_500


def test_commands_name_the_game_and_exit_with_1(capsys, tmp_path):
    command = ["evaluate", "random", "--game", "tests.broken_game:Broken(fault=apply)", "--opponent", "random"]
    assert main([*command, "--episodes", "2", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "game tests.broken_game:Broken(fault=apply) failed in apply: KeyError: 'boom'" in error
    assert "a bug in spiral" not in error


@dataclasses.dataclass(frozen=True)
class Choosy(Broken):
    """Refuses all parameters, in a method that `__post_init__` calls."""

    def __post_init__(self):
        self.check()

    def check(self):
        raise ValueError("expected another game")


def test_a_game_that_refuses_its_parameters_has_not_failed(capsys):
    with pytest.raises(ValueError, match="expected another game") as caught:
        Choosy(fault="none")
    assert find_game_failure(caught.value) is None
    assert main(["evaluate", "random", "--game", "problems/aime24"]) == 2
    said = capsys.readouterr().err
    assert "the game's code failed" not in said
    assert "aime24" in said


def test_training_keeps_the_steps_that_are_done_and_says_how_to_go_on(capsys, tmp_path):
    brief_evaluation = ["evaluation.episodes=2", "evaluation.exploitability=[]", "selfplay.episodes_per_step=4"]
    settings = [*brief_evaluation, "credit.estimator=tests.broken_game:third_step"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    run = tmp_path / "run"
    assert main(["train", "nano", "--steps", "5", "--run-dir", str(run), *overrides]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the advantage estimator 'tests.broken_game:third_step' failed: KeyError: 'third step'" in last
    assert "the last good checkpoint is step-000002; to resume: " in last
    assert [row["step"] for row in read_metrics(run)] == [1, 2]


def test_native_bounds_hold_in_play():
    for spec in ("tictactoe", "kuhn_poker", "kuhn_poker(hands=3)", "leduc_poker", "connect_four", "simple_negotiation"):
        game = load_game(spec)
        players = (RandomPolicy(), RandomPolicy())
        episodes = play(Match(game=game, seed=seed, policies=players) for seed in range(200))
        returns = [value for episode in episodes for value in episode.returns]
        assert game.min_return <= min(returns)
        assert max(returns) <= game.max_return
    assert (load_game("leduc_poker").min_return, load_game("leduc_poker").max_return) == (-13.0, 13.0)
    assert (load_game("openspiel/leduc_poker").max_return, load_game("kuhn_poker").max_return) == (13.0, 2.0)
