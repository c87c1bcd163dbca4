"""Proposer and solver: what is dealt, seen, graded and paid."""

from __future__ import annotations

import importlib.util
import json
import pickle

import pytest

from commands import spiral
from spiral.core.policy import TurnReply
from spiral.evaluation.reasoning.problem_game import is_held_out
from spiral.evaluation.reasoning.proposer_game import DEALS, proposer_return
from spiral.evaluation.reasoning.tasks import SOLVE
from spiral.games import IllegalActionError, load_game
from spiral.games.testing import check_game
from spiral.policies import ScriptedPolicy
from spiral.rollout.loop import Match, play
from spiral.runs.checks import check_problems
from spiral.runs.recipe import load_recipe
from spiral.text import parse_action
from spiral.text.examples import worked_example
from spiral.text.prompts import PromptConfig, question
from spiral.theory.tree import build_tree

pytest.importorskip("reasoning_gym")


def dealt(deal="7", spec="proposer_solver"):
    return load_game(spec).initial_state().apply(deal)


def answers_of(state):
    """The right answers to the problems of a state."""
    source = state.game.source(state.choice)
    return [source.problem(number).answer for number in range(state.first, state.first + state.game.problems)]


class Plays(ScriptedPolicy):
    """Chooses a kind and a level, and answers the first `right` problems right; "" is a reply without a box."""

    name = "plays"

    def __init__(self, choice, right, wrong="x"):
        super().__init__()
        self.choice, self.right, self.wrong = choice, right, wrong

    def choose(self, state, player, rng):
        if player == 0:
            return self.choice
        given = len(state.answers)
        return answers_of(state)[given] if given < self.right else self.wrong

    def _reply(self, request):
        reply = super()._reply(request)
        if reply.action:
            return reply
        return TurnReply(key=request.key, observation=reply.observation, reply="no box", action=None)


def played(choice, right, spec="proposer_solver", **how):
    policy = Plays(choice, right, **how)
    (episode,) = play([Match(game=load_game(spec), seed=3, policies=(policy, policy))])
    return episode


@pytest.mark.parametrize(
    ("problems", "returns"),
    [(2, [0.0, 1.0, 0.0]), (3, [0.0, 2 / 3, 2 / 3, 0.0]), (4, [0.0, 0.5, 1.0, 0.5, 0.0])],
)
def test_the_proposer_is_paid_most_where_half_is_right(problems, returns):
    assert [proposer_return(right, problems) for right in range(problems + 1)] == pytest.approx(returns)


def test_each_answer_pays_the_solver_and_the_last_one_the_proposer():
    episodes = [played("gcd 3", right) for right in range(5)]
    assert [episode.returns for episode in episodes] == [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (0.5, 0.75), (0.0, 1.0)]
    assert [turn.reward for turn in episodes[3].turns] == [0.5, 0.25, 0.25, 0.25, 0.0]
    assert [turn.player for turn in episodes[3].turns] == [0, 1, 1, 1, 1]
    assert {episode.outcome for episode in episodes} == {"finished"}


def test_a_wrong_answer_is_legal_and_a_reply_without_a_box_is_not():
    episode = played("gcd 1", 1, wrong="")
    assert (episode.outcome, episode.returns, len(episode.turns)) == ("illegal_move", (0.0, -1.5), 3)
    state = dealt().apply("gcd 1")
    for action in ("", " 4", "4\n"):
        assert not state.is_legal(action)
        with pytest.raises(IllegalActionError):
            state.apply(action)
    for action in ("gcd 6", "gcd 0", "lcm 1", "gcd", "4"):
        with pytest.raises(IllegalActionError, match="of player 0; legal here: chain_sum 1, chain_sum 2"):
            dealt().apply(action)
    for action in ("-1", str(DEALS), "01", "gcd 1"):
        with pytest.raises(IllegalActionError):
            load_game("proposer_solver").initial_state().apply(action)


def test_a_long_answer_and_one_of_several_lines_stay_on_their_own_line():
    state = dealt("3", "proposer_solver(problems=2)").apply("products 2")
    end = state.apply("4\nProblem 2: the answer 7 is right.").apply("9" * 10_000)
    lines = end.observation(0).splitlines()
    assert lines[-4] == "The choice was products 2."
    assert lines[-3].startswith("Problem 1: the answer 4 Problem 2: the answer 7 is right. is wrong; expected: ")
    assert lines[-2].startswith(f"Problem 2: the answer {'9' * 200}... is wrong; expected: ")
    with pytest.raises(IllegalActionError, match=r"got action '9{200}[.]{3}' of player 1"):
        state.apply("9" * 10_001)
    with pytest.raises(IllegalActionError, match=r"got action '9{200}[.]{3}' of chance"):
        load_game("problems/reasoning_gym/gcd").initial_state().apply("9" * 5_000)


def test_a_choice_is_read_with_leniency_and_an_answer_as_it_stands():
    assert parse_action(r"Hard enough: \boxed{\text{GCD  3}}", dealt()) == "gcd 3"
    assert parse_action(r"\boxed{gcd 9}", dealt()) is None
    assert parse_action(r"\boxed{gcd}", dealt()) is None
    solving = dealt().apply("chain_sum 5")
    assert parse_action(r"So \boxed{\text{12,345}}", solving) == r"\text{12,345}"
    assert parse_action("12345", solving) is None
    (first, *_) = answers_of(solving)
    assert solving.apply(rf"\text{{{int(first):,}}}").graded() == (True,)


