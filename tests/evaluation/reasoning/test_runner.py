"""Running a benchmark: questions, grades, kept attempts, and scores computed by hand."""

import dataclasses
import json

import pytest

from spiral.evaluation.reasoning.problems import Problem, load_problems
from spiral.evaluation.reasoning.runner import (
    Benchmark,
    benchmark_directory,
    grade_problem,
    load_benchmark,
    read_attempts,
    run_benchmark,
    summarise_attempts,
)
from spiral.evaluation.reasoning.tasks import load_task
from spiral.evaluation.results import read_result
from spiral.inference.base import LanguagePolicy
from spiral.inference.transformers import TransformersPolicy
from spiral.models.nano.tokenizer import END
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig

MATH = dataclasses.replace(load_task("math500"), samples=4)
PROBLEMS = [
    Problem(id="one", question="1 + 1?", answer="2"),
    Problem(id="two", question="2 + 2?", answer="4"),
    Problem(id="three", question="half?", answer="\\frac{1}{2}"),
]


class Recited(LanguagePolicy):
    """Replies with `said(question, sample)`, `batch` replies per poll."""

    def __init__(self, tokenizer, said, *, batch=2, context=400, prompt=PromptConfig(thinking=False)):  # noqa: B008
        super().__init__(ChatCodec(tokenizer, prompt), SamplingConfig(), name="said", context=context)
        self.said, self.batch, self.turns, self.asked, self.seeds, self.samplings = said, batch, [], [], [], set()
        self.most = 0

    def _generate(self, turns):
        self.turns.extend(turns)
        self.most = max(self.most, len(self.turns))

    def poll(self):
        now, self.turns = self.turns[: self.batch], self.turns[self.batch :]
        for turn in now:
            question = self.codec.tokenizer.decode(turn.prompt_ids)
            self.asked.append(question)
            self.seeds.append(turn.seed)
            self.samplings.add(self.sampling)
            text = self.said(question, turn.key % MATH.samples)
            ids = self.codec.tokenizer.encode(text + END, add_special_tokens=False)
            cut = ids[: turn.budget]
            self._finish(turn, cut, [0.0] * len(cut), "stop" if len(cut) == len(ids) else "length")
        return self._take_done()

    def cancel(self):
        self.turns.clear()

    def load_weights(self, weights, version):
        self.version = version


def says(question, sample):
    """Right on the first problem, in half of the samples on the second, never on the third."""
    if "1 + 1?" in question:
        return "so \\boxed{2}"
    if "2 + 2?" in question:
        return "\\boxed{4}" if sample % 2 else "it is four"
    return "\\boxed{2}"


def benchmarked(policy, problems=PROBLEMS, task=MATH, **more):
    return run_benchmark(policy, Benchmark(task=task, problems=problems, seed=0), "said", **more)[0]


def test_scores(tokenizer):
    policy = Recited(tokenizer, says)
    result = benchmarked(policy)
    assert (result.items, result.samples, result.task, result.model, result.seed) == (3, 4, "math500", "said", 0)
    assert result.accuracy.value == pytest.approx((4 + 2 + 0) / 12)
    assert result.accuracy.low < 0.25
    assert result.accuracy.high > 0.75
    assert result.pass_at_k.value == pytest.approx(2 / 3)
    assert result.unboxed == pytest.approx(2 / 12)
    assert (result.truncated, result.grading_timeouts) == (0.0, 0)
    assert policy.samplings == {MATH.sampling}
    assert policy.sampling == SamplingConfig()
    assert len(set(policy.seeds)) == 12
    assert all("put your final answer within" in question for question in policy.asked)
    flat = json.loads(json.dumps(result.to_json()))
    assert flat["accuracy_low"] <= flat["accuracy"] <= flat["accuracy_high"]
    assert {"items", "truncated", "unboxed", "pass_at_k", "response_length"} < set(flat)


def test_no_more_than_in_flight_are_generated_at_once(tokenizer):
    policy = Recited(tokenizer, says)
    benchmarked(policy, in_flight=3)
    assert policy.most == 3


