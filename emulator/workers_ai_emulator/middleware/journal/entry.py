"""One call as the journal keeps it: taken in as bytes pass by, parsed only when it is read."""

from __future__ import annotations

import copy
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import Message, Scope

from workers_ai_emulator.backends.backend import StartedGeneration
from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.wire.calls import Call
from workers_ai_emulator.wire.redaction import Redaction

MAX_PART_BYTES = 2**18  # of a body, a prompt or an answer

_EMPTY_BYTES = 4096  # what the objects of an empty entry take
_MAX_WORD_LENGTH = 2000  # characters of a path or a header
_MAX_HEADERS = 100
_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
_CODE = re.compile(rb'"(?:internalCode|code)":(\d+)')
_USAGE = re.compile(rb'"prompt_tokens":(\d+),"completion_tokens":(\d+)')


class Part:
    """A text in bytes, of which the first are kept."""

    __slots__ = ("kept", "num_bytes")

    def __init__(self, data: bytes = b"") -> None:
        self.kept = bytearray(data[:MAX_PART_BYTES])
        self.num_bytes = len(data)

    def add(self, data: bytes) -> int:
        """Keep what there is room for; how many bytes that is."""
        self.num_bytes += len(data)
        data = data[: MAX_PART_BYTES - len(self.kept)]
        self.kept += data
        return len(data)

    @property
    def num_left_out(self) -> int:
        return self.num_bytes - len(self.kept)

    def copy(self) -> Part:
        duplicate = copy.copy(self)
        duplicate.kept = self.kept[:]
        return duplicate


class Entry:
    """A call, as far as it has come. Times are in seconds since it came in.

    `outcome` is None while it runs, then `ok`, an error's code, `cancelled` (the client left) or
    `cut` (the answer broke off).
    """

    def __init__(self, number: int, scope: Scope, call: Call) -> None:
        headers = Headers(scope=scope)
        self.redaction = Redaction(headers)
        self.id = number
        self.time = datetime.now(UTC)
        self.method: str = scope["method"]
        self.path = self._word(scope["path"])
        self.query = self._word(scope["query_string"].decode("latin-1"))
        self.account_id = call.account_id and self._word(call.account_id)
        self.request_headers = self._headers(headers)
        self.request_body = Part()
        self.prompt: Part | None = None
        self.status: int | None = None
        self.answer_headers: dict[str, str] = {}
        self.answer_body = Part()
        self.num_pieces = 0  # of the answer's body; a stream has an event in each
        self.first_s: float | None = None
        self.last_s = 0.0
        self.longest_gap_s = 0.0
        self.duration_s: float | None = None
        self.outcome: str | None = None
        self.is_kept = True
        self.num_bytes = (  # about what it takes in memory
            _EMPTY_BYTES + len(self.path) + len(self.query) + _size(self.request_headers)
        )
        self._model = call.model and self._word(call.model)
        self._start = time.monotonic()
        self._state: dict[str, Any] = scope["state"]
        self._usage: Usage | None = None
        self._model_name: str | None = None

    @property
    def model(self) -> str | None:
        """The name that was asked for; it may stand in the path, the body or deep inside that."""
        return self._model or self._state.get("model")

    @property
    def started(self) -> StartedGeneration | None:
        """What a backend has begun, as long as the call runs: it may hold on to a model."""
        return self._state.get("started")

    @property
    def usage(self) -> Usage | None:
        """Token counts so far; None where nobody counts."""
        return self.started.generation.usage if self.started else self._usage

    @property
    def answered_by(self) -> str | None:
        """The name of the weights, or of what stands for them."""
        return self.started.model_name if self.started else self._model_name

    @property
    def fault(self) -> str | None:
        return self._state.get("fault")

    @property
    def is_stream(self) -> bool:
        return self.answer_headers.get("content-type", "").startswith("text/event-stream")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def copy(self) -> Entry:
        """What it is now, for another thread to read."""
        duplicate = copy.copy(self)
        duplicate.request_body, duplicate.answer_body = (
            self.request_body.copy(),
            self.answer_body.copy(),
        )
        return duplicate

    def take_body(self, body: bytes, *, is_last: bool) -> int:
        """A piece of the request's body; how many bytes of it are kept."""
        num_kept = self.request_body.add(body)
        if is_last and self._model is None and (name := _MODEL.search(self.request_body.kept)):
            self._model = self._word(name[1].decode("utf-8", "replace"))
        return num_kept

    def take_head(self, message: Message) -> int:
        """Status and headers of the answer; how many bytes of them are kept."""
        self.status = message["status"]
        headers = Headers(raw=message["headers"])
        self.answer_headers = self._headers(headers)
        if name := headers.get("x-emulator-model"):
            self._model_name = self._word(unquote(name))
        return _size(self.answer_headers)

    def take_answer(self, body: bytes) -> int:
        """A piece of the answer's body; how many bytes of it are kept."""
        now = self.elapsed_s
        if self.first_s is None:
            self.first_s = now
        else:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_s)
        self.last_s = now
        self.num_pieces += 1
        return self.answer_body.add(body)

    def end(self, outcome: str) -> None:
        """Nothing more will come. An outcome `error` becomes the code in the answer."""
        code = _CODE.search(self.answer_body.kept) if outcome == "error" else None
        self.outcome = code[1].decode() if code else outcome
        self._usage = self.usage or self._usage_in_answer()
        self._model_name = self.answered_by
        self._state = {"fault": self.fault, "model": self.model}

    def forget(self) -> None:
        """Keep no text any more."""
        self.is_kept = False
        self.request_body, self.answer_body, self.prompt = Part(), Part(), None

    def _usage_in_answer(self) -> Usage | None:
        """What an answer says that no backend made."""
        counts = _USAGE.findall(self.answer_body.kept)
        return Usage(int(counts[-1][0]), int(counts[-1][1])) if counts else None

    def _headers(self, headers: Headers) -> dict[str, str]:
        shown = self.redaction.headers(headers.items()[:_MAX_HEADERS])
        return {name: _shortened(value) for name, value in shown.items()}

    def _word(self, text: str) -> str:
        return _shortened(self.redaction.text(text))


def _size(headers: dict[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in headers.items())


def _shortened(text: str) -> str:
    if len(text) <= _MAX_WORD_LENGTH:
        return text
    return f"{text[:_MAX_WORD_LENGTH]}… ({len(text) - _MAX_WORD_LENGTH} more)"
