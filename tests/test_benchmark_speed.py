"""The benchmarks of learner, engine, step and GPU: their counts by hand, and their rows on the built-in model."""

import copy
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import common, gpu, gpu_inputs, gpu_parts, spiral_step, step
from benchmarks.learner import BlockLearner, flop, layout_rows, memory_rows, packed_families
from benchmarks.rollout import LockStep, offline_transformers, played, table, timed_rows
from benchmarks.scaling_checks import prime_rl_mfu
from benchmarks.sides import Report, Step, read_report
from made_up import new_sample, random_samples
from spiral.inference.transformers import TransformersPolicy
from spiral.models.nano.build import DIRECT
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec
from spiral.training.batch import make_batch
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.loss import LossConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def tables_elsewhere(monkeypatch, tmp_path):
    """The committed results are not for tests to write to."""
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def sample_of(token_ids, prompt):
    return new_sample(token_ids[:prompt], token_ids[prompt:])


@pytest.mark.parametrize(("tied", "layers"), [(True, 1), (False, 2)])
def test_flop_by_hand(tied, layers):
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    common_beginning = list(range(18))
    batch = make_batch(
        [
            sample_of([*common_beginning, 20, 21, 1, 2, 3], prompt=20),
            sample_of([*common_beginning, 22, 1, 2], prompt=19),
        ]
    )
    # Query and output 8 x 8, key and value 8 x 4, three feed-forward matrices 8 x 16; the head is 8 x 32.
    weights = layers * (2 * 64 + 2 * 32 + 3 * 128)
    head = 8 * 32 * (3 + 2)
    # 22 and 20 tokens are fed in, of which 18 are the same: 18 + 4 + 2 in a packed row.
    alone = flop(model, batch)
    assert alone == 6 * (weights * 42 + head) + 6 * layers * 8 * (22**2 + 20**2)
    (family,) = packed_families(batch, 1000)
    assert (sorted(family.samples), family.shared) == ([0, 1], 18)
    packed = flop(model, batch, [family])
    assert packed == 6 * (weights * 24 + head) + 6 * layers * 8 * (18**2 + 4**2 + 2 * 4 * 18 + 2**2 + 2 * 2 * 18)
    # In rows too short for two, nothing is shared.
    assert flop(model, batch, packed_families(batch, 22)) == alone


def learner_of(model, kind):
    return kind(
        copy.deepcopy(model),
        config=LearnerConfig(learning_rate=1e-3, epochs=1, tokens_per_microbatch=130),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=0,
    )


def test_a_padded_block_learns_what_the_learner_learns(random_model):
    batch = make_batch(random_samples(8, 400))
    block, plain = (learner_of(random_model, kind) for kind in (BlockLearner, Learner))
    expected, found = plain.update(batch), block.update(batch)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    before = dict(plain.model.named_parameters())
    assert all(torch.allclose(weight, before[name], atol=1e-4) for name, weight in block.model.named_parameters())
    longest = int(batch.lengths_S.max()) - 1
    rows = block._rows(batch, torch.tensor([5, 1, 3]))
    assert all(part.token_ids_RW.shape[1] == longest for part in rows)
    # In the order in which they were played, not by length.
    assert torch.cat([part.action_K for part in rows]).tolist() == [
        index for index, sample in enumerate(batch.action_sample_A.tolist()) if sample in (1, 3, 5)
    ]


def test_memory_is_measured_after_warm_up(nano, monkeypatch):
    peaks = iter([9, 9, 4, 1])  # the first two are warm-up

    @contextmanager
    def peak_memory(_device):
        memory = common.Memory(before=0)
        yield memory
        memory.peak = next(peaks) * common.GIB

    monkeypatch.setattr("benchmarks.learner.peak_memory", peak_memory)
    rows = memory_rows(copy.deepcopy(nano.model), 64)
    assert [row["log-probabilities"] for row in rows] == ["64 tokens, all at once", "64 tokens, chunked"]
    assert [row["added memory"] for row in rows] == ["4.00 GiB", "1.00 GiB"]
    assert [row["share of all at once"] for row in rows] == ["1.00", "0.25"]


