"""From results to Markdown, CSV and pictures."""

from __future__ import annotations

import json

import pytest

from spiral.experiments.jobs import Prepared
from spiral.experiments.sweep import Job
from spiral.experiments.tables import (
    Curves,
    Entry,
    Line,
    Results,
    Table,
    load_tables,
    markdown,
    mean_entry,
    paired_entry,
    write_tables,
)

TABLE = Table(
    name="wins",
    title="Wins",
    entries=[
        Entry(row="base", column="Kuhn", value=0.25, low=0.2, high=0.3, n=400, paper=0.187),
        Entry(row="base", column="Snake", value=None),
        Entry(row="kuhn", column="Kuhn", value=0.5),
    ],
    note="One seed.",
)
CURVES = Curves(name="length", title="Length", lines=[Line(panel="tokens", label="RAE", x=[1, 2], y=[3.0, 4.5])])


def results(tmp_path, found):
    """Results with one command for each `(name, item, seed, what it printed or None)`."""
    jobs = []
    for name, item, seed, printed in found:
        job = Job(name=name, item=item, seed=seed, words=("evaluate",), gpu_hours=0.0, hours_from="")
        directory = tmp_path / f"{name}-{item}-{seed}"
        jobs.append(Prepared(job=job, key=directory.name, directory=directory, words=(), needs=()))
        if printed is not None:
            directory.mkdir()
            (directory / "result.json").write_text(json.dumps(printed))
            (directory / "job.json").write_text('{"status": "done"}')
    return Results(scale="laptop", seeds=(14, 42), jobs=jobs)


def test_markdown_has_the_papers_figures_beside_ours():
    assert markdown(TABLE) == (
        "**Wins**\n"
        "\n"
        "|  | Kuhn | Kuhn (paper, v3) | Snake |\n"
        "|---|---|---|---|\n"
        "| base | 25.0% (20.0% to 30.0%) | 18.7% | not done |\n"
        "| kuhn | 50.0% |  |  |\n"
        "\n"
        "One seed.\n"
    )
    assert markdown(CURVES) == "**Length**\n\n![Length](length.png)\n"


def test_files_are_the_same_each_time(tmp_path):
    files = write_tables(tmp_path / "results", [TABLE, CURVES])
    assert [file.name for file in files] == ["wins.csv", "wins.md", "wins.png", "length.csv", "length.png"]
    assert (tmp_path / "results" / "wins.csv").read_text().splitlines()[:2] == [
        "row,column,value,low,high,n,paper",
        "base,Kuhn,0.25,0.2,0.3,400,0.187",
    ]
    assert (
        tmp_path / "results" / "length.csv"
    ).read_text() == "panel,line,step,value\ntokens,RAE,1,3.0\ntokens,RAE,2,4.5\n"
    before = [file.read_bytes() for file in files]
    assert before[2][:4] == before[4][:4] == b"\x89PNG"
    write_tables(tmp_path / "results", [TABLE, CURVES])
    assert [file.read_bytes() for file in files] == before


def test_nothing_done_gives_a_table_and_no_picture(tmp_path):
    table = Table(name="wins", title="Wins", entries=[Entry(row="base", column="Kuhn", value=None, paper=0.5)])
    assert "| base | not done | 50.0% |" in markdown(table)
    assert [file.suffix for file in write_tables(tmp_path, [table])] == [".csv", ".md"]


def test_one_seed_has_its_own_interval_and_several_have_students(tmp_path):
    won = {"win": 0.5, "win_low": 0.4, "win_high": 0.6, "episodes": 400, "seat_returns": [0.25, -0.5]}
    found = results(
        tmp_path,
        [("games", "base", 14, won), ("games", "kuhn", 14, {"win": 0.25}), ("games", "kuhn", 42, {"win": 0.75}),
         ("games", "late", 14, None)],
    )  # fmt: skip
    assert found.items("games") == ["base", "kuhn", "late"]
    one = found.entry("Base", "win", "games", "base", key="win", n="episodes", paper=0.2)
    assert one == Entry(row="Base", column="win", value=0.5, low=0.4, high=0.6, n=400, paper=0.2)
    assert found.entry("Base", "second", "games", "base", key="seat_returns.1").value == -0.5
    both = found.entry("Kuhn", "win", "games", "kuhn", key="win")
    assert (both.value, both.n) == (0.5, 2)
    assert both.low == pytest.approx(0.5 - 12.706 * 0.25, abs=1e-3)  # t with one degree of freedom, sd / sqrt(2) = 0.25
    assert found.entry("Late", "win", "games", "late", key="win").value is None
    assert mean_entry("a", "b", [None, 0.5]) == Entry(row="a", column="b", value=0.5, n=1)


