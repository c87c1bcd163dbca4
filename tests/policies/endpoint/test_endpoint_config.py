"""Settings and keys of `endpoint:NAME`, and one clear line for every error in them."""

import json
import re
from pathlib import Path

import pytest

from commands import refused, spiral
from endpoint_server import good, refusing
from spiral.games import load_game
from spiral.policies.endpoint.config import EndpointConfig, load_endpoint
from spiral.policies.registry import PolicyOptions, load_policy

KEY = "sk-secret-0123456789"
pytestmark = pytest.mark.usefixtures("folders")


def write(text, path="here/endpoints.toml"):
    (Path("..") / path).write_text(text, encoding="utf-8")


def table(name="local", model="m", **fields):
    values = {"base_url": "http://localhost:8000/v1", "model": model, **fields}
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def fault(text, name="local"):
    write(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is for the caller to check
        load_endpoint(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_table_with_everything():
    write(
        table(
            api_key_env="MY_KEY",
            temperature=0.6,
            top_p=0.95,
            max_new_tokens=100,
            max_in_flight=3,
            requests_per_minute=20,
            retries=0,
            timeout_seconds=5,
        )
        + "[local.prompt]\nexample = true\nthinking = false\n"
        + "[local.budget]\nprompt_price = 0.5\ncompletion_price = 2\nspend_limit = 1\n"
    )
    config = load_endpoint("local")
    assert (config.host, config.temperature, config.requests_per_minute) == ("localhost:8000", 0.6, 20)
    assert (config.top_p, config.max_new_tokens, config.max_in_flight) == (0.95, 100, 3)
    assert (config.api_key_env, config.retries, config.timeout_seconds) == ("MY_KEY", 0, 5)
    assert (config.prompt.example, config.prompt.thinking, config.prompt.template) == (True, False, "chat")
    assert (config.budget.prompt_price, config.budget.completion_price, config.budget.spend_limit) == (0.5, 2, 1)


def test_the_current_directory_takes_precedence_table_by_table():
    write(table(model="here"))
    write(table(model="home") + table("other", model="other"), "home/endpoints.toml")
    assert load_endpoint("local").model == "here"
    assert load_endpoint("other").model == "other"


def test_every_setting_has_a_description_and_there_are_few_of_them():
    for section in (EndpointConfig, type(EndpointConfig.model_fields["budget"].default)):
        assert len(section.model_fields) <= 15
        assert all(field.description for field in section.model_fields.values())


def test_openrouter_needs_no_file(monkeypatch):
    config = load_endpoint("openrouter/deepseek/deepseek-chat:free")
    assert (config.base_url, config.model) == ("https://openrouter.ai/api/v1", "deepseek/deepseek-chat:free")
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"the key for openrouter.ai is missing: .* OPENROUTER_API_KEY is not set"):
        config.api_key()
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    assert config.api_key() == KEY
    write("[openrouter.budget]\nprompt_price = 1\ncompletion_price = 1\nspend_limit = 2\n")
    assert load_endpoint("openrouter/a/b").budget.spend_limit == 2


@pytest.mark.parametrize("name", ["openrouter/a", "openrouter/a/b c", "other/a/b", "", "a b", "a.b", "../x"])
def test_invalid_names(name):
    with pytest.raises(ValueError, match=r"got endpoint .*; expected .*openrouter/VENDOR/MODEL"):
        load_endpoint(name)


def test_a_missing_table_shows_what_to_write(folders):
    line = refused("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:mine")
    assert line.startswith("there is no endpoint 'mine'; write a line like this one into endpoints.toml or ")
    assert str(folders / "home" / "endpoints.toml") in line
    example = re.search(r": (mine = \{.*?\}) \(or use endpoint:openrouter/VENDOR/MODEL\)$", line)
    write(example[1].replace("VARIABLE-WITH-THE-KEY", "MY_KEY"))
    assert load_endpoint("mine").base_url == "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[local\n", "endpoints.toml cannot be read"),
        ("local = 3\n", "endpoints.toml: 'local' is not a table; expected local = {"),
        ('[local]\nmodel = "m"\n', "endpoints.toml: [local]: base_url: Field required"),
        (table(temperature=-1), "[local]: temperature: got -1; Input should be greater than or equal to 0"),
        (table(max_in_flight=0), "[local]: max_in_flight: got 0"),
        (table(max_new_tokens="many"), "[local]: max_new_tokens: Input should be a valid integer"),
        (table(api_key=KEY), "[local]: unknown key 'api_key'; expected some of base_url, model, api_key_env"),
        (table(api_key_env=KEY), "api_key_env: expected the name of an environment variable in upper case; never"),
        (table(base_url="localhost:8000"), "base_url: expected an address such as http://HOST:PORT/v1"),
        (table(base_url="http://x:99999999/v1"), "base_url: expected an address such as http://HOST:PORT/v1"),
        (table(base_url="http:///v1"), "base_url: expected an address such as http://HOST:PORT/v1"),
        (table(base_url=f"http://me:{KEY}@host/v1"), "base_url: expected an address without user, password or query"),
        (table(base_url=f"http://host/v1?key={KEY}"), "base_url: expected an address without user"),
        (table() + '[local.prompt]\ntemplate = "r1"\n', "prompt: got the template 'r1'; expected 'chat'"),
        (table() + "[local.budget]\nspend_limit = 1\n", "budget: spend_limit needs prompt_price and completion_price"),
        (table() + "[local.budget]\nprice = 1\n", "unknown key 'budget.price'"),
    ],
)
def test_errors_take_one_line_and_never_show_a_key(text, words):
    line = fault(text)
    assert words in line
    assert KEY not in line


