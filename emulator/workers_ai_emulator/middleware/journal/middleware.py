"""Middleware that adds inference calls and their responses to the journal."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers_ai_emulator.middleware.base import InferenceMiddleware
from workers_ai_emulator.middleware.journal.completion_text import completion_in
from workers_ai_emulator.middleware.journal.entry import Entry
from workers_ai_emulator.middleware.journal.journal import Journal
from workers_ai_emulator.middleware.stream_end import LastEvent
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.responses import CLIENT_CLOSED_REQUEST

# A request body with more bytes than this is parsed in a thread, because parsing it on the event
# loop would delay other requests.
_LONG_BYTES = 2**15


class JournalMiddleware(InferenceMiddleware):
    """Adds each inference call and its response to the journal."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        super().__init__(app)
        self._journal = journal

    async def _handle(
        self, call: InferenceCall, scope: Scope, receive: Receive, send: Send
    ) -> None:
        entry = self._journal.begin(scope, call)
        observer = _Observer(self._journal, entry, receive, send)
        try:
            await self._app(scope, observer.receive, observer.send)
        finally:
            await observer.end()


class _Observer:
    """Passes on the ASGI messages of an inference call, and copies them to its journal entry."""

    def __init__(self, journal: Journal, entry: Entry, receive: Receive, send: Send) -> None:
        self._journal = journal
        self._entry = entry
        self._receive = receive
        self._send = send
        self._is_disconnected = False
        self._is_whole = False
        self._last_event = LastEvent()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            # After the end of the response, a disconnect does not make the outcome `cancelled`.
            self._is_disconnected |= not self._is_whole
        elif not self._entry.is_dropped:
            is_last = not message.get("more_body", False)
            num_stored = self._entry.add_request_body(message.get("body", b""), is_last=is_last)
            self._journal.grow(self._entry, num_stored)
            if is_last:
                await self._learn_body()
        return message

    async def _learn_body(self) -> None:
        """Finds the credentials in the request's body, and redacts them in the journal entry."""
        if self._entry.request_body.num_bytes > _LONG_BYTES:
            await asyncio.to_thread(self._entry.learn_body)
        else:
            self._entry.learn_body()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body", False)
        has_begun = self._entry.first_s is not None
        if not self._entry.is_dropped:
            self._journal.grow(self._entry, self._add(message))
        await self._send(message)
        if self._is_whole:
            self._entry.duration_s = self._entry.elapsed_s
        if not has_begun and self._entry.first_s is not None:
            # Rendering the prompt takes time, so it is done after the first bytes were sent.
            await self._journal.store_prompt(self._entry)

    async def end(self) -> None:
        """Stores duration, prompt and outcome in the call's journal entry."""
        outcome, num_sent_tokens = self._outcome(), None
        if self._entry.duration_s is None:
            self._entry.duration_s = self._entry.elapsed_s
        try:
            await self._journal.store_prompt(self._entry)
            if outcome in ("cut", "cancelled"):
                num_sent_tokens = await self._num_sent_tokens()
        finally:
            self._journal.end(self._entry, outcome, num_sent_tokens)

    async def _num_sent_tokens(self) -> int | None:
        """Returns how many completion tokens an incomplete stream has sent.

        The backend may have generated more. If the events that were sent contain no token counts,
        counts one token for each event. Returns None if the response is not a stream, or if only
        its beginning is stored.
        """
        body = self._entry.response_body
        if not self._entry.is_stream or body.num_left_out:
            return None
        if usage := self._entry.usage_in_response():
            return usage.num_completion_tokens
        if body.num_bytes > _LONG_BYTES:
            sent = await asyncio.to_thread(completion_in, body.text, is_stream=True)
        else:
            sent = completion_in(body.text, is_stream=True)
        return sent.num_events if sent else None

    def _add(self, message: Message) -> int:
        """Adds an ASGI message of the response to the entry.

        Returns how many bytes of this message the entry stores.
        """
        if message["type"] == "http.response.start":
            return self._entry.add_response_start(message)
        if body := message.get("body", b""):
            if self._entry.is_stream:
                self._last_event.feed(body)
            return self._entry.add_response_body(body)
        return 0

    def _outcome(self) -> str:
        status = self._entry.status
        if self._is_disconnected or status == CLIENT_CLOSED_REQUEST:
            return "cancelled"
        if not self._is_whole or status is None:
            return "cut"
        if status >= 400:
            return "error"
        return "cut" if self._entry.is_stream and not self._last_event.ends_stream else "ok"
