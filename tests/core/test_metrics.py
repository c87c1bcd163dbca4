"""Metrics of a step's episodes, by hand: lengths of thoughts and answers by player, and the signs of a collapse."""

import dataclasses
import re

import pytest

from made_up import new_episode, new_turn
from spiral.core.metrics import episode_metrics, metric_name
from spiral.core.records import Turn
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.text import ChatCodec, PromptConfig


def turn(player, tokens, thinking, has_thought=True, **fields):
    return new_turn(player, tokens=range(tokens), thinking_tokens=thinking, has_thought=has_thought, **fields)


def test_thinking_by_hand():
    episodes = [
        new_episode((1.0, -1.0), [turn(0, 10, 8), turn(1, 2, 0, has_thought=False), turn(0, 6, 3)]),
        # Cut off inside the thinking; empty tags; a scripted player, who says nothing.
        new_episode((-1.5, 0.5), [turn(0, 4, 4, stop_reason="length"), turn(1, 8, 2, has_thought=False)]),
        new_episode((0.0, 0.0), [Turn(player=0, observation="o", action="0"), turn(1, 2, 1)], game="kuhn_poker"),
    ]
    metrics = episode_metrics(episodes, {})
    thinking = {name: value for name, value in metrics.items() if "thinking" in name}
    empty = {name: thinking.pop(name) for name in list(thinking) if name.endswith("thinking_empty")}
    assert [*empty.values()] == [0.0, 0.0, 0.0, 1.0]  # Kuhn poker before tic-tac-toe
    assert thinking == {
        "thinking/length": pytest.approx((8 + 0 + 3 + 4 + 2 + 1) / 6),
        "thinking/answer_length": pytest.approx((2 + 2 + 3 + 0 + 6 + 1) / 6),
        "thinking/empty": pytest.approx(2 / 6),
        "thinking/unclosed": pytest.approx(1 / 6),
        "selfplay/tictactoe/player0/thinking_length": pytest.approx((8 + 3 + 4) / 3),
        "selfplay/tictactoe/player1/thinking_length": pytest.approx((0 + 2) / 2),
        "selfplay/kuhn_poker/player0/thinking_length": 0.0,
        "selfplay/kuhn_poker/player1/thinking_length": 1.0,
    }
    assert metrics["rollout/response_length"] == pytest.approx(32 / 6)
    assert metrics["selfplay/tictactoe/player0/response_length"] == pytest.approx(20 / 3)
    parts = metrics["thinking/length"] + metrics["thinking/answer_length"]
    assert parts == pytest.approx(metrics["rollout/response_length"])


def test_a_reply_without_tokens_is_empty_but_not_unclosed():
    metrics = episode_metrics([new_episode((-1.5, 0.5), [turn(0, 0, 0, has_thought=False)])], {})
    assert metrics["thinking/empty"] == 1.0
    assert metrics["thinking/unclosed"] == 0.0


def test_without_language_models_there_is_nothing():
    metrics = episode_metrics([new_episode((1.0, -1.0), [Turn(player=0, observation="o", action="0")])], {})
    assert {metrics[f"thinking/{name}"] for name in ("length", "answer_length", "empty", "unclosed")} == {0.0}


