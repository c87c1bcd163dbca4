"""W&B, trackio and MLflow: their real clients without a network, a game of each saved step, the same run on resume."""

from __future__ import annotations

import importlib.util
import json
import sqlite3

import pytest

from commands import spiral, tiny_run
from made_up import new_episode, new_turn
from spiral.core.records import Turn
from spiral.runs.directory import read_metrics
from spiral.runs.trackers import Trackers, hosted
from spiral.runs.trackers.hosted import flat_settings, game_rows, kept_name, shown_game

SILENT = {
    "evaluation__games": "[]",
    "evaluation__exploitability": "[]",
    "run__guards": "[]",
    "run__checkpoint_every": "2",
    "run__steps": "2",
}
RETURN = "selfplay/tictactoe/player0/return"
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e\ud800" + "x" * 1_000_000


def needs(module):
    """Skips a test where a client is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def tracked(run, name, **options):
    """A run of two steps with a tracker, its recipe changed to three steps, and resumed."""
    keys = "{" + ", ".join(f"{key} = '{value}'" for key, value in options.items()) + "}"
    result = tiny_run(run, run__trackers=f"['{name}']", run__tracker_options=f"{{{name} = {keys}}}", **SILENT)
    assert (result.status, [line for line in result.err.splitlines() if "tracker" in line]) == (0, []), result
    resumed = spiral("train", "--resume", "--run-dir", str(run), "--steps", "3", "--json")
    assert (resumed.status, [line for line in resumed.err.splitlines() if "tracker" in line]) == (0, []), resumed
    assert resumed.json["step"] == 3
    return [row[RETURN] for row in read_metrics(run)]


def test_one_game_a_step_and_its_text_is_harmless():
    turn = Turn(player=1, observation="o", reply=HOSTILE, action=None)
    lost = new_episode((0.0, 0.0), (new_turn(0),), outcome="not_played", fault="no network")
    played = new_episode((1.0, -1.0), (new_turn(0), turn))
    assert shown_game(1, [lost]) is None
    assert [shown_game(step, [lost, played]) for step in (1, 2, 3)] == [played] * 3
    first, second = game_rows(7, played)
    assert (first["step"], first["turn"], first["action"], first["tokens"]) == (7, 0, "0", 2)
    assert second["reply"].startswith("<script>alert(1)</script>\\u001b[2J\\u202e\\ud800xxx")
    assert second["reply"].endswith("... (990,031 more characters)")
    assert (second["legal"], second["action"], second["return"]) == (False, "", -1.0)
    many = [new_episode((1.0, -1.0), (new_turn(0),), seed=seed) for seed in range(8)]
    assert len({shown_game(step, many).seed for step in range(30)}) > 4


def test_settings_have_plain_names():
    recipe = {
        "summary": "a run",
        "run": {"steps": 3, "trackers": ["mlflow"]},
        "opponent": {"endpoint:a b": {"temperature": 1.0}},
    }
    assert flat_settings(recipe) == {
        "summary": "a run",
        "run.steps": "3",
        "run.trackers": '["mlflow"]',
        "opponent": '{"endpoint:a b": {"temperature": 1.0}}',
    }


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_client_is_refused_before_the_run_begins(name, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(hosted.importlib.util, "find_spec", lambda of, *rest: None if of == name else find(of, *rest))
    result = spiral("train", "nano", "--run-dir", str(tmp_path / "run"), "--set", f"run.trackers=['{name}']")
    assert result.status == 2
    assert f"run.trackers has '{name}', whose client is not installed; run `pip install {name}" in result.err
    assert not (tmp_path / "run").exists()


def test_options_are_checked(tmp_path):
    result = spiral("train", "nano", "--dry-run", "--set", "run.trackers=['wandb']", "--set",
                    "run.tracker_options={wandb = {projekt = 'x'}}")  # fmt: skip
    assert result.status == 2
    assert "'wandb' has no option 'projekt'; did you mean 'project'?" in result.err
    with pytest.raises(
        ValueError, match=r"tracker 'wandb' cannot be made: ValueError: got mode 'off'; expected one of"
    ):
        Trackers.from_names(["wandb"], {"wandb": {"mode": "off"}}, tmp_path)


def test_a_damaged_name_is_no_new_run(tmp_path):
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "trackio.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"trackio\.json is damaged; remove it to begin a new run"):
        kept_name(tmp_path, "trackio")


@needs("trackio")
def test_trackio(tmp_path, monkeypatch):
    import trackio.sqlite_storage
    import trackio.utils

    store = tmp_path / "store"
    for module in (trackio, trackio.utils, trackio.sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", store)
    returns = tracked(tmp_path / "run", "trackio", project="games")
    name = kept_name(tmp_path / "run", "trackio")
    assert name.startswith("run-")
    found = sqlite3.connect(store / "games.db")
    rows = found.execute("select run_name, step, json_extract(metrics, ?) from metrics order by id", [f'$."{RETURN}"'])
    assert rows.fetchall() == [(name, step, value) for step, value in enumerate(returns, 1)]
    assert len([*store.rglob("*-game.jsonl")]) == 3, "a trace for each step whose games are saved"


@pytest.mark.slow
@needs("wandb")
def test_wandb_offline(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "run"
    returns = tracked(run, "wandb", mode="offline", project="games")
    name = kept_name(run, "wandb")
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert [folder.name.endswith(name) for folder in folders] == [True, True]
    logged = [row for folder in folders for row in history(folder / f"run-{name}.wandb")]
    assert [(row["step"], row[RETURN]) for row in logged] == list(enumerate(returns, 1))
    assert [row["game/_type"] for row in logged] == ["table-file"] * 3
    tables = [json.loads(file.read_text()) for folder in folders for file in folder.rglob("*.table.json")]
    assert len(tables) == 3
    assert all(table["columns"][:4] == ["step", "game", "turn", "player"] for table in tables)


def history(file):
    """The rows that W&B's client wrote for a later upload, in records as LevelDB's log has them."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, rows = file.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
    return rows


@needs("wandb")
@pytest.mark.slow
def test_wandb_without_a_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="W&B has no key on this machine; run `wandb login`, or set its option mode"):
        Trackers.from_names(["wandb"], {}, tmp_path)


@pytest.mark.slow
@needs("mlflow")
def test_mlflow(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "run"
    returns = tracked(run, "mlflow", experiment="games")
    name = kept_name(run, "mlflow")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("games").experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (name, "run", "FINISHED")
    assert [(point.step, point.value) for point in client.get_metric_history(name, RETURN)] == list(
        enumerate(returns, 1)
    )
    assert (found.data.params["run.steps"], found.data.params["model.path"]) == ("2", "nano")
    files = [item.path for item in client.list_artifacts(name, "games")]
    assert files == [f"games/step-{step:06d}.json" for step in (1, 2, 3)]
    table = json.loads((run / "mlflow" / "artifacts" / name / "artifacts" / files[0]).read_text())
    assert table["columns"][:4] == ["step", "game", "turn", "player"]
    recipe = json.loads((run / "mlflow" / "artifacts" / name / "artifacts" / "recipe.json").read_text())
    assert recipe["run"]["steps"] == 3
