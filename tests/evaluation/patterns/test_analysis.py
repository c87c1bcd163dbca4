"""Shares and transfer rates computed by hand, and the agreement with the labelled traces."""

import collections
import importlib.resources

import numpy as np
import pytest

from spiral.evaluation.patterns.agreement import agreement, labelled_traces
from spiral.evaluation.patterns.analysis import analyse, right_shares
from spiral.evaluation.patterns.asking import UnusableError
from spiral.evaluation.patterns.codebook import CASES, EXPECTED_VALUE, PATTERNS, RECOGNITION
from spiral.evaluation.patterns.judge import Verdict, lexical_verdicts
from spiral.evaluation.patterns.lexical import CUES, classify_by_cues
from spiral.evaluation.patterns.traces import Trace
from spiral.evaluation.statistics import wilson

SHOWS = Verdict(shown=frozenset({CASES.name}))
NOT = Verdict(shown=frozenset())
MISSING = Verdict(shown=None, votes=0)


def cells(domain, success, *verdicts, step=0):
    trace = Trace(id="", model="m", step=step, domain=domain, task="t", unit="", success=success, text="")
    return [(trace, verdict) for verdict in verdicts]


def analysed(*groups, right=0.2):
    pairs = [pair for group in groups for pair in group]
    traces, verdicts = zip(*pairs, strict=True)
    steps = {trace.group: right for trace in traces}
    return analyse(traces, verdicts, [CASES], steps, seed=0)


def test_shares_and_transfer_by_hand():
    tables = analysed(
        cells("games", True, *[SHOWS] * 6, *[NOT] * 2),
        cells("games", False, *[SHOWS] * 2, *[NOT] * 6, MISSING),
        cells("maths", True, *[SHOWS] * 4, *[NOT] * 1),
        cells("maths", False, *[SHOWS] * 1, *[NOT] * 9),
    )
    found = {(share.domain, share.success): share for share in tables.shares}
    counts = {key: (share.showing, share.traces, share.unlabelled) for key, share in found.items()}
    assert counts == {
        ("games", "all"): (8, 16, 1),
        ("games", "won"): (6, 8, 0),
        ("games", "not won"): (2, 8, 1),
        ("maths", "all"): (5, 15, 0),
        ("maths", "right"): (4, 5, 0),
        ("maths", "wrong"): (1, 10, 0),
    }
    assert found["games", "won"].share == wilson(6, 8)
    # a fifth of all solutions is right: 0.2 * 4/5 + 0.8 * 1/10, not 5 of 15
    assert found["maths", "all"].share.value == pytest.approx(0.24)
    (transfer,) = tables.transfer
    assert transfer.rate.value == pytest.approx(0.24 / 0.5)
    assert transfer.rate.low < 0.48 < transfer.rate.high
    row = transfer.to_json()
    assert (row["games"], row["paper_games"], row["paper_maths"]) == (0.5, 0.72, 0.71)


def test_the_interval_of_a_transfer_rate_covers_the_truth():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        shown = [rng.random(40) < 0.6, rng.random(40) < 0.3]
        games, maths = ([SHOWS if one else NOT for one in values] for values in shown)
        tables = analyse(
            *zip(*cells("games", True, *games), *cells("maths", True, *maths), strict=True),
            [CASES],
            {("m", 0): 1.0},
            seed,
        )
        rate = tables.transfer[0].rate
        inside += rate.low <= 0.5 <= rate.high
    assert 0.91 <= inside / 200 <= 0.99


def test_no_transfer_rate_without_both_domains_or_without_a_game_that_shows_the_pattern():
    assert analysed(cells("games", True, SHOWS)).transfer == ()
    tables = analysed(cells("games", True, SHOWS), cells("maths", True, SHOWS, step=1))
    assert tables.transfer == ()
    (transfer,) = analysed(cells("games", True, NOT), cells("maths", True, SHOWS)).transfer
    assert transfer.rate is None
    assert [transfer.to_json()[key] for key in ("rate", "rate_low", "rate_high", "maths")] == [None, None, None, 1.0]


def test_nothing_is_made_of_no_labels():
    with pytest.raises(UnusableError, match="the judge labelled no trace"):
        analysed(cells("games", True, MISSING))


def test_an_interval_never_collapses():
    (transfer,) = analysed(cells("games", True, *[SHOWS] * 9), cells("maths", True, *[NOT] * 9), right=1.0).transfer
    assert transfer.rate.value == 0
    assert transfer.rate.low == 0
    assert 0.1 < transfer.rate.high < 0.5


def test_right_shares_are_those_of_all_solutions():
    traces = [trace for trace, _ in cells("maths", True, NOT) + cells("maths", False, NOT, NOT, NOT)]
    games = [trace for trace, _ in cells("games", True, NOT)]
    assert right_shares([*traces, *games]) == {("m", 0): 0.25}


def test_agreement_leaves_out_what_has_no_verdict():
    labelled = labelled_traces()
    same = [Verdict(shown=entry.shown) for entry in labelled]
    for row in agreement(labelled, same, seed=0):
        assert row.only_reader == row.only_classifier == row.unlabelled == 0
        assert row.kappa is None or row.kappa.value == 1
    rows = agreement(labelled, [MISSING] * 2 + same[2:], seed=0)
    assert [(row.traces, row.unlabelled) for row in rows] == [(len(labelled) - 2, 2)] * 3


def test_the_labelled_traces():
    labelled = labelled_traces()
    domains = collections.Counter(entry.trace.domain for entry in labelled)
    assert domains == {"games": 38, "maths": 22}
    assert len({entry.trace.id for entry in labelled}) == len(labelled)
    assert all(entry.shown <= {pattern.name for pattern in PATTERNS} for entry in labelled)
    assert all(entry.trace.text for entry in labelled)
    notice = importlib.resources.files("spiral.evaluation.patterns") / "data" / "README.md"
    assert "MIT" in notice.read_text(encoding="utf-8")


WRITTEN = {
    "If he has the King, I lose two chips. If he has the Jack, he folds and I win one.": {CASES.name},
    "Case 1: n is even, so it is a sum. Case 2: n is odd, which cannot be.": {CASES.name},
    "If he has the King, I lose.": set(),
    "Add 3 and 4, then take half of it: 3.5. The case is closed.": set(),
    "The expected value of a bet is 1/2 * 2 - 1/2 * 1 = 0.5.": {EXPECTED_VALUE.name},
    "There is a 50% chance that he holds the Queen, so I check.": {EXPECTED_VALUE.name},
    "He sold 50% of his 48 cards. By chance it rains.": set(),
    "I notice a pattern here: each number is twice the one before.": {RECOGNITION.name},
    "O threatens the diagonal, so I must block cell 8.": {RECOGNITION.name},
    "I place my mark in the middle.": set(),
    "": set(),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_cues(text):
    assert classify_by_cues(text) == WRITTEN[text]


def test_cues_are_in_words_and_quick():
    assert {cue.pattern for cue in CUES} == {pattern.name for pattern in PATTERNS}
    assert all(cue.words for cue in CUES)
    long = "if " * 20_000 + "1 " * 20_000
    assert lexical_verdicts([cells("games", True, NOT)[0][0]])[0].shown == frozenset()
    assert classify_by_cues(long) == frozenset()
