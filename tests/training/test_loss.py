"""The loss in numbers that can be checked with a pencil, and its gradients against a naive implementation."""

import math
import sys
import types

import pytest
import torch
from pydantic import ValidationError

from made_up import loss_of
from spiral.games.failures import UserCodeError
from spiral.training.logprobs import TokenScores, score_tokens
from spiral.training.loss import LossConfig, importance_weights
from spiral.training.losses import LOSSES, TokenNumbers, make_policy_loss
from spiral.training.settings import BUILTIN_LOSSES

LN2 = math.log(2.0)


def scores_of(logprobs, entropy=0.0, kl=0.0):
    fill = torch.zeros_like(logprobs)
    return TokenScores(logprobs_K=logprobs, entropy_K=fill + entropy, kl_K=fill + kl)


def policy_loss_of(logprobs, old, advantages, config):
    """The loss of each token, and whether it was clipped."""
    tokens = TokenNumbers(
        logprobs_K=logprobs,
        old_logprobs_K=old,
        behaviour_logprobs_K=old,
        advantages_K=advantages,
        sample_K=torch.zeros_like(advantages, dtype=torch.long),
    )
    return make_policy_loss(config)(tokens)


def tensors(*columns):
    return [torch.tensor(column, dtype=torch.float64) for column in columns]


def test_policy_gradient_by_hand():
    logprobs, old, advantages = tensors([-1.0, -2.0, -0.5], [-1.0, -2.0, -0.5], [2.0, -1.0, 0.5])
    logprobs.requires_grad_()
    parts = loss_of(scores_of(logprobs), old, old, advantages, 10.0, LossConfig(kind="policy_gradient"))
    # -(2 * -1 + -1 * -2 + 0.5 * -0.5) / 10
    assert parts.total.item() == pytest.approx(0.025)
    assert parts.policy.item() == parts.total.item()
    assert parts.clipped.item() == 0
    parts.total.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.2, 0.1, -0.05])


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "flows"),
    [
        (1.0, 1.0, -1.0, True),
        (1.1, 1.0, -1.1, True),
        (1.5, 1.0, -1.2, False),  # already likelier than the clip allows: no more reward for it
        (0.5, 1.0, -0.5, True),  # a good action that got rarer may come back
        (0.5, -1.0, 0.8, False),  # a bad action that is already rarer: no more reward for it
        (1.5, -1.0, 1.5, True),  # a bad action that got likelier is pushed back in full
        (0.9, -2.0, 1.8, True),
        (3.0, 0.0, 0.0, False),
    ],
)
def test_the_clip_on_both_sides_for_both_signs(ratio, advantage, value, flows):
    old, advantages = tensors([-1.5], [advantage])
    logprobs = (old + math.log(ratio)).requires_grad_()
    tokens, clipped = policy_loss_of(logprobs, old, advantages, LossConfig(clip_low=0.2, clip_high=0.2))
    assert tokens.item() == pytest.approx(value)
    tokens.sum().backward()
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if flows else 0.0)
    assert clipped.item() == (not flows and advantage != 0)


def test_a_higher_upper_clip_lets_rare_tokens_grow():
    old, advantages = tensors([-4.0, -4.0], [1.0, -1.0])
    logprobs = old + math.log(1.25)
    same, _ = policy_loss_of(logprobs, old, advantages, LossConfig())
    higher, clipped = policy_loss_of(logprobs, old, advantages, LossConfig(clip_high=0.28))
    assert same.tolist() == pytest.approx([-1.2, 1.25])
    assert higher.tolist() == pytest.approx([-1.25, 1.25])
    assert clipped.tolist() == [False, False]


def test_ppo_at_ratio_one_has_the_policy_gradient():
    logprobs, advantages = tensors([-1.0, -2.0, -0.5], [2.0, -1.0, 0.5])
    grads = []
    for kind in ("ppo", "policy_gradient"):
        leaf = logprobs.clone().requires_grad_()
        loss_of(scores_of(leaf), logprobs, logprobs, advantages, 3.0, LossConfig(kind=kind)).total.backward()
        grads.append(leaf.grad.tolist())
    assert grads[0] == pytest.approx(grads[1])