def test_arms_are_compared_with_a_control_seed_by_seed(tmp_path):
    """The arms spread by 0.4 between seeds, but each pair differs by 0.1, 0.05 and 0.15."""
    wins = {"real": (0.3, 0.45, 0.75), "coin": (0.2, 0.4, 0.6)}
    found = [
        ("games", arm, seed, {"win": win}) for arm in wins for seed, win in zip((14, 42, 100), wins[arm], strict=True)
    ]
    found.append(("games", "real", 101, {"win": 0.9}))
    found.append(("games", "coin", 101, None))
    arms = {arm: ("games", arm) for arm in wins}
    values, differences = results(tmp_path, found).against("coin", arms, {"wins": "win"})
    assert [(entry.row, round(entry.value, 6), entry.n) for entry in values] == [("real", 0.6, 4), ("coin", 0.4, 3)]
    (difference,) = differences
    assert (difference.row, difference.n) == ("real - coin", 3)
    assert difference.value == pytest.approx(0.1)
    assert difference.high - difference.value == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-3)
    assert values[1].high - values[1].value == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-3)
    with pytest.raises(ValueError, match="the control 'none' is none of the rows; expected one of real, coin"):
        results(tmp_path / "other", []).against("none", arms, {"wins": "win"})


def test_pairs_that_are_not_done_are_no_zero(tmp_path):
    assert paired_entry("a - b", "wins", {14: 0.5}, {42: 0.5}).value is None
    one = paired_entry("a - b", "wins", {14: 0.5}, {14: 0.25})
    assert (one.value, one.low, one.n) == (0.25, None, 1)


def test_faults_of_a_table_are_named(tmp_path):
    (tmp_path / "table.py").write_text("def tables(results):\n    return [1 / 0]\n")
    with pytest.raises(ValueError, match=r"table\.py failed: ZeroDivisionError: division by zero"):
        load_tables(tmp_path, results(tmp_path, []))
    broken = results(tmp_path, [("games", "", 14, {"win": 1})])
    (broken.jobs[0].directory / "result.json").write_text("[")
    with pytest.raises(ValueError, match="is damaged; remove"):
        broken.of("games")


def tournament(score, game="tictactoe"):
    """The JSON form of a tournament of two players in one game."""
    matrix = [[0.5, score], [1 - score, 0.5]]
    spread = {"score": matrix, "score_low": [[0.5, score - 0.1]], "score_high": [[0.5, score + 0.1]]}
    return {"game": game, "games": [[0, 400], [400, 0]], **spread}


def test_the_score_of_a_pair_in_several_games(tmp_path):
    both = {"seed": 0, "games": [tournament(0.5), tournament(0.7, "kuhn_poker")]}
    found = results(tmp_path, [("games", "base", 14, both), ("games", "late", 14, None)])
    first, second, mean = found.pair("Base", "games", "base", paper={"kuhn_poker": 0.6, "mean": 0.3})
    assert first == Entry(row="Base", column="tictactoe", value=0.5, low=0.4, high=0.6, n=400)
    assert (second.column, second.value, second.paper) == ("kuhn_poker", 0.7, 0.6)
    assert (mean.column, mean.n, mean.paper) == ("mean", 800, 0.3)
    assert (mean.value, mean.low) == pytest.approx((0.6, 0.6 - 0.1 * 2**0.5 / 2))
    assert found.pair("Late", "games", "late", paper={"mean": 0.3}) == [
        Entry(row="Late", column="mean", value=None, paper=0.3)
    ]


def test_the_score_of_a_pair_over_seeds(tmp_path):
    found = results(tmp_path, [("games", "", seed, tournament(score)) for seed, score in ((14, 0.4), (42, 0.6))])
    (entry,) = found.pair("Base", "games")
    assert (entry.value, entry.n) == (0.5, 2)
    assert entry.high == pytest.approx(0.5 + 12.706 * 0.1, abs=1e-3)
