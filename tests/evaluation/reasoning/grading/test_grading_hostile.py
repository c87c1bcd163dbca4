"""Replies made to hang, exhaust or crash a grader: each is graded quickly and with little memory."""

import importlib
import itertools
import json
import pkgutil
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import spiral.evaluation.reasoning
import spiral.text
from cpu_time import computing
from hostile_replies import CHOICES, GOLDS, hostile_reply
from spiral.evaluation.reasoning import grade, grade_reply
from spiral.evaluation.reasoning.grading.grader import MAX_ANSWER_LENGTH, grade_with
from spiral.evaluation.reasoning.grading.work_limit import MAX_WORK, TooMuchWorkError, bounded_work, spend
from spiral.games import load_game
from spiral.text import parse_action, thinking


def boxed(content):
    return rf"\boxed{{{content}}}"


SENTENCE = (
    "The smallest positive integer that cannot be written as the sum of two squares of positive integers that are all"
    " less than one hundred is equal to 3"
)
EITHER = " or ".join([r"\pm1"] * 62)
FOUND = {
    "a sentence": SENTENCE,
    "a sentence with its number": SENTENCE.replace("equal to ", ""),
    "a word again and again": "5" + " dollars" * 200 + " x",
    "units again and again": "5" + r" \text{ cm} per" * 100 + " !",
    "a product of choices": "(" + ",".join([EITHER] * 4) + ")",
    "choices in a tuple of tuples": "(" + ",".join([rf"(\pm{n},\pm{n})" for n in range(4)]) + ")",
    "nested tuples": "(" * 250 + "1" + ",2)" * 250,
    "nested sets": r"\{" * 200 + "1" + r",2\}" * 200,
    "nested lists of signs": r"(\pm1," * 150 + "1" + ")" * 150,
    "nested equations": "x=(" * 200 + "1" + ",2)" * 200,
    "nested absolute values": "|" * 301 + "1" + "|" * 301,
    "an empty set": r"\{\}",
    "long sums of long fractions": "+".join(rf"\frac{{1}}{{{n}^{{800}}}}" for n in range(3, 120)),
    "floors of long powers": r"\lfloor " + "+".join(rf"x^{{{n}}}!" for n in range(60, 200)) + r"\rfloor",
    "a number and its exponent": "1e9999" + "+1e9998" * 150,
}
EXPECTED = ["5", r"\frac{1}{2}", "1,-2", "(1,2)", r"\{1,2\}", "x^2+1", r"\text{even}", "Monday", r"\emptyset", "4.5e33"]


@pytest.mark.parametrize("kind", FOUND)
def test_known_hanging_and_crashing_replies(kind):
    with computing() as seconds:
        found = [answer for answer in EXPECTED if grade(boxed(FOUND[kind]), answer)]
        assert seconds() < 3.0
    assert found == ([r"\emptyset"] if kind == "an empty set" else [])


def test_an_exception_is_a_wrong_answer_with_its_reason():
    def fails(_expected, _given):
        raise RecursionError("too deep")

    graded = grade_with(fails, boxed(r"\int_0^1 x dx"), "5")
    assert (graded.correct, graded.error, graded.extracted) == (False, "RecursionError: too deep", r"\int_0^1 x dx")
    assert grade_reply(boxed("5"), "5").error is None


def test_work_is_counted_and_bounded():
    spend(10 * MAX_WORK)  # outside of a grade nothing is counted
    with bounded_work():
        spend(MAX_WORK)
        with pytest.raises(TooMuchWorkError, match="more than"):
            spend(1)
    with bounded_work():
        spend(MAX_WORK)
    many = ", ".join(f"2^{{19999}} x_{{{n}}}" for n in range(60))
    assert (
        grade_reply(boxed(many), many.replace("x", "y")).error == f"TooMuchWorkError: more than {MAX_WORK} operations"
    )


