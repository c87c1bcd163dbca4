"""`spiral collect`: the directory that it makes, its table, its JSON object, and what it refuses."""

from __future__ import annotations

import pytest

from commands import refused, spiral
from endpoint_server import EndpointServer, Response, chosen, completion
from spiral.runs.directory import read_episodes


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))
    return tmp_path


def test_games_of_scripted_players(here):
    command = ("collect", "--policy", "minimax", "--opponent", "random", "--game", "tictactoe", "--out", "data/ttt")
    result = spiral(*command, "--episodes", "20")
    assert result.status == 0
    assert result.out.splitlines()[-1].endswith("turns are in data/ttt")
    assert result.out.splitlines()[2].split()[:3] == ["tictactoe", "20", "100%"]
    again = spiral(*command, "--episodes", "30", "--json").json
    assert (again["out"], again["episodes"], again["new"], again["not_played"]) == ("data/ttt", 30, 10, 0)
    rows = read_episodes("data/ttt")
    assert len(rows) == again["turns"]
    assert {tuple(row["policies"]) for row in rows} == {("minimax", "random"), ("random", "minimax")}
    assert "holds other games: seed is 0 in it and 1 now" in refused(*command, "--seed", "1")


def test_an_endpoint_is_collected_with_its_thoughts_until_its_budget_is_spent(here):
    def thinking(request):
        return Response(body=completion(f"\\boxed{{{chosen(request)}}}", reasoning_content="A fork."))

    with EndpointServer(thinking) as server:
        table = f'[teacher]\nbase_url = "{server.base_url}"\nmodel = "m"\nmax_new_tokens = 16\n'
        budget = "[teacher.budget]\nspend_limit = 0.006\nprompt_price = 1.0\ncompletion_price = 100.0\n"
        (here / "endpoints.toml").write_text(table + budget)
        command = ("collect", "--policy", "endpoint:teacher", "--game", "kuhn_poker", "--out", "d")
        result = spiral(*command, "--episodes", "8", "--in-flight", "1")
        assert result.status == 0, result
        assert "games could not be played; the same command continues" in result.out
        assert "6 x " in result.out
        kept = read_episodes("d")
        assert {row["reply"].partition("A fork.")[0] for row in kept} == {"<think>\n"}
        refusal = spiral(*command, "--episodes", "8")
        assert (refusal.status, "could not be played" in refusal.err) == (1, True)
        assert read_episodes("d") == kept
        (here / "endpoints.toml").write_text(table)
        done = spiral(*command, "--episodes", "8", "--json").json
    assert done["episodes"] == 8
    assert 0 < done["new"] < 8
    assert done["model_usage"]["requests"] > 0


def test_a_language_model_is_loaded_once_for_all_games(here):
    command = ("collect", "--policy", "nano", "--game", "tictactoe", "--game", "kuhn_poker", "--out", "d")
    assert spiral(*command, "--episodes", "2", "--json").json["episodes"] == 4
    rows = read_episodes("d")
    assert {row["game"] for row in rows} == {"tictactoe", "kuhn_poker"}
    assert all(row["token_ids"] for row in rows)
    assert "policy_settings is" in refused(*command, "--temperature", "0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "minmax", "--game", "tictactoe"), "did you mean 'minimax'?"),
        (("--policy", "minimax", "--game", "tictactoo"), "tictactoo"),
        (("--policy", "minimax", "--game", "kuhn_poker"), "minimax needs a game of perfect information"),
        (("--policy", "random", "--game", "tictactoe", "--game", "tictactoe"), "expected each game once"),
        (("--policy", "random"), "--game"),
    ],
)
def test_wrong_use_is_refused(here, arguments, message):
    assert message in refused("collect", *arguments, "--out", "d")
    assert spiral("collect", "--policy", "random", "--game", "tictactoe", "--out", "d", "--episodes", "2").status == 0
