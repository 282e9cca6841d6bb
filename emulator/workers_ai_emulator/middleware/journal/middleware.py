"""The journal: what the last calls asked for and got, in memory and within bounds."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import islice, takewhile
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.backends.backend import StartedGeneration
from workers_ai_emulator.errors import EngineError
from workers_ai_emulator.middleware.journal.entry import Entry, Part
from workers_ai_emulator.wire.calls import Call, call_of

MAX_ENTRIES = 1000
MAX_BYTES = 16 * 2**20

_LONG_PROMPT = 1024  # tokens; rendering more is noticed by others
_END_OF_STREAM = b"data: [DONE]"
_TAIL_BYTES = 32
_LEFT = 499  # what the application answers to a client that has left


class Journal:
    """The last calls, the oldest of which give way. All methods belong to the event loop.

    `epoch` changes when it is emptied, and `num_dropped` counts what has given way since then.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._last_id = 0
        self._num_tokens = 0  # of calls that have ended
        self.running: set[Entry] = set()
        self.num_bytes = 0
        self.num_dropped = 0
        self.epoch = str(uuid4())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_completion_tokens(self) -> int:
        """Of all calls since the start."""
        running = [entry.usage for entry in self.running]
        return self._num_tokens + sum(usage.num_completion_tokens for usage in running if usage)

    def newest(self, limit: int, after: int = 0) -> list[Entry]:
        """The newest first, at most `limit`, with ids above `after`."""
        newer = takewhile(lambda entry: entry.id > after, reversed(self._entries.values()))
        return [*islice(newer, limit)]

    def get(self, number: int) -> Entry | None:
        """The one with this id, unless it has given way."""
        return self._entries.get(number)

    def clear(self) -> None:
        """Forget all, also of calls that go on."""
        while self._entries:
            self._drop_oldest()
        self.num_dropped = 0
        self.epoch = str(uuid4())

    def begin(self, scope: Scope, call: Call) -> Entry:
        """A new entry for this call."""
        self._last_id += 1
        entry = Entry(self._last_id, scope, call)
        self._entries[entry.id] = entry
        self.running.add(entry)
        self._make_room(entry.num_bytes)
        return entry

    def grow(self, entry: Entry, num_bytes: int) -> None:
        """Note that a kept entry takes so much more; the oldest ones give way to it."""
        entry.num_bytes += num_bytes
        self._make_room(num_bytes)

    async def keep_prompt(self, entry: Entry) -> None:
        """Give the entry the text that its model sees, if a backend has begun."""
        if entry.prompt is not None or entry.started is None or not entry.is_kept:
            return
        try:
            prompt = Part((await _rendered(entry.started)).encode("utf-8", "replace"))
        except EngineError:  # its model has just been unloaded
            return
        if entry.prompt is None and entry.is_kept:  # still
            entry.prompt = prompt
            self.grow(entry, len(prompt.kept))

    def end(self, entry: Entry, outcome: str) -> None:
        """The call is over."""
        self.running.discard(entry)
        entry.end(outcome)
        self._num_tokens += entry.usage.num_completion_tokens if entry.usage else 0

    def _make_room(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        while self.num_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._entries.popitem(last=False)
        self.num_bytes -= oldest.num_bytes
        self.num_dropped += 1
        oldest.forget()


class JournalMiddleware:
    """An ASGI application around another: notes the calls that make text, as they pass."""

    def __init__(self, app: ASGIApp, entries: Journal) -> None:
        self._app = app
        self._entries = entries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        if call is None:
            await self._app(scope, receive, send)
            return
        observer = _Observer(self._entries, self._entries.begin(scope, call), receive, send)
        try:
            await self._app(scope, observer.receive, observer.send)
        finally:
            await observer.end()


class _Observer:
    """Passes one call's messages on and lets its entry see them."""

    def __init__(self, entries: Journal, entry: Entry, receive: Receive, send: Send) -> None:
        self._entries = entries
        self._entry = entry
        self._receive = receive
        self._send = send
        self._has_left = False
        self._is_whole = False
        self._tail = b""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._has_left |= not self._is_whole  # after the whole answer it says nothing
        elif self._entry.is_kept:
            is_last = not message.get("more_body", False)
            num_kept = self._entry.take_body(message.get("body", b""), is_last=is_last)
            self._entries.grow(self._entry, num_kept)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body", False)
        has_begun = self._entry.first_s is not None
        if self._entry.is_kept:
            self._entries.grow(self._entry, self._take(message))
        await self._send(message)
        if self._is_whole:
            self._entry.duration_s = self._entry.elapsed_s
        if not has_begun and self._entry.first_s is not None:
            await self._entries.keep_prompt(self._entry)  # the client has its first bytes

    async def end(self) -> None:
        """Close the entry."""
        outcome = self._outcome()
        if self._entry.duration_s is None:
            self._entry.duration_s = self._entry.elapsed_s
        try:
            await self._entries.keep_prompt(self._entry)
        finally:
            self._entries.end(self._entry, outcome)

    def _take(self, message: Message) -> int:
        """Let the entry see a part of the answer; how many bytes of it are kept."""
        if message["type"] == "http.response.start":
            return self._entry.take_head(message)
        if body := message.get("body", b""):
            self._tail = (self._tail + body)[-_TAIL_BYTES:]
            return self._entry.take_answer(body)
        return 0

    def _outcome(self) -> str:
        status = self._entry.status
        if self._has_left or status == _LEFT:
            return "cancelled"
        if not self._is_whole or status is None:
            return "cut"
        if status >= 400:
            return "error"
        return "cut" if self._entry.is_stream and _END_OF_STREAM not in self._tail else "ok"


async def _rendered(started: StartedGeneration) -> str:
    if started.generation.usage.num_prompt_tokens > _LONG_PROMPT:
        return await asyncio.to_thread(started.prompt)
    return started.prompt()
