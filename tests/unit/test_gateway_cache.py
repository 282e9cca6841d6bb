"""Tests how long the cache of AI Gateway keeps responses, and how many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import Response
from workers_ai_emulator.routes import gateway_cache
from workers_ai_emulator.routes.gateway_cache import CacheOptions, GatewayCache
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.responses import json_response

MIB = "a" * 1024 * 1024


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def status(
    cache: GatewayCache,
    request: Any,
    account: str | None = None,
    endpoint: str = "/chat",
    **options: Any,
) -> str:
    async def run() -> Response:
        return json_response(MIB)

    asked = CacheOptions(**{"ttl_s": 60.0, **options})
    context = CallContext(account=account)
    response, status = asyncio.run(cache.respond(context, endpoint, request, asked, run))
    assert len(response.body) == len(MIB) + 2
    return status


def test_a_response_expires() -> None:
    cache = GatewayCache(clock := Clock())
    assert [status(cache, 1), status(cache, 1)] == ["MISS", "HIT"]
    clock.now = 60
    assert [status(cache, 1), status(cache, 1)] == ["MISS", "HIT"]


def test_the_oldest_responses_are_dropped_at_16_mib() -> None:
    cache = GatewayCache(Clock())
    for request in range(16):
        status(cache, request)
    assert [status(cache, 15), status(cache, 0)] == ["HIT", "MISS"]


def test_accounts_do_not_share_responses_and_are_reset_alone() -> None:
    cache = GatewayCache(Clock())
    assert [status(cache, 1, "a"), status(cache, 1, "b")] == ["MISS", "MISS"]
    cache.reset("a")
    assert [status(cache, 1, "a"), status(cache, 1, "b")] == ["MISS", "HIT"]


def test_a_response_that_replaces_another_is_counted_once() -> None:
    cache = GatewayCache(clock := Clock())
    status(cache, 0)
    for _ in range(16):
        clock.now += 60
        status(cache, 1)
    assert [status(cache, 2), status(cache, 1), status(cache, 2)] == ["MISS", "HIT", "HIT"]


@pytest.mark.parametrize(
    ("resets", "later"),
    [([None], "MISS"), (["a"], "MISS"), (["b"], "HIT"), (["a", "b"], "MISS"), ([], "HIT")],
)
def test_a_call_that_runs_during_a_reset_of_its_account_is_not_cached(
    resets: list[str | None], later: str
) -> None:
    cache = GatewayCache(Clock())
    cache.reset("a")

    async def run() -> Response:
        for account in resets:
            cache.reset(account)
        return json_response(MIB)

    options = CacheOptions(ttl_s=60.0)
    asyncio.run(cache.respond(CallContext(account="a"), "/chat", 1, options, run))
    assert status(cache, 1, "a") == later


def test_a_key_of_ones_own_is_that_of_one_endpoint() -> None:
    cache = GatewayCache(Clock())
    assert status(cache, 1, key="k") == "MISS"
    assert status(cache, 2, key="k", endpoint="/other") == "MISS"
    assert status(cache, 3, key="k") == "HIT"
    assert status(cache, 3, key="other") == "MISS"


@pytest.mark.parametrize("response", [json_response(1, 429), Response(b"1")])
def test_only_whole_responses_without_an_error_are_cached(response: Response) -> None:
    cache = GatewayCache(Clock())

    async def run() -> Response:
        return response

    asyncio.run(cache.respond(CallContext(), "/chat", 1, CacheOptions(ttl_s=60.0), run))
    assert status(cache, 1) == "MISS"


def test_infinity_and_null_are_different_contents() -> None:
    cache = GatewayCache(Clock())
    assert [status(cache, [None]), status(cache, [float("inf")])] == ["MISS", "MISS"]


@pytest.mark.parametrize(
    ("is_large", "options", "threads"),
    [
        (False, CacheOptions(ttl_s=60.0), [True]),
        (True, CacheOptions(ttl_s=60.0), [False]),
        (True, CacheOptions(), []),
        (True, CacheOptions(key="k"), []),
    ],
)
def test_a_large_request_is_hashed_in_a_thread_and_only_if_it_is_cached(
    is_large: bool, options: CacheOptions, threads: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []

    def digest(value: Any) -> str:
        used.append(threading.current_thread() is threading.main_thread())
        return "digest"

    async def run() -> Response:
        return json_response(1)

    monkeypatch.setattr(gateway_cache, "_digest", digest)
    context = CallContext(is_large=is_large)
    asyncio.run(GatewayCache(Clock()).respond(context, "/chat", 1, options, run))
    assert used == threads


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"cf-aig-cache-ttl": "60"}, 60),
        ({"cf-aig-cache-ttl": 3600}, 3600),
        ({"cf-aig-cache-ttl": "0"}, 300),
        ({"cf-aig-cache-ttl": "-1"}, 300),
        ({"cf-aig-cache-ttl": "soon"}, 300),
        ({"cf-aig-cache-ttl": "nan"}, 300),
        ({"cf-aig-cache-ttl": "1e99"}, 30 * 24 * 3600),
        ({"cf-aig-cache-ttl": 10**350}, 30 * 24 * 3600),
        ({"cf-aig-cache-ttl": -(10**350)}, 300),
        ({"cf-aig-cache-key": "a"}, 300),
        ({"cf-aig-skip-cache": "true"}, None),
        ({"cf-aig-skip-cache": "True", "cf-aig-cache-ttl": "60"}, None),
        ({"cf-aig-skip-cache": "false", "cf-aig-cache-ttl": "60"}, 60),
    ],
)
def test_the_time_is_that_of_the_header(headers: Mapping[str, Any], seconds: float | None) -> None:
    assert CacheOptions.of(headers).ttl_s == seconds


@pytest.mark.parametrize(
    ("options", "headers", "expected"),
    [
        ({"cacheTtl": 60}, {}, CacheOptions(60)),
        ({"cacheKey": "a"}, {}, CacheOptions(300, "a")),
        ({"cacheKey": 5}, {}, CacheOptions(300, "5")),
        ({"cacheTtl": 60, "skipCache": True}, {}, CacheOptions()),
        ({"cacheTtl": 60, "skipCache": False}, {}, CacheOptions(60)),
        ({"cacheTtl": 60, "cacheKey": "a"}, {"cf-cache-ttl": "7"}, CacheOptions(7, "a")),
        ({"cacheTtl": 60}, {"cf-aig-cache-key": "b"}, CacheOptions(60, "b")),
        ({"cacheTtl": 60}, {"cf-skip-cache": "true"}, CacheOptions()),
    ],
)
def test_the_options_of_a_binding_have_the_effect_of_headers(
    options: dict[str, Any], headers: dict[str, str], expected: CacheOptions
) -> None:
    assert CacheOptions.of(headers, {"gateway": options}) == expected


@pytest.mark.parametrize("options", [None, 1, {}, {"gateway": 1}, {"gateway": {}}])
def test_without_options_nothing_is_cached(options: Any) -> None:
    assert CacheOptions.of({}, options) == CacheOptions()
