"""What evaluations found, as the page asks for it."""

from __future__ import annotations

import json
import os

import pytest

from spiral.core.files import write_jsonl
from viewed_runs import made_run, viewing


def arena(game, opponent, win):
    rates = {"win": win, "draw": 0.1, "loss": 0.9 - win, "illegal": 0.05}
    bounds = {f"{name}_{end}": rates[name] + shift for name in ("win", "draw", "loss") for end, shift in
              (("low", -0.01), ("high", 0.01))}  # fmt: skip
    return {"game": game, "opponent": opponent, "episodes": 40, **rates, **bounds}


def benchmark(task, accuracy):
    ends = {"accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1}
    return {"task": task, "accuracy": accuracy, **ends, "items": 3, "truncated": 0, "unboxed": 0, "response_length": 9}


def attempt(number, correct, reply, task="sums"):
    return {
        "id": f"{task}-{number}", "sample": 0, "prompt": f"What is {number} + 1?", "reply": reply,
        "answer": str(number + 1), "extracted": reply[-2:-1], "correct": correct, "truncated": False, "tokens": 5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = made_run(tmp_path_factory.mktemp("runs") / "mine", steps=2, episodes=1)
    directory = path / "evaluation"
    exact = {"game": "kuhn_poker", "exploitability": 0.25, "nash_conv": 0.5}
    for step, win, right in ((0, 0.3, 1), (2, 0.7, 2)):
        records = directory / f"step-{step:06d}"
        records.mkdir(parents=True)
        values = {
            "arena": [arena("tictactoe", "random", win)],
            "exploitability": [{**exact, "exploitability": 0.25 - step / 10}],
            "benchmarks": [benchmark("sums", right / 3), benchmark("SUMS", 0.5)],
        }
        (directory / f"step-{step:06d}.json").write_text(json.dumps(values))
        states = [
            {"seat": 0, "information_state": "J-:", "probabilities": {"check": 0.6, "bet": 0.2}, "illegal": 0.2},
            {"seat": 1, "information_state": "K-:bet", "probabilities": {"call": 1.0, "fold": 0.0}, "illegal": 0.0},
            {"seat": 1, "information_state": "nonsense", "probabilities": {"call": 1.0}, "illegal": 0.0},
        ]
        write_jsonl(records / "kuhn_poker-states.jsonl", states)
        replies = [
            (0, True, "\\boxed{1}"),
            (1, step == 2, "Case 1: x. Case 2: y. \\boxed{2}"),
            (2, False, "<b>\\boxed{9}"),
        ]
        write_jsonl(records / "sums.jsonl", [attempt(*reply) for reply in replies])
        with (records / "sums.jsonl").open("a") as file:
            file.write('{"id": "cut')
    (directory / "step-000001.json").write_text('{"arena": 3}')
    return path


@pytest.fixture(scope="module")
def client(run):
    with viewing(run) as found:
        yield found


def test_numbers_by_step_and_a_damaged_file(client):
    found = client.get("/api/runs/0/evaluation")
    assert (found["steps"], found["notices"]) == ([0, 2], ["step-000001.json is damaged and left out."])
    game = found["games"][1]
    assert (game["step"], game["game"], game["opponent"], game["illegal"]) == (2, "tictactoe", "random", 0.05)
    assert game["win"] == pytest.approx({"rate": 0.7, "low": 0.69, "high": 0.71})
    assert [row["exploitability"]["rate"] for row in found["exploitability"]] == pytest.approx([0.25, 0.05])
    first = found["benchmarks"][0]
    assert (first["task"], first["accuracy"]["rate"], first["items"]) == ("sums", pytest.approx(1 / 3), 3)
    assert (found["payoffs"], found["results"]) == ([], {"games": [], "exploitability": []})


def test_kuhn_s_strategy_beside_all_equilibria(client):
    rows = client.get("/api/runs/0/evaluation")["kuhn"]
    assert len(rows) == 4
    jack, king = rows[0], rows[1]
    assert (jack["information_state"], jack["bet_probability"]) == ("J-:", pytest.approx(0.25))  # of the legal ones
    assert jack["equilibrium"] == pytest.approx([0.0, 1 / 3])
    assert (king["player"], king["bet_probability"], king["equilibrium"]) == (1, 1.0, [1.0, 1.0])


def test_replies_to_problems_with_filters_and_pairs(client):
    address = "/api/runs/0/evaluation/items"
    found = client.get(f"{address}?task=sums")
    assert (found["total"], [row["step"] for row in found["rows"]]) == (3, [2, 2, 2])
    assert found["choices"] == {"task": ["sums", "SUMS"], "step": [0, 2]}
    assert [row["correct"] for row in found["rows"]] == [True, True, False]
    assert [row["gold"] for row in found["rows"]] == ["1", "2", "3"]
    assert [row["patterns"] for row in found["rows"]] == [[], ["case_analysis"], []]
    assert client.get(f"{address}?task=sums&correct=0")["rows"][0]["reply"] == "<b>\\boxed{9}"
    assert client.get(f"{address}?q=CASE+2")["total"] == 1
    assert client.get(f"{address}?task=sums&offset=2&limit=1")["rows"][0]["item"] == "sums-2"
    assert [row["before"]["step"] for row in found["rows"]] == [0, 0, 0]
    pairs = client.get(f"{address}?change=learned")
    assert (pairs["total"], pairs["rows"][0]["item"]) == (1, "sums-1")
    assert (pairs["rows"][0]["before"]["correct"], pairs["rows"][0]["before"]["step"]) == (False, 0)
    assert client.get(f"{address}?change=changed")["total"] == 1
    assert client.get(f"{address}?change=lost")["total"] == 0
    assert client.get(f"{address}?step=0&task=sums")["rows"][1]["before"] is None
    assert client.error(f"{address}?change=worse")[0] == 400
    assert client.get(f"{address}?task=SUMS")["total"] == 0  # its records are gone
    assert client.get(f"{address}?task=sums&step=1")["total"] == 0
    assert client.error(f"{address}?limit=0")[0] == 400


def benchmarked(run, name, *, model="mine", weights="", items=2, samples=1, seed=0, right=(), date="2026-01-01"):
    """What `spiral benchmark` writes."""
    directory = run / "results" / f"benchmark-{name}"
    directory.mkdir(parents=True)
    replies = [attempt(number, number in right, f"{model}: \\boxed{{{number}}}", "algebra") for number in range(items)]
    write_jsonl(directory / "items.jsonl", replies)
    player = {"name": model, "weights_sha256": weights, "sampling": {}}
    values = {
        "schema_version": 1, "kind": "benchmark", "date": date,
        "settings": {"model": player, "task": "algebra", "seed": seed},
        "result": {**benchmark("algebra", len(right) / items), "items": items, "samples": samples},
    }  # fmt: skip
    (directory / "result.json").write_text(json.dumps(values))
    return directory


def test_spiral_benchmark_of_a_run_and_its_checkpoints(tmp_path):
    run = made_run(tmp_path / "mine", steps=2, episodes=1)
    for step, weights in ((1, "aa"), (2, "bb")):
        (run / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        manifest = json.dumps({"model.safetensors": weights, "reference/model.safetensors": "x"})
        (run / "checkpoints" / f"step-{step:06d}" / "manifest.json").write_text(manifest)
    benchmarked(run, "a", model="mine/checkpoints/step-000000", weights="cc", right=(0,))
    benchmarked(run, "b", weights="bb", right=(1,))  # the run itself, whose last checkpoint has these weights
    benchmarked(run, "c", weights="bb", right=(), date="2025-01-01")  # the same, done before
    benchmarked(run, "d", weights="gone", seed=7)  # asked in another way, by a checkpoint that was deleted
    benchmarked(run, "e", model="mine@1", weights="aa", right=(0, 1))
    plain, other = "algebra: 2 problems, 1 sample", "algebra: 2 problems, 1 sample, setting 2"
    with viewing(run) as client:
        found = client.get("/api/runs/0/evaluation")["benchmarks"]
        assert [(row["task"], row["step"], row["accuracy"]["rate"]) for row in found] == [
            (other, None, 0.0), (plain, 0, 0.5), (plain, 1, 1.0), (plain, 2, 0.5)
        ]  # fmt: skip
        page = client.get("/api/runs/0/evaluation/items")
        assert page["choices"] == {"task": [other, plain], "step": [-1, 0, 1, 2]}
        assert [(row["step"], row["correct"], row["gold"]) for row in page["rows"]] == [
            (None, False, "1"), (None, False, "2"), (2, False, "1"), (2, True, "2")
        ]  # fmt: skip
        assert page["rows"][3]["prompt"] == "What is 1 + 1?"
        assert page["rows"][3]["before"]["reply"] == "mine/checkpoints/step-000000: \\boxed{1}"
        assert [row["before"] for row in page["rows"][:2]] == [None, None]
        assert client.get("/api/runs/0/evaluation/items?change=lost")["rows"][0]["item"] == "algebra-0"
        assert client.get("/api/runs/0/evaluation/items?step=-1")["total"] == 2
        assert client.get("/api/runs/0/evaluation")["notices"] == []


def test_hostile_records_are_shown_in_bounded_time(tmp_path):
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    directory = benchmarked(run, "hostile")
    rows = [
        {"id": {"a": 1}, "sample": [1], "prompt": None, "reply": 7, "correct": "yes"},
        {"id": "long", "reply": "x" * 99_990 + " Case 1: a. Case 2: b." + " or" * 800_000, "prompt": "\u202e<script>"},
    ]
    (directory / "items.jsonl").write_text("\n".join([json.dumps(rows[0]), "[" * 50_000, json.dumps(rows[1]), '{"id']))
    with viewing(run) as client:
        page = client.get("/api/runs/0/evaluation/items")
        assert [(row["reply"][:5], row["labelled"], row["patterns"]) for row in page["rows"]] == [
            ("7", 1, []), ("xxxxx", 100_000, [])
        ]  # fmt: skip
        assert len(page["rows"][1]["reply"]) == 2_000_000
        assert client.get("/api/runs/0/evaluation/items?q=%3CSCRIPT")["total"] == 1


def test_results_that_are_not_whole_are_said(tmp_path):
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    (benchmarked(run, "running") / "result.json").unlink()
    (benchmarked(run, "damaged") / "result.json").write_text('{"schema_version": 1, "result": {"task": 3}}')
    (benchmarked(run, "list") / "result.json").write_text("[]")
    foreign = benchmarked(tmp_path / "foreign", "x")
    linked = benchmarked(run, "linked", right=(0,))
    (linked / "items.jsonl").unlink()
    (linked / "items.jsonl").symlink_to(foreign / "items.jsonl")
    (run / "results" / "benchmark-elsewhere").symlink_to(foreign)
    with viewing(run) as client:
        found = client.get("/api/runs/0/evaluation")
        assert [row["accuracy"]["rate"] for row in found["benchmarks"]] == [0.5]
        assert found["notices"] == [
            "results/benchmark-damaged/result.json is damaged, or of another version, and left out.",
            "results/benchmark-elsewhere/result.json is a link out of the run and is not read.",
            "results/benchmark-list/result.json is damaged, or of another version, and left out.",
            "results/benchmark-running has 2 replies and no result yet; it is shown once `spiral benchmark` has"
            " finished.",
        ]
        assert client.get("/api/runs/0/evaluation/items")["total"] == 0


def test_the_latest_tournament_of_each_game(run, client):
    values = {
        "game": "kuhn_poker", "episodes": 20, "seed": 3, "players": ["runs/a", "random"], "labels": ["a", "random"],
        "payoff": [[None, 0.5], [-0.5, None]], "payoff_low": [[None, 0.2], [-0.8, None]],
        "payoff_high": [[None, 0.8], [-0.2, None]], "games": [[0, 20], [20, 0]],
        "elo": [100.0, 0.0], "elo_low": [50.0, 0.0], "elo_high": [150.0, 0.0],
    }  # fmt: skip
    for name, change, age in (("old", {"episodes": 2}, 100), ("new", {}, 0), ("other", {"game": "tictactoe"}, 50)):
        file = run / "results" / f"tournament-{name}" / "tournament.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({**values, **change}))
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    first, second = client.get("/api/runs/0/evaluation")["payoffs"]
    assert (first["kind"], first["players"], first["episodes"], first["seed"]) == (
        "tournament", ["a", "random"], 20, 3
    )  # fmt: skip
    assert (first["matrix"], first["games"]) == ([[None, 0.5], [-0.5, None]], [[0, 20], [20, 0]])
    assert (first["low"][0][1], first["high"][0][1], first["left_out"]) == (0.2, 0.8, 0)
    assert first["ratings"][0] == {"name": "a", "rating": 100.0, "low": 50.0, "high": 150.0}
    assert second["game"] == "tictactoe"
    newest = run / "results" / "tournament-new" / "tournament.json"
    newest.write_text('{"players": []')
    found = client.get("/api/runs/0/evaluation")
    assert found["notices"][-1] == "results/tournament-new/tournament.json cannot be read: JSONDecodeError."
    assert [table["episodes"] for table in found["payoffs"]] == [20, 2]


def evaluated(run, kind, name, settings, result, *, model="mine"):
    """What `spiral evaluate` and `spiral exploitability` write."""
    directory = run / "results" / f"{kind}-{name}"
    directory.mkdir(parents=True)
    values = {"schema_version": 1, "kind": kind, "settings": {"model": {"name": model}, **settings}, "result": result}
    (directory / "result.json").write_text(json.dumps(values))
    return directory


def test_results_of_commands_stand_beside_those_of_training(tmp_path):
    run = made_run(tmp_path / "mine", steps=2, episodes=1)
    against = {"opponent": {"name": "random"}, "game": "tictactoe", "episodes": 40, "seed": 7}
    for step, win in ((2, 0.7), (0, 0.3)):
        more = {"played": 38, "not_played": 2, "mean_return": win, "mean_return_low": None, "mean_return_high": None}
        values = {**arena("tictactoe", "random", win), **more}
        evaluated(run, "evaluate", f"step{step}", against, values, model=f"mine@{step}")
    other = {**arena("tictactoe", "random", 0.5), "played": 40, "not_played": 0}
    evaluated(run, "evaluate", "b", {**against, "seed": 8}, other, model="mine@2")
    alone = {"game": "problems/sums", "best": 0.25, "best_low": 0.2, "best_high": 0.3, "played": 9, "not_played": 0}
    evaluated(run, "evaluate", "z", {"game": "problems/sums", "episodes": 9, "seed": 0}, alone)
    exact = {"game": "kuhn_poker", "exploitability": 0.5, "nash_conv": 1.0, "illegal_mass": 0.0, "method": "scored"}
    setup = {"game": "kuhn_poker", "samples": None, "seed": 0}
    found = evaluated(run, "exploitability", "k", setup, exact, model="mine@1")
    state = {"seat": 0, "information_state": "J-:", "probabilities": {"check": 0.5, "bet": 0.5}}
    broken = [{"seat": "x"}, {"seat": 0, "information_state": "J-:", "probabilities": 3}, [], {}]
    write_jsonl(found / "items.jsonl", [*broken, state])
    sampled = {"game": "tictactoe", "exploitability": None, "optimal_share": 0.9, "method": "sampled", "samples": 20}
    evaluated(run, "exploitability", "t", {**setup, "game": "tictactoe"}, sampled)
    with viewing(run) as client:
        found = client.get("/api/runs/0/evaluation")
    games, values = found["results"]["games"], found["results"]["exploitability"]
    assert [(row["setup"], row["step"], row["game"], row["seed"]) for row in games] == [
        (0, 2, "tictactoe", 8), (1, 0, "tictactoe", 7), (1, 2, "tictactoe", 7), (2, None, "problems/sums", 0)
    ]  # fmt: skip
    after = games[2]
    assert (after["opponent"], after["episodes"], after["not_played"]) == ("random", 38, 2)
    assert after["win"] == pytest.approx({"rate": 0.7, "low": 0.69, "high": 0.71})
    assert after["mean_return"] == {"rate": 0.7, "low": None, "high": None}
    assert (games[3]["opponent"], games[3]["win"]["rate"], games[3]["loss"]) == (None, 0.25, None)
    assert [(row["step"], row["exploitability"], row["optimal_share"], row["method"]) for row in values] == [
        (1, {"rate": 0.5, "low": None, "high": None}, None, "scored"),
        (None, None, {"rate": 0.9, "low": None, "high": None}, "sampled"),
    ]
    assert [(row["step"], row["bet_probability"]) for row in found["kuhn"]] == [(1, 0.5)]
    assert found["notices"] == []


@pytest.mark.parametrize("number", ["1" + "0" * 400, '"much"', "[1]", "{}"])
def test_numbers_that_are_none(number, tmp_path):
    run = made_run(tmp_path / "mine", steps=1, episodes=1)
    against = {"opponent": {"name": "random"}, "game": "tictactoe", "episodes": 40, "seed": 7}
    result = {**arena("tictactoe", "random", 0.5), "played": 40, "not_played": 0}
    (benchmarked(run, "x", right=(0,)) / "result.json").write_text(
        '{"schema_version": 1, "settings": {"model": {"name": "m"}}, "result": {"task": "a", "items": 1, "samples": 1,'
        f' "accuracy": {number}, "accuracy_low": 0, "accuracy_high": 1}}}}'
    )
    for kind in ("evaluate", "exploitability"):
        file = evaluated(run, kind, "x", against, {**result, "exploitability": 0.25}) / "result.json"
        file.write_text(file.read_text().replace("0.5,", f"{number},").replace("0.25", number))
    (run / "evaluation").mkdir()
    values = {"arena": [arena("tictactoe", "random", 0.5)], "exploitability": []}
    (run / "evaluation" / "step-000001.json").write_text(json.dumps(values).replace("0.5,", f"{number},"))
    with viewing(run) as client:
        found = client.get("/api/runs/0/evaluation")
    assert (found["games"], found["benchmarks"]) == ([], [])
    assert found["results"] == {"games": [], "exploitability": []}
    assert found["notices"] == [
        "step-000001.json is damaged and left out.",
        *(
            f"results/{kind}-x/result.json is damaged, or of another version, and left out."
            for kind in ("benchmark", "evaluate", "exploitability")
        ),
    ]
