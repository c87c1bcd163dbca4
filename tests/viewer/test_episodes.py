"""The table of episodes: filters, search, sorting and pages agree with the records."""

from __future__ import annotations

import urllib.parse

import pytest

from spiral.core.storage import read_episodes, write_episodes
from spiral.viewer import episodes as table_module
from spiral.viewer.episodes import EpisodeTable, Filters
from spiral.viewer.run import ViewedRun
from viewed_runs import made_run, played, viewing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = made_run(tmp_path_factory.mktemp("runs") / "mine", steps=3)
    games = [*played("tictactoe", 4, seed=1, opponent="minimax"), *played("leduc_poker", 4, seed=5)]
    write_episodes(path / "episodes" / "step-000004.parquet", games)
    return path


@pytest.fixture(scope="module")
def records(run):
    """Every episode with its step and number."""
    return [
        (int(file.stem[5:]), number, episode)
        for file in sorted((run / "episodes").iterdir())
        for number, episode in enumerate(read_episodes(file))
    ]


@pytest.fixture(scope="module")
def client(run):
    with viewing(run) as found:
        yield found


def tokens(episode):
    return sum(len(turn.generation.token_ids) for turn in episode.turns)


def first_learner(episode):
    return [seat.trainable for seat in episode.seats].index(True)


FILTERS = {
    "game=leduc_poker": lambda step, episode: episode.game == "leduc_poker",
    "opponent=minimax": lambda step, episode: episode.opponent == "minimax",
    "outcome=finished&game=kuhn_poker": lambda step, episode: episode.game == "kuhn_poker",
    "illegal=1": lambda step, episode: episode.outcome == "illegal_move",
    "illegal=0": lambda step, episode: episode.outcome != "illegal_move",
    "result=win&player=1": lambda step, episode: episode.result(1) == 1,
    "result=draw": lambda step, episode: episode.result(first_learner(episode)) == 0,
    "result=loss": lambda step, episode: episode.result(first_learner(episode)) == -1,
    "player=1": lambda step, episode: episode.seats[1].trainable,
    "step_min=2&step_max=3": lambda step, episode: step in (2, 3),
    "turns_min=5": lambda step, episode: len(episode.turns) >= 5,
    "tokens_min=14": lambda step, episode: tokens(episode) >= 14,
    "q=FOLD": lambda step, episode: any("fold" in turn.reply for turn in episode.turns),
    "q=fold&game=leduc_poker&step_min=4": lambda step, episode: (
        episode.game == "leduc_poker" and any("fold" in turn.reply for turn in episode.turns)
    ),
    "q=" + urllib.parse.quote("'; DROP TABLE episodes; --"): lambda step, episode: False,
    "game=" + urllib.parse.quote("' OR 1=1 --"): lambda step, episode: False,
}


@pytest.mark.parametrize("query", FILTERS)
def test_a_filter_finds_what_the_records_hold(client, records, query):
    expected = {(step, number) for step, number, episode in records if FILTERS[query](step, episode)}
    page = client.get(f"/api/runs/0/episodes?limit=500&{query}")
    assert {(row["step"], row["episode"]) for row in page["rows"]} == expected
    assert (page["total"], page["notices"]) == (len(expected), [])


def test_rows_say_what_the_records_say(client, records):
    rows = client.get("/api/runs/0/episodes?limit=500")["rows"]
    assert [(row["step"], row["episode"]) for row in rows] == [(step, number) for step, number, _ in records]
    for row, (_, _, episode) in zip(rows, records, strict=True):
        assert row["game"] == episode.game
        assert row["policies"] == [seat.policy for seat in episode.seats]
        assert row["trainable"] == [seat.trainable for seat in episode.seats]
        assert row["opponent"] == episode.opponent
        assert (row["outcome"], row["returns"]) == (episode.outcome, list(episode.returns))
        assert (row["turns"], row["tokens"], row["illegal_player"]) == (len(episode.turns), tokens(episode), None)
        assert row["excerpt"] is None


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("turns", lambda row: row["turns"]),
        ("tokens", lambda row: row["tokens"]),
        ("game", lambda row: row["game"]),
        ("return", lambda row: row["returns"][0]),
        ("return&player=1", lambda row: row["returns"][1]),
        ("step", lambda row: row["step"]),
    ],
)
@pytest.mark.parametrize("desc", [0, 1])
def test_pages_follow_each_other_in_order(client, records, sort, key, desc):
    pages = [client.get(f"/api/runs/0/episodes?sort={sort}&desc={desc}&limit=7&offset={at}") for at in range(0, 49, 7)]
    rows = [row for page in pages for row in page["rows"]]
    assert {page["total"] for page in pages} == {len(records)} == {44}
    assert len({(row["step"], row["episode"]) for row in rows}) == 44
    assert [key(row) for row in rows] == sorted(map(key, rows), reverse=bool(desc))


def test_an_excerpt_shows_the_text_that_was_found(client):
    (row,) = client.get("/api/runs/0/episodes?q=boxed&limit=1")["rows"]
    assert row["excerpt"].startswith("\\boxed{")
    (row,) = client.get("/api/runs/0/episodes?q=OX&limit=1")["rows"]
    assert row["excerpt"].startswith("\\boxed{")
    assert row["excerpt"].endswith("}")


def test_a_page_in_order_needs_only_its_files(run, records, monkeypatch):
    """Before the files are read in the background, pages of both ends and of the middle are complete."""
    monkeypatch.setattr(EpisodeTable, "_read_in_background", lambda self: None)
    monkeypatch.setattr(table_module, "WAIT_SECONDS", 0.0)
    for desc, offset in ((True, 0), (False, 0), (False, 13), (True, 30)):
        table = EpisodeTable(ViewedRun(0, run))
        page = table.page(Filters(desc=desc, offset=offset, limit=5))
        ordered = sorted(records, key=lambda record: (-record[0] if desc else record[0], record[1]))
        expected = [(step, number) for step, number, _ in ordered[offset : offset + 5]]
        assert [(row["step"], row["episode"]) for row in page["rows"]] == expected
        assert (page["total"], page["notices"], page["complete"]) == (44, [], False)
        table.close()
    table = EpisodeTable(ViewedRun(0, run))
    page = table.page(Filters(game="leduc_poker"))
    assert (page["total"], page["rows"]) == (0, [])
    assert page["notices"] == ["0 of 4 files of episodes are read so far; rows and total are of these."]
    table.close()


@pytest.mark.parametrize(
    "query",
    ["sort=seed", "limit=0", "limit=501", "offset=-1", "player=-1", "player=128", "result=luck", "q=" + "x" * 1001],
)
def test_what_a_table_cannot_answer_is_refused(client, query):
    status, message = client.error(f"/api/runs/0/episodes?{query}")
    assert status == 400
    assert message.startswith("got ") or "characters" in message