def policy_of(nano):
    return TransformersPolicy(nano.model, ChatCodec(nano.tokenizer, DIRECT), SamplingConfig(max_new_tokens=8))


def test_rows_of_self_play(nano):
    fresh = []
    rows = list(timed_rows(policy_of(nano), [(1, 2), (4, 8)], lambda: fresh.append(1), offline_transformers))
    assert [row.label for row in rows] == ["1 in flight", "4 in flight", "4 in lock-step", "4 offline"]
    assert [row.games for row in rows] == [2, 8, 8, 8]
    assert len(fresh) == 4
    one, four, lock, offline = rows
    # Waiting for each other changes no game, and "offline" repeats the same turns.
    for row in (lock, offline):
        assert (row.turns, row.tokens, row.prompt_tokens) == (four.turns, four.tokens, four.prompt_tokens)
    episodes = played(policy_of(nano), 8, 8)
    assert four.turns == sum(len(episode.turns) for episode in episodes) > one.turns
    made = table(rows)
    assert (made[0]["against one game"], made[3]["share of offline"]) == ("1.0x", "100%")
    assert made[1]["share of offline"] == f"{four.rate / offline.rate:.0%}"
    assert {row["share of offline"] for row in table(rows[:2])} == {"-"}


def test_lock_step_waits_for_everybody():
    class Uneven:
        """Gives one reply at a time."""

        name = "uneven"

        def __init__(self):
            self.replies = ["first", "second", "third"]

        def submit(self, requests):
            pass

        def poll(self):
            return [self.replies.pop(0)]

    policy = LockStep(Uneven())
    policy.submit(["a", "b", "c"])
    assert policy.poll() == ["first", "second", "third"]
    assert policy.poll() == []


@pytest.fixture
def sheet(tmp_path):
    """An empty sheet with time left, and its file."""
    return gpu_parts.Sheet(tmp_path / "part.jsonl", time.monotonic() + 3600), tmp_path / "part.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu_parts.PARTS)
def test_every_part_of_the_gpu_benchmark_measures_all_its_rows(name, tmp_path, monkeypatch, sheet):
    monkeypatch.setattr(gpu_parts, "UPDATES", [row for row in gpu_parts.UPDATES if not row[3]])  # compiling is slow
    monkeypatch.setattr(gpu_parts, "vllm_installed", lambda: False)
    monkeypatch.setattr(gpu_parts, "published_peak", lambda _device: 1e12)
    gpu_parts.PARTS[name].work(gpu_inputs.REHEARSAL, tmp_path, sheet[0])
    found = gpu.read_part(sheet[1])
    cells = [str(cell) for row in found["rows"] for cell in row.values()]
    assert [cell for cell in cells if cell.startswith(("failed", "out of memory"))] == []
    assert all(list(row) == found["columns"] for row in found["rows"])
    assert len(found["rows"]) == {
        "mfu": 4 + 5, "rollout": 4 + 1, "publish": 4 + 1, "sleep": 2 + 1, "resume": 4, "recipe": 1, "layouts": 3,
        "memory": 2,
    }[name]  # fmt: skip
    if name == "recipe":
        assert found["rows"][0]["steps"] == "2 of 2"
    if name == "publish":
        assert [row["arrived"] for row in found["rows"]] == ["all equal"] * 4 + [gpu_parts.NO_VLLM]


@pytest.mark.slow
def test_a_rehearsal_of_the_gpu_benchmark_from_its_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--rehearse",
        "--out",
        str(tmp_path),
        "--part",
        "memory",
        "publish",
    ]
    subprocess.run(command, check=True, cwd=common.ROOT, timeout=600)
    (run,) = json.loads((tmp_path / "gpu.json").read_text())
    assert list(run["parts"]) == ["memory", "publish"]
    assert [row["seconds"] > "0" for row in run["parts"]["memory"]["rows"]] == [True, True]
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("\n## ") == 2
    assert "| Qwen3-4B, in place |" in text


