"""What the viewer answers about a run that is whole, growing, damaged or hostile."""

from __future__ import annotations

import http.client
import json
import shutil

import pyarrow.parquet as pq
import pytest
import tomli_w

from spiral.core.locks import locked
from spiral.core.storage import VERSION_KEY, write_episodes
from spiral.viewer.meanings import meanings
from viewed_runs import TOKEN, made_run, played, viewing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def client(run):
    with viewing(run) as found:
        yield found


def test_the_list_of_runs(client, run):
    (found,) = client.get("/api/runs")["runs"]
    assert (found["id"], found["name"], found["path"]) == ("0", "mine", str(run))
    assert (found["model"], found["status"], found["step"], found["steps"]) == ("nano", "finished", 3, 3)
    assert found["games"] == ["tictactoe", "kuhn_poker"]
    assert [text for text in found["notices"] if "No checkpoint" not in text] == []


def test_metrics_come_by_column_and_from_a_step_on(client):
    whole = client.get("/api/runs/0/metrics")
    assert whole["steps"] == [1, 2, 3]
    assert whole["metrics"]["loss/policy"] == [1.0, 0.5, 1 / 3]
    assert client.get("/api/runs/0/metrics?since=2")["metrics"]["loss/policy"] == [1 / 3]
    assert client.get("/api/runs/0/metrics?since=3")["steps"] == []


def test_metrics_have_their_meaning_from_the_documents(client):
    found = client.get("/api/runs/0/metrics")["descriptions"]
    assert found["loss/policy"] == "The loss that is minimised, without bonus and penalty. Unit: the rewards'."
    assert found["selfplay/tictactoe/player0/return"].startswith("Mean return, with penalties of illegal moves.")
    assert meanings(["against/kuhn_poker/random/player1/win", "no/such"]).keys() == {
        "against/kuhn_poker/random/player1/win"
    }
    guards = meanings(["guard/entropy_rise", "guard/pull"])
    assert guards["guard/entropy_rise"].startswith("Fine, warning or collapsed")
    assert guards["guard/pull"].startswith("Factor of")


def test_settings_have_their_full_names(client):
    settings = client.get("/api/runs/0/config")["settings"]
    assert settings["learner.epochs"] == 2
    assert settings["selfplay.games.tictactoe"] == 1.0


def test_health_names_its_rules(client):
    lights = client.get("/api/runs/0/health")["lights"]
    assert {"thinking collapse", "sampler-learner gap", "staleness"} <= {light["name"] for light in lights}
    assert all(light["rule"].endswith(".") for light in lights)


def test_guards_say_what_they_found_and_what_was_done(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "guarded")
    finding = {"level": "collapsed", "about": "the run", "message": "<b>\u202e"}
    line = {"step": 2, "guard": "gap", "state": "collapsed", "findings": [finding], "answer": "stop"}
    outside = tmp_path / "guards.jsonl"
    outside.write_text(json.dumps(line) + "\n")
    rows = [json.loads(text) | {"guard/gap": 2.0} for text in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "guards.jsonl").symlink_to(outside)
    with viewing(path) as client:
        found = {guard["name"]: guard for guard in client.get("/api/runs/0/health")["guards"]}
        assert (found["gap"]["state"], found["gap"]["since"], found["gap"]["changes"]) == ("collapsed", None, [])
        assert (found["room"]["state"], found["room"]["answer"]) == ("unknown", "log")
        (path / "guards.jsonl").unlink()
        (path / "guards.jsonl").write_text(json.dumps(line) + "\n")
        found = {guard["name"]: guard for guard in client.get("/api/runs/0/health")["guards"]}
    assert (found["gap"]["since"], found["gap"]["findings"]) == (2, [finding])
    assert found["gap"]["changes"] == [{**line, "effect": "the run stopped with a checkpoint"}]


