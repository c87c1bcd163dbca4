"""Problems of the reasoning benchmarks: from files, from the hub, from seeds, and their prompts."""

import json
import logging
import sys
import types

import pytest

from spiral.evaluation.reasoning.grading import grade
from spiral.evaluation.reasoning.problems import LETTERS, Problem, load_problems, read_problems
from spiral.evaluation.reasoning.tasks import PAPER_TASKS, TASKS, load_task, samples_of, task_names

MATH = load_task("math500")
GPQA = load_task("gpqa_diamond")
MMLU = load_task("mmlu_pro")
SIZES = {
    "math500": 500,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "olympiadbench": 675,
    "minerva_math": 272,
    "gsm8k": 1319,
    "gpqa_diamond": 198,
    "mmlu_pro": 12032,
}


def written(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_the_protocol_of_the_paper():
    often = {name for name, task in TASKS.items() if samples_of(task, "v3") == 32}
    assert often == {"aime24", "aime25", "amc23"}
    assert {samples_of(task, "v3") for name, task in TASKS.items() if name not in often} == {1}
    assert {samples_of(task, "v1") for task in TASKS.values()} == {4}
    assert [samples_of(load_task("reasoning_gym/gcd"), version) for version in ("v3", "v1")] == [1, 4]
    with pytest.raises(ValueError, match="got the protocol 'v2'; expected v3 or v1"):
        samples_of(MATH, "v2")
    assert task_names(["gsm8k", "paper", "math500"]) == ["gsm8k", *PAPER_TASKS]
    assert set(PAPER_TASKS) == set(TASKS) - {"gsm8k"}
    assert {name: task.size for name, task in TASKS.items()} == SIZES
    for task in TASKS.values():
        sampling = task.sampling
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.6, 0.95, 8192)
        assert len(task.source.revision) == 40
        assert task.source.rows == (674 if task.name == "olympiadbench" else task.size)
        assert "\\boxed{}" in Problem(id="1", question="Q?", answer="A", choices=("x",)).prompt(task.prompt)


