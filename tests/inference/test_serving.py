"""`spiral serve`: what OpenAI's clients ask and get, and that replies are those of the engine itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request

import numpy as np
import pytest

from commands import refused
from spiral.cli import serve
from spiral.cli.serve import vllm_arguments
from spiral.core.policy import SamplingConfig
from spiral.core.seeds import derive_seed
from spiral.games import load_game
from spiral.inference.base import PromptRequest
from spiral.inference.serving.protocol import MAX_BODY, ApiError, read_request
from spiral.inference.serving.scheduler import Job, ReplyText, Scheduler
from spiral.inference.settings import vllm_installed
from spiral.models.store import local_model_directory
from spiral.policies.registry import PolicyOptions, load_answerer
from spiral.rollout.loop import Match, play

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

SAMPLING = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=50)


def asked(**changes):
    """A request as bytes."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **changes}
    return json.dumps({key: value for key, value in body.items() if value is not ...}).encode()


def read(**changes):
    return read_request(asked(**changes), model="m", sampling=SAMPLING)


def test_a_request_takes_the_models_own_sampling_where_it_is_silent():
    request = read(seed=7)
    assert (request.sampling, request.seeds, request.stops) == (SAMPLING, (7,), ())
    assert request.messages == ({"role": "user", "content": "hello"},)
    assert (request.stream, request.logprobs, request.thinking) == (False, False, None)
    request = read(temperature=0, top_p=1, max_tokens=3, n=2, seed=5, stop="x", logprobs=True, stream=True)
    assert request.sampling == SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=3)
    assert request.seeds == (5, derive_seed(5, "choice", 1))
    assert (request.stops, request.logprobs, request.stream) == (("x",), True, True)
    assert read(max_completion_tokens=9).sampling.max_new_tokens == 9
    assert read(chat_template_kwargs={"enable_thinking": False}).thinking is False
    assert 0 <= read().seeds[0] < 2**31
    harmless = read(user="u", frequency_penalty=0, top_k=-1, tools=[], response_format={"type": "text"}, seed=1)
    assert harmless == read(seed=1)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "\ud800b"}]
    messages = [{"role": "developer", "content": parts}, {"role": "user", "content": "c", "name": "n"}]
    assert read(messages=messages).messages == (
        {"role": "system", "content": "a?b"},
        {"role": "user", "content": "c"},
    )


@pytest.mark.parametrize(
    ("changes", "status", "param", "message"),
    [
        ({"model": ...}, 400, "model", "model: field required"),
        ({"model": "other"}, 404, "model", "there is no model 'other' here; expected 'm'"),
        ({"messages": []}, 400, "messages", "messages: got []; list should have at least 1 item"),
        ({"messages": "x"}, 400, "messages", "messages: got 'x'; input should be a valid list"),
        ({"messages": [{"role": "tool", "content": ""}]}, 400, "messages", "a message has the role 'tool'; expected"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            400,
            "messages",
            "a message has a part of type 'image_url'; expected text only",
        ),
        ({"temperature": -1}, 400, "temperature", "temperature: got -1; input should be greater than"),
        ({"temperature": 1e-40}, 400, None, "temperature: got 1e-40; expected 0 or a number"),
        ({"top_p": 0}, 400, "top_p", "top_p: got 0; input should be greater than 0"),
        ({"n": 1000}, 400, "n", "n: got 1000; input should be less than or equal to 128"),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens: got 0; input should be greater than or equal to 1"),
        ({"max_tokens": 10**12}, 400, None, "max-new-tokens: got 1000000000000; expected an integer of at most"),
        ({"stop": [""]}, 400, "stop", "stop: got ['']; expected at most 16 texts of 1 to 1000 characters"),
        ({"stop": ["x"] * 17}, 400, "stop", "stop: got"),
        ({"top_k": 5}, 400, "top_k", "top_k is not supported by this server, so 5 cannot be obeyed; leave it out"),
        ({"top_logprobs": 3, "logprobs": True}, 400, "top_logprobs", "top_logprobs is not supported"),
        ({"tools": [{}]}, 400, "tools", "tools is not supported"),
        ({"temprature": 1}, 400, "temprature", "unknown parameter 'temprature'; leave it out"),
        ({"seed": "x"}, 400, "seed", "seed: got 'x'; input should be a valid integer"),
    ],
)
def test_a_wrong_request_is_refused_in_openais_form(changes, status, param, message):
    with pytest.raises(ApiError) as caught:
        read(**changes)
    assert caught.value.status == status
    error = caught.value.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].startswith(message)
    assert len(error["message"]) < 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(ApiError, match="the body is not"):
        read_request(body, model="m", sampling=SAMPLING)


