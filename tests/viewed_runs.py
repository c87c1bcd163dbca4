"""A run on disk, made without training, and a server of the viewer to ask over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import threading

import numpy as np
import tomli_w
import uvicorn

from spiral.core.files import write_jsonl
from spiral.core.records import Generation
from spiral.core.storage import write_episodes
from spiral.games import load_game
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.policies import scripted_policy
from spiral.rollout.loop import Match, play
from spiral.runs.recipe import load_recipe
from spiral.viewer.app import Viewer, make_app

TOKEN = "the-token-of-the-tests"


def written(episode, tokenizer, seed=0):
    """An episode as a model would have written it that said what the scripted players did."""
    rng, turns = np.random.default_rng(seed), []
    for turn in episode.turns:
        reply = f"\\boxed{{{turn.reply}}}"
        ids = np.array(tokenizer.encode(reply, add_special_tokens=False), dtype=np.int64)
        logprobs = -rng.random(len(ids)).astype(np.float32)
        generation = Generation(token_ids=ids, logprobs=logprobs, stop_reason="stop", policy_version=0, budget=64)
        turns.append(
            dataclasses.replace(turn, reply=reply, prompt_ids=np.array([1, 2], dtype=np.int64), generation=generation)
        )
    return dataclasses.replace(episode, turns=tuple(turns))


def played(spec, count, *, seed=0, opening=0, opponent=None):
    """Episodes of random players; against `opponent` the first player learns alone."""
    game = load_game(spec)
    player = scripted_policy("random", game)
    other = player if opponent is None else scripted_policy(opponent, game)
    matches = [
        Match(
            game=game,
            seed=seed + index,
            policies=(player, other),
            trainable=(True, opponent is None),
            opening_plies=opening,
        )
        for index in range(count)
    ]
    tokenizer = build_tokenizer()
    return [written(episode, tokenizer, seed + index) for index, episode in enumerate(play(matches))]


def made_run(path, *, steps=3, games=("tictactoe", "kuhn_poker"), episodes=6):
    """A run of the built-in recipe with a file of episodes for each step."""
    path.mkdir(parents=True)
    recipe = load_recipe("nano", overrides=[f"run.steps={steps}"]).model_dump(mode="json", exclude_none=True)
    (path / "config.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    write_jsonl(
        path / "metrics.jsonl",
        [
            {"step": step, "loss/policy": 1.0 / step, "selfplay/tictactoe/player0/return": 0.5}
            for step in range(1, steps + 1)
        ],
    )
    (path / "episodes").mkdir()
    for step in range(1, steps + 1):
        found = [episode for spec in games for episode in played(spec, episodes, seed=100 * step)]
        write_episodes(path / "episodes" / f"step-{step:06d}.parquet", found)
    return path


class Client:
    """Asks a server over HTTP as a browser would."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, *, method="GET", token=TOKEN, body=None, **headers):
        """Status, headers and body of an answer; `Host_=...` sets a header whatever the case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Authorization": f"Bearer {token}"} if token else {}
        given |= {name.rstrip("_").replace("_", "-"): value for name, value in headers.items()}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            given["Content-Type"] = "application/json"
        with contextlib.closing(connection):
            connection.request(method, path, content, given)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def get(self, path, **more):
        """The JSON of an answer that must be there."""
        status, _, body = self.ask(path, **more)
        assert status == 200, body
        return json.loads(body)

    def error(self, path, **more):
        """Status and sentence of a refusal."""
        status, _, body = self.ask(path, **more)
        return status, json.loads(body)["error"]


@contextlib.contextmanager
def viewing(*paths, **options):
    """A client of a server over the runs."""
    viewer = Viewer(paths, **options)
    running = threading.Event()
    running.set()
    app = make_app(viewer, token=TOKEN, watched=running.is_set)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        running.clear()
        server.should_exit = True
        thread.join(20)
