"""Counts neurons, the unit that Workers AI bills, and limits each account's neurons per day."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.errors import DAILY_LIMIT, WireError
from workers_ai_emulator.wire.responses import error_response

log = logging.getLogger(__name__)

# The account under which the neurons of all Workers' bindings are counted, because bindings send no
# account id.
BINDINGS = "bindings"

_MAX_ACCOUNTS = 10_000


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

    def reset(self, account: str | None = None) -> None:
        """Sets the used neurons of an account to zero, or those of all accounts if it is None."""
        if account is None:
            self._used = {}
        else:
            self._used.pop(account, None)


class NeuronMiddleware(InferenceMiddleware):
    """Counts the neurons of calls, and refuses calls of accounts that have reached the limit.

    `price_of`: returns the price of the model with this name.
    """

    def __init__(
        self, app: ASGIApp, budget: NeuronBudget, price_of: Callable[[str | None], Price]
    ) -> None:
        super().__init__(app)
        self._budget = budget
        self._price_of = price_of

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        account = context_of(scope).account or BINDINGS
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
                price = self._price_of(context.model)
                self._budget.use(account, price.of(context.started.generation.usage))
