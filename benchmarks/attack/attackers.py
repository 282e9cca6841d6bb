"""Clients that send broken requests, send or read slowly, or disconnect."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import uvloop

from benchmarks import prompts
from benchmarks.attack import hostile
from benchmarks.attack.exchange import post
from benchmarks.conditions import MODEL_NAME
from benchmarks.servers import API

NUM_HOSTILE, NUM_SLOW, NUM_DISCONNECTING, STORM_SIZE = 48, 120, 8, 300
_STORM_PAUSE_S = 5.0
_FIRST_READ_LIMIT_S, _READ_LIMIT_S = 10.0, 1.0
_LONGEST_HOLD_S = 60.0
_MAX_FAILURES = 10
_SLOW_TOKENS = 100
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
# The status with which an overloaded server may refuse a request. All other 5xx statuses are
# failures.
_REFUSAL = "503"
FAILURE = "5xx"
_RESET = struct.pack("ii", 1, 0)  # value of SO_LINGER: close() sends a TCP reset


@dataclass(slots=True)
class Results:
    """What the attacking clients counted.

    `counts`: the number of events of each kind, such as disconnects. `failures`: the bytes of at
    most 10 requests that got a 5xx response other than 503.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[bytes] = field(default_factory=list)


def run(port: int, seed: str, seconds: float) -> Results:
    """Attacks the server at `port` for `seconds` seconds, with all kinds of attackers at once."""
    attack = _Attack(port, seed, time.monotonic() + seconds)
    uvloop.run(attack.run())
    return attack.results