def test_a_data_file(tmp_path):
    first = {"question": "1 + 1?", "answer": "2", "alt_answers": ["two"], "id": "sum", "tolerance": 0.1, "more": 1}
    problems = read_problems(written(tmp_path / "mine.jsonl", first, "", {"question": "2?", "answer": "2"}), MATH)
    assert problems == [
        Problem(id="sum", question="1 + 1?", answer="2", alt_answers=("two",), tolerance=0.1),
        Problem(id="mine.jsonl-3", question="2?", answer="2"),
    ]
    assert problems[0].prompt(MATH.prompt) == (
        "1 + 1?\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


def test_untrusted_alternatives_are_left_out(tmp_path):
    path = written(tmp_path / "m.jsonl", {"question": "Q", "answer": "0.05", "alt_answers": ["100"]})
    assert read_problems(path, load_task("minerva_math"))[0].alt_answers == ()
    assert read_problems(path, load_task("olympiadbench"))[0].alt_answers == ("100",)


def test_choices_are_lettered():
    problem = Problem(id="1", question="Which {one}?", answer="B", choices=("red", "blue"))
    assert problem.prompt(GPQA.prompt) == (
        "Which {one}?\n\nA. red\nB. blue\n\nPlease reason step by step, and put the letter of the right choice within"
        " \\boxed{}."
    )


@pytest.mark.parametrize(
    ("task", "line", "words"),
    [
        (MATH, "{", "line 1: "),
        (MATH, "[1]", "line 1: got list; expected an object"),
        (MATH, {"question": "Q", "answer": True}, "answer is True; expected text"),
        (MATH, {"question": "Q", "answer": {"value": 5}}, "answer is {'value': 5}; expected text"),
        (MATH, {"question": "Q", "answer": "so\n####  "}, "answer is ''; expected text"),
        (MATH, {"question": "Q", "solution": "so 5"}, "has no answer, and its solution has no box: 'so 5'"),
        (MMLU, {"question": "Q", "answer": "A", "answer_index": 1, "options": ["x", "y"]}, "is 'A' and answer_index 1"),
        (MMLU, {"question": "Q", "answer_index": 2, "options": ["x", "y"]}, "answer is 2; expected text"),
        (MATH, {"question": " ", "answer": "5"}, "question is ' '; expected text"),
        (MATH, {"question": "Q", "answer": "5", "alt_answers": "6"}, "alt_answers is '6'"),
        (MATH, {"question": "Q", "answer": "5", "tolerance": "much"}, "tolerance is 'much'"),
        (MATH, {"question": "Q", "answer": "5", "tolerance": "inf"}, "expected a finite number"),
        (MATH, {"question": "Q", "answer": "5", "tolerance": -1}, "expected a finite number of at least 0"),
        (MATH, {"question": "half \ud800", "answer": "5"}, "expected text"),
        (MATH, "{", "line 1: invalid JSON (Expecting property name enclosed in double quotes, column 2)"),
        (GPQA, {"question": "Q", "answer": "AB", "choices": ["x", "y"]}, "answer is 'AB'"),
        (GPQA, {"question": "Q", "answer": "A", "choices": ["x", "y"], "alt_answers": ["C"]}, "letters of the choices"),
        (GPQA, {"question": "Q", "answer": "A"}, "choices is None"),
        (GPQA, {"question": "Q", "answer": "C", "choices": ["x", "y"]}, "expected a letter from A to B"),
        (GPQA, {"question": "Q", "answer": "x", "choices": ["x", "y"]}, "answer is 'x'"),
        (MATH, "", "holds no problem"),
    ],
)
def test_damaged_files_are_refused(tmp_path, task, line, words):
    with pytest.raises(ValueError, match="mine") as caught:
        read_problems(written(tmp_path / "mine.jsonl", line), task)
    assert words in str(caught.value)


def test_duplicate_ids_are_refused(tmp_path):
    line = {"question": "Q", "answer": "5", "id": "one"}
    with pytest.raises(ValueError, match="the id 'one' twice"):
        read_problems(written(tmp_path / "mine.jsonl", line, line), MATH)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*none.jsonl"):
        load_problems(MATH, tmp_path / "none.jsonl")


def test_a_limit_draws_by_the_seed(tmp_path):
    path = written(tmp_path / "many.jsonl", *({"question": f"{n}?", "answer": str(n)} for n in range(50)))
    drawn = load_problems(MATH, path, limit=10, seed=1)
    assert len(drawn) == 10
    assert drawn == load_problems(MATH, path, limit=10, seed=1)
    assert drawn != load_problems(MATH, path, limit=10, seed=2)
    everyone = load_problems(MATH, path)
    assert [problem for problem in everyone if problem in drawn] == drawn
    assert load_problems(MATH, path, limit=99) == everyone


def test_gpqa_choices_are_shuffled_with_the_answer(tmp_path):
    lines = [{"question": f"{n}", "answer": "A", "choices": ["right", "w1", "w2", "w3"]} for n in range(60)]
    path = written(tmp_path / "gpqa.jsonl", *lines)
    problems = load_problems(GPQA, path, seed=3)
    assert all(problem.choices[LETTERS.index(problem.answer)] == "right" for problem in problems)
    assert all(sorted(problem.choices) == ["right", "w1", "w2", "w3"] for problem in problems)
    assert {problem.answer for problem in problems} == set("ABCD")
    assert problems == load_problems(GPQA, path, seed=3)
    assert problems != load_problems(GPQA, path, seed=4)


def test_alternative_choices_are_shuffled_too(tmp_path):
    line = {"question": "Q", "answer": "A", "alt_answers": ["C"], "choices": ["right", "w1", "right too", "w3"]}
    path = written(tmp_path / "gpqa.jsonl", line)
    for seed in range(12):
        (problem,) = load_problems(GPQA, path, seed=seed)
        named = [problem.choices[LETTERS.index(letter)] for letter in (problem.answer, *problem.alt_answers)]
        assert named == ["right", "right too"]


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('\ufeff{"question": "one\u2028two\x85", "answer": "5", "id": null}\r\n', encoding="utf-8")
    assert [(problem.id, problem.question) for problem in read_problems(path, MATH)] == [
        ("mine.jsonl-1", "one\u2028two\x85")
    ]


GSM = {
    "question": "Janet sells 9 eggs at $2. How much?",
    "answer": "Janet makes 9*2=<<9*2=18>>18 dollars.\nSo:\n#### 1,018",
}
GPQA_ROW = {
    "Record ID": "r",
    "Question": "Q",
    "Correct Answer": "a\n",
    **{f"Incorrect Answer {n}": n for n in (1, 2, 3)},
}
MMLU_ROW = {"question_id": 4, "question": "Q", "options": ["a", "b"], "answer": "B", "answer_index": 1}
PUBLISHED = [
    ("gsm8k", GSM, "1018"),
    ("gsm8k", {"question": "Q", "answer": "18"}, "18"),
    ("gsm8k", {"question": "Q", "answer": "#### -3.50"}, "-3.50"),
    ("math500", {"problem": "Q", "answer": "x", "unique_id": "u/1", "solution": "so \\boxed{y}"}, "x"),
    ("math500", {"problem": "Q", "level": "Level 2", "solution": "is \\boxed{\\frac{1}{2}}."}, "\\frac{1}{2}"),
    ("math500", {"problem": "Q", "answer": "", "solution": "first \\boxed{1}, then \\boxed{(2, 3)}"}, "(2, 3)"),
    ("math500", {"problem": "Q", "answer": "so it is $\\boxed{18}$"}, "18"),
    ("aime24", {"problem": "Q", "solution": "so \\boxed{204}", "id": 60}, "204"),
    ("aime24", {"ID": "2024-I-1", "Problem": "Q", "Solution": "long", "Answer": 73}, "73"),
    ("aime25", {"question": "Q", "answer": "073"}, "073"),
    ("amc23", {"id": 0, "question": "Q", "answer": 27.0}, "27"),
    ("amc23", {"id": 0, "problem": "Q", "answer": 0.5}, "0.5"),
    ("olympiadbench", {"question": "Q", "solution": ["s"], "final_answer": ["1", "2"], "error": None, "id": 3}, "1, 2"),
    ("olympiadbench", {"question": "Q", "final_answer": None, "solution": ["so \\boxed{7}"]}, "7"),
    ("olympiadbench", {"question": "Q", "answer": ["$x=1$", "$x=2$"]}, "$x=1$, $x=2$"),
    ("minerva_math", {"problem": "Q", "solution": "so \\boxed{4.5e33}", "idx": 1, "type": "astronomy"}, "4.5e33"),
    ("gpqa_diamond", GPQA_ROW, "A"),
    ("mmlu_pro", MMLU_ROW, "B"),
    ("mmlu_pro", {"question": "Q", "choices": ["a", "b", "c"], "answer": 2}, "C"),
    ("mmlu_pro", {"question": "Q", "options": ["a", "b"], "answer_index": 0}, "A"),
    ("mmlu_pro", {"question": "Q", "options": [1, 2.0], "answer": 1, "answer_index": 1}, "B"),
]


@pytest.mark.parametrize(("name", "row", "answer"), PUBLISHED)
def test_rows_of_published_data_sets(tmp_path, caplog, name, row, answer):
    task = load_task(name)
    (problem,) = read_problems(written(tmp_path / "data.jsonl", row), task)
    assert (problem.question, problem.answer) == (row.get("question", GSM["question"] if row is GSM else "Q"), answer)
    assert grade(f"Thus \\boxed{{{answer}}}.", problem.answer, choices=problem.choices)
    assert not caplog.records


def test_ids_choices_and_tolerances_of_published_rows(tmp_path):
    def read(name, row):
        return read_problems(written(tmp_path / "data.jsonl", row), load_task(name))[0]

    assert read("math500", {"problem": "Q", "answer": "x", "unique_id": "u/1"}).id == "u/1"
    assert read("aime24", {"ID": "2024-I-1", "Problem": "Q", "Answer": 73}).id == "2024-I-1"
    assert (read("gpqa_diamond", GPQA_ROW).id, read("gpqa_diamond", GPQA_ROW).choices) == ("r", ("a", "1", "2", "3"))
    assert (read("mmlu_pro", MMLU_ROW).id, read("mmlu_pro", MMLU_ROW).choices) == ("4", ("a", "b"))
    assert read("olympiadbench", {"question": "Q", "final_answer": ["0.1"], "error": "1e-2"}).tolerance == 0.01


def test_a_hub_row_means_the_same_as_its_line(monkeypatch, tmp_path):
    rows = [{"problem": f"{n}?", "solution": f"so \\boxed{{{n}}}", "id": n} for n in range(30)]
    fake_hub(monkeypatch, rows)
    assert load_problems(load_task("aime24")) == load_problems(
        load_task("aime24"), written(tmp_path / "data.jsonl", *rows)
    )


def test_an_answer_that_no_reply_can_match_is_refused(tmp_path):
    lines = [{"question": "Q", "answer": answer} for answer in ("5", "}{", "6", "\\boxed{")]
    with pytest.raises(ValueError, match="2 of 4 answers are graded as wrong") as caught:
        read_problems(written(tmp_path / "mine.jsonl", *lines), MATH)
    assert "line 2: '}{', line 4: " in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        "9*2=<<9*2=18>>18, so 18",
        "first 9\nthen 18",
        "She sells nine eggs a day for two dollars each and so she makes 18 dollars",
    ],
)
def test_an_answer_that_looks_like_a_solution_gives_a_warning(tmp_path, caplog, answer):
    lines = [{"question": "Q", "answer": text} for text in ("5", "\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}", answer)]
    with caplog.at_level(logging.WARNING):
        assert len(read_problems(written(tmp_path / "mine.jsonl", *lines), MATH)) == 3
    (record,) = caplog.records
    assert "1 of 3 answers look like worked solutions" in record.getMessage()
    assert "line 3: " in record.getMessage()


