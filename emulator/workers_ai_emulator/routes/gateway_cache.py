"""The cache of AI Gateway: repeats the response to an equal request, if the requests ask for it.

[developers.cloudflare.com/ai-gateway/features/caching; the header of the response is recorded]
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Response

from workers_ai_emulator.wire.body import compute
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.responses import JsonResponse

_DEFAULT_TTL_S = 300.0  # recorded: the service repeated a response for about five minutes
_MAX_TTL_S = 30 * 24 * 3600.0
_MAX_BYTES = 16 * 1024 * 1024
# The value of the header `cf-aig-cache-status`: whether the response was cached.
CacheStatus = Literal["HIT", "MISS"]

_KEPT_HEADERS = ("cf-ai-req-id", "x-emulator-model")


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What a request asks of the cache.

    `ttl_s`: the number of seconds for which the response is cached; None if the response is not
    cached, and does not come from the cache. `key`: the user's name for the response, which
    replaces the content of the request; None if the user gives none.
    """

    ttl_s: float | None = None
    key: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, Any], options: Any = None) -> CacheOptions:
        """Reads the headers `cf-aig-…`, or the key `gateway` in the options of a binding.

        `headers`: the request's headers, with lower-case names. Two of them have older names
        without `aig`, which some clients still send [inferred: the service still reads them]. A
        `ttl_s` of 0 has the same effect as the default [recorded].
        """
        gateway = options.get("gateway") if isinstance(options, dict) else None
        gateway = gateway if isinstance(gateway, dict) else {}
        ttl = headers.get("cf-cache-ttl", gateway.get("cacheTtl"))
        ttl = headers.get("cf-aig-cache-ttl", ttl)
        key = headers.get("cf-aig-cache-key", gateway.get("cacheKey"))
        skip = headers.get("cf-skip-cache", gateway.get("skipCache"))
        skip = headers.get("cf-aig-skip-cache", skip)
        is_skipped = str(skip).lower() == "true"
        is_cached = not is_skipped and (ttl is not None or key is not None)
        return cls(
            ttl_s=_seconds(ttl) if is_cached else None,
            key=None if key is None else str(key),
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    body: bytes
    headers: dict[str, str]
    ends_at: float


class GatewayCache:
    """Responses by account and request, with a limit in bytes: the oldest ones are dropped.

    `clock`: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[tuple[str | None, str], _Entry] = {}  # the oldest comes first
        self._num_resets: Counter[str | None] = Counter()  # of each account; None: of all
        self._num_bytes = 0

    async def respond(
        self,
        context: CallContext,
        endpoint: Any,
        content: Any,
        options: CacheOptions,
        run: Callable[[], Awaitable[Response]],
    ) -> tuple[Response, CacheStatus]:
        """Returns the cached response to an equal request of the account, else that of `run`.

        Also returns whether the response was cached. Streams and errors are not cached, nor is JSON
        that replaces a stream because of a fault, nor a response that was computed during a reset.

        `context`: the context of the request. `endpoint`, `content`: JSON values, which together
        contain all parts of the request that determine its response. A key of the user's replaces
        only `content`.
        """
        if options.ttl_s is None:
            return await run(), "MISS"
        value = [endpoint, options.key, None if options.key is not None else content]
        key = (context.account, await compute(context, _digest, value))
        return await self._repeat_or_run(key, options.ttl_s, context, run)

    def reset(self, account: str | None = None) -> None:
        """Discards the cached responses, and does not cache those of calls that run.

        `account`: only those of this account; None: all.
        """
        for key in [key for key in self._entries if account in (None, key[0])]:
            self._remove(key)
        self._num_resets[account] += 1

    async def _repeat_or_run(
        self,
        key: tuple[str | None, str],
        ttl_s: float,
        context: CallContext,
        run: Callable[[], Awaitable[Response]],
    ) -> tuple[Response, CacheStatus]:
        if (entry := self._entry(key)) is not None:
            return JsonResponse(entry.body, headers=entry.headers), "HIT"
        num_resets = self._resets_of(key[0])
        response = await run()
        is_storable = isinstance(response, JsonResponse) and response.status_code == 200
        is_reset = self._resets_of(key[0]) != num_resets
        if is_storable and not is_reset and not context.is_stream_replaced:
            self._store(key, response, ttl_s)
        return response, "MISS"

    def _resets_of(self, account: str | None) -> int:
        """Returns how often the responses of an account have been discarded."""
        return self._num_resets[None] + self._num_resets[account]

    def _entry(self, key: tuple[str | None, str]) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and self._clock() < entry.ends_at else None

    def _store(self, key: tuple[str | None, str], response: Response, ttl_s: float) -> None:
        headers = {
            name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers
        }
        if key in self._entries:
            self._remove(key)
        body = bytes(response.body)
        self._entries[key] = _Entry(body, headers, self._clock() + ttl_s)
        self._num_bytes += len(body)
        while self._num_bytes > _MAX_BYTES:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: tuple[str | None, str]) -> None:
        self._num_bytes -= len(self._entries.pop(key).body)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _seconds(ttl: Any) -> float:
    """Returns the number of seconds that a request asks for, or the default if it is not one."""
    try:
        seconds = float(ttl)
    except OverflowError:  # an integer that is larger than every float
        seconds = math.inf if ttl > 0 else 0.0
    except (TypeError, ValueError):
        return _DEFAULT_TTL_S
    return min(seconds, _MAX_TTL_S) if seconds > 0 else _DEFAULT_TTL_S
