"""Prompts that leave a model no room: refused before they are played, and no illegal moves where they come up later."""

import pytest

from commands import refused, spiral
from spiral.evaluation.arena import evaluate, paired_matches
from spiral.evaluation.exploitability import evaluate_theory
from spiral.games import load_game
from spiral.inference.room import PromptRoomError, check_room
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig, scripted_policy
from spiral.rollout.loop import Match, play
from spiral.text import ChatCodec, PromptConfig

TICTACTOE = load_game("tictactoe")


def player(nano, context, *, observation="compact", name="small", **sampling):
    codec = ChatCodec(nano.tokenizer, PromptConfig(observation=observation, thinking=False))
    return TransformersPolicy(nano.model, codec, SamplingConfig(**sampling), name=name, context=context)


def length(policy, state, observation="compact"):
    return len(policy.codec.encode(state.observation(state.current_player, observation), TICTACTOE))


def room_for_first_moves(nano):
    """A context that holds the first full prompt of each player, and hardly more; each move adds some tokens."""
    policy = player(nano, 2048, observation="full")
    return length(policy, TICTACTOE.initial_state().apply("0"), "full") + 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "nano", "--game", "simple_negotiation", "--opponent", "random", "--episodes", "2"),
        ("evaluate", "nano", "--game", "connect_four", "--opponent", "random", "--episodes", "2"),
        ("exploitability", "nano", "--game", "kuhn_poker"),
        ("exploitability", "nano", "--game", "tictactoe"),
        ("tournament", "random", "nano", "--game", "tictactoe", "--game", "kuhn_poker", "--episodes", "2"),
        ("compare", "nano", "random", "--game", "connect_four", "--episodes", "2"),
        ("play", "nano", "--game", "leduc_poker"),
    ],
)
def test_commands_refuse_prompts_without_room(arguments):
    line = refused(*arguments, "--observation", "full")
    assert " tokens, the shortest answer " in line
    assert "nano takes 512 together; expected a shorter one, such as with prompt.observation = 'compact'" in line


def test_check_refuses_a_context_that_is_too_short():
    result = spiral("check", "nano", "--context", "4")
    assert result.status == 2
    assert "nano takes 4 together" in result.err
    assert "all checks passed" not in result.out


def test_the_first_prompt_fits_with_an_answer_and_its_end(nano):
    needed = length(player(nano, 99), TICTACTOE.initial_state().apply("0")) + 2
    check_room(player(nano, needed), TICTACTOE, first=True)
    with pytest.raises(PromptRoomError, match=f"small takes {needed - 1} together; expected a longer context"):
        check_room(player(nano, needed - 1), TICTACTOE, first=True)


def test_games_of_which_none_can_be_finished_are_refused(nano):
    early = player(nano, room_for_first_moves(nano), observation="full")
    check_room(early, TICTACTOE, first=True)
    with pytest.raises(PromptRoomError, match=r"the prompt after \d moves of tictactoe has \d\d\d tokens"):
        paired_matches(early, scripted_policy("random", TICTACTOE), TICTACTOE, 2, seed=0)
    with pytest.raises(PromptRoomError, match="one prompt of tictactoe has"):
        evaluate_theory(early, TICTACTOE)


def test_a_game_that_comes_to_have_no_room_is_not_played(nano):
    context = room_for_first_moves(nano)
    grown, random = player(nano, context, observation="full", temperature=0.0), scripted_policy("random", TICTACTOE)
    found = play([Match(game=TICTACTOE, seed=seed, policies=(random, grown)) for seed in range(6)])
    full = [
        episode for episode in found if episode.turns[-1].generation and len(episode.turns[-1].prompt_ids) > context - 2
    ]
    assert full
    assert {(episode.outcome, episode.returns) for episode in full} == {("not_played", (0.0, 0.0))}


def test_a_later_prompt_without_room_is_no_illegal_move_in_evaluation(nano):
    first = length(player(nano, 99), TICTACTOE.initial_state())
    small = player(nano, first)
    (episode,) = play([Match(game=TICTACTOE, seed=1, policies=(small, small))])
    assert (episode.outcome, episode.returns) == ("not_played", (0.0, 0.0))
    assert episode.fault == f"a prompt left no room for an answer in the context of small, {first} tokens"


def test_a_policy_that_learns_is_paid_for_it_as_before(nano):
    small = player(nano, length(player(nano, 99), TICTACTOE.initial_state()))
    for trainable, outcome in (((True, True), "illegal_move"), ((False, True), "not_played")):
        (episode,) = play([Match(game=TICTACTOE, seed=1, policies=(small, small), trainable=trainable)])
        assert episode.outcome == outcome


def test_prompts_with_room_are_evaluated_as_before(nano):
    result = evaluate(player(nano, 512), scripted_policy("random", TICTACTOE), TICTACTOE, 4, seed=0)
    assert (result.played, result.not_played, result.faults) == (4, 0, {})