def fake_hub(monkeypatch, rows):
    asked = []

    def load_dataset(name, config, *, revision, split):
        asked.append((name, config, revision, split))
        if isinstance(rows, Exception):
            raise rows
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_the_hub_is_asked_for_the_pinned_commit(monkeypatch):
    asked = fake_hub(monkeypatch, [{"problem": f"{n}?", "answer": str(n), "id": n} for n in range(30)])
    problems = load_problems(load_task("aime25"))
    assert asked == [("math-ai/aime25", None, "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test")]
    assert (len(problems), problems[4]) == (30, Problem(id="4", question="4?", answer="4"))


def test_a_data_set_of_another_size_is_refused(monkeypatch):
    fake_hub(monkeypatch, [{"problem": "Q", "answer": "1", "id": 1}])
    with pytest.raises(ValueError, match="has 1 rows; expected 30"):
        load_problems(load_task("aime25"))


def test_an_unreachable_hub_suggests_a_file(monkeypatch):
    fake_hub(monkeypatch, ConnectionError("no\nnetwork"))
    with pytest.raises(ValueError, match=r"for aime25: no network. Log in .* or give --data FILE.jsonl"):
        load_problems(load_task("aime25"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("math50", "did you mean 'math500'"),
        ("chess", "Known: math500, aime24"),
        ("reasoning_gym/gcdd", "did you mean reasoning_gym/gcd"),
        ("reasoning_gym/", "no task family ''"),
    ],
)
def test_unknown_tasks(name, words):
    with pytest.raises(ValueError, match=r"there is no|has no") as caught:
        load_task(name)
    assert words in str(caught.value)


def test_problems_from_a_seed():
    task = load_task("reasoning_gym/gcd")
    problems = load_problems(task, limit=5, seed=1)
    assert problems == load_problems(task, limit=5, seed=1)
    assert problems != load_problems(task, limit=5, seed=2)
    assert [problem.id for problem in problems] == [f"1-{n}" for n in range(5)]
    assert len(load_problems(task)) == 100
    with pytest.raises(ValueError, match="leave out --data"):
        load_problems(task, data="x")
    with pytest.raises(ValueError, match="a limit of 0"):
        load_problems(task, limit=0)
