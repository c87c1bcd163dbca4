"""Verifiers of seeded tasks behind the pool's limit on time."""

import sys

import pytest

from spiral.evaluation.reasoning.grading.grade import Grade
from spiral.evaluation.reasoning.grading.pool import GradingPool, VerifierItem
from spiral.evaluation.reasoning.procedural import RIGHT, gym_score, make_problems

HANGING = """import sys, time
print('"ready"', flush=True)
sys.stdin.readline()
time.sleep(1)  # making the problems takes longer than an answer may
print('{"prepared": true}', flush=True)
sys.stdin.readline()
time.sleep(60)
"""


def item(reply, index=0):
    return VerifierItem(reply=reply, task="reasoning_gym/gcd", items=3, seed=0, index=index)


def test_a_verifier_that_hangs_is_cut_off(tmp_path):
    (tmp_path / "worker.py").write_text(HANGING)
    with GradingPool(time_limit=0.3, worker=(sys.executable, str(tmp_path / "worker.py"))) as pool:
        assert pool.verify(item("\\boxed{6}")) == Grade(correct=False, extracted="6", boxed=True, timed_out=True)


def test_a_verifier_that_fails_has_not_found_the_answer_right():
    with GradingPool() as pool:
        assert not pool.verify(item("\\boxed{6}", index=99)).correct  # there is no such problem
        assert pool.verify(item("no answer")) == Grade(correct=False, extracted=None, boxed=False)


DRESSES = (
    "%s", r"\text{%s}", "$%s$", r"\mathbf{%s}", "%s.", r"\textbf{\text{%s}}", r"\(%s\)", '"%s"', r"\color{blue}{%s}",
    r"\large\texttt{%s}", r"\, %s \,", "{%s}", r"\boxed{%s}", "**%s**", r"\text{%s.}", r"$$\displaystyle %s$$",
)  # fmt: skip
WRONG = {
    "syllogism": ("Yes and No", r"\text{Maybe}", r"\text{not Yes}", r"\phantom{Yes}"),
    "gcd": (r"\text{1234567}", r"\sqrt{6}", "-6", r"\frac{1}{6}"),
    "fraction_simplification": (r"\text{1/1234567}", r"\frac{3}{2}", "0"),
    "sudoku": (r"\text{1 2 3}", "123456789"),
    "calendar_arithmetic": (r"\text{Someday}", "Friday or Monday", r"\text{Fri}"),
}


def score(family, answer):
    return gym_score(f"reasoning_gym/{family}", 2, 5, 0, answer)


@pytest.mark.parametrize("family", WRONG)
def test_a_verifier_is_asked_without_dress(family):
    answer = make_problems(f"reasoning_gym/{family}", 2, 5)[0].answer
    assert [dress for dress in DRESSES if score(family, dress % answer) < RIGHT] == []
    assert [wrong for wrong in WRONG[family] if score(family, wrong) >= RIGHT] == []


def test_a_verifier_is_asked_in_typed_mathematics():
    answer = make_problems("reasoning_gym/fraction_simplification", 2, 5)[0].answer.strip("$")
    above, below = answer.split("/") if "/" in answer else answer.removeprefix(r"\frac{").removesuffix("}").split("}{")
    assert score("fraction_simplification", rf"\dfrac{{{above}}}{{{below}}}") >= RIGHT
    assert score("fraction_simplification", rf"\dfrac{{{below}}}{{{above}}}") < RIGHT
    product = make_problems("reasoning_gym/products", 2, 5)[0].answer
    assert score("products", f"{int(product):,}") >= RIGHT
    assert score("products", f"{int(product) + 1:,}") < RIGHT