class Letters:
    """Stands in for a codec: token i is the character i; 0 ends the turn, 255 is half a character."""

    opened = ""

    def decode(self, token_ids):
        return "".join("\ufffd" if id_ == 255 else chr(id_) for id_ in token_ids.tolist() if id_)

    def read(self, token_ids):
        class Reading:
            thinking_tokens = 0

        return Reading


def reply_text(stops=(), logprobs=False, opened=""):
    codec = Letters()
    codec.opened = opened
    job = Job(
        codec=codec,
        prompt_ids=np.array([1]),
        seed=0,
        sampling=SAMPLING,
        stops=stops,
        stream=True,
        logprobs=logprobs,
        deliver=print,
    )
    return ReplyText(job)


def streamed(text, tokens, **kinds):
    """The pieces of a reply whose tokens come in one by one."""
    pieces = []
    for count in range(1, len(tokens) + 1):
        text.read(tokens[:count], [-0.5] * count, ended=count == len(tokens))
        if text.stopped:
            break
        pieces += [piece] if (piece := text.new()) else []
    return pieces + ([piece] if (piece := text.new(rest=True)) else [])


def test_pieces_of_a_stream_add_up_to_the_reply():
    tokens = [*map(ord, "hello world"), 0]
    for stops, whole in (((), "hello world"), (("o w",), "hell"), (("zz", "wor"), "hello "), (("x",), "hello world")):
        text = reply_text(stops)
        assert "".join(piece.text for piece in streamed(text, tokens)) == whole
        assert text.choice("stop").text == whole
    text = reply_text(("low",))
    assert [piece.text for piece in streamed(text, [*map(ord, "a lo lo"), 0])] == ["a", " ", "lo ", "lo"]
    opened = reply_text(opened="<think>\n")
    assert "".join(piece.text for piece in streamed(opened, tokens)) == "<think>\nhello world"


def test_half_a_character_waits_for_its_other_half():
    text = reply_text()
    text.read([97, 255], [0.0, 0.0])
    assert text.new().text == "a"
    text.read([97, 228], [0.0, 0.0])
    assert text.new().text == "ä"


def test_log_probabilities_are_those_of_the_tokens_shown():
    tokens = [*map(ord, "abc"), 0]
    text = reply_text(logprobs=True)
    pieces = streamed(text, tokens)
    assert [token.text for piece in pieces for token in piece.detail] == ["a", "b", "c"]
    assert [token.text for token in text.choice("stop").detail] == ["a", "b", "c"]
    cut = reply_text(("c",), logprobs=True)
    pieces = streamed(cut, tokens)
    assert [token.text for piece in pieces for token in piece.detail] == ["a", "b"]
    assert [token.text for token in cut.choice("stop").detail] == ["a", "b"]


@contextlib.contextmanager
def served(policy, *, key=None, queue=64, in_flight=16):
    """The address of a server that runs in a thread, and its scheduler."""
    from spiral.inference.serving.app import Access, make_app

    scheduler = Scheduler(policy, in_flight=in_flight, queue=queue)
    app = make_app(scheduler, model="nano", access=Access(host="127.0.0.1", key=key))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", scheduler
    finally:
        server.should_exit = True
        thread.join()
        scheduler.close()
        listening.close()


