"""`spiral benchmark endpoint:NAME`: truncation, faults, filters and spend limits."""

import json
import re

import pytest

from commands import refused, spiral
from endpoint_server import EndpointServer, Response, completion, refusing
from spiral.policies.endpoint.reply import read_body

PROBLEMS = 6
OPTIONS = ("--task", "gsm8k", "--data", "problems.jsonl", "--samples", "2")


def answer(request, **fields):
    """The right sum, with the thinking in a field of its own."""
    numbers = [int(number) for number in re.findall(r"\d+", request.observation)[:2]]
    counted = {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    given = {"reasoning_content": "\\boxed{0}?", "usage": counted, **fields}
    return Response(body=completion(f"So \\boxed{{{sum(numbers)}}}", **given))


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPIRAL_RESULTS", raising=False)
    lines = [{"id": str(i), "question": f"What is {i} + {i + 1}?", "answer": str(2 * i + 1)} for i in range(PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with EndpointServer(answer) as running:
        budget = "budget = {prompt_price = 10.0, completion_price = 100.0, spend_limit = 100.0}"
        table = f'[local]\nbase_url = "{running.base_url}"\nmodel = "m"\nretries = 0\ntop_p = 0.5\n{budget}\n'
        (tmp_path / "endpoints.toml").write_text(table)
        yield running


def test_a_benchmark_of_an_endpoint(server, tmp_path):
    result = spiral("benchmark", "endpoint:local", *OPTIONS, "--json")
    assert (result.status, result.err) == (0, "")
    values = result.json
    assert (values["accuracy"], values["items"], values["samples"], values["truncated"]) == (1.0, PROBLEMS, 2, 0.0)
    assert (values["unboxed"], values["response_length"]) == (0.0, 9.0)
    assert values["model_usage"]["requests"] == len(server.requests) == 12
    assert values["model_usage"]["cost_usd"] == pytest.approx(12 * (200 + 900) / 1e6)
    body = server.requests[0].body
    # The benchmark's protocol, not the table's sampling.
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 0.95, 8192)
    assert body["messages"] == [
        {
            "role": "user",
            "content": "What is 0 + 1?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        }
    ]
    assert len({request.body["seed"] for request in server.requests}) == 12
    folder = tmp_path / values["files"]
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert items[0]["reply"] == "<think>\n\\boxed{0}?\n</think>\n\nSo \\boxed{1}"
    assert (items[0]["tokens"], items[0]["thinking_tokens"], items[0]["truncated"]) == (9, 4, False)
    kept = json.loads((folder / "result.json").read_text())
    assert kept["settings"]["model"]["endpoint"]["top_p"] == 0.95
    assert kept["endpoints"][0]["requests"] == 12
    out = spiral("benchmark", "endpoint:local", *OPTIONS).out
    assert "m: 0 requests" in out  # all attempts were kept
    assert len(server.requests) == 12


def test_truncated_filtered_and_unanswered_replies(server):
    def behave(request):
        """In turn: a box in the thinking alone, a filtered reply, a truncated reply and a whole one."""
        return [
            Response(body=completion(None, finish="length", reasoning="It is \\boxed{1}", usage={})),
            answer(request, finish="content_filter"),
            answer(request, finish="length"),
            answer(request),
        ][request.number % 4]

    server.behaviour = behave
    values = spiral("benchmark", "endpoint:local", *OPTIONS, "--json").json
    assert (values["accuracy"], values["unboxed"], values["truncated"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MODEL_LENGTH", "stop"])
def test_reasons_that_mean_truncation(reason):
    assert read_body(completion("\\boxed{1}", finish=reason)).truncated == (reason != "stop")


def test_unanswered_attempts_are_repeated_by_the_next_command(server, tmp_path):
    server.behaviour = lambda request: (refusing(500, "busy") if request.number in {3, 5, 7} else answer)(request)
    result = spiral("benchmark", "endpoint:local", *OPTIONS, "--json")
    assert (result.status, result.out) == (1, "")
    line = result.err.splitlines()[-1]
    assert line.startswith("spiral: 3 of 12 attempts got no reply: 3 x 127.0.0.1:")
    assert "HTTP 500 Internal Server Error: busy" in line
    folder = next((tmp_path / "results").iterdir())
    assert not (folder / "result.json").exists()
    assert len((folder / "items.jsonl").read_text().splitlines()) == 9
    again = spiral("benchmark", "endpoint:local", *OPTIONS, "--json")
    assert (again.status, again.json["accuracy"]) == (0, 1.0)
    assert len(server.requests) == 15


def test_the_spend_limit_keeps_the_finished_attempts(server, tmp_path):
    text = (tmp_path / "endpoints.toml").read_text()
    (tmp_path / "endpoints.toml").write_text(text.replace("spend_limit = 100.0", "spend_limit = 0.825"))
    line = spiral("benchmark", "endpoint:local", *OPTIONS).err
    assert "attempts got no reply" in line
    assert "the spend limit of $0.825 is reached" in line
    assert len(server.requests) == 3


def test_missing_money_is_reported_once(server):
    quota = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    server.behaviour = lambda request: Response(status=429, body=json.dumps({"error": quota}).encode())
    result = spiral("benchmark", "endpoint:local", *OPTIONS)
    assert (result.status, len(result.err.splitlines()), len(server.requests)) == (1, 1, 1)
    assert "12 of 12 attempts got no reply: 12 x 127.0.0.1" in result.err


def test_invalid_combinations_are_refused(server):
    assert "plays games only; expected a language model or endpoint:NAME" in refused("benchmark", "random", *OPTIONS)
    line = refused("benchmark", "endpoint:local", *OPTIONS, "--no-thinking")
    assert "for an endpoint, which gets the question alone" in line
    assert "there is no endpoint 'other'" in refused("benchmark", "endpoint:other", *OPTIONS)
    assert "the template 'r1'" in refused("benchmark", "endpoint:local", *OPTIONS, "--template", "r1")
    assert server.requests == []
