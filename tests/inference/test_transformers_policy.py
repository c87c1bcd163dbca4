"""The engine: replies and log-probabilities equal those of a plain forward pass, whatever else is in the batch."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from spiral.core.seeds import token_uniforms
from spiral.games import load_game
from spiral.inference.base import PromptRequest
from spiral.inference.sampling import sample_tokens
from spiral.inference.slot_cache import GRAIN
from spiral.inference.transformers import TransformersPolicy
from spiral.models.nano.tokenizer import END, REPLY
from spiral.policies import SamplingConfig, TurnRequest
from spiral.text import ChatCodec, PromptConfig, worked_example
from spiral.text.turn_ends import stop_token_ids
from turns import random_states, replies_of, requests_for

pytestmark = pytest.mark.usefixtures("one_thread")

TICTACTOE = load_game("tictactoe")
STATES = random_states(60, seed=4)
STYLES = {"direct": False, "thinking": True}


def new_policy(model, tokenizer, *, thinking=False, max_rows=1024, budget=40, prompt=None, **sampling):
    codec = ChatCodec(tokenizer, prompt or PromptConfig(observation="compact", thinking=thinking))
    config = SamplingConfig(max_new_tokens=budget, **sampling)
    return TransformersPolicy(model, codec, config, max_rows=max_rows)


@torch.no_grad()
def plain_logits(model, reply):
    """[T, V] the logits of every token of a reply, from one forward pass over prompt and reply without any cache."""
    prompt, sampled = reply.prompt_ids, reply.generation.token_ids
    ids = torch.from_numpy(np.concatenate([prompt, sampled]))[None]
    return model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()


def mean_length(replies):
    return np.mean([len(reply.generation.token_ids) for reply in replies.values()])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("sampling", "dtype", "rounding"),
    [({}, torch.float32, 2e-5), ({"temperature": 0.7, "top_p": 0.8}, torch.float64, 1e-6)],
    ids=["plain", "nucleus"],
)
def test_sampled_logprobs_equal_a_plain_forward_pass(random_model, tokenizer, style, sampling, dtype, rounding):
    """In float32, two tokens as likely as each other at the nucleus's edge may change places by rounding."""
    model = copy.deepcopy(random_model).to(dtype)
    policy = new_policy(model, tokenizer, thinking=STYLES[style], max_rows=16, budget=70, **sampling)
    requests = requests_for(STATES[:40], seed=1)
    replies = replies_of(policy, requests)
    assert mean_length(replies) > GRAIN  # long enough to grow the cache and to leave it at different times
    for request in requests:
        reply = replies[request.key]
        counters = np.arange(len(reply.generation.token_ids), dtype=np.uint64)
        uniforms = torch.from_numpy(token_uniforms(np.full(len(counters), request.seed, dtype=np.uint64), counters))
        tokens, logprobs = sample_tokens(plain_logits(model, reply), uniforms, policy.sampling)
        assert reply.generation.token_ids.tolist() == tokens.tolist()
        assert reply.generation.logprobs == pytest.approx(logprobs.numpy(), abs=rounding)


def same_bits_for_any_number_of_rows(model):
    """Whether this machine's matrix products give a row the same bits in every batch of at least four rows."""
    torch.manual_seed(0)
    for weight in (model.get_output_embeddings().weight, model.base_model.layers[0].mlp.down_proj.weight):
        rows = torch.randn(300, weight.shape[1])
        whole = torch.nn.functional.linear(rows, weight)
        for count in (4, 5, 7, 16, 33, 64, 90, 255):
            if not torch.equal(torch.nn.functional.linear(rows[:count], weight), whole[:count]):
                return False
    return True


