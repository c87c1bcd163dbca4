"""Samples that share the beginning of their prompts: who shares what, how rows are filled, and that nothing changes."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up import new_sample, random_samples
from spiral.policies import SamplingConfig
from spiral.training.attention import use_segment_attention
from spiral.training.batch import make_batch
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.logprobs import Scorer, TokenScores
from spiral.training.loss import LossConfig
from spiral.training.packing import Family, holders, micro_batches, packed_rows, shared_prefixes

pytestmark = pytest.mark.usefixtures("one_thread")


def with_beginning(sample, beginning):
    """The sample with more tokens before its prompt."""
    return dataclasses.replace(sample, prompt_ids=np.concatenate([beginning, sample.prompt_ids]))


def families_batch(seed=0, each=5, lengths=(40, 23, 0)):
    """Samples of three games, in turn: each game's prompts begin with tokens of its own."""
    rng = np.random.default_rng(seed)
    beginnings = [rng.integers(1, 400, length) for length in lengths]
    samples = random_samples(each * len(lengths), 400, seed)
    return make_batch([with_beginning(s, beginnings[i % len(lengths)]) for i, s in enumerate(samples)])


def chains_batch(seed=0):
    """Three games of three turns, in which a prompt is the one before, the reply and more, and two other samples.

    The first two games begin alike, reply included; in the third the template ends replies with another token. The
    last two samples are copies of a turn: of the first one of the first game, and of the last one of the third.
    """
    rng = np.random.default_rng(seed)
    first, opening = rng.integers(1, 400, 30), rng.integers(1, 400, 4)
    samples = []
    for game in range(3):
        prompt = first
        for turn in range(3):
            reply = opening if game < 2 and turn == 0 else rng.integers(1, 400, int(rng.integers(1, 7)))
            samples.append(new_sample(prompt, reply, logprobs=rng.uniform(-2, 0, len(reply))))
            end = [401] if game == 2 else reply[-1:]
            prompt = np.concatenate([prompt, reply[:-1], end, rng.integers(1, 400, 8)])
    return make_batch([*samples, samples[0], samples[8]])


def every(batch):
    return list(range(batch.num_samples))


def scores(model, batch, layout, max_tokens, parts=None):
    """Every field of `TokenScores`, a row each; `parts` are the samples of each pass."""
    result = torch.full((len(TokenScores._fields), batch.num_action_tokens), torch.nan)
    scorer = Scorer(model)
    for part in parts or [every(batch)]:
        for rows in micro_batches(batch, torch.tensor(part), layout, max_tokens):
            found = scorer(rows, batch.action_ids_A[rows.action_K], 1.0, likeliest=True)
            for position, values in enumerate(found):
                result[position, rows.action_K] = values.float()
    return result


def test_families_are_those_that_begin_alike():
    families = shared_prefixes(families_batch(), every(families_batch()))
    by_size = sorted(families, key=lambda family: -family.shared)
    assert by_size[0] == Family(tuple(by_size[0].samples), 40)
    assert sorted(by_size[0].samples) == [0, 3, 6, 9, 12]
    assert (sorted(by_size[1].samples), by_size[1].shared) == ([1, 4, 7, 10, 13], 23)
    assert [(len(family.samples), family.shared) for family in by_size[2:]] == [(1, 0)] * 5


def test_equal_prompts_share_all_but_the_token_that_predicts():
    (sample,) = random_samples(1, 400, 3)
    batch = make_batch([with_beginning(sample, np.arange(30))] * 3)
    (family,) = shared_prefixes(batch, [0, 1, 2])
    assert family.shared == int(batch.prompt_lengths_S[0]) - 1
    assert family.samples == (0, 1, 2)


def test_rows_by_hand():
    inputs = [50, 60, 70, 20]
    families = [Family((0, 1, 2), 40), Family((3,))]
    assert families[0].size(inputs) == 40 + 10 + 20 + 30
    assert packed_rows(families, inputs, 120) == [families]
    # A row of 75 takes the prefix with the first two samples; the third keeps its prompt to itself.
    assert packed_rows(families, inputs, 75) == [[Family((0, 1), 40)], [Family((2,))], [Family((3,))]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 200), max_tokens=st.integers(1, 400), each=st.integers(1, 8))
def test_rows_hold_every_sample_once_and_keep_to_their_size(seed, max_tokens, each):
    batch = families_batch(seed, each)
    inputs = (batch.lengths_S - 1).tolist()
    rows = packed_rows(shared_prefixes(batch, every(batch)), inputs, max_tokens)
    assert sorted(sample for row in rows for family in row for sample in family.samples) == every(batch)
    for row in rows:
        samples = [sample for family in row for sample in family.samples]
        assert sum(family.size(inputs) for family in row) <= max_tokens or len(samples) == 1
        for family in row:
            firsts = [batch.token_ids_L[batch.starts_S[s] :][: family.shared].tolist() for s in family.samples]
            assert all(first == firsts[0] for first in firsts)