def test_replies_are_cut_by_the_budget_or_by_the_context():
    episodes = [
        new_episode((1.0, -1.0), [turn(0, 4, 0), turn(1, 9, 0, stop_reason="length")]),
        new_episode((1.0, -1.0), [turn(0, 5, 0, stop_reason="context"), turn(1, 0, 0, stop_reason="context")]),
        new_episode((0.0, 0.0), [turn(0, 4, 0)]),
    ]
    metrics = episode_metrics(episodes, {})
    assert metrics["policies/cut_off"] == pytest.approx(3 / 5)
    assert metrics["rollout/cut_by_context"] == pytest.approx(2 / 5)
    assert metrics["rollout/prompt_too_long"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("template", ["qwen3", "r1"])
def test_a_box_inside_thoughts_is_no_answer(template):
    codec = ChatCodec(build_tokenizer(), PromptConfig(template=template, observation="compact"))
    texts = [
        *("I bet. \\boxed{bet}", "\\boxed{bet}", "I bet.", "", "\\boxed{be"),
        *("<think>\\boxed{bet}", "<think>\\boxed{bet}</think>", "<think>\\boxed{bet}</think>bet"),
        *("\\boxed{bet}</think>\\boxed{bet}", "a</think>b", "a</think>\\boxed{bet}<think>\\boxed{bet}"),
    ]
    opened = template == "r1"
    unboxed = []
    for text in texts:
        ids = codec.encode_reply(text)
        reading = codec.read(ids)
        made = new_turn(0, tokens=ids, thinking_tokens=reading.thinking_tokens, has_thought=reading.has_thought)
        made = dataclasses.replace(made, reply=reading.text)
        (share,) = {episode_metrics([new_episode((1.0, -1.0), [made])], {})["rollout/unboxed"]}
        assert share == float("\\boxed{" not in reading.answer), text
        unboxed.append(bool(share))
    assert unboxed == [opened, opened, True, True, opened, True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("reply", "unboxed"),
    [
        (r"\boxed {bet}", 0),
        (r"\boxed bet", 0),
        (r"\fbox{bet}", 0),
        (r"\framebox{bet}", 0),
        ("bet", 1),
        (r"\box bet", 1),
    ],
)
def test_a_box_may_be_drawn_in_other_ways(reply, unboxed):
    made = dataclasses.replace(new_turn(0, thinking_tokens=0), reply=reply)
    assert episode_metrics([new_episode((1.0, -1.0), [made])], {})["rollout/unboxed"] == unboxed


def test_a_player_who_writes_nothing_leaves_no_box_out():
    turns = [Turn(player=0, observation="o", action="0"), new_turn(1, thinking_tokens=2)]
    assert episode_metrics([new_episode((1.0, -1.0), turns)], {})["rollout/unboxed"] == 0.5


SPECS = [
    "tictactoe", "kuhn_poker", "kuhn_poker(hands=5)", "kuhn_poker(hands=3)", "connect_four(rows=5)",
    "connect_four(columns=5)", "connect_four(rows=5, columns=6)", "openspiel/liars_dice",
    "openspiel/liars_dice(numdice=2)",
    "textarena/Nim-v0", "my_games:Nim", "my.games:Nim(heaps=3)", "minimax", "minimax(depth=4)", "runs/r1", "runs/r1@15",
    "/abs/runs/r1@15", "abs/runs/r1@15", "../runs/r1", "endpoint:gpt", "model name", "model_name", "modèle", "modèla",
    "x" * 200, "x" * 201, "a=b", "a(b=(1,2))", "g(a='x y')", "g(a='x_y')", "(", "\ud800",
]  # fmt: skip


def test_names_in_keys_are_plain_and_differ():
    names = {spec: metric_name(spec) for spec in SPECS}
    assert len(set(names.values())) == len(SPECS)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,90}", name) for name in names.values())
    assert names["kuhn_poker(hands=5)"] == "kuhn_poker-5"
    assert names["connect_four(rows=5, columns=6)"] == "connect_four-rows.5-columns.6"
    assert names["openspiel/liars_dice"] == "openspiel.liars_dice"
    assert names["runs/r1@15"] == "runs.r1.15"
    assert metric_name(" kuhn_poker( hands = 5 ) ") == "kuhn_poker-5"


def test_a_history_that_did_not_fit_is_counted():
    def held(player, count):
        return dataclasses.replace(turn(player, 2, 0), history_turns=count)

    whole = new_episode((1.0, -1.0), [held(0, 0), held(1, 0), held(0, 1), held(1, 1)])
    cut = new_episode((1.0, -1.0), [held(0, 0), held(1, 0), held(1, 1), held(0, 0), held(1, 1), held(1, 3)])
    against = new_episode((1.0, -1.0), [held(0, 0), held(1, 0), held(1, 0)], trainable=(True, False))
    metrics = episode_metrics([whole, cut, against], {})
    assert metrics["rollout/history_turns"] == pytest.approx((0 + 0 + 1 + 1 + 0 + 0 + 1 + 0 + 1 + 3 + 0) / 11)
    assert metrics["rollout/history_cut"] == pytest.approx(2 / 11)
    without = episode_metrics([new_episode((1.0, -1.0), [turn(0, 2, 0), turn(1, 2, 0)])], {})
    assert not {"rollout/history_turns", "rollout/history_cut"} & without.keys()
