"""Spend limits and rate limits: they hold exactly for any number of requests in flight."""

import asyncio
import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoint_server import Response, chosen, completion, good, refusing, saying, slow
from spiral.core.policy import NotPlayedError
from spiral.evaluation.arena import evaluate, paired_matches
from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.policies.endpoint.budget import FREE, TEMPLATE_TOKENS, Account, Ledger, RateLimiter
from spiral.policies.endpoint.config import BudgetConfig, EndpointConfig
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.policies.endpoint.reply import Bill
from spiral.rollout.loop import play

KUHN = load_game("kuhn_poker")
RANDOM = scripted_policy("random", KUHN)
PRICES = {"prompt_price": 1000.0, "completion_price": 5000.0}
"""A tenth of a cent for a prompt token and half a cent for a reply token."""


@pytest.fixture
def new_policy(server):
    made = []

    def make(spend_limit=None, **fields):
        budget = PRICES if spend_limit is None else {**PRICES, "spend_limit": spend_limit}
        asked = {"base_url": server.base_url, "model": "m", "max_new_tokens": 100, "budget": budget, "retries": 1}
        config = EndpointConfig.model_validate({**asked, **fields})
        made.append(EndpointPolicy(config, name="endpoint:test", backoff_seconds=0.001))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def most(request):
    """Maximum cost of a request in dollars."""
    size = sum(len(message["content"].encode()) for message in request.body["messages"])
    return (size + TEMPLATE_TOKENS) * 0.001 + 100 * 0.005


def test_the_cost_of_a_request(server, new_policy):
    policy = new_policy()
    episodes = play(paired_matches(policy, RANDOM, KUHN, 10, seed=0))
    assert all(episode.outcome == "finished" for episode in episodes)
    requests = len(server.requests)
    # 100 tokens of prompt and 10 of reply each time.
    assert policy.usage().cost_usd == pytest.approx(requests * (0.1 + 0.05), abs=1e-12)


