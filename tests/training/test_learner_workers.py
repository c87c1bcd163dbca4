"""The learner over two processes: the update of one, checkpoints for any number, and an end to every wait."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import re
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from learner_ranks import (
    SHARDED,
    RankProcesses,
    Run,
    Trained,
    batch_of,
    go_on,
    join_another,
    listening_addresses,
    scores,
    split_scores,
    train,
    train_and_save,
    train_on_harmed,
    train_on_own_batch,
    train_own_model,
    train_with_own_seed,
    update_without,
)
from spiral.training.learner import TrainingDivergedError
from spiral.training.packing import owners, share_of
from spiral.training.process_group import GroupError, at_work, free_port, join_group, meet, use_interface

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-5
PACKED = Run(
    learner={"layout": "packed", "epochs": 2, "minibatches": 3},
    loss={"kl_coefficient": 0.1, "entropy_bonus": 0.01, "reference_refresh_steps": 4},
)
PADDED = Run(
    learner={"layout": "padded", "epochs": 2, "minibatches": 2, "final_learning_rate_share": 0.1},
    loss={"kl_coefficient": 0.1, "reference_refresh_steps": 3, "old_logprobs": "behaviour"},
)
PLAIN = Run(learner={"layout": "packed", "gradient_checkpointing": True}, loss={"kind": "policy_gradient"})
RUNS = {"packed": PACKED, "padded": PADDED, "plain": PLAIN}
NAMES = ["packed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("padded", "plain"))]
EXACT = ["float32", SHARDED]
LORA = {"rank": 4}
SMALL = {"samples": 5}
SHORT = 4.0
"""Seconds that ranks wait for each other where one of them is lost."""


@pytest.fixture(scope="module")
def ranks():
    processes = RankProcesses(2)
    yield processes
    processes.close()


@pytest.fixture
def short_lived():
    processes = RankProcesses(2, timeout_seconds=SHORT)
    yield processes
    processes.close()


def distance(first, second):
    """The largest difference of two models' weights."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def change(model, trained):
    """By how much training has moved the weights."""
    start = {name: weight.detach() for name, weight in model.named_parameters()}
    return torch.cat([(trained.weights[name] - start[name]).flatten() for name in start])


def assert_equal_ranks(trained):
    """The same metrics and the same bits on every rank."""
    first, *others = trained
    for other in others:
        assert other.metrics == first.metrics
        assert all(torch.equal(weight, other.weights[name]) for name, weight in first.weights.items())


def assert_same_training(one, other, tolerance=TOLERANCE):
    for expected, got in zip(one.metrics, other.metrics, strict=True):
        assert got == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert distance(one.weights, other.weights) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_make_the_update_of_one(ranks, random_model, name):
    one = train(random_model, RUNS[name], 10)
    two = ranks.all(train, random_model, RUNS[name], 10)
    assert_equal_ranks(two)
    assert_same_training(one, two[0])
    assert change(random_model, one).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_sharding_itself_changes_nothing(ranks, random_model, name):
    """FSDP2 over two ranks, its rounding to bfloat16 taken out."""
    run = dataclasses.replace(RUNS[name], compute=SHARDED)
    one = train(random_model, run, 3)
    two = ranks.all(train, random_model, run, 3)
    assert_equal_ranks(two)
    assert_same_training(one, two[0])


@pytest.mark.slow
def test_in_bfloat16_ranks_differ_by_rounding(ranks, random_model):
    """Sums in another order round to other numbers of eight bits, and AdamW's first steps take only a sign."""
    run = dataclasses.replace(PACKED, compute="bfloat16")
    one, two = train(random_model, run, 2), ranks.all(train, random_model, run, 2)
    assert_equal_ranks(two)
    for expected, got in zip(one.metrics, two[0].metrics, strict=True):
        assert got["loss/policy"] == pytest.approx(expected["loss/policy"], abs=2e-3)
        assert got["loss/entropy"] == pytest.approx(expected["loss/entropy"], rel=1e-3)
        assert got["learner/grad_norm"] == pytest.approx(expected["learner/grad_norm"], rel=0.05)
    similarity = torch.cosine_similarity(change(random_model, one), change(random_model, two[0]), dim=0)
    assert similarity > 0.98