@pytest.mark.parametrize("style", [pytest.param("direct", marks=pytest.mark.slow), "thinking"])
def test_replies_do_not_depend_on_what_else_is_in_the_batch(random_model, tokenizer, style):
    requests = requests_for(STATES[:24], seed=2)
    others = [dataclasses.replace(request, key=1000 + request.key, seed=request.seed + 7) for request in requests]
    mixed = [request for pair in zip(others, reversed(requests), strict=True) for request in pair]
    alone = replies_of(new_policy(random_model, tokenizer, thinking=STYLES[style], max_rows=1), requests)
    exact = same_bits_for_any_number_of_rows(random_model)
    for max_rows, asked in ((7, requests), (128, mixed)):
        replies = replies_of(new_policy(random_model, tokenizer, thinking=STYLES[style], max_rows=max_rows), asked)
        for key, reply in alone.items():
            ours, theirs = reply.generation, replies[key].generation
            assert ours.token_ids.tolist() == theirs.token_ids.tolist()
            assert (ours.stop_reason, reply.reply) == (theirs.stop_reason, replies[key].reply)
            if exact:
                assert ours.logprobs.tolist() == theirs.logprobs.tolist()
            else:
                assert ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)


def test_threads_change_no_more_than_rounding(random_model, tokenizer):
    requests = requests_for(STATES[:6], seed=3)
    one = replies_of(new_policy(random_model, tokenizer, budget=12), requests)
    torch.set_num_threads(2)
    two = replies_of(new_policy(random_model, tokenizer, budget=12), requests)
    for key, reply in one.items():
        assert reply.generation.token_ids.tolist() == two[key].generation.token_ids.tolist()
        assert reply.generation.logprobs == pytest.approx(two[key].generation.logprobs, abs=2e-5)


def test_requests_may_arrive_while_others_are_under_way(random_model, tokenizer):
    requests = requests_for(STATES[:30], seed=4)
    expected = replies_of(new_policy(random_model, tokenizer), requests)
    policy = new_policy(random_model, tokenizer, max_rows=8)
    waiting, replies, polls = list(requests), {}, 0
    while len(replies) < len(requests):
        policy.submit(waiting[:3])
        waiting = waiting[3:]
        new = policy.poll()
        assert new
        polls += 1
        replies |= {reply.key: reply for reply in new}
    assert polls > 5
    for key, reply in expected.items():
        assert replies[key].generation.token_ids.tolist() == reply.generation.token_ids.tolist()
    assert policy.poll() == []


def test_stop_reasons_and_budget(random_model, tokenizer):
    end = tokenizer.convert_tokens_to_ids(END)
    assert stop_token_ids(tokenizer) == {end}
    replies = replies_of(new_policy(random_model, tokenizer, budget=100), requests_for(STATES, seed=5))
    reasons = [reply.generation.stop_reason for reply in replies.values()]
    assert {"stop", "length"} == set(reasons)
    for reply in replies.values():
        ids = reply.generation.token_ids.tolist()
        assert end not in ids[:-1]
        if reply.generation.stop_reason == "stop":
            assert ids[-1] == end
            assert len(ids) <= 100
        else:
            assert len(ids) == 100
            assert ids[-1] != end
        assert len(reply.generation.logprobs) == len(ids)
        assert END not in reply.reply
    one = replies_of(new_policy(random_model, tokenizer, budget=1), requests_for(STATES[:5]))
    assert [len(reply.generation.token_ids) for reply in one.values()] == [1] * 5


def test_a_prompt_that_fills_the_context_gets_an_empty_reply(random_model, tokenizer):
    policy = new_policy(random_model, tokenizer, prompt=PromptConfig(observation="full", template="r1"))
    state = TICTACTOE.initial_state()
    length = len(policy.codec.encode(state.observation(0), TICTACTOE))
    assert length > policy.model.config.max_position_embeddings
    reply = replies_of(policy, [TurnRequest(key=3, game=TICTACTOE, state=state, player=0, seed=0)])[3]
    assert reply.generation.token_ids.tolist() == []
    assert reply.generation.logprobs.tolist() == []
    assert (reply.generation.stop_reason, reply.generation.budget) == ("context", 0)
    assert (reply.reply, reply.action) == ("", None)
    assert len(reply.prompt_ids) == length


