"""Plain HTTP from Python, by one library or another. What they send differs only in its body.

    python plain_python.py LIBRARY BASE_URL ACCOUNT_ID TOKEN CASE...

Prints a JSON line for each case: what came out of it.
"""

# mypy: disable-error-code="import-not-found"
# A library is in a folder of its own, as are the clients.

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from outcomes import print_outcomes

Answer = dict[str, object]  # its `status` and its `lines`
Post = Callable[[str, str, dict[str, str]], Answer]  # a body to a URL with headers

MODEL = "@cf/meta/llama-2-7b-chat-int8"
CHAT = {
    "messages": [{"role": "user", "content": "Name a fruit. 🍎"}],
    "max_tokens": 6,
    "temperature": 0,
}


def chat(post: Callable[[str, object], Answer]) -> object:
    return post(MODEL, CHAT)


def stream(post: Callable[[str, object], Answer]) -> object:
    return post(MODEL, CHAT | {"stream": True})


def unknown_model(post: Callable[[str, object], Answer]) -> object:
    return post("@cf/meta/llama-9", CHAT)


def with_requests(url: str, body: str, headers: dict[str, str]) -> Answer:
    import requests

    with requests.post(url, data=body.encode(), headers=headers, stream=True) as response:
        lines = [line.decode() for line in response.iter_lines()]
        return {"status": response.status_code, "lines": lines}


def with_httpx(url: str, body: str, headers: dict[str, str]) -> Answer:
    import httpx

    with httpx.stream("POST", url, content=body, headers=headers, timeout=60) as response:
        return {"status": response.status_code, "lines": list(response.iter_lines())}


def with_httpx_async(url: str, body: str, headers: dict[str, str]) -> Answer:
    import httpx

    async def answer() -> Answer:
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            lines = [line async for line in response.aiter_lines()]
            return {"status": response.status_code, "lines": lines}

    return asyncio.run(answer())


def with_aiohttp(url: str, body: str, headers: dict[str, str]) -> Answer:
    import aiohttp

    async def answer() -> Answer:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            lines = [line.decode().rstrip("\n") async for line in response.content]
            return {"status": response.status, "lines": lines}

    return asyncio.run(answer())


def with_urllib(url: str, body: str, headers: dict[str, str]) -> Answer:
    request = Request(url, body.encode(), headers)
    try:
        with urlopen(request) as response:
            lines = [line.decode().rstrip("\n") for line in response]
            return {"status": response.status, "lines": lines}
    except HTTPError as error:
        return {"status": error.code, "lines": error.read().decode().splitlines()}


def with_curl(url: str, body: str, headers: dict[str, str]) -> Answer:
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
    def post(model: str, body: object) -> Answer:
        url = f"{base_url}/accounts/{account_id}/ai/run/{model}"
        headers = {"Authorization": f"Bearer {token}"}
        return LIBRARIES[library](url, json.dumps(body, ensure_ascii=False), headers)

    print_outcomes((chat, stream, unknown_model), names, post)


if __name__ == "__main__":
    main(*sys.argv[1:])
