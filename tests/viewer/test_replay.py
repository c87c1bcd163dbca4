"""One episode as the page gets it: states, tokens, credit, judgement, text."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from spiral.core.records import Generation, Turn
from spiral.core.storage import write_episodes
from spiral.games import load_game
from spiral.games.playout import replay
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.viewer import replay as replay_module
from spiral.viewer.drawings import drawing
from viewed_runs import made_run, played, viewing

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eabc\u200b\u2028" + "x" * 1_000_000


def turn(player, action, reply, ids=(), logprobs=(), **more):
    generation = Generation(
        token_ids=np.array(ids, dtype=np.int64),
        logprobs=np.array(logprobs, dtype=np.float32),
        stop_reason="stop",
        policy_version=1,
        thinking_tokens=more.pop("thinking_tokens", 0),
    )
    prompt = np.array([1], dtype=np.int64)
    arrays = {name: np.array(value, dtype=np.float32) for name, value in more.items()}
    return Turn(
        player=player,
        observation="seen",
        reply=reply,
        action=action,
        prompt_ids=prompt,
        generation=generation,
        **arrays,
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("runs") / "mine", steps=1, episodes=1)
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("a\\boxed{0}", add_special_tokens=False)
    base = played("tictactoe", 1)[0]
    blunder = dataclasses.replace(
        base,
        turns=(
            turn(0, "0", "a\\boxed{0}", ids, [-0.5] * len(ids), thinking_tokens=1, advantages=[-1.5],
                 learner_logprobs=[-0.75] * len(ids)),
            turn(1, "8", "\\boxed{8}", ids[-1:], [-1.0], advantages=[0.75], learner_logprobs=[-1.0]),
            turn(0, None, HOSTILE, [99_999], [-2.0], advantages=[-1.5], learner_logprobs=[-2.0]),
        ),
        actions=("0", "8"), returns=(-1.5, 0.5), rewards=(-1.5, 0.5), outcome="illegal_move",
    )  # fmt: skip
    opened = played("tictactoe", 1, seed=3, opening=4)[0]
    own = dataclasses.replace(base, game="antigravity:Game")
    changed = dataclasses.replace(base, actions=("0", "0"))
    kuhn, trade, big = (
        played(spec, 1, seed=1)[0] for spec in ("kuhn_poker(hands=3)", "simple_negotiation", "connect_four")
    )
    games = [blunder, opened, own, changed, kuhn, trade, big]
    write_episodes(run / "episodes" / "step-000002.parquet", games)
    with viewing(run) as found:
        found.games = games
        yield found


def test_tokens_have_text_numbers_and_credit(client):
    found = client.get("/api/runs/0/episodes/2/0")
    first = found["turns"][0]
    assert "".join(token["text"] for token in first["tokens"]) == "a\\boxed{0}"
    assert [token["part"] for token in first["tokens"]] == ["thinking"] + ["answer"] * (len(first["tokens"]) - 1)
    assert {(token["logprob"], token["gap"], token["advantage"]) for token in first["tokens"]} == {(-0.5, 0.25, -1.5)}
    assert (first["thinking"], first["answer"], first["advantage"]) == ("a", "\\boxed{0}", -1.5)
    assert found["baselines"] == [0.0, -0.25]
    assert found["turns"][2]["tokens"][0]["text"] == "⟨99999⟩"
    assert found["notices"] == []


def test_the_worst_move_is_found_and_an_illegal_one_is_judged_by_what_it_cost(client):
    found = client.get("/api/runs/0/episodes/2/0")
    judged = [turn["judgement"] for turn in found["turns"]]
    assert [one["method"] for one in judged] == ["minimax"] * 3
    assert (judged[0]["regret"], judged[0]["played"]) == (0.0, 0.0)
    assert (judged[1]["regret"], judged[1]["best"]) == (1.0, ["4"])  # the corner opposite loses to the right reply
    assert (judged[2]["played"], judged[2]["regret"]) == (-1.5, 2.5)
    assert found["blunder"] == 2
    assert found["turns"][2]["action"] is None
    assert found["turns"][2]["legal_actions"] == list("1234567")


def test_hostile_text_is_data(client):
    _, headers, body = client.ask("/api/runs/0/episodes/2/0")
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["turns"][2]["reply"] == HOSTILE
    assert not set(body) - set(range(32, 127))
    _, headers, body = client.ask("/api/runs/0/episodes/2/0/text")
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert b"player 0 forfeits: no legal action in the reply" in body


def test_states_follow_the_game_after_a_random_opening(client):
    found, episode = client.get("/api/runs/0/episodes/2/1"), client.games[1]
    assert len(episode.actions) > len(episode.turns)
    opening = len(episode.actions) - len(episode.turns)
    assert [len(state["actions_so_far"]) for state in found["states"]] == list(range(opening, len(episode.actions) + 1))
    for state, turn_ in zip(found["states"], found["turns"], strict=False):
        assert turn_["legal_actions"] == list(replay(load_game("tictactoe"), state["actions_so_far"]).legal_actions())
        assert turn_["action"] in turn_["legal_actions"]
    last = found["states"][-1]["board"]
    assert last["cells"][int(episode.actions[-1])] == "XO"[(len(episode.actions) - 1) % 2]
    assert (last["last"], last["rows"], last["columns"]) == (int(episode.actions[-1]), 3, 3)


def test_a_run_does_not_choose_what_code_is_imported(client):
    found = client.get("/api/runs/0/episodes/2/2")
    assert found["states"] == []
    assert "--own-games" in found["notices"][0]
    assert found["turns"][0]["observation"] != ""
    assert b"told without the game's rules" in client.ask("/api/runs/0/episodes/2/2/text")[2]


def test_actions_that_do_not_fit_the_rules_are_said(client):
    found = client.get("/api/runs/0/episodes/2/3")
    assert (found["states"], len(found["turns"])) == ([], len(client.games[3].turns))
    assert found["notices"][0].startswith("The boards of this game cannot be drawn: ")


def test_cards_trades_and_columns_are_drawn(client):
    kuhn = client.get("/api/runs/0/episodes/2/4")
    first = kuhn["states"][0]["board"]
    assert (first["kind"], first["pot"], first["public"], first["hands"]) == ("cards", 2, None, 3)
    assert sorted(player["card"] in set("JQK") for player in first["players"]) == [True, True]
    assert [player["to_act"] for player in first["players"]].count(True) == 1
    assert kuhn["turns"][-1]["judgement"]["hand"] is True
    trade = client.get("/api/runs/0/episodes/2/5")
    board = trade["states"][0]["board"]
    assert (board["kind"], len(board["resources"]), board["offer"]) == ("trade", 5, None)
    assert [len(player["holdings"]) for player in board["players"]] == [5, 5]
    assert trade["turns"][0]["judgement"] is None
    discs = client.get("/api/runs/0/episodes/2/6")["states"][-1]["board"]
    assert (discs["rows"], discs["columns"], discs["drops"]) == (6, 7, True)
    played_discs = len(client.games[6].actions)
    assert sum(cell != "" for cell in discs["cells"]) == played_discs
    assert discs["cells"][discs["last"]] == "XO"[(played_discs - 1) % 2]


def test_a_player_does_not_see_what_the_other_holds():
    kuhn = replay(load_game("kuhn_poker"), ["J", "K"])
    assert [player["card"] for player in drawing(kuhn)["players"]] == ["J", "K"]
    assert [player["card"] for player in drawing(kuhn, 1)["players"]] == [None, "K"]
    folded = replay(load_game("kuhn_poker"), ["J", "K", "bet", "fold"])
    assert [player["card"] for player in drawing(folded, 0)["players"]] == ["J", None]
    assert drawing(folded)["chips"] == [1, -1]
    leduc = replay(load_game("leduc_poker"), ["J", "K", "call", "call", "Q", "raise", "call"])
    assert [player["card"] for player in drawing(leduc, 0)["players"]] == ["J", "K"]  # shown at the end
    assert (drawing(leduc)["public"], drawing(leduc)["pot"]) == ("Q", 10)
    trade = load_game("simple_negotiation").initial_state()
    while trade.is_chance:
        trade = trade.apply(trade.chance_outcomes()[0][0])
    trade = trade.apply("offer: 1 wood -> 2 wheat")
    seen = drawing(trade, 1)
    assert seen["players"][0]["holdings"] is None
    assert seen["players"][1]["holdings"] == list(trade.holdings(1))
    assert seen["offer"] == {"from": 0, "gives": {"wood": 1}, "asks": {"wheat": 2}}


def test_judging_that_takes_long_is_cut_and_goes_on(tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", steps=1, games=("tictactoe(size=4,line=4)",), episodes=1)
    judge = replay_module.judge_decision
    late = 3  # moves from the end on which theory is quick

    def judging(early):
        """Judges the last moves, and does something else with those before."""

        def made(game, state, until):
            if sum(cell != "" for cell in drawing(state)["cells"]) < total - late:
                return early()
            return judge(game, state)

        monkeypatch.setattr(replay_module, "judge_decision", made)

    def no_time():
        raise replay_module.TimeUpError

    with viewing(run) as client:
        address = "/api/runs/0/episodes/1/0"
        total = len(client.get(address)["turns"])
        judging(no_time)
        found = client.get(address)
        assert (found["judging"], [turn["judgement"] is not None for turn in found["turns"]]) == (
            True, [False] * (total - late) + [True] * late
        )  # fmt: skip
        assert found["judging_notes"] == [
            f"Turns 1 to {total - late} are not judged yet: this takes longer than 2 s, and goes on."
        ]
        judging(lambda: 1 / 0)
        again = client.get(f"{address}/judgements")
        assert (again["judging"], again["blunder"]) == (False, found["blunder"])
        assert again["judgements"] == [turn["judgement"] for turn in found["turns"]]
        assert again["judging_notes"] == [
            f"Turns 1 to {total - late} are not judged: ZeroDivisionError: division by zero."
        ]
        judging(lambda: None)
        (note,) = client.get(f"{address}/judgements")["judging_notes"]
        assert note.startswith(f"Turns 1 to {total - late} are not judged: the positions that can follow are too many")
        assert client.error("/api/runs/0/episodes/1/9/judgements")[0] == 404
