"""The benchmarks of learner, engine, step and GPU: their counts by hand, and their rows on the built-in model."""

import argparse
import copy
from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import common, gpu, spiral_step, step
from benchmarks.learner import BlockLearner, flop, layout_rows, memory_rows, packed_families
from benchmarks.rollout import LockStep, offline_transformers, played, table, timed_rows
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


def gpu_options(*more):
    small = ["--device", "cpu", "--model", "nano", "--length", "32", "--samples", "2", "--tokens", "64"]
    return gpu.new_parser().parse_args([*small, "--kept-tokens", "32", "--budget", "8", *more])


@pytest.mark.slow
def test_rows_of_the_learner_on_a_device():
    row = gpu.learner_row(gpu_options(), rate=1e12, checkpointing=True, compiled=False)
    assert (row["checkpointing"], row["compiled"], row["tokens a micro-batch"], row["MFU"]) == ("yes", "no", 64, "-")
    assert float(row["seconds"]) > 0
    assert row["utilisation"].endswith("%")
    assert gpu.learner_row(gpu_options(), rate=1e12, checkpointing=False, compiled=False)["tokens a micro-batch"] == 32


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.cuda.OutOfMemoryError, AssertionError])
def test_a_failed_row_says_so_and_loses_no_other(monkeypatch, capsys, kind):
    update = Learner.update
    said = "out of memory" if kind is torch.cuda.OutOfMemoryError else "failed: AssertionError"

    def fails_without_checkpointing(learner, batch):
        if not learner.config.gradient_checkpointing:
            raise kind("too much")
        return update(learner, batch)

    monkeypatch.setattr(Learner, "update", fails_without_checkpointing)
    monkeypatch.setattr(gpu, "matmul_rate", lambda *_arguments: 1e12)
    monkeypatch.setattr(gpu, "UPDATES", [(True, False), (False, False), (False, False)])  # compiling is slow
    settings, rows = gpu.learner_part(gpu_options())
    assert [row["seconds"] == said for row in rows] == [False, True, True]
    assert rows[1]["peak memory"] == rows[1]["MFU"] == said
    assert common.record("gpu", "command", settings, rows).read_text().count(said) == 2 * 5
    assert "'checkpointing': 'yes'" in capsys.readouterr().err  # already printed when the next row began


def test_mfu_is_a_share_of_the_cards_published_peak(monkeypatch):
    names = iter(["NVIDIA H200", "NVIDIA H100 PCIe"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: next(names))
    assert [common.published_peak(device) for device in ("cuda", "cuda:1", "cpu")] == [989e12, None, None]
    monkeypatch.setattr(gpu, "published_peak", lambda device: 1e9)
    row = gpu.learner_row(gpu_options(), rate=1e9, checkpointing=True, compiled=False)
    assert row["MFU"] == row["utilisation"]


@pytest.mark.slow
def test_rows_of_the_engine_on_a_device(monkeypatch):
    monkeypatch.setattr(gpu, "PROMPT", 40)
    rows = gpu.sampler_rows(gpu_options(), in_flight=(1, 4))
    assert [row["games"] for row in rows] == ["1 in flight", "4 in flight", "4 in lock-step", "4 offline"]
    assert [row["played"] for row in rows] == [4, 8, 8, 8]

    def fails(*_arguments):
        raise torch.cuda.OutOfMemoryError("too much")

    monkeypatch.setattr(gpu, "offline_transformers", fails)
    rows = gpu.sampler_rows(gpu_options(), in_flight=(1, 4))
    assert [row["games"] for row in rows] == ["1 in flight", "4 in flight", "4 in lock-step", "the next: out of memory"]
    assert common.record("gpu", "command", {}, rows).exists()


def test_made_up_samples_share_their_games_beginning():
    batch = gpu.mixed_batch(100, samples=6, budget=20)
    assert batch.prompt_lengths_S.tolist() == [gpu.PROMPT] * 6
    families = packed_families(batch, 10_000)
    assert sorted(sorted(family.samples) for family in families) == [[0, 2, 4], [1, 3, 5]]
    assert {family.shared for family in families} == {gpu.SHARED}


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


def test_options_of_the_gpu_name_its_parts():
    assert gpu_options().part == list(gpu.PARTS)
    assert isinstance(gpu_options("--part", "learner", "memory"), argparse.Namespace)
    assert gpu_options("--part", "learner", "memory").part == ["learner", "memory"]
