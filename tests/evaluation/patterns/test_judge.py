"""What a judge is asked, which replies are usable, votes, discovery, and resuming."""

import contextlib
import json
import re

import pytest

from spiral.core.policy import ReplyLength, SamplingConfig, TurnReply
from spiral.evaluation.answering import UnansweredError
from spiral.evaluation.patterns.asking import Judge, Request, UnusableError
from spiral.evaluation.patterns.codebook import PATTERNS
from spiral.evaluation.patterns.judge import (
    MAX_DISCOVERED,
    NOTES_GROUP,
    check_votes,
    classification_request,
    discover,
    judge_verdicts,
    read_classification,
    shortened_trace,
)
from spiral.evaluation.patterns.traces import Trace
from spiral.evaluation.results import ResultDirectory

NAMES = [pattern.name for pattern in PATTERNS]
NONE = {name: [] for name in NAMES}


class Answers:
    """An answerer that replies with `said(question text, number of the question)`; None is a fault."""

    name = "judge"
    opening = ""

    def __init__(self, said):
        self.said, self.asked, self.seeds, self.waiting, self.most = said, [], [], [], 0

    def submit_questions(self, questions):
        self.waiting += questions
        self.most = max(self.most, len(self.waiting))

    def poll(self):
        now, self.waiting = self.waiting[:2], self.waiting[2:]
        replies = []
        for question in now:
            self.asked.append(question.text)
            self.seeds.append(question.seed)
            said = self.said(question.text, len(self.asked) - 1)
            length = ReplyLength(tokens=5, thinking_tokens=0, truncated=said == "cut")
            fault = "no money" if said is None else None
            replies.append(
                TurnReply(key=question.key, observation="", reply=said or "", action=None, length=length, fault=fault)
            )
        return replies

    def cancel(self):
        self.waiting = []

    @contextlib.contextmanager
    def sampled_with(self, sampling):
        yield


def judge_of(answers, directory=None):
    return Judge(answers, SamplingConfig(temperature=0.0, max_new_tokens=100), seed=3, directory=directory, in_flight=3)


def texts_in(prompt):
    """The texts of a question by their numbers."""
    found = re.split(r"=== (?:text (\d+)|end) ===\n?", prompt)
    return {int(number): text.strip() for number, text in zip(found[1:-2:2], found[2::2], strict=False) if number}


def strict(prompt, _):
    """Says of each text what its letters say: c, e and p."""
    texts = texts_in(prompt)
    marks = dict(zip(NAMES, "cep", strict=True))
    return json.dumps({name: [n for n, text in texts.items() if mark in text] for name, mark in marks.items()})


def verdicts(answers, texts, votes=1, **more):
    how = {"votes": votes, "group": 3, "max_characters": 1000, "seed": 5} | more
    return judge_verdicts(judge_of(answers), texts, PATTERNS, **how)


def test_every_trace_gets_the_verdict_on_its_own_text():
    texts = ["c", "e", "p", "cp", "", "cep", "x"]
    for votes in (1, 3):
        answers = Answers(strict)
        shown = [verdict.shown for verdict in verdicts(answers, texts, votes)]
        marks = dict(zip("cep", NAMES, strict=True))
        assert shown == [frozenset(marks[letter] for letter in text if letter in marks) for text in texts]
        assert len(answers.asked) == votes * 3
        assert answers.most <= 3


def test_votes_are_in_another_order_and_the_majority_decides():
    def moody(prompt, number):
        return strict(prompt, number) if number % 3 else json.dumps(NONE)

    answers = Answers(moody)
    found = verdicts(answers, ["c"], votes=3, group=1)
    assert found[0].shown == {NAMES[0]}
    assert (found[0].votes, found[0].unanimous) == (3, False)
    answers = Answers(strict)
    verdicts(answers, list("abdfgh"), votes=3, group=6)
    orders = {tuple(texts_in(prompt).values()) for prompt in answers.asked}
    assert len(orders) == 3
    assert {frozenset(order) for order in orders} == {frozenset("abdfgh")}


