"""Who beat whom, as the page asks for it: past selves, and the population that a run is a response of."""

from __future__ import annotations

import json

import pytest

from commands import refused, spiral
from viewed_runs import made_run, viewing


def checkpoint(run, results, *, step=4, past_selves=(0, 2)):
    """The state of a run's last checkpoint."""
    directory = run / "checkpoints" / f"step-{step:06d}"
    directory.mkdir(parents=True, exist_ok=True)
    opponents = {"past_selves": list(past_selves), "drawn": [], "results": results}
    (directory / "state.json").write_text(json.dumps({"version": step, "opponents": opponents}))
    return directory / "state.json"


def payoffs(run):
    with viewing(run) as client:
        found = client.get("/api/runs/0/evaluation")
    return found["payoffs"], found["notices"]


def test_past_selves_with_the_games_of_each_cell(tmp_path):
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    rows = {"0": {}, "2": {"0": [10, 7.5, 5.0]}, "now": {"2": [4, 1.0, -2.0]}}
    checkpoint(run, {"tictactoe": {"rows": rows, "recent": {}, "anchor": 0.0}}, past_selves=(2,))
    (table,), notices = payoffs(run)
    assert notices == []
    assert (table["kind"], table["game"], table["step"], table["left_out"]) == ("past selves", "tictactoe", 4, 0)
    assert (table["players"], table["columns"]) == (["step 0", "step 2", "now"], ["step 0", "step 2"])
    assert table["matrix"] == [[None, None], [0.5, None], [None, -0.5]]
    assert table["games"] == [[0, 0], [10, 0], [0, 4]]
    first, second, now = table["ratings"]
    assert (first["rating"], first["games"], first["win_rate"], first["plays"]) == (0.0, 10, 0.75, False)
    assert (second["games"], second["win_rate"], second["plays"]) == (4, 0.25, True)
    assert 0 < second["rating"] > now["rating"]


def test_of_many_past_selves_the_newest_are_shown(tmp_path):
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    rows = {str(step): {str(step - 1): [2, 1.0, 0.0]} if step else {} for step in range(60)}
    checkpoint(run, {"tictactoe": {"rows": rows, "recent": {}, "anchor": 0.0}})
    (table,), _ = payoffs(run)
    assert (table["players"][0], table["players"][-1], table["left_out"]) == ("step 36", "now", 36)
    assert (len(table["matrix"]), len(table["matrix"][0]), len(table["ratings"])) == (25, 24, 25)


@pytest.mark.parametrize(
    "results",
    [
        {"tictactoe": {"rows": {"0": {"1": [1, 1, 1]}}, "recent": {}, "anchor": 0.0}},
        {"tictactoe": {"rows": {"0": {"0": [float("nan"), 1, 1]}}, "recent": {}, "anchor": 0.0}},
        {"tictactoe": {"rows": {"0": {}, "now": {"0": [-3, 5.0, 1]}}, "recent": {}, "anchor": 0.0}},
        {"tictactoe": {"rows": {"0": {}, "now": {"0": [10**400, 5.0, 1]}}, "recent": {}, "anchor": 0.0}},
        {"tictactoe": {"rows": {"x" * 9: {}}, "recent": {}, "anchor": 0.0}},
        {"tictactoe": []},
        [],
    ],
)
def test_a_damaged_state_is_said(results, tmp_path):
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    checkpoint(run, results)
    assert payoffs(run) == ([], ["checkpoints/state.json cannot be read: ValueError."])


def test_links_out_of_the_run_are_not_followed(tmp_path):
    other = made_run(tmp_path / "other", steps=1, episodes=1)
    rows = {"0": {}, "now": {"0": [4, 1.0, -2.0]}}
    file = checkpoint(other, {"tictactoe": {"rows": rows, "recent": {}, "anchor": 0.0}})
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    link = checkpoint(run, {})
    link.unlink()
    link.symlink_to(file)
    assert payoffs(run) == ([], ["checkpoints/state.json is a link out of the run and is not read."])
    (run / "checkpoints" / "latest").symlink_to(other / "checkpoints" / "step-000004")
    found, notices = payoffs(run)
    assert found == []
    assert "which is not a checkpoint of this run" in notices[0]


def population(path, responses=1):
    """What `spiral psro` writes."""
    path.mkdir()
    names = ["start", *(f"response-{number:03d}" for number in range(1, responses + 1))]
    values = {
        "recipe": {}, "solver": "nash", "game": "kuhn_poker", "members": [],
        "iterations": [
            {"iteration": at, "exploitability": 0.5 / (at + 1), "shares": dict.fromkeys(names[: at + 1], 1 / (at + 1)),
             "payoffs": [[0.0] * (at + 1)] * (at + 1)}
            for at in range(responses + 1)
        ],
    }  # fmt: skip
    (path / "psro.json").write_text(json.dumps(values))
    for name in names[1:]:
        made_run(path / name, steps=1, episodes=1)
    return path


def test_the_responses_of_a_population_are_its_runs(tmp_path):
    path = population(tmp_path / "league")
    with viewing(path) as client:
        assert [run["name"] for run in client.get("/api/runs")["runs"]] == ["response-001"]
        (table,) = client.get("/api/runs/0/evaluation")["payoffs"]
        assert (table["kind"], table["solver"], table["players"]) == ("population", "nash", ["start", "response-001"])
        assert (table["matrix"], table["games"]) == ([[0.0, 0.0], [0.0, 0.0]], None)
        assert table["shares"] == [{"name": "start", "share": 0.5}, {"name": "response-001", "share": 0.5}]
        assert table["exploitability"] == [{"responses": 0, "value": 0.5}, {"responses": 1, "value": 0.25}]
        (path / "psro.json").write_text('{"recipe": {}, "solver": "nash", "members": [], "iterations": []}')
        found = client.get("/api/runs/0/evaluation")
        assert (found["payoffs"], found["notices"]) == ([], ["league/psro.json cannot be read: IndexError."])
    with viewing(path / "response-001") as client:  # by itself a run shows nothing from outside its directory
        assert client.get("/api/runs/0/evaluation")["payoffs"] == []


def test_the_agents_of_a_league_are_its_runs(tmp_path):
    path = tmp_path / "league"
    path.mkdir()
    (path / "league.json").write_text("{}")
    assert "none of the runs in" in refused("view", str(path), "--no-open")
    for name in ("exploiter-002", "main", "exploiter-001"):
        made_run(path / name, steps=1, episodes=1)
    with viewing(path) as client:
        names = [run["name"] for run in client.get("/api/runs")["runs"]]
        assert names == ["main", "exploiter-001", "exploiter-002"]
        assert client.get("/api/runs/0/evaluation")["payoffs"] == []


def test_a_population_without_a_response_is_refused(tmp_path):
    path = population(tmp_path / "young", responses=0)
    assert "none of the runs in" in refused("view", str(path), "--no-open")


def test_a_population_in_the_terminal(tmp_path):
    path = population(tmp_path / "league", responses=2)
    out = spiral("show", str(path)).out
    assert f"{path}: a population of 0 policies in kuhn_poker, mixed by nash" in out
    assert "1 response: the mixture (start 50%, response-001 50%) is exploitable by 0.2500" in out
    assert "response-002   33.3%   +0.000" in out
    found = spiral("show", str(path), "--json").json
    assert found["iterations"][2]["exploitability"] == pytest.approx(0.5 / 3)
    assert "give one of its runs" in refused("show", str(path), "--step", "1")
    (path / "psro.json").write_text('{"recipe": {}, "solver": "nash", "members": [3], "iterations": []}')
    assert refused("show", str(path)).endswith("psro.json is damaged: TypeError")
