"""Worked examples before a question: their text, their category, and that no question of the test is one."""

import json

import pytest

from spiral.evaluation.reasoning import shots
from spiral.evaluation.reasoning.problems import Problem
from spiral.evaluation.reasoning.runner import load_benchmark
from spiral.evaluation.reasoning.shots import Shot, shots_of_tasks, with_shots
from spiral.evaluation.reasoning.tasks import load_task

MMLU, GPQA = load_task("mmlu_pro"), load_task("gpqa_diamond")


def row(number, category="law", **more):
    answer = "ABC"[number % 3]
    worked = f"A: Let's think step by step. It is {number}. The answer is ({answer})."
    return {
        "question": f"Which is {number}?", "options": ["a", "b", "c"], "answer": answer, "category": category,
        "cot_content": worked, **more,
    }  # fmt: skip


def written(path, *rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def questions_of(path, *categories):
    rows = [row(100 + number, category) for number, category in enumerate(categories)]
    return written(path, *rows)


def test_examples_are_of_the_category_and_worked(tmp_path):
    test = questions_of(tmp_path / "test.jsonl", "law", "math", "law")
    pool = written(tmp_path / "shots.jsonl", *(row(n, "law" if n % 2 else "math") for n in range(8)))
    asked = load_benchmark("mmlu_pro", data=test, shots=2, shots_data=pool)
    assert (asked.shots, len(asked.problems)) == (2, 3)
    prompt = asked.problems[0].prompt(MMLU.prompt)
    assert prompt == (
        "Question: Which is 1?\n\nA. a\nB. b\nC. c\n\nSolution: Let's think step by step. It is 1. The answer is"
        " \\boxed{B}.\n\n"
        "Question: Which is 3?\n\nA. a\nB. b\nC. c\n\nSolution: Let's think step by step. It is 3. The answer is"
        " \\boxed{A}.\n\n"
        "Now answer this question in the same way.\n\n"
        "Which is 100?\n\nA. a\nB. b\nC. c\n\nPlease reason step by step, and put the letter of the right choice"
        " within \\boxed{}."
    )
    assert "Which is 0?" in asked.problems[1].shots
    assert "Which is 2?" in asked.problems[1].shots
    drawn = load_benchmark("mmlu_pro", data=test, shots=2, shots_data=pool, limit=1, seed=3)
    assert drawn.problems[0] in asked.problems


def test_no_question_of_the_test_is_an_example(tmp_path):
    """Not even one that `limit` leaves out, in other letters and spaces."""
    test = questions_of(tmp_path / "test.jsonl", "law", "law")
    rows = [row(1), {**row(101), "question": "which  IS 101?"}, row(2)]
    pool = written(tmp_path / "shots.jsonl", *rows)
    (problem,) = load_benchmark("mmlu_pro", data=test, shots=2, shots_data=pool, limit=1).problems
    assert "101" not in problem.shots
    assert problem.shots.count("Question: ") == 2
    with pytest.raises(
        ValueError,
        match=r"mmlu_pro: .*shots\.jsonl has 2 worked examples of the category 'law' for 3 shots"
        r" \(1 others are questions of the test\); expected fewer shots, or more",
    ):
        load_benchmark("mmlu_pro", data=test, shots=3, shots_data=pool)


def test_gpqa_takes_the_extended_set_without_the_test_and_shuffles_its_choices(monkeypatch):
    problems = [
        Problem(id=str(n), question=f"Q{n}", answer="A", choices=(f"right {n}", "x", "y", "z")) for n in range(9)
    ]
    monkeypatch.setattr(shots, "hub_rows", lambda *_: [({"Explanation": "Because."}, each) for each in problems])
    (asked,) = with_shots(problems[:1], GPQA, 5)
    assert "Q0" not in asked.shots
    assert asked.shots.count("Because. The answer is") == 5
    letters = [line[0] for line in asked.shots.splitlines() if "right" in line]
    boxes = [line.split("boxed{")[1][0] for line in asked.shots.splitlines() if "boxed" in line]
    assert letters == boxes
    assert len(set(letters)) > 1, "the right choice is not always the first"


@pytest.mark.parametrize(
    ("names", "number", "files", "expected"),
    [
        (["math500", "mmlu_pro"], 5, {}, {"math500": 0, "mmlu_pro": 5}),
        (["math500"], 3, {"math500": "f"}, {"math500": 3}),
        (["math500"], 0, {}, {"math500": 0}),
        (["math500", "gsm8k"], 5, {}, r"5 shots, but there are no worked examples for math500, gsm8k; leave out"),
        (["mmlu_pro"], 0, {"mmlu_pro": "f"}, r"examples for mmlu_pro, but no number of shots; add it, such as 5"),
        (["mmlu_pro"], 5, {"gsm8k": "f"}, r"examples for gsm8k, which is not among the tasks"),
    ],
)
def test_which_tasks_have_examples(names, number, files, expected):
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            shots_of_tasks(names, number, files)
    else:
        given = shots_of_tasks(names, number, files)
        assert {name: found["shots"] for name, found in given.items()} == expected


def test_faults_of_examples(tmp_path):
    test = questions_of(tmp_path / "t.jsonl", "law")
    with pytest.raises(ValueError, match=r"boxes 'B', but its answer is 'A' .*; expected a solution without a box"):
        Shot(problem=Problem(id="1", question="Q", answer="A", choices=("x", "y")), solution="so \\boxed{B}")
    with pytest.raises(ValueError, match="got 65 shots; expected 1 to 64"):
        load_benchmark("mmlu_pro", data=test, shots=65, shots_data=test)
    with pytest.raises(ValueError, match="generates its problems"):
        load_benchmark("reasoning_gym/gcd", shots=1)
    own = Shot(problem=Problem(id="1", question="1+1?", answer="2"), solution="It is \\boxed{2}.")
    assert own.text == "Question: 1+1?\n\nSolution: It is \\boxed{2}.\n\n"