def http(url, body=None, **headers):
    """Status and JSON of a request."""
    named = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    request = urllib.request.Request(url, data=body, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def policy():
    return load_answerer("nano", PolicyOptions())


@pytest.fixture(scope="module")
def questions(policy):
    """Observations of a game, each with the engine's own reply from seed 11, and its log-probabilities."""
    state, found = load_game("tictactoe").initial_state(), []
    for action in ("4", "0", "8", "2"):
        found.append(state.observation(state.current_player, "compact"))
        state = state.apply(action)
    policy.submit_prompts(
        [
            PromptRequest(key=key, prompt_ids=policy.codec.encode_question(text), seed=11)
            for key, text in enumerate(found)
        ]
    )
    replies = {}
    while len(replies) < len(found):
        replies |= {reply.key: reply for reply in policy.poll()}
    return [(text, replies[key]) for key, text in enumerate(found)]


@pytest.fixture(scope="module")
def games(policy):
    """Games of the model against itself with its most likely tokens."""
    game = load_game("tictactoe")
    matches = [Match(game=game, seed=seed, policies=(policy, policy)) for seed in (1, 2)]
    with policy.sampled_with(policy.sampling.model_copy(update={"temperature": 0.0})):
        return play(matches)


@pytest.fixture(scope="module")
def server(policy, questions, games):
    """Begins after the engine itself has answered, since the scheduler's thread owns it from then on."""
    with served(policy, key=None) as (url, _):
        yield url


def chat(server, text, **parameters):
    body = {"model": "nano", "messages": [{"role": "user", "content": text}], "seed": 11, **parameters}
    return http(f"{server}/v1/chat/completions", json.dumps(body).encode())


def test_the_same_seed_gives_the_reply_of_the_engine_itself(server, questions):
    def ask(question):
        return chat(server, question[0], logprobs=True)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # all at once, in one batch
        answers = list(pool.map(ask, questions))
    for (_, reply), (status, answer) in zip(questions, answers, strict=True):
        assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "nano")
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": reply.reply, "refusal": None}
        assert choice["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == len(reply.generation.token_ids)
        assert answer["usage"]["prompt_tokens"] == len(reply.prompt_ids)
        shown = [token["logprob"] for token in choice["logprobs"]["content"]]
        assert shown == pytest.approx(reply.generation.logprobs.tolist()[: len(shown)], abs=1e-6)
        assert "".join(token["token"] for token in choice["logprobs"]["content"]) == reply.reply


def test_our_own_endpoint_plays_the_same_game(server, games):
    pytest.importorskip("httpx2", reason="the extra `endpoint` is not installed")
    from spiral.policies.endpoint.config import EndpointConfig
    from spiral.policies.endpoint.policy import EndpointPolicy
    from spiral.text import PromptConfig

    config = EndpointConfig(
        base_url=f"{server}/v1",
        model="nano",
        temperature=0.0,
        prompt=PromptConfig(observation="compact", thinking=False),
    )
    endpoint = EndpointPolicy(config, name="endpoint:nano")
    try:
        game = load_game("tictactoe")
        played = play([Match(game=game, seed=seed, policies=(endpoint, endpoint)) for seed in (1, 2)])
    finally:
        endpoint.close()
    assert [[turn.reply for turn in episode.turns] for episode in played] == [
        [turn.reply for turn in episode.turns] for episode in games
    ]
    assert [episode.returns for episode in played] == [episode.returns for episode in games]


def test_openais_client_reads_it(server, questions):
    openai = pytest.importorskip("openai", reason="the package openai is not installed")
    text, reply = questions[0]
    messages = [{"role": "user", "content": text}]
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["nano"]
        answer = client.chat.completions.create(model="nano", messages=messages, seed=11, n=3)
        assert answer.choices[0].message.content == reply.reply
        assert len({choice.index for choice in answer.choices}) == 3
        options = {"include_usage": True}
        stream = client.chat.completions.create(
            model="nano", messages=messages, seed=11, n=3, stream=True, stream_options=options
        )
        *chunks, last = list(stream)
        pieces = dict.fromkeys(range(3), "")
        for chunk in chunks:
            (choice,) = chunk.choices
            pieces[choice.index] += choice.delta.content or ""
        assert pieces == {choice.index: choice.message.content for choice in answer.choices}
        assert last.usage.completion_tokens == answer.usage.completion_tokens
        with pytest.raises(openai.NotFoundError, match="there is no model 'other' here"):
            client.chat.completions.create(model="other", messages=messages)
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(model="nano", messages=messages, temperature=-1)


def test_a_request_may_ask_for_thoughts(server, policy, questions):
    text, reply = questions[0]
    _, answer = chat(server, text, chat_template_kwargs={"enable_thinking": False})
    assert answer["choices"][0]["message"]["content"] == reply.reply  # as the model was trained
    thinking = policy.codec.with_thinking(True)
    assert policy.codec.with_thinking(False) is policy.codec
    assert (thinking.config.thinking, thinking.stop_ids) == (True, policy.codec.stop_ids)
    status, answer = chat(server, text, chat_template_kwargs={"enable_thinking": True})
    assert status == 200
    message = {"role": "user", "content": text}
    assert answer["usage"]["prompt_tokens"] == len(thinking.encode_chat([message]))


def test_stop_texts_and_budgets_end_a_reply(server, questions):
    text, reply = questions[0]
    _, answer = chat(server, text, stop=["}"])
    assert answer["choices"][0]["message"]["content"] == reply.reply.partition("}")[0]
    assert answer["choices"][0]["finish_reason"] == "stop"
    _, answer = chat(server, text, max_tokens=1)
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 1)
    status, answer = chat(server, f"{text} " * 3000)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    body = {"model": "nano", "messages": [{"role": "assistant", "content": "x"}]}
    status, answer = http(f"{server}/v1/chat/completions", json.dumps(body).encode())
    assert status == 400
    assert "got messages of the roles assistant" in answer["error"]["message"]