@pytest.mark.parametrize("key", ["", "  ", "sk-\u00fcml\u00e4ut", "sk-a b", "sk-a\x07"])
def test_invalid_keys(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    config = EndpointConfig(base_url="http://localhost/v1", model="m", api_key_env="MY_KEY")
    with pytest.raises(ValueError, match="environment variable MY_KEY") as caught:
        config.api_key()
    assert not key.strip() or key not in str(caught.value)


def test_options_of_the_command_line_take_precedence(server):
    write(table(base_url=server.base_url, temperature=0.3))
    options = PolicyOptions(temperature=0.0, max_new_tokens=9, thinking=False)
    policy = load_policy("endpoint:local", load_game("kuhn_poker"), options)
    assert (policy.name, policy.config.temperature, policy.config.max_new_tokens) == ("endpoint:local", 0.0, 9)
    assert (policy.config.prompt.thinking, policy.config.top_p) == (False, 1.0)
    policy.close()


def test_evaluate_against_an_endpoint(server):
    write(table(base_url=server.base_url) + "[local.budget]\nprompt_price = 10000\ncompletion_price = 100000\n")
    command = ("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:local", "--episodes", "10")
    result = spiral(*command, "--json")
    assert (result.status, result.err) == (0, "")
    values, requests = result.json, len(server.requests)
    assert values["opponent_usage"] == {
        "model": "m",
        "requests": requests,
        "retries": 0,
        "faults": 0,
        "prompt_tokens": 100 * requests,
        "completion_tokens": 10 * requests,
        "cost_usd": 2.0 * requests,
        "cost_usd_unknown": 0.0,
        "left_out": [],
        "renamed": {},
    }
    assert "model_usage" not in values
    assert (values["episodes"], values["played"], values["not_played"], values["faults"]) == (10, 10, 0, {})
    assert values["win"] == values["win_on_board"]
    out = spiral(*command).out
    assert "random against endpoint:local: 10 games of kuhn_poker" in out
    assert f"m: {requests} requests (0 sent again, 0 turns without a reply)" in out
    assert f"${2 * requests:.4f}" in out
    assert "more than player 1 in all games together." in out


def test_games_that_were_not_played_are_reported(server):
    server.behaviour = lambda request: (refusing(400, "no [b]bets[/b]") if request.number > 3 else good)(request)
    write(table(base_url=server.base_url, max_in_flight=1))
    result = spiral(
        "evaluate", "endpoint:local", "--game", "kuhn_poker", "--opponent", "equilibrium", "--episodes", "8"
    )
    assert result.status == 0
    found = re.search(r"(\d) of 8 games could not be played and are not counted:\n  (\d) x (.*)\n", result.out)
    assert found[1] == found[2]
    assert found[3].endswith("answers HTTP 400 Bad Request: no [b]bets[/b]")
    assert f"endpoint:local against equilibrium: {8 - int(found[1])} games" in result.out


def test_a_command_without_a_played_game_fails(server):
    server.behaviour = refusing(401, "no such key")
    write(table(base_url=server.base_url))
    result = spiral("evaluate", "random", "--game", "kuhn_poker", "--opponent", "endpoint:local", "--json")
    assert (result.status, result.out, len(result.err.splitlines())) == (1, "", 1)
    assert "HTTP 401 Unauthorized: no such key" in result.err


def test_the_documentation_is_true(folders):
    text = (Path(__file__).parents[3] / "docs" / "endpoints.md").read_text(encoding="utf-8")
    written = re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1]
    write(written)
    assert load_endpoint("local").model == "Qwen/Qwen3-8B"
    config = load_endpoint("gpt")
    assert (config.omit, config.rename) == (["seed", "temperature", "top_p"], {"max_tokens": "max_completion_tokens"})
    assert (config.extra, config.budget.spend_limit) == ({"reasoning_effort": "low"}, 5.0)
    settings = re.search(r"\n\| setting.*?\n\n", text, re.DOTALL)[0]
    assert all(f"`{name}`" in settings for name in EndpointConfig.model_fields)
    assert f"`retries` | {EndpointConfig.model_fields['retries'].default} |" in settings
    assert f"`max_in_flight` | {EndpointConfig.model_fields['max_in_flight'].default} |" in settings


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"omit": ["sed"]}, "[local]: omit: got 'sed'; expected names from temperature, top_p, max_tokens, seed"),
        ({"omit": "seed"}, "[local]: omit: "),
        ({"omit": [1]}, "[local]: omit.0: "),
        (
            {"omit": ["max_tokens"], "budget": {"prompt_price": 1.0, "completion_price": 1.0, "spend_limit": 1.0}},
            "needs",
        ),
        ({"rename": {"messages": "x"}}, "[local]: rename: got 'messages'; expected names from"),
        ({"rename": {"seed": "model"}}, "[local]: rename: rename.seed is not a valid or free parameter name"),
        ({"rename": {"seed": "a b"}}, "[local]: rename: rename.seed is not a valid or free parameter name"),
        ({"rename": {"seed": "x", "top_p": "x"}}, "[local]: rename: two parameters have the same name"),
        ({"rename": {"seed": "x"}, "omit": ["seed"]}, "[local]: omit and rename name the same parameter"),
        ({"rename": {"seed": "x"}, "extra": {"x": 1}}, "[local]: extra and rename use the same name"),
        ({"prompt": {"history": "chat", "history_thoughts": "keep"}}, "[local]: prompt: got history_thoughts 'keep'"),
        ({"extra": {"messages": []}}, "[local]: extra: 'messages' cannot be set here"),
        ({"extra": {"stream": True}}, "[local]: extra: 'stream' cannot be set here"),
    ],
)
def test_invalid_omit_rename_and_extra(fields, words):
    lines = []
    for key, value in fields.items():
        pairs = value.items() if isinstance(value, dict) else ()
        inner = ", ".join(f"{name} = {json.dumps(one)}" for name, one in pairs)
        lines.append(f"{key} = {{{inner}}}\n" if isinstance(value, dict) else f"{key} = {json.dumps(value)}\n")
    assert words in fault(table() + "".join(lines))


def test_a_date_is_not_a_json_value():
    assert "extra: expected JSON values" in fault(table() + "extra = {day = 2026-01-01}\n")