def test_a_turn_is_held_by_a_later_one():
    batch = chains_batch()
    found = holders(batch, every(batch))
    assert {sample for sample, holder in found.items() if sample == holder} == {2, 5, 10}
    assert (found[1], found[4], found[6], found[7]) == (2, 5, 10, 10)
    assert found[8] == 10  # of equal samples one holds the other
    assert found[0] in (2, 5)
    assert found[9] == found[0]
    assert holders(batch, [0, 9, 2]) == {0: 2, 9: 2, 2: 2}
    apart = families_batch()
    assert holders(apart, every(apart)) == {sample: sample for sample in every(apart)}
    (rows,) = micro_batches(batch, torch.arange(batch.num_samples), "packed", 10_000)
    assert sorted(rows.action_K.tolist()) == list(range(batch.num_action_tokens))
    inputs = (batch.lengths_S - 1).tolist()
    families = shared_prefixes(batch, [2, 5, 10])
    assert rows.token_ids_RW.shape == (1, sum(family.size(inputs) for family in families))
    assert rows.token_ids_RW.shape[1] < sum(inputs) / 3
    (rows,) = micro_batches(batch, torch.arange(batch.num_samples), "padded", 10_000)
    assert sorted(rows.action_K.tolist()) == list(range(batch.num_action_tokens))
    assert rows.token_ids_RW.shape == (3, max(inputs))


def test_a_sample_is_held_where_only_its_last_token_differs_or_its_reply_begins_elsewhere():
    batch = make_batch([
        new_sample([5, 6, 7], [8, 9]),
        new_sample([5, 6, 7], [8, 10]),
        new_sample([5, 6], [7, 8, 9]),
        new_sample([5, 6, 7], [11, 9]),
        new_sample([5], [6]),
    ])  # fmt: skip
    found = holders(batch, every(batch))
    assert found[0] == found[1] == found[2] == found[4] == 2
    assert found[3] == 3


@pytest.mark.parametrize("make", [families_batch, chains_batch])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("max_tokens", [60, 150, 10_000])
@torch.no_grad()
def test_scores_are_those_of_the_samples_one_by_one(random_model, make, layout, max_tokens):
    batch, model = make(), copy.deepcopy(random_model)
    expected = scores(model, batch, "padded", max_tokens, [[sample] for sample in every(batch)])
    found = scores(model, batch, layout, max_tokens)
    assert torch.isfinite(expected).all()
    assert torch.allclose(found, expected, atol=2e-5, rtol=0)


def test_tokens_in_common_are_fed_once():
    batch = families_batch()
    (rows,) = micro_batches(batch, torch.arange(batch.num_samples), "packed", 10_000)
    assert rows.token_ids_RW.shape == (1, int(batch.lengths_S.sum()) - 15 - 4 * 40 - 4 * 23)


@pytest.mark.parametrize("make", [families_batch, chains_batch])
def test_gradients_are_those_of_the_samples_one_by_one(random_model, make):
    batch = make()
    gradients = []
    for layout in ("padded", "packed"):
        model = copy.deepcopy(random_model)
        weights = torch.linspace(-1, 1, batch.num_action_tokens)
        (scores(model, batch, layout, 10_000)[0] * weights).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        scale = max(1.0, float(gradient.abs().max()))
        assert gradient.abs().max() > 0
        assert torch.allclose(gradients[1][name], gradient, atol=2e-5 * scale, rtol=1e-4), name


@torch.no_grad()
def test_a_sample_sees_its_prefix_and_itself_only(random_model):
    batch, model = families_batch(), copy.deepcopy(random_model)
    before = scores(model, batch, "packed", 10_000)[0]
    for sample in (0, 4, 8):
        tokens = batch.token_ids_L.clone()
        position = int(batch.starts_S[sample] + batch.prompt_lengths_S[sample]) - 1
        tokens[position] = (tokens[position] + 1) % 400
        after = scores(model, dataclasses.replace(batch, token_ids_L=tokens), "packed", 10_000)[0]
        own = batch.action_sample_A == sample
        assert torch.allclose(after[~own], before[~own], atol=1e-6, rtol=0)
        assert (after[own] - before[own]).abs().max() > 1e-4


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_an_update_with_checkpointing_and_a_reference_agrees(random_model, compute):
    metrics, weights = [], []
    for layout in ("padded", "packed"):
        learner = Learner(
            copy.deepcopy(random_model),
            config=LearnerConfig(
                learning_rate=1e-4, epochs=1, layout=layout, tokens_per_microbatch=200, gradient_checkpointing=True
            ),
            loss_config=LossConfig(kl_coefficient=0.1, entropy_bonus=0.01),
            sampling=SamplingConfig(max_new_tokens=32),
            total_steps=1,
            seed=0,
            compute=compute,
        )
        metrics.append(learner.update(families_batch()))
        weights.append(dict(learner.weights()))
    close = 1e-4 if compute == "float32" else 0.05
    for key, value in metrics[0].items():
        assert metrics[1][key] == pytest.approx(value, rel=close, abs=2e-3 if compute == "bfloat16" else 1e-6), key
    moved = [
        torch.cat([(w[name] - p).flatten() for name, p in random_model.named_parameters()]).detach() for w in weights
    ]
    assert torch.cosine_similarity(moved[0], moved[1], dim=0) > (0.999 if compute == "float32" else 0.9)


def test_a_model_that_ignores_segments_is_refused(random_model):
    model = copy.deepcopy(random_model)
    learner = Learner(
        model,
        config=LearnerConfig(layout="packed"),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=1,
        seed=0,
    )
    model.set_attn_implementation("sdpa")
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM does not pass on to attention .* set learner.layout to 'padded'"
    ):
        learner.update(families_batch())
    use_segment_attention(model)
    assert learner.update(families_batch())["learner/grad_norm"] > 0
