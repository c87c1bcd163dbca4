"""What requests cost, and when the next one may be sent.

The most that a request can cost is set aside before it is sent, and what it did cost is booked afterwards; so however
many are in flight at once, a limit is never passed. That holds as far as the server does: it must charge the prices it
was said to charge and write no more tokens than it was asked for. Where it never told what a request cost (the
connection broke, or the time was up), all that was set aside counts as spent, and is reported apart. Where it names a
price of its own, the larger of that and the configured prices counts against the limit.

An `Account` belongs to an endpoint: all players that ask it in this process share its limit and its pace, each from an
event loop of its own. A `Ledger` counts for one player.
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
"""The most that a server's chat template is taken to add to a prompt."""
MILLION = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """What an endpoint was asked and what it cost."""

    requests: int = 0
    """Requests sent, those sent again included."""
    retries: int = 0
    """How many of them were sent again."""
    faults: int = 0
    """Turns that got no reply at all."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    """Dollars, as the server says or by the prices of the configuration."""
    cost_usd_unknown: float = 0.0
    """Dollars that requests of unknown outcome may have cost at most, on top."""
    left_out: tuple[str, ...] = ()
    """Parameters that the server was not sent, because it does not take them."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Parameters that it was sent under another name."""


class Account:
    """Money spent and set aside at one endpoint by everyone in this process, and its pace; safe in any thread."""

    def __init__(self, spend_limit: float | None, requests_per_minute: float) -> None:
        self.limit = None if spend_limit is None else Decimal(str(spend_limit))
        self.pace = Pace(requests_per_minute)
        self.exhausted = False
        self.spent = self.held = NOTHING
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def hold(self, amount: Decimal) -> bool:
        """Sets money aside, once there is enough; False when there never will be."""
        while True:
            with self._lock:
                if not self.exhausted and self._fits(amount):
                    self.held += amount
                    return True
                self.exhausted = self.exhausted or not self.held
                if self.exhausted:
                    self._wake()
                    return False
                changed = asyncio.Event()
                self._waiting.append((asyncio.get_running_loop(), changed))
            await changed.wait()

    def settle(self, held: Decimal, spent: Decimal) -> None:
        """Books a request for which `held` was set aside."""
        with self._lock:
            self.held -= held
            self.spent += spent
            self._wake()

    def _fits(self, amount: Decimal) -> bool:
        return self.limit is None or self.spent + self.held + amount <= self.limit

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for loop, changed in waiting:
            with contextlib.suppress(RuntimeError):  # a player that is closed waits no more
                loop.call_soon_threadsafe(changed.set)


class Ledger:
    """What one player asked and what it cost; the counts of `Usage`."""

    def __init__(self, config: BudgetConfig, account: Account) -> None:
        self._prompt_price = _a_token(config.prompt_price)
        self._completion_price = _a_token(config.completion_price)
        self.account = account
        self.requests = self.retries = self.faults = self.answers = 0
        self._prompt_tokens = self._completion_tokens = 0
        self._spent = self._unknown = NOTHING

    def most(self, prompt_bytes: int, max_new_tokens: int) -> Decimal:
        """What a request can cost at most: a token spells at least one byte."""
        prompt = (prompt_bytes + TEMPLATE_TOKENS) * self._prompt_price
        return prompt + max_new_tokens * self._completion_price

    def settle(self, held: Decimal, bill: Bill | None) -> None:
        """Books a request for which `held` was set aside; None for a bill that nobody knows."""
        by_prices = None if bill is None else self._by_prices(bill)
        # A server that says "nothing" is not believed where there are prices.
        cost = by_prices if bill is None else (bill.cost or by_prices)
        if cost is None:
            self._unknown += held
        else:
            self._spent += cost
        if bill is not None:
            self._prompt_tokens += bill.prompt_tokens or 0
            self._completion_tokens += bill.completion_tokens or 0
        self.account.settle(held, held if cost is None else max(cost, by_prices or NOTHING))

    def usage(self) -> Usage:
        """All of it so far."""
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


class Pace:
    """Spaces requests out evenly, and holds all of them back where the server asks to wait; safe in any thread."""

    def __init__(self, requests_per_minute: float) -> None:
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        self._next = self._held_until = 0.0

    async def turn(self) -> None:
        """Returns when a request may be sent, and counts it as sent."""
        with self._lock:
            mine = max(self._next, time.monotonic())
            self._next = mine + self._gap
        while (wait := max(mine, self._held_until) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def hold_back(self, seconds: float) -> None:
        """Sends nothing for a while, and what waited then not all at once."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)
            self._next = max(self._next, self._held_until)


def _a_token(price: float | None) -> Decimal:
    """Dollars for one token; nothing is known of a price that is not given."""
    return NOTHING if price is None else Decimal(str(price)) / MILLION


_accounts: dict[tuple[str, str, str], Account] = {}


def account_of(name: str, config: EndpointConfig) -> Account:
    """The account of the endpoint called `name`, the same for everyone in this process who asks it so."""
    table = name.split("/", maxsplit=1)[0]
    key = (table, config.base_url, f"{config.budget.model_dump_json()} {config.requests_per_minute}")
    return _accounts.setdefault(key, Account(config.budget.spend_limit, config.requests_per_minute))