def test_who_may_not_use_it_is_refused(server):
    models = f"{server}/v1/models"
    assert http(models)[1]["data"][0]["id"] == "nano"
    assert http(f"{models}/nano")[1]["id"] == "nano"
    assert http(f"{models}/other")[0] == 404
    assert http(models, Host="evil.example")[1]["error"]["code"] == "host_refused"
    assert http(models, Origin="http://evil.example")[1]["error"]["code"] == "origin_refused"
    assert http(f"{server}/v1/nothing")[1]["error"]["message"].startswith("there is no GET /v1/nothing here")
    chats = f"{server}/v1/chat/completions"
    assert http(chats, asked(), Content_Type="text/plain")[0] == 415
    assert http(chats, b" " * (MAX_BODY + 1))[0] == 413
    assert http(chats)[0] == 405


def until(true, seconds=30):
    """Waits for something to become true."""
    for _ in range(50 * seconds):
        if true():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it has not become true")


class Stuck:
    """A policy that never finishes a reply, or fails."""

    sampling = SAMPLING
    context = 100
    fails = False

    def __init__(self, codec):
        self.codec = codec
        self.pending = []

    def submit_prompts(self, requests):
        self.pending += [request.key for request in requests]

    def step(self):
        if self.fails:
            raise RuntimeError("out of order")
        threading.Event().wait(0.01)
        return []

    def in_flight(self):
        return {key: ([], []) for key in self.pending}

    def drop(self, keys):
        self.pending = [key for key in self.pending if key not in keys]

    def cancel(self):
        self.pending = []


def test_a_full_queue_a_wrong_key_and_a_broken_engine_are_said(policy, server):
    stuck = Stuck(policy.codec)
    body = json.dumps({"model": "nano", "messages": [{"role": "user", "content": "a"}], "n": 2}).encode()
    with served(stuck, key="secret", queue=2, in_flight=1) as (url, _):
        chats, key = f"{url}/v1/chat/completions", "Bearer secret"
        assert http(chats, body)[0] == 401
        assert http(chats, body, Authorization="Bearer other")[1]["error"]["code"] == "invalid_api_key"
        assert http(f"{url}/v1/models", Authorization=key)[0] == 200
        done = []
        waiting = threading.Thread(target=lambda: done.append(http(chats, body, Authorization=key)))
        waiting.start()
        until(lambda: len(stuck.pending) == 1)
        status, answer = http(chats, body, Authorization=key)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        stuck.fails = True
        waiting.join()
        assert done[0][0] == 500
        assert "the engine failed: RuntimeError: out of order" in done[0][1]["error"]["message"]


def test_a_client_that_leaves_frees_its_place(policy, server):
    stuck = Stuck(policy.codec)
    body = json.dumps({"model": "nano", "messages": [{"role": "user", "content": "a"}], "stream": True}).encode()
    with served(stuck) as (url, _):
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.readline().startswith(b"data: ")
            until(lambda: len(stuck.pending) == 1)
        until(lambda: stuck.pending == [])


def test_what_cannot_be_served_is_refused():
    assert refused("serve", "endpoint:x").startswith("got 'endpoint:x', which is served already")
    assert "environment variable NO_KEY_HERE is not set" in refused("serve", "nano", "--api-key-env", "NO_KEY_HERE")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another --port" in refused("serve", "nano", "--port", port)
    assert "plays games only" in refused("serve", "random", "--port", "0")
    assert refused("serve", "nano", "--observation", "full").startswith("got --observation, but clients write the")
    if not vllm_installed():
        assert refused("serve", "nano", "--engine", "vllm").startswith("--engine vllm: vLLM is not installed")


