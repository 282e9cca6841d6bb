"""A client of the run endpoint that stays, or leaves before it is answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Self

import httpx

_TIMEOUT_S = 600


class Client:
    """Asks one URL. Use it in an `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, body: dict[str, Any]) -> bytes:
        """The whole answer. Raises httpx.HTTPError for a refusal."""
        answer = await self._client.post(self._url, json=body)
        answer.raise_for_status()
        return answer.content

    async def ask_and_leave(self, body: dict[str, Any], *, after_s: float) -> None:
        """Close the connection after this time, unless the answer has come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await self.ask(body)