class _Attack:
    def __init__(self, port: int, seed: str, end_s: float) -> None:
        self.results = Results()
        self._port = port
        self._seed = seed
        self._end_s = end_s

    async def run(self) -> None:
        await asyncio.gather(
            *(self._repeat(self._send_hostile, number) for number in range(NUM_HOSTILE)),
            *(self._repeat(self._be_slow, number) for number in range(NUM_SLOW)),
            *(self._repeat(self._disconnect, number) for number in range(NUM_DISCONNECTING)),
            self._repeat(self._storm, 0),
        )

    @property
    def _left_s(self) -> float:
        return max(self._end_s - time.monotonic(), 0)

    async def _repeat(
        self, action: Callable[[random.Random], Awaitable[None]], number: int
    ) -> None:
        """Repeats the action until the attack ends. Each client has its own random generator.

        `number`: the index of the client among the clients that repeat the same action.
        """
        rng = random.Random(f"{self._seed} {action.__name__} {number}")
        while self._left_s:
            try:
                await action(rng)
            except OSError:
                self.results.counts["connections refused or reset"] += 1
                await asyncio.sleep(0.1)

    # ── broken requests ─────────────────────────────────────────────────────────────────────────

    async def _send_hostile(self, rng: random.Random) -> None:
        data = hostile.request(rng)
        self.results.counts["hostile requests"] += 1
        response = await self._response(data, ends=rng.random() < 0.2)
        statuses = _STATUS.findall(response)
        for status in statuses:
            self.results.counts[f"responses {_kind(status.decode())}"] += 1
        if not statuses:
            self.results.counts["hostile requests without a response"] += 1
        is_failure = any(_kind(status.decode()) == FAILURE for status in statuses)
        if is_failure and len(self.results.failures) < _MAX_FAILURES:
            self.results.failures.append(data)
        await asyncio.sleep(rng.uniform(0, 0.1))

    async def _response(self, data: bytes, *, ends: bool) -> bytes:
        """Sends the data over a new connection, and returns all bytes that the server sends.

        Stops reading when the server closes the connection, after 10 s without a first byte, or
        after 1 s without a further byte. `ends`: whether to close the sending side after the data.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        response = bytearray()
        try:
            writer.write(data)
            if ends:
                writer.write_eof()
            with suppress(TimeoutError, ConnectionError):
                limit_s = min(_FIRST_READ_LIMIT_S, self._left_s)
                while part := await asyncio.wait_for(reader.read(2**16), limit_s):
                    response += part
                    limit_s = _READ_LIMIT_S
        finally:
            writer.transport.abort()
        return bytes(response)

    # ── slow clients ────────────────────────────────────────────────────────────────────────────

    async def _be_slow(self, rng: random.Random) -> None:
        """Opens a connection, and lets a random function of `_SLOW` use it for at most a minute."""
        await asyncio.sleep(rng.random())
        connection = await self._connect(receive_buffer=4096)
        behaviour = rng.choice(_SLOW)
        try:
            async with asyncio.timeout(min(rng.uniform(5, _LONGEST_HOLD_S), self._left_s)):
                await behaviour(connection, rng)
                self.results.counts["slow connections closed by the server"] += 1
        except TimeoutError:
            self.results.counts["slow connections held as long as wanted"] += 1
        except OSError:  # the server has reset the connection
            self.results.counts["slow connections closed by the server"] += 1
        finally:
            connection.close()

    # ── disconnects ─────────────────────────────────────────────────────────────────────────────

    async def _disconnect(self, rng: random.Random) -> None:
        """Sends a request or only the beginning of one, and disconnects at a random moment."""
        request = _stream(rng)
        part = request[: rng.randint(0, len(request))] if rng.random() < 0.2 else request
        connection = await self._connect()
        try:
            await asyncio.get_running_loop().sock_sendall(connection, part)
            await asyncio.sleep(rng.choice([0, rng.uniform(0, 0.05), rng.uniform(0, 2)]))
        finally:
            _close(connection, rng)
        self.results.counts["disconnects"] += 1

    async def _storm(self, rng: random.Random) -> None:
        """Waits for 5 s, sends 300 requests at once, and then closes all their connections."""
        await asyncio.sleep(min(_STORM_PAUSE_S, self._left_s))
        opened = await asyncio.gather(
            *(self._open(_stream(rng)) for _ in range(STORM_SIZE)), return_exceptions=True
        )
        await asyncio.sleep(rng.uniform(0, 1))
        for connection in opened:
            if isinstance(connection, socket.socket):
                _close(connection, rng)
                self.results.counts["streams dropped in storms"] += 1
            else:
                self.results.counts["connections refused or reset"] += 1

    async def _open(self, request: bytes) -> socket.socket:
        connection = await self._connect()
        try:
            await asyncio.get_running_loop().sock_sendall(connection, request)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _connect(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
        except BaseException:
            connection.close()
            raise
        return connection


def _kind(status: str) -> str:
    return status if status == _REFUSAL else f"{status[0]}xx"


def _close(connection: socket.socket, rng: random.Random) -> None:
    """Closes the connection; in half of all cases with a TCP reset."""
    if rng.random() < 0.5:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def _stream(rng: random.Random, max_tokens: int = 500) -> bytes:
    """Returns the bytes of a request for a completion. Four of five requests ask for a stream."""
    prompt, is_stream = rng.choice(prompts.PROMPTS), rng.random() < 0.8
    body = {"prompt": prompt, "max_tokens": max_tokens, "stream": is_stream}
    return post(f"{API}/run/{MODEL_NAME}", json.dumps(body).encode())


# ── the kinds of slow clients ───────────────────────────────────────────────────────────────────


async def _is_silent(connection: socket.socket, rng: random.Random) -> None:
    await _read_all(connection)


async def _sends_head_slowly(connection: socket.socket, rng: random.Random) -> None:
    await _send_slowly(connection, _stream(rng).partition(b"Content-Length")[0], rng)


async def _sends_body_slowly(connection: socket.socket, rng: random.Random) -> None:
    head, end, body = _stream(rng).partition(b"\r\n\r\n")
    await asyncio.get_running_loop().sock_sendall(connection, head + end)
    await _send_slowly(connection, body[:-1], rng)


async def _sends_half_body(connection: socket.socket, rng: random.Random) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, _stream(rng)[:-20])
    await _read_all(connection)


async def _reads_slowly(connection: socket.socket, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, _stream(rng, _SLOW_TOKENS))
    while await loop.sock_recv(connection, 64):
        await asyncio.sleep(rng.uniform(0.1, 1))


async def _never_reads(connection: socket.socket, rng: random.Random) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, _stream(rng, _SLOW_TOKENS))
    await asyncio.sleep(_LONGEST_HOLD_S)


async def _never_reads_large_responses(connection: socket.socket, rng: random.Random) -> None:
    request = b"GET /_emulator/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(connection, request * 200)
    await asyncio.sleep(_LONGEST_HOLD_S)


_SLOW: list[Callable[[socket.socket, random.Random], Awaitable[None]]] = [
    *(_is_silent, _sends_head_slowly, _sends_body_slowly, _sends_half_body, _reads_slowly),
    *(_never_reads, _never_reads_large_responses),
]


async def _send_slowly(connection: socket.socket, data: bytes, rng: random.Random) -> None:
    """Sends one byte about every second, until the server closes the connection."""
    reading = asyncio.create_task(_read_all(connection))
    try:
        for byte in data:
            await asyncio.get_running_loop().sock_sendall(connection, bytes([byte]))
            if (await asyncio.wait([reading], timeout=rng.uniform(0.2, 2)))[0]:
                return
        await reading
    finally:
        reading.cancel()


async def _read_all(connection: socket.socket) -> None:
    with suppress(ConnectionError):
        while await asyncio.get_running_loop().sock_recv(connection, 2**16):
            pass
