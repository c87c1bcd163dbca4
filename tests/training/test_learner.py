"""Updates: schedule, reference, skipped and clipped gradients, metrics, and going on exactly where one stopped."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from families import family_model
from made_up import random_samples
from spiral.policies import SamplingConfig
from spiral.training.batch import make_batch
from spiral.training.learner import Learner, LearnerConfig, TrainingDivergedError
from spiral.training.logprobs import blocks, hidden_states, score_tokens
from spiral.training.loss import LossConfig
from spiral.training.packing import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")


def new_learner(model, *, loss=None, sampling=None, total_steps=10, seed=0, **config):
    settings = {"learning_rate": 1e-3, "epochs": 1, "tokens_per_microbatch": 200, **config}
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(**settings),
        loss_config=LossConfig(**(loss or {})),
        sampling=SamplingConfig(max_new_tokens=32, **(sampling or {})),
        total_steps=total_steps,
        seed=seed,
    )


def batch_of(count=8, seed=0):
    return make_batch(random_samples(count, 400, seed))


def on_policy_batch(model, temperature=1.0):
    """A batch whose log-probabilities the model itself gave."""
    samples = random_samples(8, 400)
    batch = make_batch(samples)
    (rows,) = micro_batches(batch, torch.arange(8), "padded", 10_000)
    with torch.no_grad():
        scores = score_tokens(
            hidden_states(model, rows), model.get_output_embeddings(), batch.action_ids_A[rows.action_K], temperature
        )
    batch.behaviour_logprobs_A[rows.action_K] = scores.logprobs_K
    return batch


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_learning_rate_rises_and_falls_on_schedule(random_model):
    constant = new_learner(random_model)
    assert [constant.learning_rate(step) for step in (1, 5, 10)] == [1e-3] * 3
    falling = new_learner(random_model, final_learning_rate_share=0.2, total_steps=5)
    assert [falling.learning_rate(step) for step in range(1, 6)] == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4, 2e-4])
    assert falling.learning_rate(9) == pytest.approx(2e-4)
    both = new_learner(random_model, final_learning_rate_share=0.0, warmup_steps=4, total_steps=11)
    assert [both.learning_rate(step) for step in (1, 2, 4, 6, 11)] == pytest.approx([2.5e-4, 4.5e-4, 7e-4, 5e-4, 0.0])
    assert new_learner(random_model, total_steps=1, final_learning_rate_share=0.1).learning_rate(1) == 1e-3


def test_the_schedule_reaches_the_optimizer(random_model):
    learner = new_learner(random_model, final_learning_rate_share=0.0, total_steps=3)
    rates = [learner.update(batch_of())["learner/learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([1e-3, 5e-4, 0.0])
    assert learner.optimizer.param_groups[0]["lr"] == 0.0
    before = weights(learner.model)
    learner.update(batch_of(seed=1))
    assert same(before, weights(learner.model))


def test_an_update_without_samples_still_counts(random_model):
    learner = new_learner(random_model, final_learning_rate_share=0.0, total_steps=3)
    before = weights(learner.model)
    assert learner.update(None) == {"learner/learning_rate": 1e-3, "learner/skipped_steps": 0.0}
    assert learner.version == 1
    assert same(before, weights(learner.model))
    assert learner.update(batch_of())["learner/learning_rate"] == pytest.approx(5e-4)
    assert learner.version == 2


@pytest.mark.parametrize("empty_step", [None, 4])
def test_the_reference_is_refreshed_on_time(random_model, empty_step):
    learner = new_learner(random_model, loss={"kl_coefficient": 0.1, "reference_refresh_steps": 2})
    start = weights(learner.model)
    after = {0: start}
    for step in range(1, 7):
        learner.update(None if step == empty_step else batch_of(seed=step))
        after[step] = weights(learner.model)
        # Steps 1 and 2 see the start, 3 and 4 what step 2 left, 5 and 6 what step 4 left.
        assert same(weights(learner.reference), after[2 * ((step - 1) // 2)])
    assert not same(after[4], start)


def test_without_refresh_the_reference_stays_and_without_kl_there_is_none(random_model):
    learner = new_learner(random_model, loss={"kl_coefficient": 0.1})
    for seed in range(3):
        learner.update(batch_of(seed=seed))
    assert same(weights(learner.reference), weights(random_model))
    assert not any(parameter.requires_grad for parameter in learner.reference.parameters())
    assert new_learner(random_model).reference is None
    with pytest.raises(ValueError, match=r"so there is no reference; set loss\.kl_coefficient"):
        LossConfig(reference_refresh_steps=1)


def test_the_kl_is_zero_at_first_and_grows_as_the_policy_moves(random_model):
    learner = new_learner(random_model, loss={"kl_coefficient": 0.1})
    first, second = learner.update(batch_of()), learner.update(batch_of())
    assert first["loss/kl_reference"] == pytest.approx(0.0, abs=1e-6)
    assert second["loss/kl_reference"] > 1e-4


def test_a_non_finite_gradient_is_skipped_and_counted(random_model):
    learner = new_learner(random_model, epochs=2, minibatches=2)
    batch = batch_of()
    batch.advantages_A[batch.action_sample_A == 3] = math.nan
    before = weights(learner.model)
    metrics = learner.update(batch)
    # In each pass one of the two parts holds the bad sample.
    assert metrics["learner/skipped_steps"] == 2.0
    assert math.isfinite(metrics["loss/policy"])
    after = weights(learner.model)
    assert not same(before, after)
    assert all(torch.isfinite(weight).all() for weight in after.values())
    batch.advantages_A[:] = math.inf
    metrics = learner.update(batch)
    assert same(after, weights(learner.model))
    # Of no optimizer step there is no mean; JSON could not hold it either.
    assert metrics["learner/skipped_steps"] == 4.0
    assert "loss/policy" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert learner.version == 2


def test_gradients_are_clipped_to_the_norm(random_model):
    # AdamW hides the size of a gradient, so it is read off its first moment after one step.
    free, clipped = (new_learner(random_model, max_grad_norm=norm) for norm in (1e9, 1e-3))
    norms = [learner.update(batch_of())["learner/grad_norm"] for learner in (free, clipped)]
    assert norms[0] == norms[1] > 1e-2

    def first_moment(learner):
        tensors = learner.optimizer_tensors()
        return math.sqrt(sum(float((t**2).sum()) for key, t in tensors.items() if key.startswith("exp_avg/")))

    assert first_moment(free) == pytest.approx(0.1 * norms[0], rel=1e-4)
    assert first_moment(clipped) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_the_gap_is_zero_when_sampler_and_learner_agree(random_model):
    metrics = new_learner(random_model, sampling={"temperature": 0.8}).update(on_policy_batch(random_model, 0.8))
    assert metrics["sampler/gap_mean"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["sampler/gap_k3"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["sampler/gap_over_0.1"] == 0.0
    assert metrics["loss/clip_fraction"] == 0.0
    assert metrics["loss/kl_old"] == pytest.approx(0.0, abs=1e-6)


def test_the_gap_by_hand(random_model):
    batch = on_policy_batch(random_model)
    half = batch.num_action_tokens // 2
    batch.behaviour_logprobs_A[:half].sub_(math.log(2.0))  # the learner finds these tokens twice as likely
    metrics = new_learner(random_model).update(batch)
    share = half / batch.num_action_tokens
    assert metrics["sampler/gap_mean"] == pytest.approx(share * math.log(2.0), abs=1e-5)
    assert metrics["sampler/gap_k3"] == pytest.approx(share * (2.0 - 1 - math.log(2.0)), abs=1e-4)
    assert metrics["sampler/gap_over_0.1"] == pytest.approx(share, abs=1e-6)


def test_loss_is_computed_before_the_first_optimizer_step(random_model):
    batch = on_policy_batch(random_model)
    metrics = new_learner(random_model).update(batch)
    # At ratio one the PPO term of a token is minus its advantage.
    expected = -float(batch.advantages_A.sum()) / (32 * batch.num_samples)
    assert metrics["loss/policy"] == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        rows = next(iter(micro_batches(batch, torch.arange(8), "padded", 10_000)))
        head = random_model.get_output_embeddings()
        scores = score_tokens(hidden_states(random_model, rows), head, batch.action_ids_A[rows.action_K], 1.0)
    assert metrics["loss/entropy"] == pytest.approx(float(scores.entropy_K.mean()), rel=1e-5)


def test_the_ratio_divides_by_the_sampler_or_by_the_learner(random_model):
    batch = on_policy_batch(random_model)
    batch.behaviour_logprobs_A.sub_(1.0)  # far outside the clip, if that is what the ratio divides by
    learner, behaviour = (
        new_learner(random_model, loss={"old_logprobs": name}).update(batch) for name in ("learner", "behaviour")
    )
    assert learner["loss/clip_fraction"] == 0.0
    positive = (batch.advantages_A > 0).float().mean()
    assert behaviour["loss/clip_fraction"] == pytest.approx(float(positive))
    assert learner["sampler/gap_mean"] == pytest.approx(1.0, abs=1e-4)
    assert behaviour["sampler/gap_mean"] == pytest.approx(1.0, abs=1e-4)


def test_a_good_answer_becomes_likelier_and_a_bad_one_rarer(random_model):
    batch = on_policy_batch(random_model)
    learner = new_learner(random_model, epochs=2)
    learner.update(batch)
    before = batch.behaviour_logprobs_A
    (rows,) = micro_batches(batch, torch.arange(8), "padded", 10_000)
    with torch.no_grad():
        head = learner.model.get_output_embeddings()
        scores = score_tokens(hidden_states(learner.model, rows), head, batch.action_ids_A[rows.action_K], 1.0)
    change = scores.logprobs_K - before[rows.action_K]
    sample = batch.action_sample_A[rows.action_K]
    for index in range(8):
        moved = float(change[sample == index].sum())
        assert moved * float(batch.advantages_A[batch.action_sample_A == index][0]) > 0


def test_equal_seeds_give_equal_weights_and_others_do_not(random_model):
    def trained(seed):
        learner = new_learner(random_model, seed=seed, minibatches=3, epochs=2, loss={"kl_coefficient": 0.1})
        metrics = [learner.update(batch_of(seed=step)) for step in range(3)]
        return weights(learner.model), metrics

    first, again, other = trained(0), trained(0), trained(1)
    assert same(first[0], again[0])
    assert first[1] == again[1]
    assert not same(first[0], other[0])


def test_training_goes_on_exactly_from_the_optimizers_tensors(random_model):
    whole = new_learner(random_model)
    for step in range(4):
        whole.update(batch_of(seed=step))
    first = new_learner(random_model)
    for step in range(2):
        first.update(batch_of(seed=step))
    second = new_learner(first.model)
    second.load_optimizer_tensors({key: tensor.clone() for key, tensor in first.optimizer_tensors().items()})
    second.version = first.version
    for step in range(2, 4):
        second.update(batch_of(seed=step))
    assert same(weights(whole.model), weights(second.model))
    # Without the tensors it would not be the same.
    fresh = new_learner(first.model)
    fresh.version = first.version
    for step in range(2, 4):
        fresh.update(batch_of(seed=step))
    assert not same(weights(whole.model), weights(fresh.model))


def test_optimizer_tensors_have_the_parameters_names(random_model):
    learner = new_learner(random_model)
    assert learner.optimizer_tensors() == {}
    learner.update(batch_of())
    names = {name for name, _ in learner.weights()}
    keys = {tuple(key.split("/", 1)) for key in learner.optimizer_tensors()}
    assert keys == {(kind, name) for kind in ("exp_avg", "exp_avg_sq", "step") for name in names}


def test_gradient_checkpointing_changes_no_result(random_model):
    plain, again = new_learner(random_model), new_learner(random_model, gradient_checkpointing=True)
    expected, found = plain.update(batch_of()), again.update(batch_of())
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert not again.model.training
    for name, weight in weights(plain.model).items():
        assert torch.allclose(weights(again.model)[name], weight, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_computes_every_block_twice(random_model, checkpointing):
    learner, batch = new_learner(random_model, gradient_checkpointing=checkpointing), batch_of()
    passes = [0, 0]
    for number, block in enumerate(blocks(learner.model)):

        def count(module, inputs, number=number):
            passes[number] += 1

        block.self_attn.register_forward_pre_hook(count)
    learner.update(batch)
    rows = len(list(micro_batches(batch, torch.arange(8), "padded", 200)))
    assert rows > 1
    # Old log-probabilities come from the one pass that there is.
    assert passes == [rows * (2 if checkpointing else 1)] * 2


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt-bigcode", "falcon", "stablelm", "seed-oss", "mixtral"])
def test_nothing_random_is_on_in_the_learner(tokenizer, family):
    """Dropout in functions and modules, dropped layers and noisy routers; torch draws no number at all."""
    model, samples = family_model(family, len(tokenizer)), random_samples(6, 90)
    batch = make_batch(samples)
    state = torch.get_rng_state()
    learner = new_learner(model, gradient_checkpointing=True)
    batch.behaviour_logprobs_A.copy_(torch.from_numpy(learner.score(batch)))
    expected = []
    for sample in samples:
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.action_ids]))[None]
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        expected.append(logprobs[len(sample.prompt_ids) - 1 :])
    assert np.allclose(batch.behaviour_logprobs_A, torch.cat(expected), atol=1e-5)
    metrics = learner.update(batch)
    assert metrics["sampler/gap_mean"] < 1e-6
    assert metrics["learner/grad_norm"] > 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("minibatches", "steps"), [(1, 1), (2, 2), (50, 3)])
def test_more_parts_than_samples_is_one_sample_a_step(random_model, minibatches, steps):
    learner = new_learner(random_model, minibatches=minibatches)
    assert learner.update(batch_of(count=3))["learner/skipped_steps"] == 0.0
    assert {float(state["step"]) for state in learner.optimizer.state.values()} == {steps}


def peak_bytes(work):
    """The most bytes that `work()` holds on the CPU beyond what there was."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_chunks_keep_no_logits_for_the_backward_pass(random_model):
    """Each chunk's logits are computed again when they are needed, and gone before the next chunk's."""
    head = random_model.get_output_embeddings()
    vocabulary, width = head.weight.shape
    chunk = 64 * vocabulary

    def peak(count, **options):
        """In chunks of float32 logits."""
        hidden = torch.randn(count, width, requires_grad=True)
        targets = torch.arange(count) % vocabulary

        def work():
            scores = score_tokens(hidden, head, targets, 1.0, chunk_elements=chunk, **options)
            scores.logprobs_K.sum().backward()

        return peak_bytes(work) / (4 * chunk)

    assert peak(64 * 16, entropy_gradient=False) < peak(64 * 2, entropy_gradient=False) + 2.5
    assert peak(64 * 16, entropy_gradient=True) > 16  # kept for a gradient that is not needed


