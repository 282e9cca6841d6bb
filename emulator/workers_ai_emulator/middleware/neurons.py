"""Neurons, which Workers AI bills: what calls cost, and what an account may spend in a day."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.backends.backend import StartedGeneration
from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.errors import DailyLimit
from workers_ai_emulator.wire.calls import call_of
from workers_ai_emulator.wire.error_response import error_response

log = logging.getLogger(__name__)

BINDINGS = "bindings"  # which do not say whose they are: all have one account

_MAX_ACCOUNTS = 10_000


@dataclass(frozen=True, slots=True)
class Price:
    """Neurons for a million tokens of prompt, and of completion."""

    prompt: int
    completion: int

    def of(self, usage: Usage) -> float:
        """Neurons of one call."""
        prompt = usage.num_prompt_tokens * self.prompt
        return (prompt + usage.num_completion_tokens * self.completion) / 1_000_000


# [developers.cloudflare.com/workers-ai/platform/pricing] The second is the price of the model that
# answered under this name since 2024.
_PRICES = {
    "@cf/meta/llama-2-7b-chat-fp16": Price(50_505, 606_061),
    "@cf/meta/llama-2-7b-chat-int8": Price(11_161, 24_215),
}
_OTHER_PRICE = _PRICES["@cf/meta/llama-2-7b-chat-fp16"]


def price_of(model: str) -> Price:
    """The published price of a model. The others are taken to cost what Llama 2 does."""
    return _PRICES.get(model, _OTHER_PRICE)


def utc_today() -> date:
    """The service's day."""
    return datetime.now(UTC).date()


class NeuronBudget:
    """What each account has spent today, and may not exceed.

    `limit` None: there is none. Of very many accounts, those that paid last are remembered.
    """

    def __init__(self, limit: int | None, today: Callable[[], date] = utc_today) -> None:
        self.limit = limit
        self._today = today
        self._day = today()
        self._spent: dict[str, float] = {}

    @property
    def spent(self) -> dict[str, float]:
        """Today's neurons of every account that has spent any."""
        if (day := self._today()) != self._day:
            self._day = day
            self._spent = {}
        return self._spent

    def check(self, account: str) -> None:
        """Raises DailyLimit if the account has nothing left."""
        if self.limit is not None and self.spent.get(account, 0.0) >= self.limit:
            log.info("account %s has spent its %d neurons of today", account, self.limit)
            raise DailyLimit

    def spend(self, account: str, neurons: float) -> None:
        """Count them."""
        spent = self.spent
        spent[account] = spent.pop(account, 0.0) + neurons  # now the last to be forgotten
        if len(spent) > _MAX_ACCOUNTS:
            del spent[next(iter(spent))]

    def reset(self) -> None:
        """Nobody has spent anything."""
        self._spent = {}


class NeuronMiddleware:
    """An ASGI application around another: counts what calls cost, refuses when nothing is left."""

    def __init__(self, app: ASGIApp, budget: NeuronBudget) -> None:
        self._app = app
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        if call is None:
            await self._app(scope, receive, send)
            return
        account = call.account_id or BINDINGS
        try:
            self._budget.check(account)
        except DailyLimit as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            started: StartedGeneration | None = scope["state"].get("started")
            if started is not None:
                price = price_of(scope["state"]["model"])
                self._budget.spend(account, price.of(started.generation.usage))