def test_runs_are_compared_by_what_differs(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    text = (other / "config.toml").read_text()
    (other / "config.toml").write_text(text.replace("epochs = 2", "epochs = 5", 1))
    with viewing(run, other) as client:
        assert client.get("/api/config-diff")["rows"] == [{"key": "learner.epochs", "values": {"0": 2, "1": 5}}]


def test_an_unknown_run_step_episode_and_address(client):
    assert client.error("/api/runs/9/metrics") == (404, "there is no run '9' here")
    assert client.error("/api/runs/0/episodes/77/0") == (404, "run mine has kept no episodes of step 77")
    assert client.error("/api/runs/0/episodes/1/999") == (404, "run mine has no episode 999 in step 1")
    assert client.error("/api/nothing") == (404, "there is nothing at this address")
    status, message = client.error("/api/runs/0/metrics?since=soon")
    assert (status, message.split(":")[0]) == (400, "got 'soon' for since")


def test_a_run_that_goes_on_is_followed(tmp_path):
    run = made_run(tmp_path / "run", steps=2)
    config = (run / "config.toml").read_text().replace("steps = 2", "steps = 9", 1)
    (run / "config.toml").write_text(config)
    with viewing(run) as client:
        assert client.get("/api/runs")["runs"][0]["status"] == "stopped"
        with locked(run / ".lock"):
            assert client.get("/api/runs")["runs"][0]["status"] == "training"
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.request("GET", "/api/events", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        assert answer.getheader("Content-Type").startswith("text/event-stream")
        assert answer.readline() == b'data: {"run": "0", "step": 2}\n'
        total = client.get("/api/runs/0/episodes")["total"]
        write_episodes(run / "episodes" / "step-000003.parquet", played("tictactoe", 5, seed=7))
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 3, "loss/policy": 0.25}\n{"step": 4, "loss/pol')
        lines = []
        while b'data: {"run": "0", "step": 3}\n' not in lines:
            lines.append(answer.readline())
        assert set(lines) <= {
            b"\n",
            b": nothing new\n",
            b'data: {"run": "0", "step": 2}\n',
            b'data: {"run": "0", "step": 3}\n',
        }
        answer.close()
        connection.close()
        found = client.get("/api/runs/0/metrics?since=2")
        assert (found["metrics"]["loss/policy"], found["notices"]) == ([0.25], [])
        after = client.get("/api/runs/0/episodes?desc=1&limit=1")
        assert (after["total"], after["rows"][0]["step"]) == (total + 5, 3)


def test_what_is_damaged_is_said_and_the_rest_is_shown(tmp_path):
    run = made_run(tmp_path / "run", steps=4)
    files = sorted((run / "episodes").iterdir())
    files[3].write_bytes(files[3].read_bytes()[:-100])
    table = pq.read_table(files[2])
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: b"99"}), files[2])
    old = pq.read_table(files[1]).drop_columns(["advantages", "learner_logprobs", "rewards"])
    pq.write_table(old.replace_schema_metadata({VERSION_KEY: b"6"}), files[1])
    metrics = (run / "metrics.jsonl").read_bytes().split(b"\n")
    metrics[1] = b'{"step": "two"}'
    (run / "metrics.jsonl").write_bytes(b"\n".join(metrics))
    (run / "config.toml").write_text("[run\n")
    with viewing(run) as client:
        page = client.get("/api/runs/0/episodes?limit=100")
        assert {row["step"] for row in page["rows"]} == {1, 2}
        assert page["total"] == 24
        assert sorted(text.split(":")[0] for text in page["notices"]) == [
            "step-000003.parquet is left out",
            "step-000004.parquet is left out",
        ]
        assert "schema version 99" in " ".join(page["notices"])
        assert client.error("/api/runs/0/episodes/4/0")[0] == 404
        assert client.get("/api/runs/0/episodes/2/0")["game"] == "tictactoe"
        (found,) = client.get("/api/runs")["runs"]
        assert found["steps"] is None
        assert [text.split(":")[0] for text in found["notices"][:2]] == [
            "config.toml cannot be read",
            "1 damaged line of metrics.jsonl is left out.",
        ]
        assert client.get("/api/runs/0/metrics")["steps"] == [1, 3, 4]


