"""Games of partners and of mixed motives: the signalling game and the prisoner's dilemma."""

from __future__ import annotations

import itertools

import pytest

from spiral.games import State, load_game


def play(spec: str, *actions: str) -> State:
    state = load_game(spec).initial_state()
    for action in actions:
        state = state.apply(action)
    return state


def test_partners_win_and_lose_together() -> None:
    spec = "lewis_signalling(states='red green',signals='ba di gu')"
    assert play(spec, "red", "gu", "red").returns() == (1.0, 1.0)
    assert play(spec, "red", "gu", "green").returns() == (0.0, 0.0)
    assert play(spec, "red").legal_actions() == ("ba", "di", "gu")
    assert play(spec, "red", "gu").legal_actions() == ("red", "green")


def test_the_receiver_sees_the_signal_alone() -> None:
    sent = [play("lewis_signalling", state, "2") for state in "012"]
    assert len({state.information_state(1) for state in sent}) == 1
    assert {state.observation(1, "compact") for state in sent} == {"lewis_signalling:read:2"}
    assert len({state.observation(1, "full") for state in sent}) == 1
    assert {play("lewis_signalling", state).observation(0, "compact") for state in "012"} == {
        f"lewis_signalling:send:{state}" for state in "012"
    }


def test_a_convention_is_right_always_and_silence_once_in_three() -> None:
    """All 27 encodings with the best answer to each: the best is right in every state, the worst in one of three."""
    scores = []
    for code in itertools.product("012", repeat=3):
        best = 0.0
        for answers in itertools.product("012", repeat=3):
            won = [play("lewis_signalling", s, code[int(s)], answers[int(code[int(s)])]).returns()[0] for s in "012"]
            best = max(best, sum(won) / 3)
        scores.append(round(best, 6))
    assert (max(scores), min(scores), scores.count(1.0)) == (1.0, round(1 / 3, 6), 6)


def test_the_dilemma_pays_axelrods_points() -> None:
    spec = "prisoners_dilemma(rounds=4)"
    state = play(spec, "cooperate", "cooperate", "cooperate", "defect", "defect", "cooperate", "defect", "defect")
    assert state.returns() == (3.0 + 0.0 + 5.0 + 1.0, 3.0 + 5.0 + 0.0 + 1.0)
    assert state.rewards() == (1.0, 1.0)
    assert play(spec, "cooperate", "defect").rewards() == (0.0, 5.0)
    assert play(spec, "cooperate").rewards() == (0.0, 0.0)


def test_a_choice_is_hidden_until_the_round_is_over() -> None:
    first = [play("prisoners_dilemma", "defect", "defect", choice) for choice in ("cooperate", "defect")]
    assert len({state.information_state(1) for state in first}) == 1
    assert len({state.observation(1, style) for state in first for style in ("full",)}) == 1
    assert {state.observation(1, "compact") for state in first} == {"prisoners_dilemma:2/5:defect-defect"}
    after = play("prisoners_dilemma", "cooperate", "defect")
    assert after.observation(0, "compact") == "prisoners_dilemma:2/5:cooperate-defect"
    assert "Round 1: you chose cooperate, the other player chose defect." in after.observation(0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prisoners_dilemma(labels='A')", "got labels='A'; expected 2 to 20 different words"),
        ("prisoners_dilemma(labels='a A')", "expected 2 to 20 different words"),
        ("prisoners_dilemma(labels='a b c')", "expected two words, cooperation first"),
        ("prisoners_dilemma(rounds=0)", "got rounds=0; expected a number from 1 to 100"),
        ("lewis_signalling(states='red  green')", "got states='red  green'; expected 2 to 20 different words"),
        ("lewis_signalling(signals='<b> x')", "got signals="),
    ],
)
def test_parameters_that_make_no_game_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        load_game(spec)
