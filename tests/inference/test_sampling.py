"""One token from logits: the distribution, its exact log-probability, and the edges of inverting it."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spiral.inference.sampling import sample_tokens
from spiral.policies import SamplingConfig

LARGEST = 1 - 2.0**-53


def by_hand(logits, temperature, top_p):
    """The distribution written out: temperature, then the shortest most likely prefix that reaches top-p."""
    weights = np.exp((logits - logits.max()) / temperature)
    probabilities = weights / weights.sum()
    kept, mass = np.zeros_like(probabilities), 0.0
    for token in sorted(range(len(logits)), key=lambda token: (-probabilities[token], token)):
        if mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += probabilities[token]
    return kept / kept.sum()


def drawn(logits, uniforms, **settings):
    """Tokens and log-probabilities for one row of logits at many uniform numbers."""
    rows = torch.tensor(np.asarray(logits), dtype=torch.float32).expand(len(uniforms), -1)
    tokens, logprobs = sample_tokens(rows, torch.tensor(uniforms, dtype=torch.float64), SamplingConfig(**settings))
    return tokens.numpy(), logprobs.numpy()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
def test_frequencies_and_logprobs_are_those_of_the_distribution(temperature, top_p):
    logits = np.random.default_rng(0).normal(0, 2, 12)
    expected = by_hand(logits, temperature, top_p)
    grid = (np.arange(20_000) + 0.5) / 20_000
    tokens, logprobs = drawn(logits, grid, temperature=temperature, top_p=top_p)
    frequencies = np.bincount(tokens, minlength=12) / len(grid)
    # On an even grid a token's count is off by one at most.
    assert frequencies == pytest.approx(expected, abs=1.5 / len(grid))
    assert np.exp(logprobs) == pytest.approx(expected[tokens], rel=1e-5)
    assert sum(np.exp(logprobs[tokens == token][0]) for token in set(tokens.tolist())) == pytest.approx(1.0, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20),
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
)
def test_logprobs_sum_to_one_over_what_can_be_drawn(logits, temperature, top_p):
    # Uniform numbers just past each cumulative sum reach every token of the support.
    probabilities = by_hand(np.array(logits, dtype=np.float64), temperature, top_p)
    sums = np.cumsum(sorted(by_hand(np.array(logits, dtype=np.float64), temperature, 1.0), reverse=True))
    assume(np.abs(sums - top_p).min() > 1e-5)  # on the edge rounding decides which tokens there are
    edges = np.minimum(np.cumsum(probabilities) - probabilities / 2, LARGEST)
    tokens, logprobs = drawn(logits, edges, temperature=temperature, top_p=top_p)
    found = {token: float(np.exp(logprob)) for token, logprob in zip(tokens.tolist(), logprobs, strict=True)}
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-4)
    assert all(probability > 0 for probability in found.values())


def test_the_cumulative_distribution_is_inverted_exactly():
    # Four tokens of a quarter each: a boundary belongs to the token above it.
    assert drawn([0.0] * 4, [0.0, 0.25, 0.5, 0.75])[0].tolist() == [0, 1, 2, 3]
    assert drawn([0.0] * 4, np.array([0.25, 0.5, 0.75, 1.0]) - 1e-15)[0].tolist() == [0, 1, 2, 3]


def test_zero_probability_is_never_drawn():
    impossible = float("-inf")
    for logits, allowed in (
        ([impossible, 1.0, impossible, 2.0, impossible], {1, 3}),
        ([impossible, impossible, 0.0], {2}),
        ([0.0, impossible, impossible], {0}),
        ([0.0, -200.0, 0.0, -200.0], {0, 2}),
    ):
        uniforms = [0.0, 1e-300, 0.5, LARGEST, *np.linspace(0, LARGEST, 1001)]
        tokens, logprobs = drawn(logits, uniforms)
        assert set(tokens.tolist()) == allowed
        assert np.isfinite(logprobs).all()


def test_the_largest_uniform_stays_inside_the_nucleus():
    # The last tokens of the vocabulary are outside; rounding of the sums must not let them in.
    logits = np.concatenate([np.random.default_rng(1).normal(0, 1, 50_000), np.full(1000, -9.0)])
    tokens, logprobs = drawn(logits, [0.0, LARGEST], top_p=0.9)
    nucleus = np.flatnonzero(by_hand(logits, 1.0, 0.9))
    assert tokens[0] == nucleus[0]
    assert tokens[1] == nucleus[-1]
    assert np.isfinite(logprobs).all()


def test_ties_at_the_edge_of_the_nucleus_keep_the_lower_ids():
    tokens, logprobs = drawn([0.0] * 4, np.linspace(0, LARGEST, 101), top_p=0.5)
    assert set(tokens.tolist()) == {0, 1}
    assert logprobs == pytest.approx(np.log(0.5), abs=1e-6)


def test_greedy_takes_the_likeliest_with_certainty():
    tokens, logprobs = drawn([1.0, 3.0, 3.0, 2.0], [0.0, 0.7, LARGEST], temperature=0.0, top_p=0.3)
    assert tokens.tolist() == [1, 1, 1]
    assert logprobs.tolist() == [0.0, 0.0, 0.0]
    assert logprobs.dtype == np.float32


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_distribution_has_no_log_probability(temperature, wrong):
    rows = [[0.0, wrong, 1.0], [0.0, 2.0, 1.0], [wrong] * 3]
    uniforms = torch.zeros(3, dtype=torch.float64)
    _, logprobs = sample_tokens(torch.tensor(rows), uniforms, SamplingConfig(temperature=temperature))
    assert torch.isfinite(logprobs).tolist() == [False, True, False]


def test_rows_do_not_share_anything():
    rng = np.random.default_rng(2)
    logits, uniforms = rng.normal(0, 2, (50, 30)), rng.random(50)
    config = SamplingConfig(temperature=0.8, top_p=0.9)
    rows = torch.tensor(logits, dtype=torch.float32)
    tokens, logprobs = sample_tokens(rows, torch.tensor(uniforms), config)
    for row in range(50):
        token, logprob = sample_tokens(rows[row : row + 1], torch.tensor(uniforms[row : row + 1]), config)
        assert (token.item(), logprob.item()) == (tokens[row].item(), logprobs[row].item())


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": 0}, {"temperature": float("nan")}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        SamplingConfig(**settings)