def test_importance_weights_are_truncated_above_only_and_carry_no_gradient():
    old, behaviour = tensors([-1.0, -1.0, -1.0, -1.0], [-1.0, -1.0 - LN2, -1.0 + 3 * LN2, -9.0])
    old.requires_grad_()
    weights = importance_weights(old, behaviour, cap=3.0)
    assert weights.tolist() == pytest.approx([1.0, 2.0, 0.125, 3.0])
    assert not weights.requires_grad


@pytest.mark.parametrize("kind", ["ppo", "policy_gradient"])
def test_the_weight_multiplies_a_tokens_loss_and_its_gradient(kind):
    logprobs, behaviour, advantages = tensors([-1.0, -1.0], [-1.0 - LN2, -9.0], [1.0, 1.0])
    config = LossConfig(kind=kind, importance_cap=4.0)
    leaf = logprobs.clone().requires_grad_()
    parts = loss_of(scores_of(leaf), logprobs, behaviour, advantages, 1.0, config)
    parts.total.backward()
    token = 1.0 if kind == "policy_gradient" else -1.0
    assert parts.total.item() == pytest.approx(2.0 * token + 4.0 * token)
    assert leaf.grad.tolist() == pytest.approx([-2.0, -4.0])


def test_entropy_and_kl_are_added_with_their_weights():
    logprobs, advantages = tensors([-1.0, -1.0], [0.0, 0.0])
    config = LossConfig(entropy_bonus=0.1, kl_coefficient=0.5)
    parts = loss_of(scores_of(logprobs, entropy=2.0, kl=0.3), logprobs, logprobs, advantages, 4.0, config)
    assert parts.total.item() == pytest.approx((-0.1 * 2.0 + 0.5 * 0.3) * 2 / 4)
    assert parts.policy.item() == 0.0


def test_a_token_weighs_the_same_in_a_short_and_in_a_long_answer():
    # Two samples of 2 and 6 tokens with one advantage: the constant denominator knows nothing of lengths.
    logprobs, advantages = torch.full((8,), -1.0).requires_grad_(), torch.ones(8)
    old = logprobs.detach()
    loss_of(scores_of(logprobs), old, old, advantages, 2 * 16.0, LossConfig(kind="policy_gradient")).total.backward()
    assert logprobs.grad.tolist() == pytest.approx([-1 / 32] * 8)


def test_micro_batches_add_up():
    torch.manual_seed(0)
    logprobs, old, behaviour, advantages = (torch.randn(10, dtype=torch.float64) * 0.3 for _ in range(4))
    config = LossConfig()
    whole = loss_of(scores_of(logprobs), old, behaviour, advantages, 7.0, config)
    parts = [
        loss_of(scores_of(logprobs[cut]), old[cut], behaviour[cut], advantages[cut], 7.0, config)
        for cut in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item())
    assert sum(part.clipped.item() for part in parts) == whole.clipped.item() > 0


def test_impossible_settings_are_refused():
    for wrong in ({"clip_low": 1.0}, {"clip_high": 0.0}, {"importance_cap": 0}, {"kind": 1}, {"kl": 0.1}):
        with pytest.raises(ValidationError):
            LossConfig(**wrong)


def test_the_settings_know_the_built_in_losses():
    assert tuple(LOSSES) == BUILTIN_LOSSES


# Losses of a user's own.


def cubed(tokens, *, power=3):
    return -(tokens.advantages_K**power) * tokens.logprobs_K


