"""Extraction, details of a grade, hostile replies, and workers that hang."""

import json
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_time import computing
from spiral.evaluation.reasoning import Grade, grade, grade_reply
from spiral.evaluation.reasoning.grading.choices import chosen
from spiral.evaluation.reasoning.grading.extraction import find_answer
from spiral.evaluation.reasoning.grading.pool import GradingItem, GradingPool
from spiral.evaluation.reasoning.grading.symbolic import is_tractable, same_by_algebra

HANGS = r"\boxed{\int e^{x^2} \sin(\tan x) \log(x) dx}"
"""An integral on which sympy works for hours."""
FAKE_WORKER = """
import json, sys, time
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    item = json.loads(line)
    if "sleep" in item["reply"]: time.sleep(60)
    if "die" in item["reply"]: sys.exit(3)
    if "complain" in item["reply"]: print(json.dumps({"refused": "no such package"}), flush=True); continue
    print(json.dumps({"correct": True, "extracted": "x", "boxed": True, "timed_out": False}), flush=True)
"""
UNDECIDED = r"\boxed{\int_0^1 x dx}"
"""Only computer algebra can evaluate it."""


def fake_pool(time_limit=0.5):
    return GradingPool(time_limit, worker=(sys.executable, "-c", FAKE_WORKER))


def undecided(word):
    return GradingItem(reply=f"{word} {UNDECIDED}", answer="1/2")