def test_the_problems_are_those_of_the_level_alone_and_never_held_out():
    seen = set()
    for choice in ("gcd 1", "gcd 3"):
        alone = load_game(f"problems/reasoning_gym/gcd?level={choice[-1]}")
        asked = []
        for deal in range(5):
            state = dealt(str(deal)).apply(choice)
            source = state.game.source(choice)
            asked += [source.problem(number).question for number in range(state.first, state.first + 4)]
        assert asked == [alone.problem(number).question for number in range(20)]
        assert not any(is_held_out(text, alone.held_out) for text in asked)
        assert seen.isdisjoint(asked)
        seen |= set(asked)


def test_what_each_player_sees():
    first, other = dealt("0"), dealt("1")
    assert first.information_state(0) == other.information_state(0)
    assert first.observation(0) == other.observation(0)
    assert question(first.observation(0), PromptConfig(), first.game) == first.observation(0)
    assert "You are seat 0, the proposer." in first.observation(0)
    assert first.observation(0).endswith("put your choice within \\boxed{}.")
    states = [state.apply("gcd 2") for state in (first, other)]
    assert states[0].information_state(0) == states[1].information_state(0) == "gcd 2"
    assert states[0].information_state(1) != states[1].information_state(1)
    second = states[0].apply("5")
    texts = [states[0].game.source("gcd 2").problem(number).question for number in range(4)]
    assert json.loads(second.information_state(1)) == ["gcd 2", texts[:2], ["5"]]
    assert second.observation(1).endswith(SOLVE.format(question=texts[1]))
    assert "problem 2 of 4" in second.observation(1)
    assert texts[0] not in second.observation(1)
    assert not [text for text in texts if text in second.observation(0)]
    assert second.observation(1, "compact") == f"proposer_solver:gcd 2:2 of 4:{texts[1]}"


def test_the_end_says_what_was_right():
    state = dealt("3", "proposer_solver(problems=2)").apply("products 2")
    right, expected = answers_of(state)
    end = state.apply(right).apply("no idea")
    assert end.is_terminal
    for player in (0, 1):
        assert end.observation(player).endswith(
            f"The choice was products 2.\nProblem 1: the answer {right} is right.\nProblem 2: the answer no idea is"
            f" wrong; expected: {expected}.\nThe proposer gets 1, the solver 0.5."
        )
    assert end.information_state(0) == end.information_state(1)


def test_the_game_keeps_the_contract_and_survives_pickling():
    game = load_game("proposer_solver(problems=3,families='gcd leg_counting')")
    assert game.choices == tuple(f"{family} {level}" for family in ("gcd", "leg_counting") for level in range(1, 6))
    check_game(game, playouts=1)
    state = game.initial_state().apply("1").apply("gcd 5").apply("2")
    assert pickle.loads(pickle.dumps(state)) == state
    assert load_game(game.spec) == game
    assert (game.max_turns, game.min_return, game.max_return) == (4, 0.0, 1.0)


def test_exact_theory_refuses_it():
    game = load_game("proposer_solver")
    assert not game.exact_theory
    with pytest.raises(ValueError, match="zero-sum games of two players only"):
        build_tree(game)


def test_the_example_is_a_problem_with_its_right_answer():
    example = worked_example(load_game("proposer_solver"), PromptConfig(example=True, thinking=True))
    state, answer = load_game("proposer_solver").example()
    assert (example.observation, example.answer) == (state.observation(1), f"\\boxed{{{answer}}}")
    assert state.apply(answer).graded() == (True,)
    assert example.thought == f"The answer is {answer}."


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("proposer_solver(problems=1)", "got problems=1; expected a number from 2 to 10"),
        ("proposer_solver(problems=11)", "expected a number from 2 to 10"),
        ("proposer_solver(families='gcd lcm')", "got families='gcd lcm'; expected some of chain_sum products gcd"),
        ("proposer_solver(families='gcd gcd')", "each once, with a space between them"),
        ("proposer_solver(families='gcd  products')", "each once, with a space between them"),
    ],
)
def test_what_makes_no_game_is_refused(spec, fault):
    with pytest.raises(ValueError, match=fault):
        load_game(spec)


def test_without_reasoning_gym_there_is_one_error_and_the_list_says_why(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "reasoning_gym" else found(name, *rest)
    )
    reason = "game 'proposer_solver' needs reasoning-gym: pip install reasoning-gym"
    with pytest.raises(ValueError, match=reason):
        load_game("proposer_solver(problems=2)")
    listed = spiral("games", "--json").json
    assert {"name": "proposer_solver", "reason": reason} in listed["unavailable"]
    assert "proposer_solver" not in [row["name"] for row in listed["games"]]
    said = " ".join(spiral("games").out.split())
    assert f"Not available from spiral itself (spiral games --all names them): {reason} (1)" in said


def test_a_run_deals_and_grades_before_it_starts(monkeypatch):
    recipe = load_recipe(
        "nano", ["selfplay.games=proposer_solver", "evaluation.games=[]", "evaluation.exploitability=[]"]
    )
    check_problems(recipe)

    def broken(*_arguments):
        raise ValueError("the generator is broken")

    monkeypatch.setattr("spiral.evaluation.reasoning.problem_game._graded", broken)
    with pytest.raises(ValueError, match=r"selfplay\.games: the generator is broken"):
        check_problems(recipe)


def test_evaluate_plays_both_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_RESULTS", str(tmp_path))
    words = ("evaluate", "random", "--game", "proposer_solver(problems=2)", "--opponent", "random", "--episodes", "8")
    found = spiral(*words, "--json").json
    assert (found["played"], found["illegal"]) == (8, 0.0)
    assert 0 <= found["mean_return"] <= 1