def test_prompts_are_encoded_only_when_submitted(tokenizer):
    policy = Recited(tokenizer, says)
    encode, polled = policy.codec.encode_question, []
    policy.codec.encode_question = lambda text: polled.append(len(policy.asked)) or encode(text)
    benchmarked(policy, in_flight=3)
    # How many were answered when each was encoded: three at once, then two for every two that were answered.
    assert polled == [0, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10]


def test_options_override_the_tasks_settings(tmp_path):
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n}?", "answer": "1", "id": str(n)}) + "\n" for n in range(9)))
    plain = load_benchmark("math500", data=data)
    assert (plain.task, len(plain.problems), plain.seed, plain.attempts) == (load_task("math500"), 9, 0, 9)
    assert load_benchmark("math500", data=data, protocol="v1").attempts == 36
    assert load_benchmark("aime24", data=data).attempts == 9 * 32
    asked = load_benchmark("math500", data=data, limit=4, samples=2, temperature=0.0, max_new_tokens=7, seed=5)
    assert asked.task.sampling == SamplingConfig(temperature=0.0, top_p=0.95, max_new_tokens=7)
    assert (asked.task.samples, asked.seed, asked.attempts) == (2, 5, 8)
    assert asked.problems == load_problems(MATH, data, 4, 5)
    with pytest.raises(ValueError, match=r"^top-p: got 3\.0; Input should be less than or equal to 1$"):
        load_benchmark("math500", data=tmp_path / "none", top_p=3.0)


def test_a_truncated_reply(tokenizer):
    task = dataclasses.replace(MATH, samples=1, sampling=SamplingConfig(max_new_tokens=3))
    result = benchmarked(Recited(tokenizer, lambda *_: "a long way to \\boxed{2}"), task=task)
    assert (result.truncated, result.unboxed, result.accuracy.value, result.response_length) == (1.0, 1.0, 0.0, 3.0)


def test_letters_and_verifiers(tokenizer):
    gpqa = dataclasses.replace(load_task("gpqa_diamond"), samples=1)
    letters = [Problem(id="1", question="Q", answer="B", choices=("red", "blue"))]
    for said, right in (("\\boxed{B}", 1.0), ("\\boxed{A}", 0.0), ("\\boxed{\\text{blue}}", 1.0), ("\\boxed{AB}", 0.0)):
        assert benchmarked(Recited(tokenizer, lambda *_, said=said: said), letters, gpqa).accuracy.value == right
    gcd = dataclasses.replace(load_task("reasoning_gym/gcd"), samples=1)
    problems = load_problems(gcd, limit=4, seed=1)
    right = [grade_problem(gcd, problem, f"\\boxed{{{problem.answer}}}") for problem in problems]
    wrong = [grade_problem(gcd, problem, f"\\boxed{{{problem.answer}1}}") for problem in problems]
    silent = [grade_problem(gcd, problem, "no idea") for problem in problems]
    assert [grade.correct for grade in right] == [True] * 4
    assert not any(grade.correct for grade in [*wrong, *silent])
    assert not any(grade.boxed for grade in silent)