def test_a_long_prompt_leaves_what_is_left_of_the_context(random_model, tokenizer):
    model = copy.deepcopy(random_model)
    policy = new_policy(model, tokenizer)
    state = TICTACTOE.initial_state()
    length = len(policy.codec.encode(state.observation(0, "compact"), TICTACTOE))
    model.config.max_position_embeddings = length + 3
    policy = new_policy(model, tokenizer)
    replies = replies_of(
        policy, [TurnRequest(key=key, game=TICTACTOE, state=state, player=0, seed=key) for key in range(20)]
    )
    assert max(len(reply.generation.token_ids) for reply in replies.values()) == 3


def test_new_weights_are_used_and_counted(random_model, tokenizer):
    policy = new_policy(copy.deepcopy(random_model), tokenizer, budget=10)
    requests = requests_for(STATES[:10], seed=6)
    before = replies_of(policy, requests)
    assert {reply.generation.policy_version for reply in before.values()} == {0}
    changed = copy.deepcopy(random_model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    policy.load_weights(changed.named_parameters(), version=7)
    after = replies_of(policy, requests)
    fresh = replies_of(new_policy(changed, tokenizer, budget=10), requests)
    for key in before:
        assert after[key].generation.policy_version == 7
        assert after[key].generation.token_ids.tolist() == fresh[key].generation.token_ids.tolist()
        assert after[key].generation.logprobs.tolist() == fresh[key].generation.logprobs.tolist()
    assert any(before[key].reply != after[key].reply for key in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), r"1 weights are missing, for example 'model\.norm\.weight'"),
        (lambda weights: weights.update({"a.b": torch.ones(2)}), r"'a\.b' of shape \(2,\); expected no weight of"),
        (
            lambda weights: weights.update({"model.norm.weight": torch.ones(1)}),
            r"'model\.norm\.weight' of shape \(1,\); expected shape \(64,\)",
        ),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_weights_that_are_not_the_models_are_refused(random_model, tokenizer, change, message):
    policy = new_policy(copy.deepcopy(random_model), tokenizer)
    weights = {name: parameter.detach() for name, parameter in random_model.named_parameters()}
    change(weights)
    with pytest.raises(ValueError, match=message):
        policy.load_weights(weights.items(), version=1)
    assert policy.version == 0


def test_weights_change_only_between_turns(random_model, tokenizer):
    policy = new_policy(copy.deepcopy(random_model), tokenizer, max_rows=1, budget=3)
    policy.submit(requests_for(STATES[:2]))
    for waiting in (2, 1):
        assert len(policy._waiting) == waiting
        with pytest.raises(AssertionError, match="between turns"):
            policy.load_weights(random_model.named_parameters(), version=1)
        policy.poll()
    policy.load_weights(random_model.named_parameters(), version=1)
    assert policy.version == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_model_that_computes_no_probabilities_ends_the_run(random_model, tokenizer, temperature, wrong):
    policy = new_policy(copy.deepcopy(random_model), tokenizer, budget=3, temperature=temperature)
    policy.version = 7
    with torch.no_grad():
        policy.model.base_model.layers[1].mlp.down_proj.weight[0, 0] = wrong
    policy.submit(requests_for(STATES[:3]))
    with pytest.raises(
        RuntimeError,
        match=r"weights of version 7 gave the log-probability (nan|-inf) to token 0 .*lower learner\.learning_rate",
    ):
        policy.poll()


def test_no_layer_reads_positions_back_from_the_device(random_model, tokenizer, monkeypatch):
    """A number read from a GPU waits for all that it has to do."""
    read = []
    for name in ("__int__", "__index__", "__bool__", "__float__", "item"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda tensor, original=original, name=name: read.append(name) or original(tensor)
        )
    policy = new_policy(random_model, tokenizer, thinking=True, budget=12)
    policy.submit(requests_for(STATES[:6]))
    policy._admit()
    forward, counts = type(random_model.base_model).forward, []

    def counted(model, *args, **options):
        before = len(read)
        output = forward(model, *args, **options)
        counts.append(len(read) - before)
        return output

    monkeypatch.setattr(type(random_model.base_model), "forward", counted)
    with torch.no_grad():
        for _ in range(3):
            policy._decode()
    assert counts == [0, 0, 0]
    int(torch.ones(1))
    assert read[-1] == "__int__"


