"""Cost accounting and rate limits.

Before a request is sent, its maximum cost is reserved; afterwards its actual cost is booked. So the spend limit holds
for any number of requests in flight, as long as the server charges the configured prices and writes no more tokens than
requested. When the cost of a request is unknown (the connection broke or the request timed out), the whole reservation
counts as spent and is reported separately. When the server states a cost, the larger of it and the cost by the
configured prices counts against the limit.

An `Account` belongs to an endpoint: all policies that use the endpoint in this process share its limit and its rate,
each from its own event loop. A `Ledger` counts for one policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping
from decimal import Decimal

from spiral.policies.endpoint.config import BudgetConfig, EndpointConfig
from spiral.policies.endpoint.reply import Bill

NOTHING = Decimal(0)
FREE = Bill(cost=NOTHING)
TEMPLATE_TOKENS = 256
"""Upper bound on the tokens that a server's chat template adds to a prompt."""
MILLION = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """Requests, tokens and cost of one policy."""

    requests: int = 0
    """Requests sent, including retries."""
    retries: int = 0
    """Requests that were retries."""
    faults: int = 0
    """Turns without a reply."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    """Dollars, as the server states or else by the configured prices."""
    cost_usd_unknown: float = 0.0
    """Upper bound, in dollars, on the additional cost of requests with unknown outcome."""
    left_out: tuple[str, ...] = ()
    """Parameters that are not sent, because the server does not accept them or the table omits them."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Parameters that are sent under another name."""


class Account:
    """Money spent and reserved at one endpoint by this process, and the endpoint's rate limit. Thread-safe."""

    def __init__(self, spend_limit: float | None, requests_per_minute: float) -> None:
        self.limit = None if spend_limit is None else Decimal(str(spend_limit))
        self.rate_limiter = RateLimiter(requests_per_minute)
        self.exhausted = False
        self.spent = self.reserved = NOTHING
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def reserve(self, amount: Decimal) -> bool:
        """Waits until `amount` fits under the limit and reserves it; returns False when it never will."""
        while True:
            with self._lock:
                if not self.exhausted and self._fits(amount):
                    self.reserved += amount
                    return True
                self.exhausted = self.exhausted or not self.reserved
                if self.exhausted:
                    self._wake()
                    return False
                changed = asyncio.Event()
                self._waiting.append((asyncio.get_running_loop(), changed))
            await changed.wait()

    def settle(self, reserved: Decimal, spent: Decimal) -> None:
        """Replaces the reservation of a finished request by what it cost."""
        with self._lock:
            self.reserved -= reserved
            self.spent += spent
            self._wake()

    def _fits(self, amount: Decimal) -> bool:
        return self.limit is None or self.spent + self.reserved + amount <= self.limit

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for loop, changed in waiting:
            with contextlib.suppress(RuntimeError):  # the loop of a closed policy waits no more
                loop.call_soon_threadsafe(changed.set)


class Ledger:
    """Counts the requests, tokens and cost of one policy."""

    def __init__(self, config: BudgetConfig, account: Account) -> None:
        self._prompt_price = _per_token(config.prompt_price)
        self._completion_price = _per_token(config.completion_price)
        self.account = account
        self.requests = self.retries = self.faults = self.answers = 0
        self._prompt_tokens = self._completion_tokens = 0
        self._spent = self._unknown = NOTHING

    def max_cost(self, prompt_bytes: int, max_new_tokens: int) -> Decimal:
        """Upper bound on the cost of a request in dollars; a token stands for at least one byte."""
        prompt = (prompt_bytes + TEMPLATE_TOKENS) * self._prompt_price
        return prompt + max_new_tokens * self._completion_price

    def settle(self, reserved: Decimal, bill: Bill | None) -> None:
        """Books the cost of a finished request; `bill` is None when its outcome is unknown."""
        by_prices = None if bill is None else self._by_prices(bill)
        # A stated cost of zero is not believed when there are prices.
        cost = by_prices if bill is None else (bill.cost or by_prices)
        if cost is None:
            self._unknown += reserved
        else:
            self._spent += cost
        if bill is not None:
            self._prompt_tokens += bill.prompt_tokens or 0
            self._completion_tokens += bill.completion_tokens or 0
        self.account.settle(reserved, reserved if cost is None else max(cost, by_prices or NOTHING))

    def usage(self) -> Usage:
        """The counts so far."""
        return Usage(
            requests=self.requests,
            retries=self.retries,
            faults=self.faults,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cost_usd=float(self._spent),
            cost_usd_unknown=float(self._unknown),
        )

    def _by_prices(self, bill: Bill) -> Decimal | None:
        if bill is FREE:
            return NOTHING
        if bill.prompt_tokens is None or bill.completion_tokens is None:
            return None
        return bill.prompt_tokens * self._prompt_price + bill.completion_tokens * self._completion_price


class RateLimiter:
    """Spaces requests evenly and pauses all of them when the server asks to wait. Thread-safe."""

    def __init__(self, requests_per_minute: float) -> None:
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        self._next = self._paused_until = 0.0

    async def wait(self) -> None:
        """Waits until a request may be sent, and takes its slot."""
        with self._lock:
            mine = max(self._next, time.monotonic())
            self._next = mine + self._gap
        while (seconds := max(mine, self._paused_until) - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Sends nothing for some seconds; requests that waited are then spaced as usual."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            self._next = max(self._next, self._paused_until)


def _per_token(price: float | None) -> Decimal:
    """Dollars for one token from dollars for a million; 0 when there is no price."""
    return NOTHING if price is None else Decimal(str(price)) / MILLION


_accounts: dict[tuple[str, str, str], Account] = {}


def shared_account(name: str, config: EndpointConfig) -> Account:
    """The account of the endpoint called `name`, shared by all its policies in this process."""
    table = name.split("/", maxsplit=1)[0]
    key = (table, config.base_url, f"{config.budget.model_dump_json()} {config.requests_per_minute}")
    return _accounts.setdefault(key, Account(config.budget.spend_limit, config.requests_per_minute))
