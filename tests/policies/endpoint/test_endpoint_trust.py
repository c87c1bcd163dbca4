"""Money, keys and hosts: which errors are retried, where a key may be sent, and shared limits."""

import json
import logging
import os
import socket
import time
from decimal import Decimal

import pytest

from commands import refused, spiral
from endpoint_server import EndpointServer, Response, good, refusing, saying
from spiral.evaluation.arena import paired_matches
from spiral.games import load_game
from spiral.policies import TurnRequest, scripted_policy
from spiral.policies.endpoint.config import EndpointConfig, load_endpoint
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.policies.endpoint.reply import read_refusal
from spiral.rollout.loop import play

KUHN = load_game("kuhn_poker")
KEY = "sk-secret-0123456789"
pytestmark = pytest.mark.usefixtures("folders")
PRICES = {"prompt_price": 1000.0, "completion_price": 1000.0}


@pytest.fixture
def new_policy(server):
    made = []

    def make(name="endpoint:test", **fields):
        config = EndpointConfig.model_validate({"base_url": server.base_url, "model": "m", "retries": 2, **fields})
        made.append(EndpointPolicy(config, name=name, backoff_seconds=0.002))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def one_turn(policy):
    state = KUHN.initial_state()
    while state.is_chance:
        state = state.apply(state.chance_outcomes()[0][0])
    policy.submit([TurnRequest(key=0, game=KUHN, state=state, player=state.current_player, seed=7)])
    return policy.poll()[0]


def error(status, /, **fields):
    return lambda request: Response(status=status, body=json.dumps({"error": fields}).encode())


QUOTA = "You exceeded your current quota, please check your plan and billing details."
NO_USE = {
    "openai, no money": error(429, message=QUOTA, type="insufficient_quota", code="insufficient_quota"),
    "openai, words alone": error(429, message=QUOTA),
    "openai, hard limit": error(400, message="Billing hard limit has been reached", code="billing_hard_limit_reached"),
    "anthropic": error(400, type="invalid_request_error", message="Your credit balance is too low to access the API."),
    "deepseek": error(402, message="Insufficient Balance", code="invalid_request_error"),
    "openrouter": error(402, message="This request requires more credits, or fewer max_tokens.", code=402),
    "moonshot": error(429, type="exceeded_current_quota_error", message="Your account x is suspended, check billing"),
    "alibaba": error(400, code="Arrearage", message="Access denied, make sure your account is in good standing."),
    "inside of a 200": lambda r: Response(body=b'{"error": {"message": "no", "code": "insufficient_quota"}}'),
    "401": error(401, message="Incorrect API key provided: sk-x."),
    "403": error(403, message="Your API key has no permission to use this model"),
    "403, place": error(403, message="Country, region, or territory not supported"),
    "gemini": error(400, message="API key not valid. Please pass a valid API key.", status="INVALID_ARGUMENT"),
    "400, expired": error(400, message="The API key has expired"),
}


@pytest.mark.parametrize("name", NO_USE)
def test_missing_money_or_key_stops_the_client_at_once(server, new_policy, name):
    server.behaviour = NO_USE[name]
    policy = new_policy(max_in_flight=4)
    episodes = play(paired_matches(policy, scripted_policy("random", KUHN), KUHN, 30, seed=0))
    assert len(server.requests) == 1
    faults = {episode.fault for episode in episodes if episode.outcome == "not_played"}
    assert len(faults) == 1
    assert "answers HTTP" in faults.pop()


PASSING = {
    "openai": error(429, message="Rate limit reached for m in organization o on requests per min. Try again in 1s."),
    "gemini": lambda r: Response(
        status=429,
        body=json.dumps(
            [{"error": {"code": 429, "message": QUOTA, "details": [{"@type": "RetryInfo", "retryDelay": "34s"}]}}]
        ).encode(),
    ),
    "bare": refusing(429, Retry_After="0"),
    "ms": refusing(429, "slow down", retry_after_ms="10"),
    "overloaded": error(529, type="overloaded_error", message="Overloaded"),
    "a bill in a 500": error(500, message="the billing service is down"),
}


