"""Calls Workers AI by HTTP without an SDK, with one of several Python libraries or curl.

    python plain_python.py LIBRARY BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# Each library is in its own folder, where mypy does not find it.

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from outcomes import print_outcomes

Response = dict[str, object]  # the keys are `status` and `lines`
Post = Callable[[str, str, dict[str, str]], Response]  # the arguments are url, body and headers

MODEL = "@cf/meta/llama-2-7b-chat-int8"
CHAT = {
    "messages": [{"role": "user", "content": "Name a fruit. 🍎"}],
    "max_tokens": 6,
    "temperature": 0,
}


def chat(post: Callable[[str, object], Response]) -> object:
    return post(MODEL, CHAT)


def stream(post: Callable[[str, object], Response]) -> object:
    return post(MODEL, CHAT | {"stream": True})


def unknown_model(post: Callable[[str, object], Response]) -> object:
    return post("@cf/meta/llama-9", CHAT)


def with_requests(url: str, body: str, headers: dict[str, str]) -> Response:
    import requests

    with requests.post(url, data=body.encode(), headers=headers, stream=True) as response:
        lines = [line.decode() for line in response.iter_lines()]
        return {"status": response.status_code, "lines": lines}


def with_httpx(url: str, body: str, headers: dict[str, str]) -> Response:
    import httpx

    with httpx.stream("POST", url, content=body, headers=headers, timeout=60) as response:
        return {"status": response.status_code, "lines": list(response.iter_lines())}


def with_httpx_async(url: str, body: str, headers: dict[str, str]) -> Response:
    import httpx

    async def send() -> Response:
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            lines = [line async for line in response.aiter_lines()]
            return {"status": response.status_code, "lines": lines}

    return asyncio.run(send())


def with_aiohttp(url: str, body: str, headers: dict[str, str]) -> Response:
    import aiohttp

    async def send() -> Response:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            lines = [line.decode().rstrip("\n") async for line in response.content]
            return {"status": response.status, "lines": lines}

    return asyncio.run(send())


def with_urllib(url: str, body: str, headers: dict[str, str]) -> Response:
    request = Request(url, body.encode(), headers)
    try:
        with urlopen(request) as response:
            lines = [line.decode().rstrip("\n") for line in response]
            return {"status": response.status, "lines": lines}
    except HTTPError as error:
        return {"status": error.code, "lines": error.read().decode().splitlines()}


def with_curl(url: str, body: str, headers: dict[str, str]) -> Response:
    flags = [f"-H{name}: {value}" for name, value in headers.items()]
    command = ["curl", "-sS", url, *flags, "-d", body, "-w", "\n%{http_code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, status = done.stdout.splitlines()
    return {"status": int(status), "lines": lines}


LIBRARIES: dict[str, Post] = {
    "requests": with_requests,
    "httpx": with_httpx,
    "httpx_async": with_httpx_async,
    "aiohttp": with_aiohttp,
    "urllib": with_urllib,
    "curl": with_curl,
}


def main(library: str, base_url: str, account_id: str, token: str, *names: str) -> None:
    def post(model: str, body: object) -> Response:
        url = f"{base_url}/accounts/{account_id}/ai/run/{model}"
        headers = {"Authorization": f"Bearer {token}"}
        return LIBRARIES[library](url, json.dumps(body, ensure_ascii=False), headers)

    print_outcomes((chat, stream, unknown_model), names, post)


if __name__ == "__main__":
    main(*sys.argv[1:])
