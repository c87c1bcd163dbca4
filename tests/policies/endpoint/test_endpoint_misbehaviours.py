"""Misbehaving servers cause no hang, no exception and no cost beyond the limit, only faults."""

import resource
import time
from decimal import Decimal

import pytest

from endpoint_misbehaviours import MISBEHAVIOURS, OWN, PLAYS, RawServer
from spiral.games import load_game
from spiral.policies import TurnRequest
from spiral.policies.endpoint.config import EndpointConfig
from spiral.policies.endpoint.policy import EndpointPolicy

KUHN = load_game("kuhn_poker")
TIMEOUT_S, LIMIT_USD = 0.6, 4.0
MAX_TOKENS = 100
MAX_GROWTH_KIB = 150 * 1024


@pytest.fixture(scope="module")
def server():
    with RawServer() as running:
        yield running


def test_number_of_misbehaviours():
    assert len(MISBEHAVIOURS) >= 150
    assert sum(not misbehaviour.slow for misbehaviour in MISBEHAVIOURS.values()) >= 120


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if misbehaviour.slow else [])
        for name, misbehaviour in MISBEHAVIOURS.items()
    ],
)
def test_a_misbehaviour_is_a_fault_or_a_reply(server, name):
    misbehaviour = MISBEHAVIOURS[name]
    server.act, before = misbehaviour.act, server.requests
    config = EndpointConfig.model_validate(
        {
            "base_url": f"{misbehaviour.scheme}://127.0.0.1:{server.port}/v1",
            "model": "m",
            "max_new_tokens": MAX_TOKENS,
            "retries": 1,
            "timeout_seconds": TIMEOUT_S if misbehaviour.slow else 30.0,
            "budget": {"prompt_price": 1000.0, "completion_price": 1000.0, "spend_limit": LIMIT_USD},
        }
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    # Each policy has a name of its own, because policies of one name share a limit.
    policy = EndpointPolicy(config, name=f"endpoint:{list(MISBEHAVIOURS).index(name)}", backoff_seconds=0.001)
    try:
        state = KUHN.initial_state()
        while state.is_chance:
            state = state.apply(state.chance_outcomes()[0][0])
        policy.submit([TurnRequest(key=3, game=KUHN, state=state, player=state.current_player, seed=1)])
        (reply,) = policy.poll()
        usage, account = policy.usage(), policy._client.ledger.account
    finally:
        policy.close()
    assert time.monotonic() - started < (12 if misbehaviour.slow else 25)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < MAX_GROWTH_KIB
    assert reply.key == 3
    if misbehaviour.expect in {PLAYS, OWN}:
        assert reply.fault is None
        assert (reply.action is not None) == (misbehaviour.expect == PLAYS), reply
    elif misbehaviour.expect or reply.fault is not None:
        assert misbehaviour.expect in reply.fault
        assert (reply.reply, reply.action) == ("", None)
        assert len(reply.fault) <= 240
        assert reply.fault.isprintable()
    attempts = server.requests - before
    if misbehaviour.attempts is not None:
        assert attempts == misbehaviour.attempts
    assert attempts <= usage.requests <= 8
    assert 0 <= usage.cost_usd + usage.cost_usd_unknown <= LIMIT_USD
    assert 0 <= account.spent <= LIMIT_USD
    assert account.reserved == 0
    if reply.fault is None and name.startswith("usage"):
        assert account.spent >= Decimal("0.018")  # never for nothing, whatever the server says
