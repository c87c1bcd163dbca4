"""Verifiers of generated tasks under the pool's time limit."""

import sys

import pytest

from spiral.evaluation.reasoning.grading import Grade
from spiral.evaluation.reasoning.grading.pool import GradingPool, VerifierItem
from spiral.evaluation.reasoning.procedural import CORRECT, generate_problems, verifier_score

HANGING = """import sys, time
print('"ready"', flush=True)
sys.stdin.readline()
time.sleep(1)  # generating the problems takes longer than an answer may
print('{"prepared": true}', flush=True)
sys.stdin.readline()
time.sleep(60)
"""


def item(reply, index=0):
    return VerifierItem(reply=reply, task="reasoning_gym/gcd", items=3, seed=0, index=index)


def test_a_hanging_verifier_times_out(tmp_path):
    (tmp_path / "worker.py").write_text(HANGING)
    with GradingPool(time_limit=0.3, worker=(sys.executable, str(tmp_path / "worker.py"))) as pool:
        assert pool.verify(item("\\boxed{6}")) == Grade(correct=False, extracted="6", boxed=True, timed_out=True)


def test_a_failing_verifier_grades_as_wrong():
    with GradingPool() as pool:
        assert not pool.verify(item("\\boxed{6}", index=99)).correct  # there is no such problem
        assert pool.verify(item("no answer")) == Grade(correct=False, extracted=None, boxed=False)


FORMATS = (
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
    return verifier_score(f"reasoning_gym/{family}", 2, 5, 0, answer)


@pytest.mark.parametrize("family", WRONG)
def test_verifiers_accept_formatted_answers(family):
    answer = generate_problems(f"reasoning_gym/{family}", 2, 5)[0][1]
    assert [style for style in FORMATS if score(family, style % answer) < CORRECT] == []
    assert [wrong for wrong in WRONG[family] if score(family, wrong) >= CORRECT] == []


def test_verifiers_accept_latex_and_separators():
    answer = generate_problems("reasoning_gym/fraction_simplification", 2, 5)[0][1].strip("$")
    above, below = answer.split("/") if "/" in answer else answer.removeprefix(r"\frac{").removesuffix("}").split("}{")
    assert score("fraction_simplification", rf"\dfrac{{{above}}}{{{below}}}") >= CORRECT
    assert score("fraction_simplification", rf"\dfrac{{{below}}}{{{above}}}") < CORRECT
    product = generate_problems("reasoning_gym/products", 2, 5)[0][1]
    assert score("products", f"{int(product):,}") >= CORRECT
    assert score("products", f"{int(product) + 1:,}") < CORRECT