@pytest.mark.parametrize(
    ("reply", "answer", "boxed"),
    [
        (r"so \boxed{5}", "5", True),
        (r"\boxed{4}, no, \boxed{5}", "5", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        (r"<think>\boxed{4}</think> \boxed{5}", "5", True),
        (r"<think>\boxed{4}</think> no answer", None, False),
        (r"<think>\boxed{4}", None, False),
        (r"\boxed{4", None, False),
        ("The answer is 5.", "5", False),
        ("The answer is 5.\n\n", "5", False),
        ("The final answer is: $5$", "$5$", False),
        ("**Answer:** 5", "5", False),
        ("#### 5", "5", False),
        ("It is 5.", None, False),
        ("The answer is 5. Or 6.", None, False),
        ("The answer is 5.\nLet me check.", None, False),
        ("The answer is 4, no, the answer is 5", "5", False),
        ("", None, False),
    ],
)
def test_the_answer_is_the_last_box_or_a_final_statement(reply, answer, boxed):
    assert find_answer(reply) == (answer, boxed)


def test_grade_reply_reports_details():
    assert grade_reply(r"So \boxed{ 7 }", "7") == Grade(correct=True, extracted="7", boxed=True)
    assert grade_reply("The answer is 8.", "7") == Grade(correct=False, extracted="8", boxed=False)
    assert grade_reply("No idea.", "7") == Grade(correct=False, extracted=None, boxed=False)


def test_alternative_answers_choices_and_tolerance():
    assert grade(r"\boxed{3}", "2", ("3",))
    assert not grade(r"\boxed{4}", "2", ("3",))
    assert grade(r"\boxed{B}", "B", choices=("x", "y"))
    assert not grade(r"\boxed{x}", "B", choices=("x", "y"))
    assert grade(r"\boxed{4.3}", "4.2", tolerance=0.1)
    assert not grade(r"\boxed{4.31}", "4.2", tolerance=0.1)


def test_more_choices_than_letters_are_an_error():
    with pytest.raises(ValueError, match="27 choices; expected at most 26"):
        chosen("A", [str(number) for number in range(27)])


@given(st.integers(-(10**12), 10**12), st.integers(-50, 50))
def test_an_integer_equals_itself_in_any_writing_and_no_other(number, difference):
    other = number + difference
    for text in (str(other), f"{other:,}", f"{other}.0", rf"\frac{{{3 * other}}}{{3}}", rf"{other}\text{{ apples}}"):
        assert grade(rf"\boxed{{{text}}}", str(number)) == (difference == 0)


@given(st.integers(-999, 999), st.integers(2, 99), st.integers(-999, 999), st.integers(2, 99))
def test_fractions_are_equal_when_their_values_are(above, below, above_2, below_2):
    reply = rf"\boxed{{\dfrac{{{above_2}}}{{{below_2}}}}}"
    assert grade(reply, rf"\frac{{{above}}}{{{below}}}") == (above * below_2 == above_2 * below)


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_lists_are_equal_in_any_order_and_tuples_are_not(numbers, rng):
    shuffled = rng.sample(numbers, len(numbers))
    one, other = (", ".join(map(str, some)) for some in (numbers, shuffled))
    assert grade(rf"\boxed{{{other}}}", one)
    assert grade(rf"\boxed{{({other})}}", f"({one})") == (numbers == shuffled)
    assert not grade(rf"\boxed{{{other}, 100}}", one)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_gets_a_grade(text):
    assert grade_reply(rf"\boxed{{{text}}}", "x+1").timed_out is False


HOSTILE = {
    "open braces": "{" * 100_000,
    "boxes": r"\boxed{" * 15_000,
    "box of braces": r"\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
    "null bytes": "\\boxed{\x00\x01}" + "\x00" * 1000,
    "surrogates": "\\boxed{\ud800 5\udfff}",
    "brackets": r"\boxed{" + "(" * 1900 + "}",
    "fractions": r"\boxed{" + r"\frac" * 390 + "}",
    "functions": r"\boxed{" + r"\sin " * 450 + "x}",
    "tower": r"\boxed{9^{9^{9^{9}}}}",
    "towers in brackets": r"\boxed{(99^{99})^{(99^{99})}}",
    "factorials": r"\boxed{1500!^{1500!}}",
    "large factorial": r"\boxed{(10^{10})!}",
    "exponent": r"\boxed{1e999999999}",
    "digits": r"\boxed{" + "9" * 1900 + "!}",
    "plus-minus": r"\boxed{" + r"\pm " * 400 + "5}",
    "signs": r"\boxed{" + "-" * 1901 + "5}",
    "equations": r"\boxed{" + "x=" * 900 + "}",
    "commas": r"\boxed{" + "," * 1900 + "}",
    "beyond floating point": r"\boxed{10^{400}}",
    "beyond floating point, with a root": r"\boxed{10^{400} \sqrt{2} x}",
    "percent beyond floating point": r"\boxed{10^{400}\%}",
    "division by zero": r"\boxed{\frac{1}{0}}",
    "no number": r"\boxed{\infty - \infty}",
    "thoughts": "<think>" * 20_000,
    "statements": "answer is " * 20_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("answer", ["5", r"\frac{1}{2}", "1,-2", "(1,2)", r"x^2+1", r"\text{even}", "0.5", "4.5e33"])
def test_hostile_replies_are_wrong_at_once(kind, answer):
    assert grade_reply(f"\\boxed{{{answer}}}", answer).correct  # imports what this kind of answer needs
    with computing() as seconds:
        assert grade_reply(HOSTILE[kind], answer).correct is False
        assert seconds() < 1.0


def test_a_very_long_box_is_only_compared_as_text():
    long = "1+" * 2000 + "1"
    assert grade(rf"\boxed{{{long}}}", long)
    assert not grade(rf"\boxed{{{long}}}", "2001")


def test_a_stuck_worker_is_killed_and_the_next_item_gets_a_new_one():
    with fake_pool() as pool:
        start = time.monotonic()
        first, second, third = pool.grade([undecided("sleep"), undecided("fine"), undecided("die")])
        assert time.monotonic() - start < 20
    assert first == Grade(correct=False, extracted=r"\int_0^1 x dx", boxed=True, timed_out=True)
    assert second.correct
    assert not second.timed_out
    assert third.timed_out


def test_the_pool_works_in_any_thread_and_several_share_it():
    grades: list[Grade] = []
    with fake_pool(10) as pool:
        threads = [
            threading.Thread(target=lambda: grades.extend(pool.grade([undecided("fine")] * 20))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(grades) == 80
    assert all(one.correct for one in grades)


def test_a_failing_worker_says_why():
    with fake_pool() as pool, pytest.raises(ValueError, match="no such package"):
        pool.grade_one(undecided("complain"))
    with (
        GradingPool(1, worker=(sys.executable, "-c", "print('hello')")) as pool,
        pytest.raises(RuntimeError, match="did not start"),
    ):
        pool.grade_one(undecided("fine"))
    with pytest.raises(ValueError, match="expected a positive number of seconds"):
        GradingPool(0)


def test_decided_items_need_no_worker():
    with GradingPool(1, worker=("/no/such/program",)) as pool:
        assert [g.correct for g in pool.grade([GradingItem(reply=r"\boxed{5}", answer=a) for a in "56"])] == [
            True,
            False,
        ]


def test_a_hanging_sympy_times_out_outside_the_main_thread():
    found: list[Grade] = []
    with GradingPool(time_limit=1.5) as pool:
        items = [GradingItem(reply=HANGS, answer=r"\frac{1}{2}"), GradingItem(reply=UNDECIDED, answer="7")]
        thread = threading.Thread(target=lambda: found.append(pool.grade_one(items[0])))
        thread.start()
        thread.join(120)
    assert [one.timed_out for one in found] == [True]
    assert not found[0].correct


def test_computer_algebra_decides_what_arithmetic_cannot():
    assert same_by_algebra(r"\frac{1}{2}", r"\int_0^1 x dx")
    assert not same_by_algebra(r"\frac{1}{3}", r"\int_0^1 x dx")
    assert not is_tractable("5", r"5^\?")
    assert not is_tractable("5", r"\text{the answer is five} \int")
    assert not is_tractable("5", r"2^{3^{4^{5}}} \int")


def test_a_missing_math_verify_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValueError, match=r"pip install math-verify"):
        same_by_algebra(r"\frac{1}{2}", r"\int_0^1 x dx")


def test_grading_does_not_import_sympy():
    program = (
        "import sys, json; from spiral.evaluation.reasoning.grading.grader import grade_with;"
        r"right = grade_with(None, r'\boxed{\dfrac{2}{4}}', r'\frac{1}{2}').correct;"
        "print(json.dumps([right, 'math_verify' in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == [True, False]
