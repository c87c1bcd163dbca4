"""`spiral push`: the folders, and what a stand-in of the hub's API gets and refuses."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard

from commands import refused, spiral, tiny_run
from hub_server import TOKEN, HubServer
from spiral.core.storage import write_table
from spiral.runs import hub_upload
from spiral.runs.publication import without_paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, whose first file of games is of an earlier schema."""
    run = tmp_path_factory.mktemp("push") / "run"
    result = tiny_run(run, run__snapshots="[1]")
    assert result.status == 0, result.err
    file = run / "episodes" / "step-000001.parquet"
    table = pq.read_table(file).drop_columns(["attempt", "rewards"])
    metadata = {**table.schema.metadata, b"spiral_schema_version": b"5"}
    write_table(file, table.replace_schema_metadata(metadata))
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "<b>run", symlinks=True)
    return tmp_path / "<b>run"


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows `TOKEN`."""
    from huggingface_hub import constants

    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hub_upload, "WAIT_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def silent_about_the_token(result):
    """The result, after a check that no output holds the token."""
    assert TOKEN not in result.out + result.err
    return result


def test_the_folders(run, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    config = run / "config.toml"
    config.write_text(config.read_text().replace('path = "nano"', 'path = "/home/alice/secret/<i>nano"'))
    result = spiral("push", str(run), "--repo", "me/ttt", "--dry-run", "--json")
    assert (result.status, result.err) == (0, "")
    assert (result.json["step"], result.json["pushed"], result.json["left_out"]) == (2, [], [])
    model, episodes = run / "push" / "model", run / "push" / "episodes"
    assert {file.name for file in model.iterdir()} >= {"README.md", "config.json", "model.safetensors", "recipe.toml"}
    assert not {"state.json", "training", "manifest.json"} & {file.name for file in model.iterdir()}
    assert [file for file in model.iterdir() if b"alice" in file.read_bytes()] == [], "no path of this machine"
    card = (model / "README.md").read_text()
    for expected in (
        "datasets:\n- me/ttt-episodes\n",
        "model-index:\n- name: ttt\n",
        "<code>&lt;i&gt;nano</code> after step 2 of 2",
        "### Games against opponents",
        "spiral train recipe.toml --seed 0",
        "| `selfplay.episodes\\_per\\_step` | <code>8</code> |".replace("\\_", "_"),
        "torch 2.",
    ):
        assert expected in card, card
    assert "<i>" not in card
    again = spiral("push", str(run), "--repo", "me/ttt", "--dry-run", "--step", "1", "--no-episodes")
    assert again.status == 0
    assert "Would push the model of step 1." in again.out
    assert not episodes.exists()


def test_each_opponent_has_an_entry_of_its_own(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    file = copy / "evaluation" / "step-000002.json"
    values = json.loads(file.read_text())
    values["arena"] = [{**values["arena"][0], "opponent": name, "not_lost": rate}
                       for name, rate in (("random", 0.75), ("minimax", 0.25))]  # fmt: skip
    file.write_text(json.dumps(values))
    out = tmp_path / "out"
    assert spiral("push", str(copy), "--repo", "me/ttt", "--dry-run", "--out", str(out), "--no-episodes").status == 0
    results = ModelCard.load(out / "model" / "README.md").data.eval_results
    assert [(one.dataset_name, one.metric_value) for one in results] == [
        ("tictactoe against random", 0.75),
        ("tictactoe against minimax", 0.25),
    ]


def test_datasets_and_transformers_load_the_folders(run, tmp_path):
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    assert spiral("push", str(run), "--repo", "me/ttt", "--dry-run", "--out", str(out)).status == 0
    rows = load_dataset(str(out / "episodes"), "training", split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(set(rows["step"])) == [1, 2]
    assert rows.num_rows == sum(pq.read_metadata(file).num_rows for file in (run / "episodes").iterdir())
    assert (rows[0]["rewards"], rows[0]["file"]) == (None, "step-000001")
    assert rows[-1]["rewards"] == rows[-1]["returns"]
    games = load_dataset(str(out / "episodes"), "evaluation", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(games["file"]) == {"tictactoe-against-random"}
    assert AutoModelForCausalLM.from_pretrained(out / "model").config.model_type == "llama"


def test_what_the_hub_gets(run, hub):
    result = silent_about_the_token(spiral("push", str(run), "--repo", "ttt", "--private"))
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[1:] == [f"  {hub.url}/datasets/me/ttt-episodes", f"  {hub.url}/me/ttt"]
    model, episodes = hub.repos["models/me/ttt"], hub.repos["datasets/me/ttt-episodes"]
    assert (model["private"], episodes["private"]) == (True, True)
    assert model["files"]["model.safetensors"] == (run / "checkpoints" / "latest" / "model.safetensors").read_bytes()
    assert {"README.md", "training/step-000001.parquet", "training/step-000002.parquet"} <= set(episodes["files"])
    assert not any(TOKEN.encode() in content for repo in hub.repos.values() for content in repo["files"].values())
    assert not (run / "push").exists(), "the folders are removed when they have arrived"
    first = len(hub.uploads)
    again = silent_about_the_token(spiral("push", str(run), "--repo", "me/ttt", "--private"))
    assert again.status == 0
    assert len(hub.uploads) == first, "nothing large is sent twice"


def test_a_public_repository_does_not_become_a_private_one(run, hub):
    hub.repos["datasets/me/ttt-episodes"] = {"private": False, "files": {}, "commits": []}
    message = refused("push", str(run), "--repo", "me/ttt", "--private")
    assert "me/ttt-episodes is on the hub already and public" in message
    assert hub.uploads == []


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("GET /api/whoami", 401, "the hub does not know the token (401); run `hf auth login` again"),
        ("POST /api/repos/create", 403, "the token may not write to me/ttt-episodes (403)"),
        ("/preupload/", 404, "the hub has no place for me/ttt-episodes (404)"),
        ("/commit/", 409, "me/ttt-episodes conflicts with what is on the hub (409)"),
        ("/commit/", 418, "the hub refused me/ttt-episodes with status 418"),
    ],
)
def test_what_the_hub_refuses(run, hub, where, status, said):
    hub.answers[where] = [status] * 20
    result = silent_about_the_token(spiral("push", str(run), "--repo", "ttt"))
    assert (result.status, result.out, len(result.err.splitlines())) == (1, "", 1), result
    assert said in result.err
    assert "models/me/ttt" not in hub.repos or hub.repos["models/me/ttt"]["files"] == {}


def test_a_hub_that_falls_over_is_asked_again(run, hub):
    hub.answers["/commit/"] = [500]
    assert silent_about_the_token(spiral("push", str(run), "--repo", "ttt")).status == 0
    assert hub.repos["models/me/ttt"]["commits"] == ["Step 2 of a run of SPIRAL"]


def test_a_failed_push_goes_on_where_it_stopped(run, hub):
    hub.answers["POST /api/models/me/ttt/commit/"] = [503] * 50
    result = silent_about_the_token(spiral("push", str(run), "--repo", "ttt"))
    assert result.status == 1
    assert "status 503; run the same command again, which does not send twice what has arrived" in result.err
    hub.answers.clear()
    sent = len(hub.uploads)
    assert spiral("push", str(run), "--repo", "ttt").status == 0
    assert len(hub.uploads) == sent
    assert "model.safetensors" in hub.repos["models/me/ttt"]["files"]


def test_wrong_use(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert "there is no token for the Hugging Face hub; run `hf auth login`" in refused(
        "push", str(run), "--repo", "me/x"
    )
    assert "--repo: " in refused("push", str(run), "--repo", "../../x")
    assert "has kept no model of step 7; it has those of steps " in refused(
        "push", str(run), "--repo", "me/x", "--step", "7", "--dry-run"
    )
    (tmp_path / "mine" / "model").mkdir(parents=True)
    message = refused("push", str(run), "--repo", "me/x", "--dry-run", "--out", str(tmp_path / "mine"))
    assert "is there already, and not of an earlier push; choose another --out" in message
    weights = (run / "checkpoints" / "latest").resolve() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "is damaged: model.safetensors does not match" in refused("push", str(run), "--repo", "me/x", "--dry-run")


def test_a_damaged_file_of_games_is_left_out(run):
    (run / "episodes" / "step-000002.parquet").write_bytes(b"PAR1")
    result = spiral("push", str(run), "--repo", "me/x", "--dry-run")
    assert result.status == 0
    assert "Note: left out " in result.out
    assert json.loads((run / "push" / "push.json").read_text()) == {"run": "<b>run", "step": 2}


def test_paths_are_shortened():
    given = {"a": ["/home/me/x.jsonl", "b/c"], "/data/m": 3, "text": "win / lose", "home": "~/y"}
    assert without_paths(given) == {"a": ["x.jsonl", "b/c"], "m": 3, "text": "win / lose", "home": "y"}
