"""Parameters that a server does not accept are logged once, then left out or renamed, and listed in the result."""

import json

import pytest

from commands import spiral
from endpoint_server import EndpointServer, Response, good
from spiral.games import load_game
from spiral.policies import SamplingConfig, TurnRequest
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.parameters import NotAcceptedError, Parameters
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.policies.endpoint.reply import read_refusal, refusal_of

SAMPLING = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=50)
PLAIN = SamplingConfig(temperature=0.7, top_p=1.0, max_new_tokens=50)


def parameters(**fields):
    return Parameters(EndpointConfig.model_validate({"base_url": "http://localhost/v1", "model": "m", **fields}))


def learnt(body, sampling=SAMPLING, **fields):
    """The parameters after one refusal; None when the error is not read as a refusal of a parameter."""
    known = parameters(**fields)
    sent = known.values(sampling, 3)
    refusal = read_refusal(body.encode()) if isinstance(body, str) else refusal_of(body)
    return known.values(sampling, 3) if known.learn(sent, refusal) else None


def openai(message, param=None, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def fastapi(*items):
    return {"detail": [{"loc": ["body", name], "msg": message, "type": kind} for name, message, kind in items]}


EXTRA = "Extra inputs are not permitted"
NEWER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
WITHOUT_SEED = {
    "openai": openai("Unrecognized request argument supplied: seed"),
    "openai, by code": openai("Unknown parameter: 'seed'.", "seed", "unknown_parameter"),
    "param alone": openai("Unsupported parameter", "seed", "unsupported_parameter"),
    "fastapi": fastapi(("seed", EXTRA, "extra_forbidden")),
    "mistral": {"object": "error", "message": fastapi(("seed", EXTRA, "extra_forbidden")), "type": "x"},
    "vllm": {
        "object": "error",
        "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted',"
        " 'input': 5}]",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
    "anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": f"seed: {EXTRA}"}},
    "gemini": [
        {
            "error": {
                "code": 400,
                "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    "groq": openai("property 'seed' is unsupported, did you mean 'stop'?"),
    "cohere": {"message": "unknown field: parameter 'seed' is not a valid field"},
    "bedrock": {"message": "Malformed input request: #: extraneous key [seed] is not permitted, please reformat"},
    "azure": openai("Extra parameters ['seed'] are not allowed when extra-parameters is not set to 'drop'."),
    "litellm": openai("litellm.UnsupportedParamsError: x does not support parameters: ['seed'], for model=m"),
    "xai": {"code": "invalid argument", "error": "Argument not supported on this model: seed"},
    "a list of the known": openai("Unsupported parameter: seed. Supported parameters: temperature, top_p, max_tokens."),
    "plain text": "unknown parameter seed\n",
    "by field": {"seed": ["Unexpected field."]},
    "pydantic as text": "1 validation error for Request\nseed\n  Extra inputs are not permitted [type=extra_forbidden]",
    "json schema": openai("Additional properties are not allowed ('seed' was unexpected)"),
    "python": openai("create() got an unexpected keyword argument 'seed'"),
    "not one of": openai("'seed' is not one of the allowed parameters"),
    "invalid": openai("Invalid parameter: seed"),
    "to come": openai("seed is not yet implemented"),
    "cannot": openai("Seed can't be set for this model"),
    "a range of its own": openai("seed must be between 1 and 1000"),
    "openrouter": openai("Provider returned error")
    | {"error": {"message": "Provider returned error", "metadata": {"raw": '{"message": "`seed` is not supported"}'}}},
}


@pytest.mark.parametrize("name", WITHOUT_SEED)
def test_a_seed_that_the_server_does_not_accept(name):
    assert learnt(WITHOUT_SEED[name]) == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 50}


REFUSALS = [
    (openai(NEWER, "max_tokens", "unsupported_parameter"), {"max_tokens"}, {"max_completion_tokens": 50}),
    (openai(NEWER), {"max_tokens"}, {"max_completion_tokens": 50}),
    (fastapi(("max_tokens", EXTRA, "extra_forbidden")), {"max_tokens"}, {"max_completion_tokens": 50}),
    (openai("max_tokens is deprecated; use max_output_tokens instead"), {"max_tokens"}, {"max_output_tokens": 50}),
    (openai("Unknown parameter seed. Use 'random_seed' instead."), {"seed"}, {"random_seed": 3}),
    (
        openai(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is"
            " supported.",
            "temperature",
            "unsupported_value",
        ),
        {"temperature"},
        {},
    ),
    (openai("invalid temperature: only 1 is allowed for this model"), {"temperature"}, {}),
    (openai("`temperature` may only be set to 1 when thinking is enabled."), {"temperature"}, {}),
    (openai("gpt-5 models don't support temperature=0.7. Only temperature=1 is supported."), {"temperature"}, {}),
    (openai("temperature must be 1 when thinking"), {"temperature"}, {}),
    (openai("temperature is deprecated for this model."), {"temperature"}, {}),
    (openai("`temperature` and `top_p` cannot both be specified for this model. Please use only one."), {"top_p"}, {}),
    (fastapi(("seed", EXTRA, ""), ("top_p", EXTRA, "")), {"seed", "top_p"}, {}),
    (openai("Unrecognized request arguments supplied: seed, top_p"), {"seed", "top_p"}, {}),
    (
        fastapi(("temperature", "Input should be less than or equal to 0.5", ""), ("seed", EXTRA, "")),
        {"seed"},
        {},
    ),
]


@pytest.mark.parametrize("case", range(len(REFUSALS)))
def test_parameters_after_a_refusal(case):
    refusal, gone, new = REFUSALS[case]
    before = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 50, "seed": 3}
    assert learnt(refusal) == {**{name: value for name, value in before.items() if name not in gone}, **new}


@pytest.mark.parametrize(
    "refusal",
    [
        openai("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
        openai("max_tokens is too large: 50. This model supports at most 16 completion tokens.", "max_tokens"),
        openai("temperature: Input should be less than or equal to 0.5"),
        fastapi(("temperature", "Input should be less than or equal to 0.5", "less_than_equal")),
        openai("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (max_tokens)."),
        openai("The model does not support images"),
        openai("temperature must be 1.5 or less"),
        openai("Invalid parameter: temperature"),
        openai("messages: roles are not allowed to repeat"),
        openai("Unknown model 'm'", "model", "model_not_found"),
        openai("top_k is not supported"),
        openai("no"),
        {},
        "",
        "x" * 100_000,
        "seed " * 50_000,
    ],
)
def test_errors_that_refuse_no_parameter(refusal):
    assert learnt(refusal) is None


def test_neutral_values_are_left_out_first():
    both = openai("temperature and top_p cannot both be specified")
    assert learnt(both, PLAIN) == {"temperature": 0.7, "max_tokens": 50, "seed": 3}
    cold = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=50)
    assert learnt(both, cold) == {"top_p": 0.9, "max_tokens": 50, "seed": 3}
    # Out of range where leaving it out is the same.
    assert learnt(openai("`top_p` must be > 0.0 and < 1.0"), PLAIN) == {"temperature": 0.7, "max_tokens": 50, "seed": 3}
    assert learnt(openai("`top_p` must be > 0.0 and < 0.5")) is None


def test_every_name_is_given_up_at_most_once():
    known, rejections = parameters(), 0
    for _ in range(50):
        sent = known.values(SAMPLING, 3)
        nothing = " ".join(f"Unsupported parameter: {name}. Use {name}_tokens_x instead." for name in sent)
        if not known.learn(sent, refusal_of(openai(nothing))):
            break
        rejections += 1
    assert known.values(SAMPLING, 3) == {}
    assert rejections <= 6
    assert known.left_out == ("temperature", "top_p", "max_tokens", "seed")


def test_simultaneous_refusals_count_once(caplog):
    known = parameters()
    sent = [known.values(SAMPLING, seed) for seed in range(9)]
    refusal = refusal_of(openai("temperature and top_p cannot both be specified"))
    assert all(known.learn(request, refusal) for request in sent)
    assert known.left_out == ("top_p",)
    assert len(caplog.messages) == 1
    assert not known.learn(known.values(SAMPLING, 0), refusal_of(openai("max_tokens: no")))


def test_the_table_sets_parameters_in_advance():
    known = parameters(omit=["seed"], rename={"max_tokens": "max_completion_tokens"}, extra={"reasoning_effort": "low"})
    assert known.values(SAMPLING, 3) == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
    }
    assert (known.left_out, known.renamed) == (("seed",), {"max_tokens": "max_completion_tokens"})