class Bounded:
    """Clips advantages, and says where."""

    def __init__(self, bound):
        if bound <= 0:
            raise ValueError("not positive")
        self.bound = bound

    def __call__(self, tokens):
        bounded = tokens.advantages_K.clamp(-self.bound, self.bound)
        return -bounded * tokens.logprobs_K, bounded != tokens.advantages_K


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    module.cubed, module.Bounded = cubed, Bounded
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_a_custom_loss(mine):
    logprobs, advantages = tensors([-1.0, -0.5], [2.0, -1.0])
    for kind, options, expected, clipped in (
        ("mine:cubed", {}, 8.0 * 1.0 - 1.0 * 0.5, 0),
        ("mine:cubed", {"power": 1}, 2.0 * 1.0 - 1.0 * 0.5, 0),
        ("mine:Bounded", {"bound": 1.5}, 1.5 * 1.0 - 1.0 * 0.5, 1),
    ):
        config = LossConfig(kind=kind, options=options)
        config.check()
        parts = loss_of(scores_of(logprobs), logprobs, logprobs, advantages, 1.0, config)
        assert parts.total.item() == pytest.approx(expected)
        assert parts.clipped.item() == clipped


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("grpo", {}, "there is no 'grpo' among the losses"),
        (
            "ppo",
            {"clip_low": 0.1},
            "the loss 'ppo' has no options, and loss.options is .*clip_low.*; see loss.clip_low",
        ),
        ("mine:cubed", {"exponent": 2}, "'mine:cubed' has no option 'exponent'; its options: power"),
        ("mine:Bounded", {}, "'mine:Bounded' needs the option 'bound'"),
    ],
)
def test_losses_and_options_that_do_not_exist(kind, options, message, mine):
    with pytest.raises(ValueError, match=message):
        LossConfig(kind=kind, options=options).check()


def test_a_loss_that_fails_is_named(mine):
    logprobs, advantages = tensors([-1.0, -0.5], [2.0, -1.0])
    with pytest.raises(ValueError, match="the loss 'mine:Bounded' cannot be made: ValueError: not positive"):
        make_policy_loss(LossConfig(kind="mine:Bounded", options={"bound": 0}))
    for function, message in (
        (lambda tokens: 1 / 0, "the loss 'mine:wrong' failed: ZeroDivisionError"),
        (lambda tokens: tokens.logprobs_K.sum(), r"returned a tensor of shape \[\]; expected a tensor of shape \[2\]"),
        (lambda tokens: 3.0, "returned float; expected a tensor"),
    ):
        mine.wrong = function
        with pytest.raises(UserCodeError, match=message):
            policy_loss_of(logprobs, logprobs, advantages, LossConfig(kind="mine:wrong"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tokens: -(tokens.advantages_K * tokens.logprobs_K).detach(), "has no gradient.* neither detached"),
        (lambda tokens: tokens.logprobs_K.long(), "has no gradient"),
        (lambda tokens: -tokens.advantages_K * torch.tensor(tokens.logprobs_K.tolist()), "has no gradient"),
        (lambda tokens: (tokens.advantages_K, tokens.advantages_K > 0), "has no gradient"),
        (lambda tokens: (tokens.logprobs_K,) * 3, "returned tuple; expected a tensor"),
        (lambda tokens: tokens.logprobs_K * 1j, r"returned a complex tensor of shape \[2\]"),
    ],
)
def test_a_loss_that_could_not_learn_is_refused(function, message, mine):
    logprobs, old, advantages = tensors([-1.0, -0.5], [-1.0, -0.5], [2.0, -1.0])
    mine.wrong = function
    with pytest.raises(UserCodeError, match=f"the loss 'mine:wrong' {message}"):
        policy_loss_of(logprobs.requires_grad_(), old, advantages, LossConfig(kind="mine:wrong"))


# From hidden states to scores.

TOKENS, SIZE, VOCABULARY = 13, 8, 29


def setting(seed=0):
    """Hidden states, two output heads and targets."""
    torch.manual_seed(seed)
    head, other = (torch.nn.Linear(SIZE, VOCABULARY, bias=False).double() for _ in range(2))
    hidden, reference = (torch.randn(TOKENS, SIZE, dtype=torch.float64) * 2 for _ in range(2))
    return hidden.requires_grad_(), head, torch.randint(0, VOCABULARY, (TOKENS,)), (reference, other)


