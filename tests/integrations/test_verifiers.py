"""Rollouts by the package `verifiers` in our games, against a stand-in for the server of the model."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import re

import pytest

from endpoint_server import EndpointServer, Response, completion
from spiral.games import load_game
from spiral.games.playout import replay

pytest.importorskip(
    "verifiers.v1",
    reason="verifiers 0.4 needs openai<3 and constraints.txt pins 3; `make test-verifiers` has an environment for it",
)
import verifiers.v1 as vf

from spiral.integrations.verifiers import load_environment

LEGAL = re.compile(r"Your legal actions[^:]*: (.*)\.")


def first_legal(request):
    """The first legal action of the position in the last message, after a box in a thought that does not count."""
    action = LEGAL.findall(request.observation)[-1].split(", ")[0]
    return Response(body=completion(f"<think>\\boxed{{nothing}}</think>I take \\boxed{{{action}}}"))


def silent(request):
    """A reply without an action."""
    return Response(body=completion("I do not know."))


def rollouts(environment, behaviour, number):
    """The first tasks of an environment, played one after the other; also the requests to the model."""

    async def run(url):
        client = vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY_NEEDED")
        context = vf.ModelContext(model="m", client=client)
        async with environment.serving():
            tasks = itertools.islice(environment.taskset, number)
            return [await environment.run_episode(task, context) for task in tasks]

    with EndpointServer(behaviour) as server:
        return asyncio.run(run(server.base_url)), server.requests


def test_a_rollout_is_one_of_our_games():
    environment = load_environment(game="tictactoe", opponent="minimax", seed=3)
    episodes, requests = rollouts(environment, first_legal, 2)
    for number, episode in enumerate(episodes):
        assert episode.ok, episode.errors
        (trace,) = episode.traces
        game = trace.info["game"]
        assert (game["player"], game["policies"][number]) == (number, "agent")
        assert game["policies"][1 - number] == "minimax"
        assert game["outcome"] == "finished"
        played = replay(load_game("tictactoe"), game["actions"])
        assert played.is_terminal
        assert list(played.returns()) == game["returns"]
        assert trace.rewards["reward"].value == game["returns"][number] <= 0
        assert trace.metrics["illegal"] == 0
        assert trace.metrics["turns"] == sum(request is not None for request in trace.calls) > 1
    first, second = (request.body["messages"] for request in requests[:2])
    assert "three cells in a row" in first[-1]["content"]
    assert "Reason step by step" in first[-1]["content"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert "three cells in a row" not in second[-1]["content"], "the rules are said once"


def test_more_games_are_played_at_once_than_asyncio_has_threads():
    environment = load_environment(game="kuhn_poker", opponent="random", seat=0)
    games = min(32, (os.cpu_count() or 1) + 4) + 4

    def slow_at_first(request):
        """Answers the first turn of a game after five seconds."""
        first = len(request.body["messages"]) == 1
        return dataclasses.replace(first_legal(request), delay=5.0 if first else 0.0)

    async def run(url):
        client = vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY_NEEDED")
        context = vf.ModelContext(model="m", client=client)
        async with environment.serving():
            tasks = itertools.islice(environment.taskset, games)
            return await asyncio.gather(*(environment.run_episode(task, context) for task in tasks))

    with EndpointServer(slow_at_first) as server:
        episodes = asyncio.run(run(server.base_url))
    assert [episode.ok for episode in episodes] == [True] * games
    assert server.most_at_once == games


def test_the_agent_plays_both_players_of_a_game():
    environment = load_environment(game="kuhn_poker", opponent="self")
    episodes, _ = rollouts(environment, first_legal, 2)
    for number, episode in enumerate(episodes):
        assert episode.ok, episode.errors
        assert [trace.agent.name for trace in episode.traces] == ["other", "player"]
        other, own = episode.traces
        assert [other.info["game"]["player"], own.info["game"]["player"]] == [1 - number, number]
        assert own.rewards["reward"].value == -other.rewards["reward"].value != 0
        card = re.compile(r"Your card: (\w)")
        cards = {card.search(str(trace.nodes[0].message.content))[1] for trace in episode.traces}
        assert len(cards) == 2, "each sees its own card only"


def test_an_illegal_move_costs_what_it_costs_in_training():
    episodes, requests = rollouts(load_environment(game="connect_four", opponent="random", seat=0), silent, 1)
    (trace,) = episodes[0].traces
    assert trace.rewards["reward"].value == -1.5
    assert (trace.metrics["illegal"], trace.metrics["win"], len(requests)) == (1, 0, 1)
    assert trace.info["game"]["outcome"] == "illegal_move"


def test_a_model_that_does_not_answer_is_an_error_and_no_game():
    episodes, _ = rollouts(
        load_environment(game="tictactoe", opponent="random", seat=0),
        lambda request: Response(status=400, body=json.dumps({"error": {"message": "no"}}).encode()),
        1,
    )
    assert not episodes[0].ok
    assert all(trace.rewards.get("reward") is None for trace in episodes[0].traces)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match="there is no game"):
        load_environment(game="tiktaktoe")
    with pytest.raises(ValueError, match="there is no model or policy 'minimx'"):
        load_environment(game="tictactoe", opponent="minimx")
    with pytest.raises(ValueError, match="has players 0 to 1"):
        load_environment(game="tictactoe", seat=2)


def test_deals_follow_from_the_seed():
    def deals(seed):
        tasks = itertools.islice(load_environment(game="kuhn_poker", seed=seed).taskset, 4)
        return [(task.data.seed, task.data.player) for task in tasks]

    assert deals(1) == deals(1)
    assert deals(1) != deals(2)
    assert [player for _, player in deals(1)] == [0, 1, 0, 1]


def test_verifiers_finds_it_by_its_name():
    environment = vf.load_environment(
        vf.resolve_env_config({"taskset": {"id": "spiral_verifiers", "game": "leduc_poker", "opponent": "random"}})
    )
    assert type(environment).__name__ == "SpiralEnv"
    assert environment.taskset.config.game == "leduc_poker"