def test_the_models_own_tensors_are_taken_as_they_are(random_model, tokenizer):
    model = copy.deepcopy(random_model)
    policy = new_policy(model, tokenizer)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    policy.load_weights(model.named_parameters(), version=1)
    assert [parameter.data_ptr() for parameter in policy.model.parameters()] == pointers
    assert policy.version == 1


def test_the_observation_and_action_are_those_of_the_game(nano):
    policy = new_policy(nano.model, nano.tokenizer, budget=8, temperature=0.0)
    requests = requests_for(random_states(20, seed=7, games=("tictactoe", "kuhn_poker")))
    replies = replies_of(policy, requests)
    for request in requests:
        reply = replies[request.key]
        assert reply.observation == request.state.observation(request.player, "compact")
        assert reply.action in request.state.legal_actions()
        assert reply.reply == f"\\boxed{{{reply.action}}}"
        assert reply.generation.stop_reason == "stop"


def test_every_game_is_asked_with_its_own_example(nano):
    config = PromptConfig(observation="compact", thinking=False, example=True)
    policy = new_policy(nano.model, nano.tokenizer, budget=8, prompt=config)
    requests = requests_for(random_states(12, seed=8))
    replies = replies_of(policy, requests)
    assert len({request.game for request in requests}) > 3
    for request in requests:
        example = worked_example(request.game, config)
        prompt = nano.tokenizer.decode(replies[request.key].prompt_ids)
        assert prompt.startswith(f"{example.observation}{REPLY}{example.reply}{END}")
        assert prompt.endswith(f"{END}{replies[request.key].observation}{REPLY}")


def test_prompts_outside_a_game_are_answered_as_turns_are(nano):
    policy = new_policy(nano.model, nano.tokenizer, thinking=True, budget=12)
    request = TurnRequest(key=0, game=TICTACTOE, state=TICTACTOE.initial_state(), player=0, seed=5)
    turn = replies_of(policy, [request])[0]
    policy.submit_prompts([PromptRequest(key=7, prompt_ids=turn.prompt_ids, seed=5)])
    (reply,) = policy.poll()
    assert (reply.key, reply.reply, reply.action) == (7, turn.reply, None)
    assert reply.generation.token_ids.tolist() == turn.generation.token_ids.tolist()


def test_replies_that_are_sampled_otherwise_share_a_batch(random_model, tokenizer):
    """Each is what it is alone; and one that is dropped leaves the others as they were."""
    policy = new_policy(random_model, tokenizer, budget=12)
    kinds = [None, SamplingConfig(temperature=0.0, max_new_tokens=5), SamplingConfig(top_p=0.5, max_new_tokens=9)]
    prompt = policy.codec.encode_question("kuhn_poker J")
    requests = [PromptRequest(key=key, prompt_ids=prompt, seed=3, sampling=kind) for key, kind in enumerate(kinds)]

    def replies(asked):
        policy.submit_prompts(asked)
        found = {}
        while len(found) < len(asked):
            found |= {reply.key: reply.generation for reply in policy.poll()}
        return found

    together = replies(requests)
    for request in requests:
        alone = replies([request])[request.key]
        assert together[request.key].token_ids.tolist() == alone.token_ids.tolist()
        assert together[request.key].logprobs.tolist() == alone.logprobs.tolist()
    assert set(together[1].logprobs.tolist()) == {0.0}
    assert [together[key].budget for key in range(3)] == [12, 5, 9]

    policy.submit_prompts(requests)
    policy.step()
    assert set(policy.in_flight()) == {0, 1, 2}
    assert policy.in_flight()[1][0] == together[1].token_ids.tolist()[:2]  # a prompt's first token and one more
    policy.drop([1])
    found = {}
    while len(found) < 2:
        found |= {reply.key: reply.generation for reply in policy.step()}
    assert {key: reply.token_ids.tolist() for key, reply in found.items()} == {
        key: together[key].token_ids.tolist() for key in (0, 2)
    }
