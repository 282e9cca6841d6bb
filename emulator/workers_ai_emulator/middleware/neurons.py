"""Counts neurons, the unit that Workers AI bills, and limits each account's neurons per day."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.errors import DAILY_LIMIT, WireError
from workers_ai_emulator.wire.responses import error_response

log = logging.getLogger(__name__)

# The account under which the neurons of all Workers' bindings are counted, because bindings send no
# account id.
BINDINGS = "bindings"

_MAX_ACCOUNTS = 10_000


@dataclass(frozen=True, slots=True)
class Price:
    """A model's price: neurons per million prompt tokens, and per million completion tokens."""

    prompt: int
    completion: int

    def of(self, usage: Usage) -> float:
        """Returns the cost of a call in neurons. `usage`: the call's token counts."""
        prompt = usage.num_prompt_tokens * self.prompt
        return (prompt + usage.num_completion_tokens * self.completion) / 1_000_000


# Published prices [developers.cloudflare.com/workers-ai/platform/pricing]. Since 2024, Cloudflare
# has run another model under the name of the int8 model, and charges the price of that other model.
_PRICES = {
    "@cf/meta/llama-2-7b-chat-fp16": Price(50_505, 606_061),
    "@cf/meta/llama-2-7b-chat-int8": Price(11_161, 24_215),
}
_OTHER_PRICE = _PRICES["@cf/meta/llama-2-7b-chat-fp16"]


def price_of(model: str | None) -> Price:
    """Returns a model's price. Models without a published price cost as much as Llama 2 fp16."""
    return _PRICES.get(model or "", _OTHER_PRICE)


def utc_today() -> date:
    """Returns the current date in UTC. The count of used neurons starts again at midnight UTC."""
    return datetime.now(UTC).date()


class NeuronBudget:
    """Counts the neurons that each account uses per day, and refuses calls beyond a limit.

    `limit`: the maximum number of neurons per day and account; None: no limit. At most 10,000
    accounts are counted. A further account replaces the account that has used no neurons for the
    longest time.
    """

    def __init__(self, limit: int | None, today: Callable[[], date] = utc_today) -> None:
        self.limit = limit
        self._today = today
        self._day = today()
        self._used: dict[str, float] = {}

    @property
    def used(self) -> dict[str, float]:
        """The neurons that each account has used today."""
        if (day := self._today()) != self._day:
            self._day = day
            self._used = {}
        return self._used

    def check(self, account: str) -> None:
        """Raises WireError if the account has used up its neurons of the day."""
        if self.limit is not None and self.used.get(account, 0.0) >= self.limit:
            log.info("account %s has used its %d neurons of the day", account, self.limit)
            raise WireError(DAILY_LIMIT)

    def use(self, account: str, neurons: float) -> None:
        """Adds `neurons` to the neurons that the account has used today."""
        used = self.used
        # Moves the account to the end of the dict. So the first account in the dict, which is
        # dropped if there are too many, has used no neurons for the longest time.
        used[account] = used.pop(account, 0.0) + neurons
        if len(used) > _MAX_ACCOUNTS:
            del used[next(iter(used))]

    def reset(self) -> None:
        """Sets the used neurons of all accounts to zero."""
        self._used = {}


class NeuronMiddleware(InferenceMiddleware):
    """Counts the neurons of calls, and refuses calls of accounts that have reached the limit."""

    def __init__(self, app: ASGIApp, budget: NeuronBudget) -> None:
        super().__init__(app)
        self._budget = budget

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        account = call.account_id or BINDINGS
        try:
            self._budget.check(account)
        except WireError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            context = context_of(scope)
            if context.started is not None:
                price = price_of(context.model)
                self._budget.use(account, price.of(context.started.generation.usage))