def test_vllms_server_is_asked_to_prompt_and_sample_as_the_card_says(monkeypatch):
    def arguments(**options):
        monkeypatch.setattr(serve, "vllm_installed", lambda: False)  # which adds options of the device
        found = vllm_arguments("nano", PolicyOptions(**options), "float32", 8, served="n", host="::1", port=9)
        return dict(zip(found[::2], found[1::2], strict=True))

    given = arguments(temperature=0.5, max_new_tokens=7)
    assert {"--served-model-name": "n", "--host": "::1", "--port": "9", "--max-num-seqs": "8"}.items() <= given.items()
    chosen = json.loads(given["--override-generation-config"])
    assert (chosen["temperature"], chosen["max_new_tokens"]) == (0.5, 7)
    assert json.loads(given["--default-chat-template-kwargs"]) == {"enable_thinking": False}
    assert given["--tensor-parallel-size"] == "1"
    assert arguments(tensor_parallel=2)["--tensor-parallel-size"] == "2"
    assert arguments(template="r1")["--chat-template"].count("Assistant: <think>") == 1
    assert arguments()["--max-model-len"] == arguments(context=10**6)["--max-model-len"] == "512"


@pytest.mark.slow
@pytest.mark.skipif(not vllm_installed(), reason="vLLM is not installed")
def test_vllms_server_answers(tmp_path):
    """A context no longer than the model's, heads that vLLM knows, and the same reply for the same seed."""
    assert "have the size 16, and vLLM on a CPU takes 32" in refused("serve", "nano", "--engine", "vllm")
    if local_model_directory("smollm2") is None:
        pytest.skip("SmolLM2 is not here; `spiral models get smollm2` fetches it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "seed": 1}

    def answer(path, **fields):
        data = json.dumps({"model": "smollm2", **fields}).encode() if fields else None
        request = urllib.request.Request(f"{address}/{path}", data=data, headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def ready():
        with contextlib.suppress(OSError):
            return answer("models")["data"][0]["id"] == "smollm2"
        return server.poll() is not None

    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "spiral", "serve", "smollm2", "--engine", "vllm", "--port", address[17:-3]]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True) as server:
        try:
            until(ready, seconds=300)
            assert server.poll() is None, log.read_text()
            replies = [answer("chat/completions", **body)["choices"][0] for _ in range(2)]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    assert replies[0]["message"]["content"]
    assert replies[0]["message"] == replies[1]["message"]


@pytest.mark.parametrize("host", ["[::1", "[", "localhost@evil.example", "", "evil.example#127.0.0.1"])
def test_a_host_that_is_no_address_of_this_machine_is_refused(host):
    from spiral.inference.serving.app import Access

    with pytest.raises(ApiError) as refusal:
        Access(host="127.0.0.1").check(types.SimpleNamespace(headers={"host": host}))
    assert (refusal.value.status, refusal.value.body["error"]["code"]) == (403, "host_refused")


@pytest.mark.parametrize("origin", ["http://[", "null", "http://evil.example"])
def test_an_origin_that_is_no_address_is_refused(origin):
    from spiral.inference.serving.app import Access

    with pytest.raises(ApiError) as refusal:
        Access(host="127.0.0.1").check(types.SimpleNamespace(headers={"host": "127.0.0.1:80", "origin": origin}))
    assert refusal.value.body["error"]["code"] == "origin_refused"


@pytest.mark.parametrize(
    "changes", [{"model": "\ud800"}, {"\ud800": 1}, {"messages": [{"role": "\ud800", "content": "a"}]}]
)
def test_the_refusal_of_half_a_surrogate_pair_can_be_sent(changes):
    from spiral.inference.serving.app import error_answer

    with pytest.raises(ApiError) as refusal:
        read(**changes)
    assert json.loads(error_answer(refusal.value).body) == refusal.value.body


@pytest.mark.parametrize("changes", [{"temperature": 1e-7}, {"top_p": 1e-9}, {"temperature": 5e-324}])
def test_sampling_that_no_float_holds_is_refused(changes):
    with pytest.raises(ApiError, match="expected"):
        read(**changes)