@pytest.mark.parametrize("name", PASSING)
def test_temporary_errors_are_retried(server, new_policy, name):
    server.behaviour = lambda request: (good if request.number else PASSING[name])(request)
    assert one_turn(new_policy()).fault is None
    assert len(server.requests) == 2


def test_games_before_the_money_ran_out_are_kept(folders, server):
    no_money = NO_USE["openai, no money"]
    server.behaviour = lambda request: (good if request.number < 9 else no_money)(request)
    text = f'[local]\nbase_url = "{server.base_url}"\nmodel = "m"\nmax_in_flight = 1\n'
    (folders / "here" / "endpoints.toml").write_text(text)
    result = spiral("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:local", "--episodes", "20")
    assert result.status == 0
    assert len(server.requests) == 10
    assert "You exceeded your current quota" in result.out
    assert "games could not be played" in result.out


def test_a_refused_prompt_does_not_stop_the_client(server, new_policy):
    flagged = error(400, message="Your request was flagged by our moderation system", code="content_policy")
    server.behaviour = lambda request: (flagged if request.number % 2 else good)(request)
    policy = new_policy()
    faults = [one_turn(policy).fault for _ in range(6)]
    assert [fault is None for fault in faults] == [True, False] * 3


def test_messages_of_errors_in_all_formats():
    for body, text in (
        (b'{"detail": [{"loc": ["body", "n"], "msg": "bad"}]}', "body.n: bad"),
        (b'{"error": {"message": {"detail": "deep"}}}', "deep"),
        (b'{"errors": ["a", {"message": "b"}]}', "a; b"),
        (b'[{"error": {"message": "in a list"}}]', "in a list"),
        (b'{"title": "Forbidden", "detail": "by rule 7"}', "by rule 7: Forbidden"),
        (b'{"error": "bad", "error_description": "because"}', "bad: because"),
        (b'{"error": {"code": "only_a_code"}}', "only_a_code"),
        (b'"a bare text"', "a bare text"),
        (b"<html><head><title>502 Bad\n Gateway</title>", "502 Bad Gateway"),
        (b"upstream connect error", "upstream connect error"),
        (b'{"message": "{\\"error\\": {\\"message\\": \\"quoted\\"}}"}', "quoted"),
        (b'{"error": {"message": "cut of', '{"error": {"message": "cut of'),
        (b"", ""),
        (b'{"a": 1}', ""),
    ):
        assert read_refusal(body).text == text
    assert len(read_refusal(b"x" * 2**20).text) < 2000


def table(base_url, variable="MY_KEY", name="local"):
    return f'[{name}]\nbase_url = "{base_url}"\nmodel = "m"\napi_key_env = "{variable}"\n'


@pytest.mark.parametrize(
    ("base_url", "variable"),
    [
        ("http://127.0.0.1:9/v1", "OPENROUTER_API_KEY"),
        ("https://evil.example/v1", "OPENAI_API_KEY"),
        ("https://openai.com.evil.example/v1", "OPENAI_API_KEY"),
        ("https://notopenai.com/v1", "OPENAI_API_KEY"),
        ("http://localhost:9/v1", "AWS_SECRET_ACCESS_KEY"),
        ("https://evil.example/v1", "GITHUB_TOKEN"),
        ("https://api.openai.com/v1", "HF_TOKEN"),
        ("https://evil.example/v1", "DATABASE_PASSWORD"),
    ],
)
def test_an_untrusted_file_cannot_send_a_key_elsewhere(folders, base_url, variable):
    (folders / "here" / "endpoints.toml").write_text(table(base_url, variable))
    line = refused("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:local")
    assert f"would send the value of {variable} to" in line
    assert f"move the table to {folders / 'home' / 'endpoints.toml'}" in line
    (folders / "here" / "endpoints.toml").rename(folders / "home" / "endpoints.toml")
    assert load_endpoint("local").api_key_env == variable


@pytest.mark.parametrize(
    ("base_url", "variable"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://eu.api.openai.com/v1", "OPENAI_KEY_2"),
        ("https://x.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY"),
        ("http://127.0.0.1:9/v1", "MY_KEY"),
        ("http://[::1]:9/v1", "VLLM_API_KEY"),
    ],
)
def test_an_untrusted_file_may_send_a_key_to_its_own_service(folders, base_url, variable):
    (folders / "here" / "endpoints.toml").write_text(table(base_url, variable))
    assert load_endpoint("local").base_url == base_url