def test_a_failed_row_says_so_and_loses_no_other(sheet):
    def fails(kind):
        raise kind("too much")

    sheet, file = sheet
    sheet.settings(a_step="two")
    sheet.columns("update", "seconds")
    assert sheet.row("first", lambda: {"seconds": 1.5})
    assert not sheet.row("second", lambda: fails(torch.cuda.OutOfMemoryError))
    assert not sheet.rows("third", lambda: iter([{"update": "a", "seconds": 2}, fails(AssertionError)]))
    assert sheet.row("fourth", lambda: {"seconds": 3})
    sheet.skip("fifth", "not here")
    found = gpu.read_part(file)
    assert found["settings"] == {"a step": "two"}
    assert [tuple(row.values()) for row in found["rows"]] == [
        ("first", 1.5), ("second", "out of memory"), ("third", "failed: AssertionError"), ("fourth", 3),
        ("fifth", "not here"),
    ]  # fmt: skip


def test_no_row_begins_when_the_time_is_over(tmp_path):
    sheet = gpu_parts.Sheet(tmp_path / "part.jsonl", time.monotonic() - 1)
    sheet.columns("update", "seconds")
    assert sheet.time_over()
    assert not sheet.row("first", lambda: pytest.fail("it has begun"))
    assert gpu.read_part(tmp_path / "part.jsonl")["rows"] == [{"update": "first", "seconds": gpu_parts.NO_TIME}]


def test_a_part_that_was_killed_keeps_its_rows_and_names_the_one_it_was_at(tmp_path, sheet):
    sheet, file = sheet
    assert gpu.read_part(file, "killed after 9 s")["rows"] == [{"part": "start", "measured": "killed after 9 s"}]
    sheet.columns("update", "seconds")
    sheet.row("first", lambda: {"seconds": 1})
    with file.open("a") as lines:
        lines.write('{"begin": "second"}\n')
    assert gpu.read_part(file, "killed after 9 s")["rows"] == [
        {"update": "first", "seconds": 1}, {"update": "second", "seconds": "killed after 9 s"}
    ]  # fmt: skip


def test_results_are_written_after_every_part(tmp_path):
    about = {"begun": "2026-01-01", "command": "python -m benchmarks.gpu"}
    parts = {}
    for number, name in enumerate(("memory", "sleep"), start=1):
        rows = [{"engine": name, "seconds": 0.25}]
        parts[name] = {"settings": {"model": "m"}, "columns": [], "rows": rows, "seconds": 1.0, "time": 9.0}
        gpu.write_results(tmp_path, about, parts, name)
        (run,) = json.loads((tmp_path / "gpu.json").read_text())
        assert list(run["parts"].values())[-1]["rows"] == rows
        assert (tmp_path / "gpu.md").read_text().count("took 1 s of 9 s, model m") == number
    gpu.write_results(tmp_path, {**about, "begun": "2026-01-02"}, parts, "sleep")
    assert [run["begun"] for run in json.loads((tmp_path / "gpu.json").read_text())] == ["2026-01-01", "2026-01-02"]