def test_a_stopped_benchmark_continues(tokenizer, tmp_path):
    whole = benchmarked(Recited(tokenizer, says))

    def stops(question, sample):
        if "half?" in question:
            raise KeyboardInterrupt
        return says(question, sample)

    benchmark = Benchmark(task=MATH, problems=PROBLEMS, seed=0)
    first = Recited(tokenizer, stops)
    directory = benchmark_directory(first, benchmark, "nano", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        benchmarked(first, directory=directory)
    kept = len(read_attempts(directory))
    assert 4 <= kept < 12
    with directory.items_file.open("a") as file:
        file.write('{"id": "thr')  # cut short by a kill
    done = []
    second = Recited(tokenizer, says)
    assert benchmarked(second, directory=directory, on_progress=done.append) == whole
    assert len(second.asked) == 12 - kept
    assert (done[0], done[-1]) == (kept, 12)
    saved = read_result(directory.path)
    assert (saved["kind"], saved["result"]) == ("benchmark", whole.to_json())
    again = Recited(tokenizer, says)
    assert benchmarked(again, directory=directory) == whole
    assert again.asked == []
    assert benchmarked(again, directory=directory, fresh=True) == whole
    assert len(again.asked) == 12
    # Every attempt can be graded again from the file.
    attempts = read_attempts(directory)
    assert (
        summarise_attempts(
            sorted(attempts, key=lambda a: ([p.id for p in PROBLEMS].index(a.id), a.sample)), MATH, "said", 0
        )
        == whole
    )


def test_kept_records_survive_unusual_characters_and_damage(tokenizer, tmp_path):
    benchmark = Benchmark(task=MATH, problems=PROBLEMS, seed=0)
    directory = benchmark_directory(Recited(tokenizer, says), benchmark, "nano", tmp_path)
    directory.make()
    records = [{"reply": "a\u2028b\x85c"}, {"reply": "\u221a2"}]
    for record in records:
        directory.append_item(record)
    before = directory.items_file.stat().st_ino
    assert directory.read_items() == records
    assert directory.items_file.stat().st_ino == before  # a whole file is not written again
    with directory.items_file.open("ab") as file:
        file.write(b"4\n" + json.dumps(records[0]).encode() + b'\n{"reply": "\xe2\x88')  # cut within a letter
    assert directory.read_items() == [*records, records[0]]
    directory.append_item(records[1])
    assert directory.read_items() == [*records, *records]


def test_records_of_another_kind_are_refused(tokenizer, tmp_path):
    policy = Recited(tokenizer, says)
    directory = benchmark_directory(policy, Benchmark(task=MATH, problems=PROBLEMS, seed=0), "nano", tmp_path)
    directory.make()
    directory.append_item({"id": "one"})
    with pytest.raises(ValueError, match="not attempts; run the benchmark again with --fresh"):
        benchmarked(policy, directory=directory)


def test_a_fresh_benchmark_is_complete_only_at_the_end(tokenizer, tmp_path):
    def stops(question, sample):
        raise KeyboardInterrupt

    policy = Recited(tokenizer, says)
    directory = benchmark_directory(policy, Benchmark(task=MATH, problems=PROBLEMS, seed=0), "nano", tmp_path)
    benchmarked(policy, directory=directory)
    assert directory.result_file.exists()
    with pytest.raises(KeyboardInterrupt):
        benchmarked(Recited(tokenizer, stops), directory=directory, fresh=True)
    assert not directory.result_file.exists()


def test_kept_replies_are_graded_again(tokenizer, tmp_path):
    policy = Recited(tokenizer, says)
    directory = benchmark_directory(policy, Benchmark(task=MATH, problems=PROBLEMS, seed=0), "nano", tmp_path)
    first = benchmarked(policy, directory=directory)
    damaged = [record | {"correct": True} for record in directory.read_items()]
    directory.items_file.write_text("".join(json.dumps(record) + "\n" for record in damaged))
    again = Recited(tokenizer, says)
    assert benchmarked(again, directory=directory).accuracy.value == 1.0
    assert benchmarked(again, directory=directory, regrade=True) == first
    assert again.asked == []
    assert [attempt.correct for attempt in read_attempts(directory)].count(True) == 6


def test_other_settings_have_another_directory(nano, tmp_path):
    policy = TransformersPolicy(nano.model, ChatCodec(nano.tokenizer, PromptConfig()), SamplingConfig(), name="nano")

    def directory(task=MATH, problems=PROBLEMS, seed=0):
        return benchmark_directory(policy, Benchmark(task=task, problems=problems, seed=seed), "nano", tmp_path).path

    assert directory() == directory()
    changed = dataclasses.replace(MATH, sampling=SamplingConfig(temperature=0.5))
    others = [directory(seed=1), directory(problems=PROBLEMS[:2]), directory(changed)]
    others.append(directory(dataclasses.replace(MATH, samples=1)))
    others.append(directory(problems=[dataclasses.replace(problem, tolerance=0.1) for problem in PROBLEMS]))
    assert len({directory(), *others}) == 6
    assert directory().name.startswith("benchmark-math500-nano-")


def test_a_prompt_that_does_not_fit_counts_as_unsolved(tokenizer):
    long = Problem(id="long", question="?" * 500, answer="2")
    policy = Recited(tokenizer, says)
    result = benchmarked(policy, [PROBLEMS[0], long])
    assert (result.too_long, result.truncated, result.accuracy.value) == (1, 0.5, 0.5)
    assert len(policy.asked) == 4


def test_thoughts_opened_by_the_prompt_are_ignored(tokenizer, tmp_path):
    said = {
        "1 + 1?": "First guess \\boxed{2}, but wait, let me check",
        "2 + 2?": "Perhaps \\boxed{5}.</think>It is \\boxed{4}.",
        "half?": "The answer is 1/2.",
    }

    def thinks(question, _):
        return next(reply for asked, reply in said.items() if asked in question)

    task = dataclasses.replace(MATH, samples=1)
    policy = Recited(tokenizer, thinks, context=4000, prompt=PromptConfig(template="r1"))
    benchmark = Benchmark(task=task, problems=PROBLEMS, seed=0)
    directory = benchmark_directory(policy, benchmark, "nano", tmp_path)
    result, attempts = run_benchmark(policy, benchmark, "said", directory=directory)
    assert [attempt.correct for attempt in attempts] == [False, True, False]
    assert [attempt.extracted for attempt in attempts] == [None, "4", None]
    assert [attempt.reply for attempt in attempts] == ["<think>" + reply for reply in said.values()]
    assert [attempt.thinking_tokens == attempt.tokens for attempt in attempts] == [True, False, True]
    assert (result.accuracy.value, result.unboxed) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    # What is kept can be graded by itself.
    assert run_benchmark(policy, benchmark, "said", directory=directory, regrade=True)[0] == result
    # Without the tag in the prompt the same words are an answer in plain sight.
    plain = benchmarked(Recited(tokenizer, thinks), task=task)
    assert (plain.accuracy.value, plain.unboxed) == (1.0, pytest.approx(1 / 3))


def test_math_verify_grades_are_added_to_kept_attempts(tokenizer, tmp_path):
    directory = benchmark_directory(
        Recited(tokenizer, says), Benchmark(task=MATH, problems=PROBLEMS, seed=0), "nano", tmp_path
    )
    without = benchmarked(Recited(tokenizer, says), directory=directory)
    assert (without.math_verify, without.to_json()["math_verify"]) == (None, None)
    silent = Recited(tokenizer, says)
    result = benchmarked(silent, directory=directory, math_verify=True)
    assert silent.asked == []  # the kept replies get the missing grades
    assert result.math_verify == result.accuracy == without.accuracy
    assert {"math_verify_low", "math_verify_high"} < set(result.to_json())
    assert [attempt.math_verify for attempt in read_attempts(directory)] == [True] * 4 + [False, True] * 2 + [False] * 4
    assert benchmarked(Recited(tokenizer, says), directory=directory, math_verify=True, regrade=True) == result


def test_math_verify_extracts_and_compares_in_its_own_way(tokenizer):
    problems = [Problem(id="1", question="Q", answer="90", alt_answers=("100",))]
    task = dataclasses.replace(MATH, samples=1)

    def graded(reply, task=task, problems=problems):
        policy = Recited(tokenizer, lambda *_: reply, context=4000, prompt=PromptConfig(template="r1"))
        result = benchmarked(policy, problems, task, math_verify=True)
        return result.accuracy.value, result.math_verify and result.math_verify.value

    assert graded("</think>\\boxed{90^\\circ}") == (1.0, 1.0)
    assert graded("</think>It has 90 degrees") == (0.0, 1.0)  # it takes numbers that are merely mentioned
    assert graded("\\boxed{90}</think>\\boxed{91}") == (0.0, 0.0)
    assert graded("</think>\\boxed{100}") == (1.0, 1.0)
    letters = [Problem(id="1", question="Q", answer="B", choices=("red", "blue"))]
    gpqa = dataclasses.replace(load_task("gpqa_diamond"), samples=1)
    assert graded("</think>\\boxed{B}", gpqa, letters) == (1.0, None)