def test_a_tie_of_the_votes_that_are_left_is_no():
    def third_fails(prompt, number):
        return [strict(prompt, number), json.dumps(NONE), "no", "no"][number]

    (found,) = verdicts(Answers(third_fails), ["c"], votes=3)
    assert (found.shown, found.votes, found.unanimous) == (frozenset(), 2, False)


@pytest.mark.parametrize("votes", [0, 2, 4])
def test_an_even_number_of_votes_is_refused(votes):
    with pytest.raises(ValueError, match="expected an odd number"):
        check_votes(votes)


def test_what_is_unusable_is_asked_again_once_and_then_counted():
    answers = Answers(lambda prompt, number: "I cannot say" if "bad" in prompt else strict(prompt, number))
    judge = judge_of(answers)
    how = {"votes": 1, "group": 1, "max_characters": 1000, "seed": 5}
    found = judge_verdicts(judge, ["c", "bad c", "e"], PATTERNS, **how)
    assert [verdict.shown for verdict in found] == [{NAMES[0]}, None, {NAMES[1]}]
    assert len(answers.asked) == 4
    assert answers.asked[-1].endswith(
        "An earlier reply could not be used: it holds 0 JSON objects in place of one. Reply with the JSON object alone."
    )
    assert len(set(answers.seeds)) == 4
    assert judge.unusable == {"it holds 0 JSON objects in place of one": 1}
    assert judge.asked_again == 1


USABLE = {
    "plain": json.dumps(NONE),
    "in words": f"Here it is:\n```json\n{json.dumps(NONE)}\n```\nDone, with \\frac{{1}}{{2}} doubt.",
    "after a thought": f'<think>maybe {{"{NAMES[0]}": [1]}}</think>{json.dumps(NONE)}',
}
UNUSABLE = {
    "two": f"{json.dumps(NONE)} or {json.dumps(NONE)}",
    "a key twice": json.dumps(NONE)[:-1] + f', "{NAMES[0]}": [1]}}',
    "only a thought": f"<think>{json.dumps(NONE)}",
    "cut": "cut",
    "a key too few": json.dumps({name: [] for name in NAMES[1:]}),
    "a key too many": json.dumps(NONE | {"style": []}),
    "an index out of range": json.dumps(NONE | {NAMES[0]: [2]}),
    "index zero": json.dumps(NONE | {NAMES[0]: [0]}),
    "a truth value": json.dumps(NONE | {NAMES[0]: [True]}),
    "a text": json.dumps(NONE | {NAMES[0]: "1"}),
    "a list": "[1, 2]",
}


@pytest.mark.parametrize("reply", USABLE)
def test_usable(reply):
    answers = Answers(lambda prompt, number: USABLE[reply])
    assert [verdict.shown for verdict in verdicts(answers, ["c"])] == [frozenset()]


@pytest.mark.parametrize("reply", UNUSABLE)
def test_unusable(reply):
    answers = Answers(lambda prompt, number: UNUSABLE[reply])
    assert [verdict.shown for verdict in verdicts(answers, ["c"])] == [None]
    assert len(answers.asked) == 2


def test_a_classification_names_texts_once():
    assert read_classification({"a": [1, 2, 2], "b": []}, ["a", "b"], 2) == {"a": {1, 2}, "b": set()}


def test_replies_are_kept_and_an_analysis_that_was_stopped_goes_on(tmp_path):
    directory = ResultDirectory(path=tmp_path / "p", kind="patterns", settings={})
    directory.make()
    texts = ["c", "e", "p", "cp"]
    how = {"votes": 1, "group": 1, "max_characters": 1000, "seed": 5}
    broke = Answers(lambda prompt, number: None if number > 1 else strict(prompt, number))
    with pytest.raises(UnansweredError, match="2 of 4 questions to the judge got no reply: 2 x no money"):
        judge_verdicts(judge_of(broke, directory), texts, PATTERNS, **how)
    assert len(directory.read_items()) == 2
    rest = Answers(strict)
    found = judge_verdicts(judge_of(rest, directory), texts, PATTERNS, **how)
    assert len(rest.asked) == 2
    assert found == judge_verdicts(judge_of(Answers(strict)), texts, PATTERNS, **how)
    assert len(directory.read_items()) == 4
    none = Answers(lambda prompt, number: None)
    assert judge_verdicts(judge_of(none, directory), texts, PATTERNS, **how) == found
    assert none.asked == []


