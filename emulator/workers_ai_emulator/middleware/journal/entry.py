"""An entry of the journal: an inference call and its response.

An entry stores bodies as bytes, which are parsed when the entry is displayed.
"""

from __future__ import annotations

import copy
import re
import time
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import Message, Scope

from workers_ai_emulator.engine.types import StartedGeneration, Usage
from workers_ai_emulator.json_values import json_or_none
from workers_ai_emulator.wire.body import GZIP_MAGIC
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.excerpt import excerpt_of
from workers_ai_emulator.wire.redaction import Redaction

MAX_PART_BYTES = 2**18  # limit for the stored bytes of each body, and of the prompt

_EMPTY_BYTES = 4096  # estimated memory of an entry without headers and bodies
_MAX_TEXT_LENGTH = 2000  # characters; longer paths and headers are shortened
_MAX_HEADERS = 100
_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
_CODE = re.compile(rb'"(?:internalCode|code)":(\d+)')
_END_OF_EVENT = b"\n\n"
_USAGE = re.compile(rb'"prompt_tokens":(\d+),(?:"total_tokens":\d+,)?"completion_tokens":(\d+)')


class Part:
    """A request body, response body or prompt. Stores only the first MAX_PART_BYTES bytes."""

    __slots__ = ("num_bytes", "stored")

    def __init__(self, data: bytes = b"") -> None:
        self.stored = bytearray(data[:MAX_PART_BYTES])
        self.num_bytes = len(data)

    def add(self, data: bytes) -> int:
        """Appends `data`, up to the limit MAX_PART_BYTES. Returns how many bytes were appended."""
        self.num_bytes += len(data)
        data = data[: MAX_PART_BYTES - len(self.stored)]
        self.stored += data
        return len(data)

    @property
    def num_left_out(self) -> int:
        """The number of bytes that were not stored, because of the limit MAX_PART_BYTES."""
        return self.num_bytes - len(self.stored)

    @property
    def text(self) -> str:
        """The stored bytes, decoded as UTF-8.

        gzip data is decompressed first: the SDK `@cloudflare/ai` 1.1 sends and receives gzip.
        """
        data = bytes(self.stored)
        return (_unpacked(data) if data.startswith(GZIP_MAGIC) else data).decode("utf-8", "replace")

    def copy(self) -> Part:
        duplicate = copy.copy(self)
        duplicate.stored = self.stored[:]
        return duplicate


