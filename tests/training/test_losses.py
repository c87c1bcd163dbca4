"""Dual clip, CISPO, GSPO and DPPO by hand: the value of each token, its gradient, and whether it counts as clipped."""

import math

import pytest
import torch
from pydantic import ValidationError

from spiral.training.losses import TokenNumbers, make_policy_loss
from spiral.training.settings import BUILTIN_LOSSES, LOSS_OPTIONS, LossConfig


def computed(config, ratios, advantages, samples=None, *, old=None, behaviour=None):
    """Loss, gradient and clipped of tokens by their ratio pi / pi_old; the old probability is 0.1 unless given."""
    old_K = torch.tensor(old or [0.1] * len(ratios), dtype=torch.float64).log()
    logprobs_K = (old_K + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    behaviour_K = old_K if behaviour is None else torch.tensor(behaviour, dtype=torch.float64).log()
    loss_K, clipped_K = make_policy_loss(config)(
        TokenNumbers(
            logprobs_K=logprobs_K,
            old_logprobs_K=old_K,
            behaviour_logprobs_K=behaviour_K,
            advantages_K=torch.tensor(advantages, dtype=torch.float64),
            sample_K=torch.tensor(samples or range(len(ratios))),
        )
    )
    loss_K.sum().backward()
    return loss_K.tolist(), logprobs_K.grad.tolist(), clipped_K.tolist()


def test_dual_clip_bounds_what_a_negative_advantage_costs():
    config = LossConfig(kind="dual_clip", clip_low=0.2, clip_high=0.28)
    loss, gradient, clipped = computed(config, [1.5, 0.5, 2.0, 5.0, 5.0, 1.1], [1.0, -2.0, -2.0, -2.0, 2.0, 0.0])
    # PPO's clip at 1.28 and 0.8; a ratio of 2 still counts in full, one of 5 as 3.
    assert loss == pytest.approx([-1.28, 1.6, 4.0, 6.0, -2.56, 0.0])
    assert gradient == pytest.approx([0.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    assert clipped == [True, True, False, True, True, False]
    config = LossConfig(kind="dual_clip", options={"bound": 10})
    assert computed(config, [5.0], [-2.0])[:2] == ([pytest.approx(10.0)], [pytest.approx(10.0)])


def test_clipped_tokens_keep_a_gradient_in_cispo():
    config = LossConfig(kind="cispo", options={"low": 0.5, "high": 1.0})
    loss, gradient, clipped = computed(config, [0.2, 1.5, 8.0, 8.0], [1.0, 2.0, 1.0, -1.0])
    logs = [math.log(0.1 * ratio) for ratio in (0.2, 1.5, 8.0, 8.0)]
    assert loss == pytest.approx([-0.5 * logs[0], -3.0 * logs[1], -2.0 * logs[2], 2.0 * logs[3]])
    assert gradient == pytest.approx([-0.5, -3.0, -2.0, 2.0])
    assert clipped == [True, False, True, True]
    assert computed(LossConfig(kind="cispo"), [0.001, 5.0, 6.0], [1.0] * 3)[1] == pytest.approx([-0.001, -5.0, -5.0])


def test_gspo_has_one_ratio_for_a_reply():
    config = LossConfig(kind="gspo", options={"low": 0.2, "high": 0.3})
    # Sample 7 has the ratios 2 and 0.72, whose geometric mean is 1.2; sample 3 has 2, 2 and 0.5, whose is 2^(1/3).
    loss, gradient, clipped = computed(
        config, [2.0, 2.0, 0.72, 2.0, 0.5], [1.0, -1.0, 1.0, -1.0, -1.0], [7, 3, 7, 3, 3]
    )
    cube = 2 ** (1 / 3)
    assert loss == pytest.approx([-1.2, cube, -1.2, cube, cube])
    assert gradient == pytest.approx([-1.2, cube, -1.2, cube, cube])
    assert clipped == [False] * 5
    loss, gradient, clipped = computed(config, [2.0, 1.0, 0.4, 1.0], [1.0, 1.0, -1.0, -1.0], [0, 0, 1, 1])
    # sqrt 2 is above 1.3, sqrt 0.4 below 0.8: both replies are clipped whole.
    assert loss == pytest.approx([-1.3, -1.3, 0.8, 0.8])
    assert gradient == [0.0] * 4
    assert clipped == [True] * 4
    assert computed(LossConfig(kind="gspo"), [1.0003, 1.0005], [1.0, 1.0])[2] == [False, True]


def test_dppo_masks_by_the_distance_to_what_was_sampled_from():
    config = LossConfig(kind="dppo", options={"limit": 0.1})
    # Ratio 20 from 0.001 is a distance of 0.019 and stays; 1.3 from 0.5 is one of 0.15 and is masked.
    loss, gradient, clipped = computed(config, [20.0, 1.3, 1.3, 0.7, 0.7], [1.0, 1, -1, 1, -1], old=[0.001] + [0.5] * 4)
    assert loss == pytest.approx([-20.0, 0.0, 1.3, -0.7, 0.0])
    assert gradient == pytest.approx([-20.0, 0.0, 1.3, -0.7, 0.0])
    assert clipped == [False, True, False, False, True]
    # The anchor is mu, not pi_old: 0.65 is near a behaviour probability of 0.6.
    assert computed(config, [1.3], [1.0], old=[0.5], behaviour=[0.6])[2] == [False]


def test_dppo_by_kl():
    config = LossConfig(kind="dppo", options={"divergence": "kl", "limit": 0.05})
    # mu 0.5 and pi 0.65: 0.5 log(0.5 / 0.65) + 0.5 log(0.5 / 0.35) = 0.0472; pi 0.7: 0.0872.
    assert 0.5 * math.log(0.5 / 0.65) + 0.5 * math.log(0.5 / 0.35) == pytest.approx(0.0472, abs=1e-4)
    assert computed(config, [1.3, 1.4, 1.4, 0.6, 0.6], [1.0, 1.0, -1.0, 1.0, -1.0], old=[0.5] * 5)[2] == [
        False,
        True,
        False,
        False,
        True,
    ]
    loss, gradient, clipped = computed(config, [1.0, 1.0], [1.0, -1.0], old=[1.0, 1.0])
    assert (loss, gradient, clipped) == ([-1.0, 1.0], [-1.0, 1.0], [False, False])


@pytest.mark.parametrize("kind", [kind for kind in BUILTIN_LOSSES if kind != "nll"])
def test_at_the_start_of_an_update_every_loss_has_the_policy_gradient(kind):
    _, gradient, clipped = computed(LossConfig(kind=kind), [1.0, 1.0, 1.0], [2.0, -1.0, 0.5], [0, 0, 1])
    assert gradient == pytest.approx([-2.0, 1.0, -0.5])
    assert clipped == [False] * 3


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gspo", {"clip_low": 0.1}, "'gspo' has no option 'clip_low'; its options: low, high"),
        ("dual_clip", {"bound": 1.0}, "bound: got 1.0; Input should be greater than 1"),
        ("cispo", {"high": "much"}, "high: got 'much'"),
        ("dppo", {"divergence": "chi2"}, "divergence: got 'chi2'; Input should be 'tv' or 'kl'"),
        ("policy_gradient", {"bound": 2.0}, "'policy_gradient' has no options, and loss.options is {'bound': 2.0}"),
    ],
)
def test_options_that_a_loss_does_not_take(kind, options, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(kind=kind, options=options).check()
    with pytest.raises(ValueError, match=message):
        make_policy_loss(LossConfig(kind=kind, options=options))


@pytest.mark.parametrize("kind", ["gspo", "policy_gradient", "mine:loss"])
def test_a_clip_that_a_loss_does_not_use_is_refused(kind):
    with pytest.raises(
        ValidationError, match=rf"loss.clip_high is 0.28, but only 'ppo' and 'dual_clip' use it, .*{kind}"
    ):
        LossConfig(kind=kind, clip_high=0.28)
    assert LossConfig(kind=kind, clip_high=0.2).clip_high == 0.2
    assert LossConfig(kind="dual_clip", clip_high=0.28).builtin_options()["clip_high"] == 0.28


def test_the_defaults_of_options_are_those_of_the_losses():
    for kind, section in LOSS_OPTIONS.items():
        defaults = make_policy_loss(LossConfig(kind=kind)).keywords
        assert {key: defaults[key] for key in section.model_fields} == section().model_dump()
