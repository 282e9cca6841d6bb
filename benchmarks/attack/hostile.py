"""Makes the bytes of broken and unusual requests. Equal random generators make equal bytes.

No request activates a fault (an error that the emulator sends on demand), because faults would
change the responses to other clients.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any

from benchmarks.conditions import MODEL_NAME
from benchmarks.servers import ACCOUNT_ID, API

_GATEWAY = f"/v1/{ACCOUNT_ID}/gateway"
_PROMPT = {"prompt": "Count to three.", "max_tokens": 4}
_CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
_STEP = {"provider": "workers-ai", "endpoint": MODEL_NAME, "query": _PROMPT}
_TARGETS: list[tuple[str, Any]] = [
    (f"{API}/run/{MODEL_NAME}", _PROMPT),
    (f"{API}/run/{MODEL_NAME}", _CHAT),
    (f"{API}/run", _PROMPT | {"model": MODEL_NAME}),
    (f"{API}/v1/chat/completions", _CHAT | {"model": MODEL_NAME}),
    (f"{API}/v1/completions", _PROMPT | {"model": MODEL_NAME}),
    (f"{API}/run/proxy", _PROMPT),
    (f"{_GATEWAY}/workers-ai/{MODEL_NAME}", _PROMPT),
    (f"{_GATEWAY}/compat/chat/completions", _CHAT | {"model": f"workers-ai/{MODEL_NAME}"}),
    (_GATEWAY, [_STEP, _STEP]),
    ("/run?version=3", {"inputs": _CHAT, "options": {}}),
    ("/run?version=2", {"inputs": _PROMPT, "options": {"queueRequest": False}}),
    ("/run", {"inputs": [{"name": "prompt", "shape": [1], "type": "str", "value": ["Hi"]}]}),
    ("/ai-gateway/run", {"inputs": _PROMPT, "options": {}}),
    ("/ai-gateway/universal/run/gateway", [_STEP]),
    ("/to-everything/markdown", _PROMPT),
    ("/autorag/search", _PROMPT),
    ("/_emulator/faults", {"fault": "no such fault", "times": 1, "model": "@cf/no/model"}),
    ("/_emulator/script", [{"contains": "hello", "answer": "Hi", "times": 1}]),
    ("/_emulator/reset", {}),
]
_GET_PATHS = [
    f"{API}/models/search?search=llama&per_page=2",
    f"{API}/models/schema?model={MODEL_NAME}",
    "/client/v4/user/tokens/verify",
    "/ai-gateway/gateways/gateway/url/workers-ai",
    *(f"/_emulator/{name}" for name in ("", "faults", "load", "metrics", "requests", "requests/1")),
    *("/_emulator/openapi.json", "/_emulator/page/page.js", "/_emulator/page/../../server.py"),
]
_METHODS = ["GET", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "post", "\0", ""]
_ODD_PARTS = [
    b"\0",
    b"\xff\xfe",
    b"%00",
    b"%ff",
    b"%",
    b"//",
    b"/../",
    b"\r",
    b"\n",
    b" ",
    b"?",
    b"#",
]
_ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, -0.0, 10**30, 1e308, float("inf"), float("nan")),
    *("", "\0", "\ud800", "\udfff\ud800", "a" * 5000, "😀" * 100, "[INST]", "<|im_start|>"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": []}}),
]
_ODD_HEADERS = [
    b"X: " + b"a" * 8_000,
    b"X: " + b"a" * 200_000,
    b"\r\n".join(b"X-%d: a" % number for number in range(5_000)),
    b"X: a\0b",
    b"X: \xff\xfe",
    b"no colon",
    b": no name",
    b" folded: line",
    b"Host: a\r\nHost: b",
    b"Content-Length: 1",
    b"Content-Length: -5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 1e3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: \0chunked",
    b"Expect: 100-continue",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AA==",
    b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA",
    b"Content-Encoding: gzip",
    b"Content-Type: text/plain; charset=\xff",
    b"Authorization: Bearer \xff\xfe",
    b"Authorization: " + b"Bearer " * 500,
    b"mf-url: http://x/run?version=3",
    b"mf-url: %ff%00://[/\\?#",
    b"mf-header-content-length: 5",
    b"x-forwarded: http://workers-binding.ai/run?version=9",
    b"cf-consn-sdk-version: 2.0.0",
    b"cf-consn-model-id: workers-ai:@cf/no/model",
    b"x-emulator-backend: nothing",
    b"x-emulator-backend: scripted",
    b"Origin: https://example.com",
    b"Cookie: " + b"a=b; " * 1000,
]
_Maker = Callable[[random.Random], bytes]


def request(rng: random.Random) -> bytes:
    """Returns the bytes to send over one connection: one or more requests, or random bytes."""
    return rng.choice(_MAKERS)(rng)


def _random_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(1, 3000))


def _request_line(rng: random.Random) -> bytes:
    path = bytearray(_path(rng).encode())
    for _ in range(rng.randint(0, 3)):
        at = rng.randint(0, len(path))
        path[at:at] = rng.choice(_ODD_PARTS)
    path *= rng.choice([1, 1, 1, 2, 1000])
    version = rng.choice([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/", b"", b"\0"])
    line = b" ".join([rng.choice(_METHODS).encode(), bytes(path), version])
    return _join(line, [], b"")


def _headers(rng: random.Random) -> bytes:
    path, body = _target(rng)
    return _post(path, body, *rng.choices(_ODD_HEADERS, k=rng.randint(1, 3)))


def _chunked(rng: random.Random) -> bytes:
    path, body = _target(rng)
    sizes = [b"%x" % len(body), b"zz", b"-1", b"", b"f" * 20, b"%x;a=b" % len(body), b"ffffffff"]
    ends = [b"0\r\n\r\n", b"0\r\nX: a\r\n\r\n", b"", b"0\r\n", b"0\r\n\0\r\n\r\n", b"5\r\n"]
    chunk = rng.choice(sizes) + b"\r\n" + body + rng.choice([b"\r\n", b""]) + rng.choice(ends)
    return _join(f"POST {path} HTTP/1.1".encode(), [b"Transfer-Encoding: chunked"], chunk)


def _wrong_length(rng: random.Random) -> bytes:
    path, body = _target(rng)
    length = max(0, len(body) + rng.choice([-len(body), -5, -1, 1, 100, 10**9]))
    return _join(f"POST {path} HTTP/1.1".encode(), [b"Content-Length: %d" % length], body)


def _gzipped(rng: random.Random) -> bytes:
    path, body = _target(rng)
    data = rng.choice([gzip.compress(body, mtime=0), _gzip_bomb()])
    return _post(path, data[: rng.choice([len(data), len(data) // 2, 3])])


@cache
def _gzip_bomb() -> bytes:
    """Returns 87 KB of gzip data that decompress to 20 MB, more than the emulator accepts."""
    return gzip.compress(bytes(20_000_000), 1, mtime=0)


def _json(rng: random.Random) -> bytes:
    path, value = rng.choice(_TARGETS)
    for _ in range(rng.randint(1, 3)):
        value = _mutated_value(rng, value)
    return _post(path, json.dumps(value).encode(), *_binding_header(rng))


def _json_text(rng: random.Random) -> bytes:
    path, body = _target(rng)
    return _post(path, mutated_bytes(rng, body), *_binding_header(rng))


def _large_body(rng: random.Random) -> bytes:
    path, _ = _target(rng)
    fields = [
        b'"messages":[' + b'{"role":"user","content":"x"},' * 20_000 + b"{}]",
        b'"prompt":"' + b"a b " * 100_000 + b'"',
        b",".join(b'"k%d":%d' % (number, number) for number in range(10_000)),
        b'"a":' + b"[" * 10_000 + b"]" * 10_000,
    ]
    return _post(path, b"{" + rng.choice(fields) + b"}")


def _pipelined(rng: random.Random) -> bytes:
    """Returns the bytes of several requests, sometimes with a broken request at the end."""
    gets = [
        _join(f"GET {path} HTTP/1.1".encode(), [], b"") for path in rng.choices(_GET_PATHS, k=3)
    ]
    path, body = _target(rng)
    return b"".join([*gets, _post(path, body), rng.choice([b"", b"\0\0", _request_line(rng)])])


def _mutated_request(rng: random.Random) -> bytes:
    path, body = _target(rng)
    return mutated_bytes(rng, _post(path, body, *_binding_header(rng)))


def _get(rng: random.Random) -> bytes:
    line = f"GET {rng.choice(_GET_PATHS)} HTTP/1.1".encode()
    return _join(line, rng.choices(_ODD_HEADERS, k=rng.randint(0, 2)), b"")


_MAKERS: list[_Maker] = [
    *(_random_bytes, _request_line, _headers, _chunked, _wrong_length, _gzipped, _json, _json),
    *(_json_text, _large_body, _pipelined, _mutated_request, _get),
]


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Returns a copy of the data with one to four random changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        length = rng.randint(0, 20)
        changed[at : at + rng.choice([0, 1, length])] = rng.choice(
            [b"", b"\0", rng.randbytes(1), rng.randbytes(length), changed[at : at + length] * 2]
        )
    return bytes(changed)


def _mutated_value(rng: random.Random, value: Any) -> Any:
    """Returns a copy of a JSON value in which one random value, key or element is changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        rest = {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.15:
            return rest
        if rng.random() < 0.15:
            return rest | {rng.choice(["", "\ud800", "a" * 100, "PROMPT"]): value[key]}
        return value | {key: _mutated_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _mutated_value(rng, value[at]), *value[at:][rng.randint(0, 1) :]]
    return rng.choice(_ODD_VALUES)


def _path(rng: random.Random) -> str:
    return rng.choice([*_GET_PATHS, *(path for path, _ in _TARGETS)])


def _target(rng: random.Random) -> tuple[str, bytes]:
    path, value = rng.choice(_TARGETS)
    return path, json.dumps(value).encode()


def _binding_header(rng: random.Random) -> list[bytes]:
    return [f"cf-consn-model-id: {MODEL_NAME}".encode()] if rng.random() < 0.8 else []


def _post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = [b"Content-Length: %d" % len(body), *headers]
    return _join(f"POST {path} HTTP/1.1".encode(), lines, body)


def _join(line: bytes, headers: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join([line, b"Host: x", *headers, b"", body])