def no_gradient_is_finite(batch):
    batch.advantages_A[:] = math.nan
    return batch


def test_training_that_diverges_is_stopped(random_model):
    learner = new_learner(random_model, epochs=2, loss={"max_skipped_updates": 3})
    before = weights(learner.model)
    for _ in range(2):
        assert learner.update(no_gradient_is_finite(batch_of()))["learner/skipped_steps"] == 2.0
    message = (
        r"no gradient was finite in 3 updates in a row, up to update 3 \(2 optimizer steps skipped in the last\), .*;"
        r" lower learner\.learning_rate \(0\.001\) or learner\.max_grad_norm \(1\)"
    )
    with pytest.raises(TrainingDivergedError, match=message) as caught:
        learner.update(no_gradient_is_finite(batch_of()))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.metrics == {
        "learner/learning_rate": 1e-3, "learner/skipped_steps": 2.0,
        **{key: value for key, value in caught.value.metrics.items() if key.startswith("sampler/")},
    }  # fmt: skip
    assert learner.version == 3
    assert same(before, weights(learner.model))


def test_only_updates_in_a_row_count_and_zero_never_stops(random_model):
    learner = new_learner(random_model, loss={"max_skipped_updates": 2})
    for _ in range(2):
        learner.update(no_gradient_is_finite(batch_of()))
        assert learner.skipped_updates == 1
        learner.update(batch_of())
        assert learner.skipped_updates == 0
    learner.update(no_gradient_is_finite(batch_of()))
    learner.update(None)  # no samples say nothing of the gradient
    assert learner.skipped_updates == 1
    with pytest.raises(TrainingDivergedError):
        learner.update(no_gradient_is_finite(batch_of()))
    endless = new_learner(random_model, loss={"max_skipped_updates": 0})
    for _ in range(5):
        metrics = endless.update(no_gradient_is_finite(batch_of()))
    assert metrics["learner/skipped_steps"] == 1.0
    assert LossConfig().max_skipped_updates == 3
