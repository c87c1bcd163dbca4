"""Problems as games: what is dealt, how an answer is read and paid, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from spiral.cli import main
from spiral.core.policy import TurnReply
from spiral.evaluation.reasoning.problem_game import ProblemGame, is_held_out
from spiral.evaluation.reasoning.problems import load_problems
from spiral.evaluation.reasoning.procedural import FIRST_SEED
from spiral.evaluation.reasoning.tasks import SOLVE, load_task
from spiral.evaluation.solo import different_deals, evaluate_alone
from spiral.games import IllegalActionError, load_game
from spiral.games.testing import check_game
from spiral.policies import ScriptedPolicy
from spiral.rollout.loop import Match, play
from spiral.runs.checks import check_problems
from spiral.runs.recipe import load_recipe
from spiral.text import parse_action
from spiral.text.examples import worked_example
from spiral.text.prompts import PromptConfig, question

GCD = "problems/reasoning_gym/gcd"
SUMS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n), "alt_answers": [f"twice {n}"]} for n in range(100)]


@pytest.fixture
def sums(tmp_path):
    path = tmp_path / "sums, doubled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SUMS), encoding="utf-8")
    return path


@pytest.fixture
def choices(tmp_path):
    path = tmp_path / "choices.jsonl"
    rows = [{"question": f"Which is {n}?", "choices": [str(n + 1), str(n), "none"], "answer": "B"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Answers(ScriptedPolicy):
    """Answers right in every second game, wrong in every third of the others, and else not at all."""

    name = "answers"

    def choose(self, state, player, rng):
        return state.game.problem(state.number).answer

    def _reply(self, request):
        right = super()._reply(request)
        kind = request.key % 4
        if kind < 2:
            return right
        action = "-1" if kind == 2 else None
        return TurnReply(key=request.key, observation=right.observation, reply=action or "no box", action=action)


def test_a_generated_problem_is_asked_as_in_a_benchmark_and_graded():
    game = load_game(GCD)
    state = game.initial_state().apply("7")
    problem = game.problem(7)
    assert state.observation(0) == state.observation(0, "compact") == SOLVE.format(question=problem.question)
    assert problem.generated == (1, int(problem.id), 0)
    assert int(problem.id) >= FIRST_SEED
    assert state.apply(problem.answer).returns() == (1.0,)
    wrong = state.apply("x y")
    assert (wrong.is_terminal, wrong.returns(), wrong.rewards()) == (True, (0.0,), (0.0,))
    assert wrong.observation(0).endswith(f"The answer x y is wrong; expected: {problem.answer}.")


def test_a_file_is_read_with_its_alternatives(sums):
    game = load_game(f"problems/mine?data={sums}&split=all")
    assert isinstance(game, ProblemGame)
    assert game.count == 100
    state = game.initial_state().apply("21")
    assert [state.apply(answer).returns()[0] for answer in ("42", "42.0", r"\frac{84}{2}", "twice 21", "43")] == [
        1.0,
        1.0,
        1.0,
        1.0,
        0.0,
    ]


def test_choices_are_letters(choices):
    state = load_game("problems/mine", data=str(choices), split="all").initial_state().apply("3")
    assert state.legal_actions() == ("A", "B", "C")
    assert "A. 4\nB. 3\nC. none" in state.observation(0)
    assert [state.apply(answer).returns()[0] for answer in ("B", "(B)", "3", "A")] == [1.0, 1.0, 1.0, 0.0]


def test_the_spec_names_an_equal_game_and_survives_pickling(sums):
    game = load_game(f"problems/mine?data={sums}&held_out=0.5&split=held_out")
    assert game.spec == f"problems/mine(data={str(sums)!r},split=held_out,held_out=0.5)"
    assert load_game(game.spec) == game == pickle.loads(pickle.dumps(game))
    assert load_game("kuhn_poker?hands=3") == load_game("kuhn_poker(hands=3)")


def test_the_splits_share_no_question_whatever_the_source(sums):
    train, held_out = (load_game("problems/mine", data=str(sums), split=split) for split in ("train", "held_out"))
    questions = [{game.problem(n).question for n in range(game.count)} for game in (train, held_out)]
    assert questions[0].isdisjoint(questions[1])
    assert questions[0] | questions[1] == {row["question"] for row in SUMS}
    assert len(questions[1]) == sum(is_held_out(row["question"], 0.2) for row in SUMS) == 20
    other = load_game("problems/other", data=str(sums), split="held_out", held_out=0.1)
    assert {other.problem(n).question for n in range(other.count)} < questions[1]
    train, held_out = (load_game(GCD, split=split, size=100) for split in ("train", "held_out"))
    questions = [{game.problem(n).question for n in range(100)} for game in (train, held_out)]
    assert questions[0].isdisjoint(questions[1])


def test_benchmarks_never_use_the_seeds_of_training():
    task = load_task("reasoning_gym/gcd")
    assert len(load_problems(task, None, 2, FIRST_SEED - 2)) == 2
    with pytest.raises(ValueError, match="seeds from 1,000,000,000 on are those that training draws"):
        load_problems(task, None, 2, FIRST_SEED - 1)


def test_published_benchmarks_are_no_games():
    with pytest.raises(ValueError, match=r"math500 is a benchmark, and training on it would spoil its results"):
        load_game("problems/math500")


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("problems/mine", r"no problems called 'mine'; to read them from a file, give problems/mine\?data=FILE.jsonl"),
        ("problems/math12", "did you mean problems/math12k"),
        ("problems/mine?data=/no/such.jsonl", "there is no file /no/such.jsonl"),
        (GCD + "?data=x.jsonl", "generates its problems from seeds; leave out data"),
        ("problems/reasoning_gym/gdc", "did you mean reasoning_gym/gcd"),
        (GCD + "?split=test", "got split 'test'; expected train, held_out or all"),
        (GCD + "?held_out=1.0", "expected a share of at least 0 and below 1"),
        (GCD + "?held_out=0.0&split=held_out", "has no held-out problems"),
        (GCD + "?size=0", "expected 1 to 100,000 problems"),
        ("problems/math12k?size=5", "only generated tasks"),
        (GCD + "?size", "expected parameters as name=value"),
    ],
)
def test_what_cannot_be_dealt_is_refused(spec, fault):
    with pytest.raises(ValueError, match=fault):
        load_game(spec)


def test_problems_keep_the_contract_of_games(sums, choices):
    games = [load_game("problems/mine", data=str(sums)), load_game("problems/mine", data=str(choices))]
    for game in (*games, load_game(GCD, size=50)):
        check_game(game, playouts=2 if game.name.endswith("gcd") else 5)
        assert (game.num_players, game.zero_sum, game.min_return, game.max_return) == (1, False, 0.0, 1.0)


def test_the_box_is_the_answer_as_it_is_written():
    state = load_game(GCD).initial_state().apply("0")
    assert parse_action("so \\boxed{ \\frac{1}{2}\n[1, 2] }", state) == "\\frac{1}{2}\n[1, 2]"
    assert parse_action("\\boxed{{4}}", state) == "{4}"
    assert [parse_action(reply, state) for reply in ("The answer is 4.", "\\boxed{ }", "\\boxed{4")] == [None] * 3
    for action in ("", " 4"):
        with pytest.raises(IllegalActionError):
            state.apply(action)
    for number in ("-1", "10000", "1.0", "x", "\u0663"):
        with pytest.raises(IllegalActionError):
            load_game(GCD).initial_state().apply(number)


@pytest.mark.parametrize("thinking", [False, True])
def test_the_example_is_a_training_problem_with_its_right_answer(thinking):
    config = PromptConfig(example=True, thinking=thinking)
    held_out, train = load_game(GCD, split="held_out"), load_game(GCD)
    example = worked_example(held_out, config)
    assert example == worked_example(train, config)
    state, answer = train.example()
    assert (example.observation, example.answer) == (state.observation(0), f"\\boxed{{{answer}}}")
    assert state.apply(answer).returns() == (1.0,)
    assert example.thought == (f"The answer is {answer}." if thinking else "")
    assert question(example.observation, config, train) == example.observation


def test_right_wrong_and_no_box_are_paid_in_that_order(sums):
    game = load_game("problems/mine", data=str(sums), split="all")
    matches = [Match(game=game, seed=seed, policies=(Answers(),)) for seed in range(4)]
    episodes = play(matches)
    assert [episode.outcome for episode in episodes] == ["finished"] * 3 + ["illegal_move"]
    assert [episode.returns[0] for episode in episodes[:3]] == [1.0, 1.0, 0.0]
    assert episodes[3].returns[0] < 0.0


def test_evaluation_asks_different_problems(sums):
    game = load_game("problems/mine", data=str(sums), split="all")
    result, episodes = evaluate_alone(Answers(), game, episodes=40, seed=3)
    assert len({episode.actions[0] for episode in episodes}) == 40
    assert (result.best.value, result.illegal, result.played) == (0.5, 0.25, 40)
    assert (result.best.low, result.best.high) == pytest.approx((0.3520, 0.6480), abs=1e-4)
    assert result.mean_return.value == pytest.approx(np.mean([episode.returns[0] for episode in episodes]))
    again, _ = evaluate_alone(Answers(), game, episodes=40, seed=3)
    assert again == result
    with pytest.raises(ValueError, match="different deals; expected at most as many episodes, not 101"):
        different_deals(game, 101, 0)
    with pytest.raises(ValueError, match="has 2 players"):
        different_deals(load_game("tictactoe"), 2, 0)


def test_evaluate_takes_no_opponent_for_a_problem(sums, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SPIRAL_RESULTS", str(tmp_path / "results"))
    spec = f"problems/mine?data={sums}&split=held_out"
    assert main(["evaluate", "random", "--game", spec, "--opponent", "random"]) == 2
    assert "is a game of one player; leave out --opponent" in capsys.readouterr().err
    assert main(["evaluate", "random", "--game", "tictactoe"]) == 2
    assert "Missing option '--opponent'" in capsys.readouterr().err
    assert main(["evaluate", "random", "--game", spec, "--episodes", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["played"], found["best"], found["illegal"]) == (20, 0.0, 0.0)
    assert main(["evaluate", "random", "--game", spec, "--episodes", "20"]) == 0
    shown = capsys.readouterr().out
    assert "no answer in a box" in shown
    assert "Mean return +0.000" in shown


def test_problems_that_cannot_be_loaded_stop_a_run_before_it_starts():
    games = ["selfplay.games={ 'problems/math12k' = 1.0 }", "evaluation.games=[]", "evaluation.exploitability=[]"]
    recipe = load_recipe("smollm2-cpu", overrides=games)
    with pytest.raises(ValueError, match=r"selfplay.games: cannot load hiyouga/math12k"):
        check_problems(recipe)


def test_a_person_answers_first_and_then_the_model(sums, monkeypatch, capsys):
    asked = iter(["", "38", "n"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(asked))
    spec = f"problems/mine?data={sums}&split=all"
    monkeypatch.setattr("spiral.evaluation.reasoning.problem_game._outcomes", lambda count: (("19", 1.0),))
    assert main(["play", "random", "--game", spec, "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "first, then random" in shown
    assert shown.index("What is 19 + 19?") < shown.index("Type an answer, help for the rules, or quit.")
    assert "The answer 38 is right." in shown
    assert "Result: you +1." in shown
    assert "The answer 0 is wrong; expected: 38." in shown
    assert "Result: random +0." in shown