def test_a_spend_limit_needs_a_length_limit():
    budget = {"prompt_price": 1.0, "completion_price": 1.0, "spend_limit": 1.0}
    known = parameters(budget=budget)
    sent = known.values(SAMPLING, 3)
    assert known.learn(sent, refusal_of(openai("max_tokens is not supported")))  # its other name is tried
    sent = known.values(SAMPLING, 3)
    assert "max_completion_tokens" in sent
    with pytest.raises(NotAcceptedError, match="spend_limit cannot be guaranteed"):
        known.learn(sent, refusal_of(openai("max_completion_tokens is not supported")))


def test_options_of_the_user_are_never_left_out():
    config = EndpointConfig(base_url="http://localhost/v1", model="m")
    known = Parameters(config, frozenset({"temperature"}))
    with pytest.raises(NotAcceptedError, match=r"does not accept temperature 0\.7; leave the option out"):
        known.learn(known.values(SAMPLING, 3), refusal_of(openai("temperature is not supported")))
    assert known.learn(known.values(SAMPLING, 3), refusal_of(openai("top_p is not supported")))


def like_openai(request):
    """Refuses parameters like a reasoning model of OpenAI."""
    body = request.body
    if "max_tokens" in body:
        return Response(status=400, body=json.dumps(openai(NEWER, "max_tokens", "unsupported_parameter")).encode())
    if body.get("temperature", 1) != 1:
        message = "'temperature' does not support 0.7 with this model. Only the default (1) value is supported."
        return Response(status=400, body=json.dumps(openai(message, "temperature", "unsupported_value")).encode())
    if "top_p" in body:
        return Response(status=422, body=json.dumps(fastapi(("top_p", EXTRA, "extra_forbidden"))).encode())
    return good(request)