class Entry:
    """An inference call, and the part of its response that has been sent so far.

    `first_s`, `last_s`: when the first and the last part of the response's body were sent, in
    seconds since the request arrived. `outcome`: None until the call has ended. Then it is `ok`,
    `cancelled` if the client disconnected, `cut` if the response is incomplete, or an error code.
    If the error that was sent has no code, the outcome is `error`. `account`: the account whose
    rules and faults apply to the call, or None. `num_events`: the number of complete events of a
    stream. `is_dropped`: whether the journal no longer stores the entry. `is_cleared`: whether
    the journal was cleared since the call began.
    """

    def __init__(self, number: int, scope: Scope, call: InferenceCall) -> None:
        headers = Headers(scope=scope)
        self.redaction = context_of(scope).redaction = Redaction.of(scope)
        self.id = number
        self.time = datetime.now(UTC)
        self.method: str = scope["method"]
        self.path = _shortened(self.redaction.path(scope["path"]))
        self.query = _shortened(self.redaction.query(scope["query_string"].decode("latin-1")))
        self.account = context_of(scope).account
        self.request_headers = self._headers(headers)
        self.request_body = Part()
        self.prompt: Part | None = None
        self.status: int | None = None
        self.response_headers: dict[str, str] = {}
        self.response_body = Part()
        self.num_pieces = 0  # number of ASGI messages with a part of the response's body
        self.first_s: float | None = None
        self.last_s = 0.0
        self.longest_gap_s = 0.0
        self.duration_s: float | None = None
        self.outcome: str | None = None
        self.is_dropped = False
        self.is_cleared = False
        self.num_events = 0
        self.num_bytes = (  # estimated memory of the entry
            _EMPTY_BYTES + len(self.path) + len(self.query) + _size(self.request_headers)
        )
        self._model = call.model and self._redacted(call.model)
        self._start = time.monotonic()
        self._context = context_of(scope)
        self._usage: Usage | None = None
        self._model_name: str | None = None
        self._excerpt: str | None = None
        self._last_byte = b""  # of the response's body

    @property
    def model(self) -> str | None:
        """The requested model's name, from the path, a header or the body."""
        return self._model or self._context.model

    @property
    def started(self) -> StartedGeneration | None:
        """The call's generation; None before the generation starts and after the call ends.

        An ended call's entry stores no generation, because a generation keeps its model in memory.
        """
        return self._context.started

    @property
    def usage(self) -> Usage | None:
        """The call's token counts so far, or None while they are unknown."""
        return self.started.generation.usage if self.started else self._usage

    @property
    def answered_by(self) -> str | None:
        """The name of the weights, backend or service that responds; None if it is unknown."""
        return self.started.model_name if self.started else self._model_name

    @property
    def excerpt(self) -> str | None:
        """The beginning of the prompt or of the last message; None while it is unknown."""
        if self._excerpt is None and self._context.inputs is not None:
            self._excerpt = self._redacted_excerpt(self._context.inputs)
        return self._excerpt

    @property
    def shown_account(self) -> str | None:
        """The account, as it is displayed: without credentials."""
        return self.account and self._redacted(self.account)

    @property
    def fault(self) -> str | None:
        return self._context.fault

    @property
    def rule(self) -> int | None:
        """The number of the script's rule that gave the completion, or None."""
        return self._context.rule

    @property
    def recording(self) -> str | None:
        """The name of the file whose recording was replayed, or None."""
        return self._context.recording

    @property
    def is_unmatched(self) -> bool:
        """Whether no rule of the script applied to the call, or no recording was found for it."""
        return self._context.is_unmatched

    @property
    def is_stream(self) -> bool:
        return self.response_headers.get("content-type", "").startswith("text/event-stream")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def belongs_to(self, account: str | None) -> bool:
        """Returns whether the call's account is `account`. If `account` is None, returns True."""
        return account in (None, self.account)

    def copy(self) -> Entry:
        """Returns a copy that another thread can read while the call continues."""
        duplicate = copy.copy(self)
        duplicate.request_body = self.request_body.copy()
        duplicate.response_body = self.response_body.copy()
        return duplicate

    def add_request_body(self, body: bytes, *, is_last: bool) -> int:
        """Adds a part of the request's body. Returns how many bytes of this part were stored."""
        num_stored = self.request_body.add(body)
        if is_last and self._model is None and (name := _MODEL.search(self.request_body.stored)):
            self._model = self._redacted(name[1].decode("utf-8", "replace"))
        return num_stored

    def learn_body(self) -> None:
        """Finds the credentials in the request's body, and redacts them in the entry.

        Redacts the path, the query, the model and the request's headers. `views.py` redacts the
        bodies and the prompt later, when it displays the entry.
        """
        redacted = self.redaction.text
        self.redaction.learn_text(self.request_body.text)
        self.path, self.query = redacted(self.path), redacted(self.query)
        self._model = self._model and redacted(self._model)
        self.request_headers = {k: redacted(v) for k, v in self.request_headers.items()}

    def add_response_start(self, message: Message) -> int:
        """Adds the response's status and headers. Returns the size of the stored headers."""
        self.status = message["status"]
        headers = Headers(raw=message["headers"])
        self.response_headers = self._headers(headers)
        if name := headers.get("x-emulator-model"):
            self._model_name = self._redacted(unquote(name))
        return _size(self.response_headers)

    def add_response_body(self, body: bytes) -> int:
        """Adds a part of the response's body. Returns how many bytes of this part were stored."""
        now = self.elapsed_s
        if self.first_s is None:
            self.first_s = now
        else:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_s)
        self.last_s = now
        self.num_pieces += 1
        self.num_events += (self._last_byte + body).count(_END_OF_EVENT) if self.is_stream else 0
        self._last_byte = body[-1:]
        return self.response_body.add(body)

    def usage_in_response(self) -> Usage | None:
        """Returns the token counts in the response's body, or None if the body contains none.

        For replayed responses and responses of the real service, the body is the only source of
        token counts, because this server runs no generation.
        """
        counts = _USAGE.findall(self.response_body.stored)
        return Usage(int(counts[-1][0]), int(counts[-1][1])) if counts else None

    def end(self, outcome: str) -> None:
        """Stores the outcome of the ended call. Discards the call's generation and its input.

        If `outcome` is `error` and the response contains an error code, stores the code instead.
        """
        code = _CODE.search(self.response_body.stored) if outcome == "error" else None
        self.outcome = code[1].decode() if code else outcome
        self._usage = self.usage or self.usage_in_response()
        self._model_name = self.answered_by
        self._excerpt = self.excerpt or self._excerpt_of_body()
        # The new context has no generation, because a generation would keep the model in memory.
        self._context = CallContext(
            fault=self.fault,
            model=self.model,
            rule=self.rule,
            recording=self.recording,
            is_unmatched=self.is_unmatched,
        )

    def limit_completion_tokens(self, num_sent: int) -> None:
        """Reduces the ended call's number of completion tokens to `num_sent`, if it is larger."""
        if self._usage is not None and self._usage.num_completion_tokens > num_sent:
            self._usage = replace(self._usage, num_completion_tokens=num_sent)

    def drop(self) -> None:
        """Discards the bodies and the prompt, because the journal has dropped the entry."""
        self.is_dropped = True
        self.request_body, self.response_body, self.prompt = Part(), Part(), None

    def _excerpt_of_body(self) -> str | None:
        """Returns the excerpt of a body that no model has received, because of an error."""
        # None if the body is not JSON, or if its rest is not stored.
        return self._redacted_excerpt(json_or_none(self.request_body.text))

    def _redacted_excerpt(self, inputs: Any) -> str | None:
        text = excerpt_of(inputs)
        return None if text is None else self.redaction.text(text, is_cut=True)

    def _headers(self, headers: Headers) -> dict[str, str]:
        shown = self.redaction.headers(headers.items()[:_MAX_HEADERS])
        return {name: _shortened(value) for name, value in shown.items()}

    def _redacted(self, text: str) -> str:
        return _shortened(self.redaction.text(text))


def _unpacked(data: bytes) -> bytes:
    """Decompresses gzip data, of which only the beginning may be present.

    Returns at most MAX_PART_BYTES. If the data cannot be decompressed, returns it unchanged.
    """
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_PART_BYTES)
    except zlib.error:
        return data
    return unpacked or data


def _size(headers: dict[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in headers.items())


def _shortened(text: str) -> str:
    if len(text) <= _MAX_TEXT_LENGTH:
        return text
    return f"{text[:_MAX_TEXT_LENGTH]}… ({len(text) - _MAX_TEXT_LENGTH} more)"
