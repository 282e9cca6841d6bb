"""Calls a server of the backend `scripted` with faults, requesting each fault in five ways.

    python faults_python.py LIBRARY BASE_URL ACCOUNT_ID TOKEN FAULT[:stream]|retries...

Prints one JSON line for each fault and way: the outcomes of a call with the fault and of one
without it.
"""

# mypy: disable-error-code="import-not-found"
# Each client is in its own folder, where mypy does not find it.

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.request import Request, urlopen

from outcomes import outcome

Call = Callable[[str, Mapping[str, str], bool, float], object]  # token, headers, is_stream, timeout

MODEL = "@cf/meta/llama-2-7b-chat-int8"
TIMEOUT_S = 30
# For faults after which the server sends nothing. Before `stall`, it sends the first event.
SILENT_TIMEOUTS_S = {"stall": 2, "slow-first-token": 0.3}
OPTIONS = {"slow-first-token": {"seconds": 60}, "cut-mid-event": {"after_events": 2}}


class FaultCase:
    """Requests one fault in five ways, and calls the server with one client library."""

    def __init__(self, case: str, call: Call, control: Callable[..., Any]) -> None:
        fault, _, kind = case.partition(":")
        self._fault = fault
        self._is_stream = kind == "stream"
        self._call = call
        self._control = control
        self._options = OPTIONS.get(fault, {})
        self._requested = ";".join([fault, *(f"{k}={v}" for k, v in self._options.items())])

    def by_count(self) -> object:
        return self._by_rule(times=1)

    def by_chance(self) -> object:
        """Requests the fault by chance. With seed 1, only the first of two calls gets it."""
        return self._by_rule(probability=0.5, seed=1)

    def by_header(self) -> object:
        faulty = self._faulty("any", {"x-emulator-fault": self._requested})
        return {"faulty": faulty, "sound": self._sound()}

    def by_token(self) -> object:
        return {"faulty": self._faulty(f"fault:{self._requested}"), "sound": self._sound()}

    def until_the_reset(self) -> object:
        self._set_rule()
        faulty = self._faulty()
        self._control("reset", None)
        return {"faulty": faulty, "sound": self._sound()}

    def _by_rule(self, **options: object) -> object:
        self._set_rule(**options)
        return {"faulty": self._faulty(), "sound": self._sound()}

    def _set_rule(self, **options: object) -> None:
        self._control("faults", {"fault": self._fault, **self._options, **options})

    def _faulty(self, token: str = "any", headers: Mapping[str, str] | None = None) -> object:
        timeout_s = SILENT_TIMEOUTS_S.get(self._fault, TIMEOUT_S)
        return outcome(self._call, token, headers or {}, self._is_stream, timeout_s)

    def _sound(self) -> object:
        return outcome(self._call, "any", {}, self._is_stream, TIMEOUT_S)


def with_cloudflare(base_url: str, account_id: str) -> Call:
    from cloudflare import Cloudflare
    from httpx import Timeout

    def call(token: str, headers: Mapping[str, str], is_stream: bool, timeout_s: float) -> object:
        timeout = Timeout(TIMEOUT_S, read=timeout_s)
        client = Cloudflare(base_url=base_url, api_token=token, max_retries=0, timeout=timeout)
        given: Any = {"account_id": account_id, "prompt": "Hi", "extra_headers": headers}
        if not is_stream:
            return client.ai.run(MODEL, **given)
        with client.ai.with_streaming_response.run(MODEL, stream=True, **given) as response:
            return read(response.iter_bytes())

    return call


def with_requests(base_url: str, account_id: str) -> Call:
    import requests

    url = f"{base_url}/accounts/{account_id}/ai/run/{MODEL}"

    def call(token: str, headers: Mapping[str, str], is_stream: bool, timeout_s: float) -> object:
        headers = {"Authorization": f"Bearer {token}", **headers}
        body = {"prompt": "Hi", "stream": is_stream}
        with requests.post(
            url, json=body, headers=headers, stream=True, timeout=(TIMEOUT_S, timeout_s)
        ) as response:
            if is_stream:
                return read(response.iter_content(None))
            return {"status": response.status_code, "body": response.json()}

    return call


def read(parts: Iterable[bytes]) -> object:
    """Returns the received bytes as Latin-1 text, and the name of the exception that ended them.

    The name is None if the parts ended without an exception.
    """
    text = b""
    try:
        for part in parts:
            text += part
    except Exception as error:
        return {"text": text.decode("latin-1"), "end": type(error).__name__}
    return {"text": text.decode("latin-1"), "end": None}


def retries(base_url: str, account_id: str, control: Callable[..., Any]) -> object:
    """For each case, sets a fault for a number of requests, then calls the model with the SDK.

    The SDK may retry the call. Returns, for each case, the outcome and the fault rules that are
    left.
    """
    from cloudflare import Cloudflare

    client = Cloudflare(base_url=base_url, api_token="any")

    def once(fault: str, times: int) -> object:
        control("reset", None)
        control("faults", {"fault": fault, "times": times})
        result = outcome(lambda: client.ai.run(MODEL, account_id=account_id, prompt="Hi"))
        return {"outcome": result, "left": control("faults")["faults"]}

    cases = [("capacity", 1), ("timeout", 2), ("rate-limit", 3), ("retired", 2), ("auth", 2)]
    return {f"{fault} {times}": once(fault, times) for fault, times in cases}


LIBRARIES = {"cloudflare": with_cloudflare, "requests": with_requests}


def main(library: str, base_url: str, account_id: str, _token: str, *cases: str) -> None:
    def control(path: str, *body: object) -> Any:
        url = f"{base_url.removesuffix('/client/v4')}/_emulator/{path}"
        data = json.dumps(body[0]).encode() if body else None
        with urlopen(Request(url, data)) as response:
            return json.load(response)

    call = LIBRARIES[library](base_url, account_id)
    for case in cases:
        if case == "retries":
            print_line(case, retries(base_url, account_id, control))
            continue
        tested = FaultCase(case, call, control)
        ways = (
            tested.by_count,
            tested.by_chance,
            tested.by_header,
            tested.by_token,
            tested.until_the_reset,
        )
        for way in ways:
            control("reset", None)
            print_line(f"{case} {way.__name__}", way())


def print_line(case: str, value: object) -> None:
    # An error's list may contain objects of the client. `vars` converts each object to its fields.
    print(json.dumps({"case": case, "value": value}, default=vars), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
