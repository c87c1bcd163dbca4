"""Rows for a forward pass: every layout and size gives the same numbers, and samples do not see one another."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up import loss_of, random_samples
from spiral.policies import SamplingConfig
from spiral.training.attention import use_segment_attention
from spiral.training.batch import make_batch
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.logprobs import hidden_states, score_tokens
from spiral.training.loss import LossConfig
from spiral.training.packing import micro_batches

LAYOUTS = ("padded", "packed")


def small_batch(vocabulary=400, count=14, seed=0):
    return make_batch(random_samples(count, vocabulary, seed))


@pytest.fixture(scope="module")
def random_model(random_model):
    """As the learner has it, with attention within segments."""
    model = copy.deepcopy(random_model)
    use_segment_attention(model)
    return model


def everything(batch):
    return torch.arange(batch.num_samples)


def all_logprobs(model, batch, layout, max_tokens):
    """[A] the log-probability of every action token."""
    result = torch.full((batch.num_action_tokens,), torch.nan)
    for rows in micro_batches(batch, everything(batch), layout, max_tokens):
        head = model.get_output_embeddings()
        scores = score_tokens(hidden_states(model, rows), head, batch.action_ids_A[rows.action_K], 1.0)
        result[rows.action_K] = scores.logprobs_K
    return result


def loss_and_gradients(model, batch, layout, max_tokens):
    """The loss over all micro-batches, and the gradient of every parameter."""
    model = copy.deepcopy(model)
    config = LossConfig(entropy_bonus=0.01)
    total = 0.0
    for rows in micro_batches(batch, everything(batch), layout, max_tokens):
        index = rows.action_K
        head = model.get_output_embeddings()
        scores = score_tokens(hidden_states(model, rows), head, batch.action_ids_A[index], 1.0)
        behaviour = batch.behaviour_logprobs_A[index]
        advantages = batch.advantages_A[index]
        part = loss_of(scores, behaviour, behaviour, advantages, 64.0 * batch.num_samples, config).total
        part.backward()
        total += part.item()
    return total, {name: parameter.grad for name, parameter in model.named_parameters()}


def test_padded_rows_by_hand():
    batch = make_batch([random_samples(1, 50, seed, longest=4)[0] for seed in (5, 6)])
    lengths, prompts = batch.lengths_S.tolist(), batch.prompt_lengths_S.tolist()
    (rows,) = micro_batches(batch, everything(batch), "padded", 1000)
    short, long = sorted((0, 1), key=lambda index: lengths[index])
    width = lengths[long] - 1
    assert rows.token_ids_RW.shape == (2, width)
    for row, index in enumerate((short, long)):
        fed, start = lengths[index] - 1, int(batch.starts_S[index])
        assert rows.token_ids_RW[row].tolist() == [
            *batch.token_ids_L[start : start + fed].tolist(),
            *[0] * (width - fed),
        ]
        # Positions that start again would make transformers look for packed samples and build a mask.
        assert rows.position_ids_RW[row].tolist() == list(range(width))
    predicts = [row * width + prompts[index] - 1 + step for row, index in enumerate((short, long))
                for step in range(lengths[index] - prompts[index])]  # fmt: skip
    assert rows.predict_K.tolist() == predicts
    assert batch.action_sample_A[rows.action_K].tolist() == sorted(
        batch.action_sample_A.tolist(), key=(short, long).index
    )
    assert rows.segments is None


def test_packed_rows_by_hand():
    batch = make_batch([random_samples(1, 50, seed, longest=4)[0] for seed in (5, 6)])
    (rows,) = micro_batches(batch, everything(batch), "packed", 1000)
    first, second = sorted((0, 1), key=lambda index: -int(batch.lengths_S[index]))
    sizes = [int(batch.lengths_S[index]) - 1 for index in (first, second)]
    assert rows.position_ids_RW.tolist() == [[*range(sizes[0]), *range(sizes[1])]]
    assert sum(group.n * group.g for group in rows.segments.groups) == len(rows.segments.index_G)
    assert rows.segments.index_G[rows.segments.slot_T].tolist() == list(range(sum(sizes)))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 15), seed=st.integers(0, 500), layout=st.sampled_from(LAYOUTS), max_tokens=st.integers(1, 200)
)
def test_every_action_token_is_predicted_once_from_the_token_before_it(count, seed, layout, max_tokens):
    batch = make_batch(random_samples(count, 1000, seed, longest=12))
    seen = []
    for rows in micro_batches(batch, everything(batch), layout, max_tokens):
        tokens, positions = rows.token_ids_RW.flatten(), rows.position_ids_RW.flatten()
        samples = set(batch.action_sample_A[rows.action_K].tolist())
        assert rows.token_ids_RW.numel() <= max_tokens or len(samples) == 1
        for predict, action in zip(rows.predict_K.tolist(), rows.action_K.tolist(), strict=True):
            index = int(batch.action_sample_A[action])
            first = int((batch.action_sample_A == index).nonzero()[0])
            position = int(batch.prompt_lengths_S[index]) + action - first
            assert int(positions[predict]) == position - 1
            start = int(batch.starts_S[index])
            assert int(tokens[predict]) == int(batch.token_ids_L[start + position - 1])
            assert int(batch.action_ids_A[action]) == int(batch.token_ids_L[start + position])
            seen.append(action)
    assert sorted(seen) == list(range(batch.num_action_tokens))


def test_a_part_of_the_samples_holds_just_those():
    batch = small_batch()
    chosen = torch.tensor([11, 2, 7])
    for layout in LAYOUTS:
        actions = torch.cat([rows.action_K for rows in micro_batches(batch, chosen, layout, 40)])
        assert set(batch.action_sample_A[actions].tolist()) == {2, 7, 11}
        assert len(actions) == sum(int((batch.action_sample_A == index).sum()) for index in (2, 7, 11))


@pytest.mark.usefixtures("one_thread")
def test_every_layout_and_size_gives_the_same_loss_and_gradients(random_model):
    batch = small_batch()
    expected, gradients = loss_and_gradients(random_model, batch, "padded", 1)
    assert abs(expected) > 1e-3
    for layout in LAYOUTS:
        for max_tokens in (60, 200, 10_000):
            value, other = loss_and_gradients(random_model, batch, layout, max_tokens)
            assert value == pytest.approx(expected, abs=1e-6)
            for name, gradient in gradients.items():
                assert gradient.abs().max() > 0
                scale = float(gradient.abs().max())
                assert torch.allclose(other[name], gradient, atol=1e-5 * max(scale, 1.0), rtol=1e-4), name


@pytest.mark.usefixtures("one_thread")
def test_packed_and_padded_updates_agree(random_model):
    batch = small_batch(seed=3)
    states, metrics = [], []
    for layout in LAYOUTS:
        learner = Learner(
            copy.deepcopy(random_model),
            config=LearnerConfig(learning_rate=1e-3, epochs=2, minibatches=2, layout=layout, tokens_per_microbatch=150),
            loss_config=LossConfig(kl_coefficient=0.1, entropy_bonus=0.01),
            sampling=SamplingConfig(max_new_tokens=32),
            total_steps=1,
            seed=0,
        )
        metrics.append(learner.update(batch))
        states.append(learner.model.state_dict())
    for key, value in metrics[0].items():
        assert metrics[1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    # Four steps of AdamW, each of the size of the learning rate whatever the gradient's size.
    moved = [(states[0][name] - weight).abs().max() for name, weight in random_model.state_dict().items()]
    assert min(moved) > 1e-3
    for name, weight in states[0].items():
        assert (states[1][name] - weight).abs().mean() < 2e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_a_sample_sees_its_own_tokens_only(random_model, layout):
    batch = small_batch(count=8, seed=1)
    before = all_logprobs(random_model, batch, layout, 10_000)
    assert torch.isfinite(before).all()
    for index in range(batch.num_samples):
        tokens = batch.token_ids_L.clone()
        tokens[batch.starts_S[index]] = (tokens[batch.starts_S[index]] + 1) % 400
        after = all_logprobs(random_model, dataclasses.replace(batch, token_ids_L=tokens), layout, 10_000)
        own = batch.action_sample_A == index
        assert torch.allclose(after[~own], before[~own], atol=1e-7, rtol=0)
        assert (after[own] - before[own]).abs().min() > 1e-4


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_padded_rows_equal_one_plain_forward_pass_each(random_model):
    samples = random_samples(6, 400, seed=2)
    batch = make_batch(samples)
    ours = all_logprobs(random_model, batch, "padded", 100)
    plain = []
    for one in samples:
        ids = torch.from_numpy(np.concatenate([one.prompt_ids, one.action_ids]))
        logprobs = torch.log_softmax(random_model(input_ids=ids[None]).logits[0].float(), -1)
        positions_of_actions = torch.arange(len(one.prompt_ids), len(ids))
        plain.append(logprobs[positions_of_actions - 1, ids[positions_of_actions]])
    assert torch.allclose(ours, torch.cat(plain), atol=1e-5, rtol=0)