@pytest.mark.parametrize("compute", EXACT)
@pytest.mark.parametrize("samples", [1, 9])
def test_ranks_share_the_scoring_of_a_batch(ranks, random_model, compute, samples):
    run = Run({"layout": "packed"}, compute=compute, samples=samples)
    whole, shared = scores(random_model, run, split=False), ranks.all(split_scores, random_model, run)
    assert whole.shape == shared[0].shape
    assert len(whole) > 0
    assert (shared[0] == shared[1]).all()
    assert shared[0] == pytest.approx(whole, abs=TOLERANCE)


@pytest.mark.parametrize("compute", EXACT)
@pytest.mark.parametrize(("samples", "minibatches"), [(1, 1), (5, 5)], ids=["one sample", "one sample a step"])
def test_a_rank_without_samples_takes_part(ranks, random_model, compute, samples, minibatches):
    config = {"layout": "packed", "minibatches": minibatches}
    run = Run(config, {"kl_coefficient": 0.1}, compute=compute, samples=samples)
    one, two = train(random_model, run, 2), ranks.all(train, random_model, run, 2)
    assert_equal_ranks(two)
    assert_same_training(one, two[0])


@pytest.mark.parametrize("compute", [SHARDED, pytest.param("float32", marks=pytest.mark.slow)])
def test_lora_over_two_ranks(ranks, random_model, compute):
    run = Run(PADDED.learner, PADDED.loss, LORA, compute=compute, **SMALL)
    one, two = train(random_model, run, 2), ranks.all(train, random_model, run, 2)
    assert_equal_ranks(two)
    assert_same_training(one, two[0])
    assert change(random_model, one).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("compute", "lora"),
    [
        ("float32", {}),
        pytest.param(SHARDED, {}, marks=pytest.mark.slow),
        pytest.param(SHARDED, LORA, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_is_for_any_number_of_ranks(ranks, random_model, tmp_path, compute, lora):
    """Two ranks, then one, then two, each from what the other has written."""
    run = Run(PADDED.learner, {**PADDED.loss, "reference_refresh_steps": 1}, lora, compute=compute, **SMALL)
    base = random_model if lora else None
    by_two = ranks.all(train_and_save, random_model, run, tmp_path / "two", 2)
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == ["latest", "step-000002"]
    by_one = train_and_save(random_model, run, tmp_path / "one", 2)
    on_two = ranks.all(go_on, base, run, tmp_path / "two" / "latest", 1)
    on_one = go_on(base, run, tmp_path / "two" / "latest", 1)
    back_on_two = ranks.all(go_on, base, run, tmp_path / "one" / "latest", 1)
    straight = train(random_model, run, 3)
    assert_equal_ranks(by_two)
    assert_equal_ranks(on_two)
    assert_equal_ranks(back_on_two)
    assert_same_training(by_one, by_two[0])
    assert_same_training(on_one, on_two[0])
    assert_same_training(Trained(straight.metrics[2:], straight.weights), back_on_two[0])


def test_a_rank_that_sees_nan_skips_the_step_on_all(ranks, random_model):
    run = Run({"epochs": 2, "minibatches": 2})
    harm = [{3: math.nan}, {}]
    one = train_on_harmed(random_model, run, harm)
    two = ranks.all(train_on_harmed, random_model, run, harm)
    assert one.metrics[0]["learner/skipped_steps"] == 2.0  # one of the two parts of each pass
    assert one.metrics[1]["learner/skipped_steps"] == 0.0
    assert_equal_ranks(two)
    assert_same_training(one, two[0])


def test_training_that_diverges_stops_on_all_ranks(ranks, random_model):
    run = Run(loss={"max_skipped_updates": 2})
    for error in ranks.run(train_on_harmed, random_model, run, [{0: math.inf}] * 3):
        assert isinstance(error, TrainingDivergedError)
        assert re.match(r"no gradient was finite in 2 updates in a row, up to update 2 .* lower learner\.", str(error))
        assert error.metrics["learner/skipped_steps"] == 1.0


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (
            train_with_own_seed,
            "rank 1 has a different learner configuration from rank 0; give every rank the same recipe",
        ),
        (train_own_model, "rank 1 has a different model from rank 0; load the same"),
        (train_on_own_batch, "rank 1 has a different batch from rank 0; give every rank the same samples"),
    ],
)
def test_ranks_that_do_not_agree_are_refused(ranks, random_model, work, message):
    for error in ranks.run(work, random_model, Run(**SMALL)):
        assert isinstance(error, ValueError)
        assert re.match(message, str(error))
    assert ranks.run(work.__globals__["rank_number"]) == [0, 1]