def naive_scores(hidden, head, targets, temperature, reference):
    """Everything from full logits, one token at a time, with probabilities rather than their logarithms."""
    columns = []
    for position in range(TOKENS):
        p = torch.softmax(head(hidden[position]).float() / temperature, 0)
        q = torch.softmax(reference[1](reference[0][position]).float() / temperature, 0)
        entropy = sum(-p[token] * torch.log(p[token]) for token in range(VOCABULARY))
        kl = sum(p[token] * torch.log(p[token] / q[token]) for token in range(VOCABULARY))
        columns.append((torch.log(p[targets[position]]), entropy, kl))
    return [torch.stack(column) for column in zip(*columns, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
def test_scores_and_gradients_equal_a_naive_implementation(temperature, chunk_tokens):
    weights = torch.randn(3, TOKENS, generator=torch.Generator().manual_seed(1))
    results = []
    for naive in (True, False):
        hidden, head, targets, reference = setting()
        if naive:
            columns = naive_scores(hidden, head, targets, temperature, reference)
        else:
            size = chunk_tokens * VOCABULARY
            scores = score_tokens(hidden, head, targets, temperature, reference, chunk_elements=size)
            columns = [scores.logprobs_K, scores.entropy_K, scores.kl_K]
        sum((weight * column).sum() for weight, column in zip(weights, columns, strict=True)).backward()
        results.append([*(column.detach().double() for column in columns), hidden.grad, head.weight.grad])
        assert naive or reference[1].weight.grad is None
    for expected, found in zip(*results, strict=True):
        assert expected.abs().max() > 1e-3
        assert torch.allclose(found, expected, atol=2e-5, rtol=1e-4)


def test_entropy_and_kl_of_known_distributions():
    # Logits given directly: the head is the identity.
    head = torch.nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
    uniform, skewed = torch.zeros(1, 4), torch.tensor([[0.0, LN2, 0.0, 0.0]])  # 1/4 each; 1/5, 2/5, 1/5, 1/5
    target = torch.tensor([1])
    scores = score_tokens(skewed, head, target, 1.0, (uniform, head))
    assert scores.logprobs_K.item() == pytest.approx(math.log(0.4), abs=1e-6)
    entropy = -(0.4 * math.log(0.4) + 0.6 * math.log(0.2))
    assert scores.entropy_K.item() == pytest.approx(entropy, abs=1e-6)
    assert scores.kl_K.item() == pytest.approx(math.log(4) - entropy, abs=1e-6)
    back = score_tokens(uniform, head, target, 1.0, (skewed, head))
    assert back.kl_K.item() == pytest.approx(0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.25 / 0.2), abs=1e-6)
    same = score_tokens(skewed, head, target, 1.0, (skewed, head))
    assert same.kl_K.item() == 0.0
    assert score_tokens(skewed, head, target, 1.0).kl_K.item() == 0.0


def test_temperature_zero_is_scored_at_temperature_one():
    hidden, head, targets, reference = setting()
    greedy, plain = (score_tokens(hidden, head, targets, temperature, reference) for temperature in (0.0, 1.0))
    assert torch.equal(greedy.logprobs_K, plain.logprobs_K)
    assert torch.equal(greedy.kl_K, plain.kl_K)


def test_gradients_agree_with_finite_differences():
    hidden, head, targets, reference = setting(seed=2)
    old = torch.full((TOKENS,), -3.0)
    advantages = torch.linspace(-1, 1, TOKENS)
    config = LossConfig(clip_low=0.9, clip_high=50.0, entropy_bonus=0.3, kl_coefficient=0.7)

    def value(hidden):
        scores = score_tokens(hidden, head, targets, 1.0, reference, chunk_elements=5 * VOCABULARY)
        return loss_of(scores, old, old, advantages, 5.0, config).total

    value(hidden).backward()
    torch.manual_seed(3)
    step = 1e-2
    for _ in range(5):
        direction = torch.randn_like(hidden)
        with torch.no_grad():
            slope = (value(hidden + step * direction) - value(hidden - step * direction)) / (2 * step)
        assert slope.item() == pytest.approx((hidden.grad * direction).sum().item(), rel=0.02, abs=2e-3)


def saved(chunk_elements):
    """The sizes of all tensors that the forward pass keeps for the backward pass."""
    hidden, head, targets, reference = setting()
    sizes = []

    def note(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scores = score_tokens(hidden, head, targets, 1.0, reference, chunk_elements=chunk_elements)
    kept = list(sizes)
    (scores.logprobs_K + scores.entropy_K + scores.kl_K).sum().backward()
    assert hidden.grad.abs().min() > 0
    return kept


def test_chunks_are_computed_again_and_not_kept():
    whole = saved(chunk_elements=10**6)
    assert whole.count(TOKENS * VOCABULARY) >= 3
    # Of a chunk of four tokens its hidden states are kept, and nothing as large as its logits.
    assert max(saved(chunk_elements=4 * VOCABULARY)) == 4 * SIZE < 4 * VOCABULARY
