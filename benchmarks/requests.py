"""A client of the endpoint `ai/run`, which can disconnect before the response arrives."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Self

import httpx

_TIMEOUT_S = 600


class Client:
    """Sends requests to one URL. An `async with` block closes its connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, body: dict[str, Any]) -> bytes:
        """Sends a request and returns the body of the response.

        Raises httpx.HTTPError if the request fails or the status is an error.
        """
        response = await self._client.post(self._url, json=body)
        response.raise_for_status()
        return response.content

    async def send_and_disconnect(self, body: dict[str, Any], *, after_s: float) -> None:
        """Sends a request, and disconnects after `after_s` seconds or the complete response."""
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await self.send(body)