def test_the_result_lists_parameters_left_out_and_renamed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with EndpointServer(like_openai) as server:
        table = f'[local]\nbase_url = "{server.base_url}"\nmodel = "m"\ntemperature = 0.7\n'
        (tmp_path / "endpoints.toml").write_text(table)
        command = ("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:local", "--episodes", "20")
        result = spiral(*command, "--json")
        usage = result.json["opponent_usage"]
        refused = spiral("evaluate", "endpoint:local", *command[2:4], "--opponent", "random", "--temperature", "0.5")
    assert (result.status, result.json["played"]) == (0, 20)
    assert (usage["retries"], usage["faults"]) == (3, 0)  # one request finds out for all
    assert usage["left_out"] == ["temperature", "top_p"]
    assert usage["renamed"] == {"max_tokens": "max_completion_tokens"}
    kept = json.loads((tmp_path / result.json["files"] / "result.json").read_text())["endpoints"]
    assert [(entry["name"], entry["left_out"]) for entry in kept] == [("endpoint:local", ["temperature", "top_p"])]
    lines = result.err.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("does not accept max_tokens; sending it as max_completion_tokens from now on")
    assert "does not accept temperature; RESULTS ARE NOT AT temperature 0.7" in lines[1]
    assert "does not accept top_p; leaving it out" in lines[2]
    assert refused.status == 1
    assert "does not accept temperature 0.5; leave the option out to use the server's default" in refused.err


def test_a_refusal_without_a_parameter_is_reported_as_it_is():
    game = load_game("kuhn_poker")
    state = game.initial_state()
    while state.is_chance:
        state = state.apply(state.chance_outcomes()[0][0])
    with EndpointServer(
        lambda request: Response(status=422, body=json.dumps(fastapi(("x", "bad", ""))).encode())
    ) as it:
        policy = EndpointPolicy(EndpointConfig(base_url=it.base_url, model="m"), name="endpoint:x")
        policy.submit([TurnRequest(key=0, game=game, state=state, player=state.current_player, seed=0)])
        (reply,) = policy.poll()
        policy.close()
        assert reply.fault.endswith("answers HTTP 422 Unprocessable Entity: body.x: bad")
        assert len(it.requests) == 1