def test_a_file_that_is_damaged_inside_costs_that_file(tmp_path):
    run = made_run(tmp_path / "run", steps=2)
    file = run / "episodes" / "step-000002.parquet"
    data = bytearray(file.read_bytes())
    data[200:1200] = bytes(1000)
    file.write_bytes(bytes(data))
    with viewing(run) as client:
        page = client.get("/api/runs/0/episodes?sort=turns&limit=100")
        assert {row["step"] for row in page["rows"]} == {1}
        assert [text.split(" ")[0] for text in page["notices"]] == ["step-000002.parquet"]


def test_a_run_that_disappears_is_said(tmp_path):
    run = made_run(tmp_path / "run", steps=1)
    with viewing(run) as client:
        assert client.get("/api/runs/0/episodes")["total"] == 12
        shutil.rmtree(run)
        (found,) = client.get("/api/runs")["runs"]
        assert (found["status"], found["step"]) == ("unreadable", 0)
        assert f"{run} is no longer there." in found["notices"]
        assert client.get("/api/runs/0/episodes")["rows"] == []
        assert client.error("/api/runs/0/episodes/1/0") == (404, "run run has kept no episodes of step 1")


def test_links_out_of_a_run_are_not_followed(tmp_path):
    secret = made_run(tmp_path / "secret", steps=1)
    run = made_run(tmp_path / "run", steps=1)
    (run / "episodes" / "step-000002.parquet").symlink_to(secret / "episodes" / "step-000001.parquet")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(secret / "metrics.jsonl")
    (run / "config.toml").unlink()
    (run / "config.toml").symlink_to(secret / "config.toml")
    with viewing(run) as client:
        (found,) = client.get("/api/runs")["runs"]
        assert [text for text in found["notices"] if "link out of the run" in text] == [
            "config.toml is a link out of the run and is not read.",
            "metrics.jsonl is a link out of the run and is not read.",
        ]
        assert client.get("/api/runs/0/metrics")["steps"] == []
        page = client.get("/api/runs/0/episodes?limit=100")
        assert {row["step"] for row in page["rows"]} == {1}
        assert page["notices"] == ["step-000002.parquet is left out: it is a link out of the run."]
        assert client.error("/api/runs/0/episodes/2/0")[0] == 404
        shutil.rmtree(run / "episodes")
        (run / "episodes").symlink_to(secret / "episodes")
        page = client.get("/api/runs/0/episodes")
        assert (page["rows"], page["notices"]) == (
            [],
            ["The directory episodes is a link out of the run and is not read."],
        )


def test_a_hostile_name_and_hostile_settings_are_plain_data(tmp_path):
    name = "<script>alert(1)<\\x1b[2J\u202e"
    run = made_run(tmp_path / name, steps=1)
    evil = {"summary": "<img src=x onerror=alert(1)>", "run": {"steps": 1}, "model": {"path": "\u202e../../etc"}}
    (run / "config.toml").write_text(tomli_w.dumps(evil), encoding="utf-8")
    (run / "metrics.jsonl").write_text('{"step": 1, "<b>\\ud800": 1e999, "loss/policy": "text"}\n')
    with viewing(run) as client:
        status, headers, body = client.ask("/api/runs")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert headers["x-content-type-options"] == "nosniff"
        found = json.loads(body)["runs"][0]
        assert (found["name"], found["recipe"]) == (name, evil["summary"])
        assert b"\xe2\x80\xae" not in body  # as an escape only
        metrics = client.get("/api/runs/0/metrics")["metrics"]
        assert metrics == {"<b>\ud800": [None], "loss/policy": [None]}
        for path in ("/api/runs/..%2f..%2fetc/config", "/api/runs/0%00/config", "/api/runs/%2e%2e/config"):
            assert client.error(path)[0] == 404