def test_openrouters_address_cannot_be_changed(folders):
    (folders / "here" / "endpoints.toml").write_text('openrouter = {base_url = "http://127.0.0.1:9/v1"}')
    with pytest.raises(ValueError, match=r"\[openrouter\]: base_url cannot be set here"):
        load_endpoint("openrouter/openai/gpt-x")
    (folders / "here" / "endpoints.toml").write_text('openrouter = {api_key_env = "AWS_SECRET_ACCESS_KEY"}')
    with pytest.raises(ValueError, match=r"would send the value of AWS_SECRET_ACCESS_KEY to openrouter\.ai"):
        load_endpoint("openrouter/openai/gpt-x")


@pytest.mark.parametrize("host", ["10.0.0.7:8000", "node17:8000", "localhost.evil.example", "0.0.0.0:80"])
def test_no_key_is_sent_unencrypted_to_another_machine(folders, host):
    (folders / "home" / "endpoints.toml").write_text(table(f"http://{host}/v1"))
    with pytest.raises(ValueError, match=r"the key would be sent to .* unencrypted; use https://, or an ssh tunnel"):
        load_endpoint("local")
    EndpointConfig(base_url=f"http://{host}/v1", model="m")  # without a key it may


def test_the_host_of_a_key_is_logged_once(folders, server, monkeypatch):
    monkeypatch.setenv("SENT_KEY", KEY)
    (folders / "home" / "endpoints.toml").write_text(table(server.base_url, "SENT_KEY"))
    command = ("evaluate", "endpoint:local", "--game", "kuhn_poker", "--opponent", "endpoint:local", "--episodes", "2")
    result = spiral(*command)
    host = server.base_url.split("/")[2]
    expected = f"note: sending $SENT_KEY to {host}, as {folders / 'home' / 'endpoints.toml'} says"
    assert result.err.splitlines() == [expected]
    assert KEY not in result.out + result.err
    assert spiral(*command).err == ""