def patterns():
    """Every compiled pattern of the modules that parse replies, with its module."""
    yield from (("spiral.text.thinking", thinking._pattern(family)) for family in thinking.FAMILIES)
    for package in (spiral.text, spiral.evaluation.reasoning):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for value in vars(importlib.import_module(module.name)).values():
                pairs = [pair if isinstance(pair, tuple) else (pair,) for pair in value] if type(value) is tuple else []
                for one in itertools.chain([value], *pairs):
                    if isinstance(one, re.Pattern) and isinstance(one.pattern, str):
                        yield module.name, one


PIECES = (
    *" a1,.-{}()[]^_/|&$'=\\!%*\n",
    "ab ", "per ", "and ", "is ", "x=", "1 ", "{a}", "{1}", "(a)", r"\text{a}", r"\text{ ab } ", r"\frac{a}", r"\, ",
    r"\pm", r"\{", "<think>", r"\boxed", "answer: ", "1,234", "°",
)  # fmt: skip


class SlowError(Exception):
    """A pattern takes too long."""


def check_patterns(pairs, times):
    """Searches strings of repeated pieces with every pattern; returns the patterns that take over 0.4 s for one."""

    def stop(*_arguments):
        raise SlowError

    before = signal.signal(signal.SIGPROF, stop)
    slow = set()
    # These patterns only see extracted answers, whose length is limited; the others see whole replies.
    of_answers = {f"spiral.evaluation.reasoning.grading.{module}" for module in ("equality", "units")}
    try:
        for name, pattern in patterns():
            for one, other in pairs:
                text = "5" + (one + other) * times
                if name in of_answers:
                    text = text[:MAX_ANSWER_LENGTH]
                text += "\x00"
                signal.setitimer(signal.ITIMER_PROF, 0.4)
                try:
                    pattern.search(text)
                except SlowError:
                    slow.add((name, pattern.pattern, one + other))
                    break
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.signal(signal.SIGPROF, before)
    return slow


def test_patterns_stay_fast_on_repeated_pieces():
    pairs = random.Random(0).sample(list(itertools.product(PIECES, PIECES)), 40)
    pairs += [(" ", ""), ("a ", ""), ("ab ", ""), ("1", ""), ("{", ""), (r"\text{a}", " "), ("ab", "")]
    assert check_patterns(pairs, 300) == set()


@pytest.mark.slow
def test_patterns_stay_fast_on_all_pairs_of_pieces():
    assert check_patterns(list(itertools.product(PIECES, PIECES)), 700) == set()


def test_the_pattern_check_finds_a_slow_pattern(monkeypatch):
    monkeypatch.setattr(spiral.text.parsing, "SLOW", re.compile(r"(?:\s*\w+\s*)+!"), raising=False)
    assert {name for name, *_ in check_patterns([("a ", ""), ("ab ", "")], 40)} == {"spiral.text.parsing"}


KUHN = load_game("kuhn_poker").initial_state().apply("J").apply("Q")
SECONDS = 3
"""Of processor time for one reply."""
PROGRAM = """
import json, resource, sys, time
from evaluation.reasoning.grading.test_grading_hostile import grade_hostile
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
print(json.dumps(grade_hostile(range(int(sys.argv[1]), int(sys.argv[2])))))
"""


def grade_hostile(seeds):
    """Grades generated replies and parses moves from them; returns the seeds that are late or raise."""
    late, raised, graded = [], [], 0
    for seed in seeds:
        rng = random.Random(seed)
        reply, gold = hostile_reply(rng), rng.choice(GOLDS)
        choices = CHOICES if rng.random() < 0.1 else None
        with computing() as seconds:
            try:
                grade_reply(reply, "B" if choices else gold, choices=choices)
                parse_action(reply, KUHN)
            except Exception as error:
                raised.append((seed, repr(error)))
            graded += 1
            if seconds() > SECONDS:
                late.append(seed)
    return {"graded": graded, "late": late, "raised": raised}


def test_hostile_replies_are_graded():
    assert grade_hostile(range(250)) == {"graded": 250, "late": [], "raised": []}


@pytest.mark.slow
def test_ten_thousand_hostile_replies_are_graded_within_a_gigabyte():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "1000", "11000"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"graded": 10_000, "late": [], "raised": []}