def test_a_checkpoint_that_cannot_be_written_fails_on_all(ranks, random_model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    first, second = ranks.run(train_and_save, random_model, Run(**SMALL), tmp_path / "file", 1)
    assert isinstance(first, OSError)
    assert isinstance(second, GroupError)
    assert "rank 0 failed while the other ranks waited for it" in str(second)


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="needs Linux")
def test_the_group_listens_on_loopback_only(ranks):
    first, second = ranks.all(listening_addresses)
    assert first == {"0100007F"}  # 127.0.0.1: the store, and gloo
    assert second <= {"0100007F"}


@pytest.mark.parametrize("compute", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_rank_that_dies_is_noticed(short_lived, random_model, compute):
    run = Run(compute=compute, **SMALL)
    (message, seconds, _), nothing = short_lived.run(update_without, random_model, run, 1, None)
    assert nothing is None
    assert re.match(r"rank 0 of 2, at update 2.*, waited in vain for rank 1; rank 1 was last seen at update 1", message)
    assert seconds < SHORT + 2


@pytest.mark.parametrize(
    ("compute", "before", "said"),
    [
        pytest.param("float32", "score", "scoring before update 2", marks=pytest.mark.slow),
        (SHARDED, "score", "scoring before update 2"),
        (SHARDED, "weights", "gathering the weights of version 1"),
    ],
)
def test_a_rank_that_dies_between_updates_is_noticed(short_lived, random_model, compute, before, said):
    run = Run(compute=compute, **SMALL)
    (message, *_), nothing = short_lived.run(update_without, random_model, run, 1, None, before)
    assert nothing is None
    assert message.startswith(f"rank 0 of 2, at {said}, waited in vain for rank 1; ")


def test_the_rank_that_keeps_the_store_dies(short_lived, random_model):
    nothing, (message, seconds, _) = short_lived.run(update_without, random_model, Run(**SMALL), 0, None)
    assert nothing is None
    assert (
        "rank 1 of 2, at update 2, got no answer from rank 0, which keeps the record of where each rank is" in message
    )
    assert seconds < SHORT + 4


@pytest.mark.slow
def test_a_rank_that_hangs_is_waited_for_no_longer_than_allowed_and_a_new_group_can_be_made(short_lived, random_model):
    run = Run(**SMALL)
    assert_equal_ranks(short_lived.all(train, random_model, dataclasses.replace(run, compute=SHARDED), 1))
    (message, seconds, _), _ = short_lived.run(update_without, random_model, run, 1, SHORT + 2)
    assert re.search(
        r"at update 2, waited in vain for rank 1; rank 1 was last seen at update 1.*: .*Timed out", message
    )
    assert SHORT - 0.5 < seconds < SHORT + 2
    assert short_lived.all(join_another, free_port(), 20.0) == [None, None]
    again = short_lived.all(train, random_model, dataclasses.replace(run, compute=SHARDED), 1)
    assert_equal_ranks(again)
    assert_same_training(train(random_model, dataclasses.replace(run, compute=SHARDED), 1), again[0])


def test_a_rank_that_never_comes_is_named(short_lived):
    port = free_port()
    (error,) = short_lived.run(join_another, port, 1.0, ranks=[0])
    assert isinstance(error, GroupError)
    assert str(error).startswith(f"rank 0 of 2 waited 1 s for rank 1 to join at 127.0.0.1:{port}; start all 2")
    (error,) = short_lived.run(join_another, free_port(), 1.0, ranks=[1])
    assert str(error).startswith("rank 1 of 2 waited 1 s for rank 0 to listen at 127.0.0.1:")
    assert pickle.loads(pickle.dumps(error)).args == error.args


@pytest.mark.parametrize(("rank", "size", "timeout"), [(2, 2, 1.0), (-1, 2, 1.0), (0, 0, 1.0), (0, 1, 0.0)])
def test_impossible_groups_are_refused(rank, size, timeout):
    with pytest.raises(ValueError, match=f"got rank {rank} of {size} and timeout_seconds = {timeout:g}; expected"):
        join_group(rank, size, port=1, timeout_seconds=timeout)


def test_a_rank_joins_one_group_and_a_port_has_one_listener(ranks, short_lived):
    error, _ = ranks.run(join_group_again)
    assert isinstance(error, ValueError)
    assert "belongs to a process group already; call leave_group() before" in str(error)
    (error,) = short_lived.run(join_another, ranks.port, 1.0, ranks=[0])
    assert isinstance(error, GroupError)
    assert re.match(r"rank 0 cannot listen at 127\.0\.0\.1:\d+: .*[Aa]ddress already in use", str(error))


def join_group_again():
    join_group(0, 2, port=1)


def test_two_processes_with_one_rank_are_refused():
    store = torch.distributed.HashStore()
    store.set("joined/1", "1")
    meet(store, 0, 2, "there", timedelta(seconds=1))
    with pytest.raises(GroupError, match="two processes joined the group at there as rank 0; give every process its"):
        meet(store, 0, 2, "there", timedelta(seconds=1))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^out of memory$") as caught, at_work("the test"):
        raise RuntimeError("out of memory")
    assert not isinstance(caught.value, GroupError)


def test_samples_go_to_the_rank_with_the_fewest_tokens():
    assert owners([5, 9, 4, 4], 2) == [1, 0, 1, 0]  # 9; 5; 5 + 4; 9 + 4 since it is a tie
    assert owners([7, 7, 7, 7, 7], 3) == [0, 1, 2, 0, 1]
    assert owners([3], 2) == [0]
    assert owners([2, 1], 1) == [0, 0]


@pytest.mark.parametrize("ranks_", [2, 3, 12])
def test_shares_hold_every_sample_once(ranks_):
    batch = batch_of(Run(samples=9), 4)
    shares = [share_of(batch, rank, ranks_) for rank in range(ranks_)]
    part = torch.tensor([8, 0, 3, 4])
    seen = []
    for share in shares:
        own = share.of(torch.arange(9))
        assert own.tolist() == list(range(share.batch.num_samples))
        whole = [sample for sample in range(9) if share.index_S[sample] >= 0]
        assert share.of(part).tolist() == [whole.index(sample) for sample in part.tolist() if sample in whole]
        for index, sample in enumerate(whole):
            assert pieces(share.batch, index) == pieces(batch, sample)
        seen += whole
    assert sorted(seen) == list(range(9))
    tokens = [int(share.batch.lengths_S.sum()) for share in shares]
    assert max(tokens) - min(tokens) <= int(batch.lengths_S.max())
    assert share_of(batch, 0, 1).batch is batch


def pieces(batch, sample):
    """All that a batch holds of a sample."""
    start, length = int(batch.starts_S[sample]), int(batch.lengths_S[sample])
    actions = batch.action_sample_A == sample
    return (
        batch.token_ids_L[start : start + length].tolist(),
        int(batch.prompt_lengths_S[sample]),
        batch.advantages_A[actions].tolist(),
        batch.action_ids_A[actions].tolist(),
        batch.behaviour_logprobs_A[actions].tolist(),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="names of interfaces are looked up on Linux")
def test_transport_uses_the_interface_of_the_address_by_default(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    assert use_interface("127.0.0.1") == ["NCCL_SOCKET_IFNAME"]
    assert os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    assert use_interface("::1") == []  # no IPv4 address