def test_a_local_server_is_reached_without_proxy(server, new_policy, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert one_turn(new_policy()).fault is None


def test_the_error_names_an_unreachable_proxy(new_policy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")
    reply = one_turn(new_policy(base_url="https://api.example.com/v1"))
    assert reply.fault == ("cannot connect to api.example.com through the proxy 127.0.0.1:9; given up after 3 attempts")


def test_a_silent_proxy_is_given_up_within_seconds(new_policy, monkeypatch):
    monkeypatch.setattr("spiral.policies.endpoint.request.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        policy, started = new_policy(base_url="https://api.example.com/v1", budget=PRICES), time.monotonic()
        reply = one_turn(policy)
        assert time.monotonic() - started < 5
        expected = (
            f"cannot connect to api.example.com through the proxy 127.0.0.1:{port} within 0.2 s; given up after 3"
        )
        assert reply.fault == f"{expected} attempts"
        assert policy.usage().cost_usd_unknown == 0  # nothing was sent


def test_a_server_silent_in_TLS_is_given_up_within_seconds(new_policy, monkeypatch):
    monkeypatch.setattr("spiral.policies.endpoint.request.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        reply = one_turn(new_policy(base_url=f"https://127.0.0.1:{silent.getsockname()[1]}/v1"))
    assert "cannot connect to 127.0.0.1" in reply.fault
    assert "within 0.2 s" in reply.fault


def test_an_unreachable_server_is_given_up_within_seconds(server, caplog, monkeypatch):
    monkeypatch.setattr("spiral.policies.endpoint.client.UNREACHABLE_SECONDS", 1.5)
    config = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=50)
    policy, started = EndpointPolicy(config, name="endpoint:x", backoff_seconds=0.05), time.monotonic()
    episodes = play(paired_matches(policy, scripted_policy("random", KUHN), KUHN, 20, seed=0))
    policy.close()
    assert time.monotonic() - started < 8
    assert any("cannot connect to 127.0.0.1:9; given up after" in episode.fault for episode in episodes)
    assert caplog.messages == ["cannot connect to 127.0.0.1:9; trying again"]


def test_redirects_to_other_hosts_are_not_followed(server, new_policy):
    with EndpointServer() as other:
        for status in (301, 302, 303, 307, 308):
            server.behaviour = refusing(status, Location=f"{other.base_url}/chat/completions")
            assert "which is not followed; set base_url" in one_turn(new_policy()).fault
        assert other.requests == []


def test_a_redirect_on_the_same_host_counts_as_a_request(server, new_policy):
    moved = refusing(307, Location="/v1/chat/completions/")
    server.behaviour = lambda request: (good if request.path.endswith("/") else moved)(request)
    policy = new_policy()
    assert one_turn(policy).fault is None
    assert policy.usage().requests == len(server.requests) == 2


@pytest.mark.parametrize("opponent_in_flight", [1, 16])
def test_policies_of_one_name_share_a_limit(server, new_policy, opponent_in_flight):
    budget = {**PRICES, "spend_limit": 8.0}
    a = new_policy(budget=budget, max_new_tokens=100)
    b = new_policy(budget=budget, max_new_tokens=100, max_in_flight=opponent_in_flight)
    play(paired_matches(a, b, KUHN, 100, seed=0))
    spent = [policy.usage().cost_usd for policy in (a, b)]
    assert min(spent) > 0
    assert 8.0 - 2 < sum(spent) <= 8.0
    assert a._client.ledger.account is b._client.ledger.account
    other = new_policy(name="endpoint:other", budget=budget, max_new_tokens=100)
    assert one_turn(other).fault is None
    # A model of the same table shares its limit.
    assert "spend limit" in one_turn(new_policy(name="endpoint:test/x/y", budget=budget, max_new_tokens=100)).fault


@pytest.mark.parametrize(
    ("usage", "spent", "reported"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0}, "0.11", 0.11),
        ({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.0}, "0.11", 0.11),
        ({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.01}, "0.11", 0.01),
        ({"prompt_tokens": 100, "completion_tokens": 10, "cost": 0.5}, "0.5", 0.5),
        ({"prompt_tokens": 100, "completion_tokens": 10, "cost": -1}, "0.11", 0.11),
    ],
)
def test_the_larger_price_counts_against_the_limit(server, new_policy, usage, spent, reported):
    server.behaviour = saying("\\boxed{bet}", usage=usage)
    policy = new_policy(name=f"endpoint:{os.urandom(4).hex()}", budget=PRICES)
    one_turn(policy)
    assert policy._client.ledger.account.spent == Decimal(spent)
    assert policy.usage().cost_usd == pytest.approx(reported)


@pytest.mark.parametrize(
    "usage", [{"cost": 0}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 5}, {}, None, "none"]
)
def test_an_unknown_cost_counts_in_full(server, new_policy, usage):
    server.behaviour = saying("\\boxed{bet}", usage=usage if usage is not None else [])
    policy = new_policy(name=f"endpoint:{os.urandom(4).hex()}", budget=PRICES, max_new_tokens=100)
    one_turn(policy)
    size = len(server.requests[0].observation.encode())
    assert policy.usage().cost_usd_unknown == pytest.approx((size + 256 + 100) / 1000)


def test_policies_of_one_name_share_a_rate_limit(server, new_policy):
    a, b = (new_policy(requests_per_minute=600) for _ in range(2))
    start = time.monotonic()  # arrivals are late by different times, so the first one is no starting point
    for policy in (a, b, a, b):
        one_turn(policy)
    assert server.requests[-1].time_s - start >= 0.3


def test_notes_are_not_warnings(caplog):
    caplog.set_level(logging.INFO)
    os.environ["OTHER_SENT_KEY"] = KEY
    config = EndpointConfig(base_url="http://localhost:9/v1", model="m", api_key_env="OTHER_SENT_KEY")
    for _ in range(2):
        EndpointPolicy(config, name="endpoint:x").close()
    del os.environ["OTHER_SENT_KEY"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "sending $OTHER_SENT_KEY to localhost:9")
    ]