def test_long_traces_lose_their_middle():
    assert shortened_trace("abc", 3) == "abc"
    assert shortened_trace("a" * 100 + "b" * 1100, 200) == (
        "a" * 100 + "\n[... 1,000 characters left out ...]\n" + "b" * 100
    )
    assert shortened_trace("", 3) == "(nothing)"


def test_the_question_holds_the_rules_the_texts_and_the_form():
    request = classification_request("k", ["first", "second"], PATTERNS)
    assert texts_in(request.text) == {1: "first", 2: "second"}
    assert all(pattern.counts in request.text and pattern.excluded in request.text for pattern in PATTERNS)
    assert request.text.endswith('{"case_analysis": [1], "expected_value": [], "pattern_recognition": []}')


def made_traces(count, domain):
    return [
        Trace(id=f"{domain}{n}", domain=domain, task="t", unit=f"{n}", success=True, text=f"{domain} {n}")
        for n in range(count)
    ]


def patterns_reply(*names):
    return json.dumps({"patterns": [{"name": name, "description": f"does {name}"} for name in names]})


def test_discovery_reads_forty_traces_half_of_each_domain_and_merges_the_notes():
    notes = [patterns_reply("Checking Back", "case_analysis"), patterns_reply()]

    def said(prompt, number):
        if "Merge them" in prompt:
            return patterns_reply("checking-back", "case_analysis", *(f"more_{n}" for n in range(9)))
        return notes[number % 2]

    answers = Answers(said)
    traces = made_traces(60, "games") + made_traces(30, "maths")
    found = discover(judge_of(answers), traces, PATTERNS, max_characters=100, seed=0)
    assert len(answers.asked) == 40 // NOTES_GROUP + 1
    read = [text for prompt in answers.asked[:-1] for text in texts_in(prompt).values()]
    assert len(set(read)) == 40
    assert sum(text.startswith("games") for text in read) == 20
    assert "- checking_back: does Checking Back" in answers.asked[-1]
    assert [pattern.name for pattern in found] == ["checking_back", *(f"more_{n}" for n in range(5))]
    assert len(found) == MAX_DISCOVERED
    few = Answers(said)
    discover(judge_of(few), made_traces(3, "games") + made_traces(90, "maths"), PATTERNS, max_characters=100, seed=0)
    assert sum(len(texts_in(prompt)) for prompt in few.asked[:-1]) == 40


def test_discovery_without_notes_finds_nothing_and_without_a_list_fails():
    empty = Answers(lambda prompt, number: patterns_reply())
    assert discover(judge_of(empty), made_traces(3, "games"), PATTERNS, max_characters=100, seed=0) == []
    bad = Answers(lambda prompt, number: "none" if "Merge" in prompt else patterns_reply("a_b"))
    with pytest.raises(UnusableError, match="no usable list of patterns in two attempts"):
        discover(judge_of(bad), made_traces(3, "games"), PATTERNS, max_characters=100, seed=0)


@pytest.mark.parametrize(
    "reply",
    ['{"patterns": {}}', '{"patterns": [{"name": "a"}]}', patterns_reply("x" * 41), patterns_reply("a", "A"),
     patterns_reply("<b>"), '{"patterns": [{"name": "a", "description": " "}]}', '{"found": []}'],
)  # fmt: skip
def test_notes_of_another_form_are_unusable(reply):
    judge = judge_of(Answers(lambda prompt, number: reply))
    assert discover(judge, made_traces(3, "games"), PATTERNS, max_characters=100, seed=0) == []
    assert judge.unusable.total() == 1


def test_a_request_reads_its_own_answer():
    judge = judge_of(Answers(lambda prompt, number: '{"n": 4}'))
    assert judge.ask([Request(key="a", text="?", read=lambda answer: answer["n"] + 1)]) == {"a": 5}