def test_the_cost_that_the_server_states_is_reported(server, new_policy):
    server.behaviour = saying("\\boxed{bet}", usage={"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.0125})
    policy = new_policy()
    play(paired_matches(policy, RANDOM, KUHN, 2, seed=0))
    usage, requests = policy.usage(), len(server.requests)
    assert usage.cost_usd == pytest.approx(0.0125 * requests)
    assert (usage.prompt_tokens, usage.completion_tokens) == (3 * requests, 4 * requests)


@pytest.mark.parametrize("max_in_flight", [1, 16])
@pytest.mark.parametrize("limit", [0.0, 1.0, 3.0, 9.99])
def test_the_limit_holds_to_the_cent(server, new_policy, limit, max_in_flight):
    rng = random.Random(5)

    def behave(request):
        """Charges a random share of the maximum cost."""
        share = rng.choice([0.1, 0.5, 1.0])
        tokens = {"prompt_tokens": int(share * (most(request) - 0.5) * 1000), "completion_tokens": int(share * 100)}
        body = completion(f"\\boxed{{{chosen(request)}}}", usage=tokens)
        return Response(body=body, delay=rng.random() / 100)

    server.behaviour = behave
    policy = new_policy(limit, max_in_flight=max_in_flight)
    episodes = play(paired_matches(policy, RANDOM, KUHN, 40, seed=0))
    usage = policy.usage()
    assert usage.cost_usd <= limit
    assert usage.cost_usd_unknown == 0
    if server.requests:
        assert limit - usage.cost_usd < max(map(most, server.requests)) + 0.5  # a request more might not have fitted
    else:
        assert limit < 1.5
    missing = [episode for episode in episodes if episode.outcome == "not_played"]
    assert {episode.fault for episode in missing} == {f"the spend limit of ${Decimal(str(limit))} is reached"}
    assert usage.faults == len(missing)
    assert usage.requests == len(server.requests)
    assert len(episodes) == len(missing) + sum(episode.outcome == "finished" for episode in episodes)


def test_requests_of_unknown_outcome_count_in_full(server, new_policy):
    server.behaviour = slow(30)
    policy = new_policy(5.0, timeout_seconds=0.05, max_in_flight=3, retries=9)
    with pytest.raises(NotPlayedError, match=r"the spend limit of \$5\.0 is reached"):
        evaluate(policy, RANDOM, KUHN, 20, seed=0)
    usage, sent = policy.usage(), sum(map(most, server.requests))
    assert usage.cost_usd == 0
    assert usage.cost_usd_unknown == pytest.approx(sent)
    assert 5 - max(map(most, server.requests)) - 0.5 < sent <= 5


def test_errors_cost_nothing(server, new_policy):
    server.behaviour = refusing(500)
    policy = new_policy(2.0, retries=3)
    play(paired_matches(policy, RANDOM, KUHN, 4, seed=0))
    assert len(server.requests) >= 8
    assert (policy.usage().cost_usd, policy.usage().cost_usd_unknown) == (0, 0)


def test_the_client_stops_when_the_server_overcharges(server, new_policy):
    server.behaviour = saying("\\boxed{bet}", usage={"prompt_tokens": 10**6, "completion_tokens": 10**6})
    policy = new_policy(3.0)
    play(paired_matches(policy, RANDOM, KUHN, 20, seed=0))
    assert len(server.requests) == 1
    assert policy.usage().cost_usd == 6000


def test_older_games_are_finished_first(server, new_policy):
    server.behaviour = good
    policy = new_policy(6.0, max_in_flight=2)
    outcomes = [episode.outcome for episode in play(paired_matches(policy, RANDOM, KUHN, 60, seed=0))]
    stopped = outcomes.index("not_played")
    assert stopped >= 15
    # A random bet or fold may end a later game before the server is asked.
    assert outcomes[stopped:].count("not_played") >= 0.7 * len(outcomes[stopped:])


@settings(max_examples=60, deadline=None)
@given(
    amounts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=25),
    limit=st.integers(0, 100),
)
def test_money_reserved_and_spent_never_exceeds_the_limit(amounts, limit):
    async def run():
        account = Account(float(limit), 0)
        ledger = Ledger(BudgetConfig(prompt_price=0.0, completion_price=0.0), account)
        seen = []

        async def request(most_cents, cost, known):
            held = Decimal(most_cents)
            if not await account.reserve(held):
                return False
            await asyncio.sleep(0)
            seen.append(account.spent + account.reserved)
            paid = Bill(cost=min(held, Decimal(cost)), prompt_tokens=1, completion_tokens=1)
            ledger.settle(held, paid if known else None)
            return True

        sent = await asyncio.gather(*(request(*amount) for amount in amounts))
        return ledger, seen, sent

    ledger, seen, sent = asyncio.run(run())
    assert all(total <= limit for total in seen)
    assert ledger.account.reserved == 0
    paid = [min(m, c) if known else m for (m, c, known), ok in zip(amounts, sent, strict=True) if ok]
    assert ledger._spent + ledger._unknown == ledger.account.spent == sum(paid) <= limit
    assert all(sent) or ledger.account.exhausted


def test_without_prices_only_the_stated_cost_counts():
    ledger = Ledger(BudgetConfig(), Account(None, 0))
    assert ledger.max_cost(10_000, 10_000) == 0
    ledger.settle(Decimal(0), Bill(prompt_tokens=5, completion_tokens=6))
    ledger.settle(Decimal(0), Bill(cost=Decimal("0.25")))
    ledger.settle(Decimal(0), FREE)
    usage = ledger.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cost_usd, usage.cost_usd_unknown) == (5, 6, 0.25, 0)


def test_a_pause_holds_for_all_requests():
    async def run():
        limiter, times = RateLimiter(0), []

        async def one():
            await limiter.wait()
            times.append(asyncio.get_running_loop().time())

        await one()
        limiter.pause(0.05)
        limiter.pause(0.01)
        await asyncio.gather(one(), one())
        return times

    times = asyncio.run(run())
    assert min(times[1:]) - times[0] >= 0.049