def test_mfu_is_a_share_of_the_cards_published_peak(monkeypatch):
    names = iter(["NVIDIA H200", "NVIDIA H100 PCIe"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: next(names))
    assert [common.published_peak(device) for device in ("cuda", "cuda:1", "cpu")] == [989e12, None, None]


@pytest.mark.parametrize(("name", "published", "tokens", "gpus"), [
    (gpu_inputs.SMALL, 11.1, 11_896, 1), (gpu_inputs.SMALL, 23.7, 25_490, 1), (gpu_inputs.LARGE, 14.7, 27_440, 8),
])  # fmt: skip
def test_the_published_mfu_follows_from_the_published_rate_by_our_count_of_theirs(name, published, tokens, gpus):
    shape = gpu_inputs.shape_of(gpu_inputs.shape_config(name, gpu_inputs.Plan()))
    assert 100 * prime_rl_mfu(shape, 16384, tokens, gpus, 989e12) == pytest.approx(published, abs=0.06)


def test_the_updates_have_two_micro_batches_of_whole_sequences():
    batch = gpu_inputs.long_batch(100, 2, 64)
    assert batch.lengths_S.tolist() == [64, 64]
    assert batch.num_action_tokens == 2 * 63


def test_made_up_samples_share_their_games_beginning():
    plan = gpu_inputs.Plan(budget=20)
    batch = gpu_inputs.mixed_batch(100, 6, plan)
    assert batch.prompt_lengths_S.tolist() == [plan.prompt] * 6
    families = packed_families(batch, 10_000)
    assert sorted(sorted(family.samples) for family in families) == [[0, 2, 4], [1, 3, 5]]
    assert {family.shared for family in families} == {plan.shared}


@pytest.mark.slow
def test_rows_of_the_layouts(random_model, monkeypatch):
    batch = make_batch(random_samples(6, 400))
    rows = layout_rows(lambda: copy.deepcopy(random_model), batch, 130, rate=1e12)
    assert [row["layout"] for row in rows] == ["one padded block", "padded, sorted", "packed"]
    assert rows[0]["against one padded block"] == "1.00x"
    update = Learner.update

    def fails_packed(learner, batch):
        if learner.config.layout == "packed":
            raise torch.cuda.OutOfMemoryError("too much")
        return update(learner, batch)

    monkeypatch.setattr(Learner, "update", fails_packed)
    rows = layout_rows(lambda: copy.deepcopy(random_model), batch, 130, rate=1e12)
    assert [row["seconds"] == "out of memory" for row in rows] == [False, False, True]


def report(seconds, tokens):
    steps = [
        Step(seconds=seconds, generate_seconds=1.0, games=4, samples=8, prompt_tokens=tokens - 10, response_tokens=10)
    ]
    return Report(steps=steps, peak_bytes=2**30, versions={"torch": "2"})


def test_a_step_is_compared_with_the_fastest_rival():
    rows = step._rows({"SPIRAL": report(2.0, 100), "TRL a": report(8.0, 100), "TRL b": report(6.0, 120)})
    assert [row["x TRL, step"] for row in rows] == [3.0, 0.75, 1.0]
    # Tokens a second: 50, 12.5 and 20.
    assert [row["x TRL, token"] for row in rows] == pytest.approx([2.5, 0.625, 1.0])
    assert (rows[0]["learn s"], rows[0]["peak GiB"]) == (1.0, 1.0)
    assert "x TRL, step" not in step._rows({"SPIRAL": report(2.0, 100)})[0]


def test_spirals_side_of_a_step(monkeypatch, tmp_path):
    small = ["model.path=nano", "model.compute=float32", "selfplay.episodes_per_step=4", "sampling.max_new_tokens=8"]
    settings = [*small, "prompt.example=false", "prompt.observation=compact"]
    out = tmp_path / "report.json"
    given = [str(step.RECIPE), "--warmup", "1", "--steps", "1", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["spiral_step", *given, *(part for one in settings for part in ("--set", one))])
    spiral_step.main()
    (counted,) = read_report(out).steps
    assert (counted.games, counted.samples >= 8) == (4, True)
    assert 0 < counted.generate_seconds < counted.seconds
    assert counted.response_tokens >= 2 * counted.samples


def test_the_gpu_benchmark_needs_no_arguments_but_a_gpu(monkeypatch, capsys):
    assert gpu.new_parser().parse_args([]).part == list(gpu_parts.PARTS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for wrong, reason in ((["--minutes", "0"], "more than 0"), ([], "no CUDA device here; --rehearse")):
        with pytest.raises(SystemExit) as error:
            gpu.main(wrong)
        assert error.value.code == 2
        assert reason in capsys.readouterr().err
