"""`spiral patterns` on a run: the lexical classifier, and a judge behind an endpoint."""

import csv
import json
import re

import pytest

from commands import refused, spiral
from endpoint_server import EndpointServer, Response, completion, refusing
from spiral.core.records import Episode, Seat, Turn
from spiral.core.storage import write_episodes
from spiral.evaluation.patterns.codebook import PATTERNS

NAMES = [pattern.name for pattern in PATTERNS]
CASES = "If he has the King, I lose two. If he has the Jack, he folds."
VALUE = "The expected value of a bet is 1/2 * 2 - 1/2 * 1."
PLAIN = "I bet. \\boxed{bet}"


def episode(number, reply):
    turns = (Turn(player=0, observation="?", reply=reply, action="bet"),)
    seats = (Seat(policy="m", trainable=True), Seat(policy="m", trainable=True))
    return Episode(game="kuhn_poker", seed=number, seats=seats, turns=turns, returns=(1.0, -1.0), outcome="finished")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps with 8 games and 8 solutions each: of games first 2, then 6 go case by case, of solutions 4."""
    path = tmp_path_factory.mktemp("runs") / "r1"
    (path / "episodes").mkdir(parents=True)
    for step, cases in ((0, 2), (16, 6)):
        games = [episode(number, CASES if number < cases else PLAIN) for number in range(8)]
        write_episodes(path / "episodes" / f"step-{step:06d}.parquet", games)
        records = path / "evaluation" / f"step-{step:06d}"
        records.mkdir(parents=True)
        replies = [CASES] * 4 + [VALUE] * 2 + [PLAIN] * 2
        rows = [
            {"id": f"p{number}", "sample": 0, "reply": reply, "correct": number % 2 == 0}
            for number, reply in enumerate(replies)
        ]
        (records / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def shares(values, pattern=NAMES[0]):
    """The share of a pattern by step, domain and success."""
    rows = [row for row in values["shares"] if row["pattern"] == pattern]
    return {(row["step"], row["domain"], row["success"]): row["share"] for row in rows}


def rates(values):
    return {(row["step"], row["pattern"]): row["rate"] for row in values["transfer"]}


def test_the_lexical_classifier(run, tmp_path):
    result = spiral("patterns", str(run), "--out", str(tmp_path), "--json", drawn=True)
    assert (result.status, result.err) == (0, "")
    values = result.json
    found = shares(values)
    assert [found[step, "games", "all"] for step in (0, 16)] == [0.25, 0.75]
    assert [found[step, "maths", success] for step in (0, 16) for success in ("all", "right", "wrong")] == [0.5] * 6
    assert rates(values)[0, NAMES[0]] == 2
    assert rates(values)[16, NAMES[0]] == pytest.approx(2 / 3)
    assert rates(values)[0, NAMES[1]] is None
    assert [row["pattern"] for row in values["agreement"]] == NAMES
    files = values["files"]
    with open(files["shares.csv"], encoding="utf-8") as file:
        assert [row["pattern"] for row in csv.DictReader(file)] == [row["pattern"] for row in values["shares"]]
    with open(files["traces.jsonl"], encoding="utf-8") as file:
        traces = [json.loads(line) for line in file]
    assert len(traces) == values["traces"] == 32
    assert all((NAMES[0] in one["shown"]) == ("King" in one["text"]) for one in traces)
    with open(files["patterns.png"], "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    again = spiral("patterns", str(run), "--out", str(tmp_path), "--json").json
    assert again == values


def test_the_tables(run, tmp_path):
    result = spiral("patterns", str(run), "--out", str(tmp_path), "--step", "16", "--seed", "1")
    assert result.status == 0
    assert "32 traces" not in result.out
    assert "16 of 16 traces, seed 1" in result.out
    assert re.search(r"r1 +16 +games +8 +75% \(41 to 93\) +0% ", result.out)
    assert re.search(r"r1 +16 +case by case +75% .* 50% .* 0\.67 \(0\.\d+ to \d\.\d+\) +72% to 71%", result.out)
    assert "no game shows it" in result.out
    assert "Agreement with 60 labelled traces" in result.out


def judging(request):
    """A judge that looks for the texts of these tests, and writes a little around its JSON."""
    prompt = request.observation
    if "Name the ways" in prompt or "Merge them" in prompt:
        return Response(body=completion('{"patterns": [{"name": "betting", "description": "It bets."}]}'))
    names = json.loads("[" + re.search(r"Its keys are exactly (.*?)\. The value", prompt)[1] + "]")
    parts = re.split(r"=== (?:text (\d+)|end) ===\n", prompt + "\n")
    texts = {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True) if number}
    marks = {NAMES[0]: "King", NAMES[1]: "expected", "betting": "boxed"}
    answer = {name: [n for n, text in texts.items() if marks.get(name, "~") in text] for name in names}
    return Response(body=completion(f"Here: {json.dumps(answer)}"))


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with EndpointServer(judging) as running:
        text = f'[local]\nbase_url = "{running.base_url}"\nmodel = "m"\nretries = 0\n'
        (tmp_path / "endpoints.toml").write_text(text, encoding="utf-8")
        yield running


def test_a_judge_behind_an_endpoint_with_votes_and_discovery(run, server, tmp_path):
    command = ["patterns", str(run), "--judge", "endpoint:local", "--out", str(tmp_path / "out"), "--json"]
    result = spiral(*command, "--votes", "3", "--discover", "--no-agreement")
    assert result.status == 0
    values = result.json
    assert list(values["patterns"]) == [*NAMES, "betting"]
    assert shares(values)[16, "games", "all"] == 0.75
    assert shares(values, "betting")[16, "games", "all"] == 0.25
    assert rates(values)[16, "betting"] == 1
    # 4 notes, 1 list, and for 3 votes 7 questions each about the named patterns and the discovered one
    assert len(server.requests) == values["model_usage"]["requests"] == 4 + 1 + 2 * 3 * 7
    assert {request.body["temperature"] for request in server.requests} == {0.6}
    assert (values["unlabelled"], values["split_votes"], values["asked_again"]) == (0, 0, 0)
    assert spiral(*command, "--votes", "3", "--discover", "--no-agreement").json["shares"] == values["shares"]
    assert len(server.requests) == 47  # nothing is asked twice


def test_a_judge_that_fails_half_way_goes_on_later(run, server, tmp_path):
    server.behaviour = lambda request: (judging if request.number < 3 else refusing(500))(request)
    command = ["patterns", str(run), "--judge", "endpoint:local", "--out", str(tmp_path / "out"), "--no-agreement"]
    stopped = spiral(*command)
    assert stopped.status == 1
    assert "questions to the judge got no reply" in stopped.err
    assert "the same command resumes from them" in stopped.err
    server.behaviour = judging
    before = len(server.requests)
    done = spiral(*command)
    assert done.status == 0
    kept = len(list((tmp_path / "out").glob("*/items.jsonl")))
    assert kept == 1
    assert len(server.requests) - before < 7


def test_unusable_replies_are_counted(run, server, tmp_path):
    def moody(request):
        if "King" in request.observation:
            return judging(request)
        return Response(body=completion("I would rather not."))

    server.behaviour = moody
    command = ["patterns", str(run), "--judge", "endpoint:local", "--group", "1", "--no-agreement"]
    result = spiral(*command, "--out", str(tmp_path / "out"))
    assert result.status == 0
    assert "16 traces could not be labelled and count nowhere:" in result.out
    assert "16 questions x it holds 0 JSON objects in place of one" in result.out


def test_what_is_refused(run, tmp_path):
    assert "holds neither episodes nor replies" in refused("patterns", str(tmp_path))
    assert "there are no traces of step 5; steps with traces: 0, 16" in refused("patterns", str(run), "--step", "5")
    assert "got --discover for the lexical classifier" in refused("patterns", str(run), "--discover")
    assert "expected an odd number" in refused("patterns", str(run), "--judge", "endpoint:x", "--votes", "2")
    assert "which plays games only" in refused("patterns", str(run), "--judge", "minimax")
    assert "nowhere" in refused("patterns", str(run), "--judge", "endpoint:nowhere")


def test_a_judge_that_is_of_no_use(run, server, tmp_path):
    server.behaviour = lambda request: Response(body=completion("no"))
    command = ["patterns", str(run), "--judge", "endpoint:local", "--no-agreement", "--out", str(tmp_path / "out")]
    result = spiral(*command)
    assert result.status == 1
    why = "the judge labelled no trace (7 questions x it holds 0 JSON objects in place of one); take a stronger one"
    assert why in result.err
    assert "; its replies are in " in result.err
    server.behaviour = judging
    assert spiral(*command, "--temperature", "0.2", "--max-new-tokens", "99").status == 0
    sent = server.requests[-1].body
    assert (sent["temperature"], sent["max_tokens"]) == (0.2, 99)
