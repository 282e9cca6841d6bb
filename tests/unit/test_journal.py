"""What the journal keeps of calls that pass through it, and what it says of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from workers_ai_emulator.engine.types import Chunk, FinishReason, StartedGeneration, Usage
from workers_ai_emulator.middleware.journal import views
from workers_ai_emulator.middleware.journal.entry import MAX_PART_BYTES
from workers_ai_emulator.middleware.journal.journal import Journal
from workers_ai_emulator.middleware.journal.middleware import JournalMiddleware
from workers_ai_emulator.tasks.response_formats import (
    ChatCompletionFormat,
    GzipFormat,
    NativeFormat,
    TensorFormat,
)
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.envelope import END_OF_STREAM, event, success, to_json
from workers_ai_emulator.wire.redaction import CREDENTIAL_HEADERS
from workers_ai_emulator.wire.responses import JsonResponse

from tests.server import ACCOUNT_ID, INT8

PATH = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}"
SECRET = "sk-0123456789"
Headers = Mapping[str, str]


@dataclass
class FakeGeneration:
    """One that has made three tokens of a prompt of two."""

    num_prompt_tokens: int = 2
    finish_reason: FinishReason | None = FinishReason.STOP
    fingerprint: str = ""

    @property
    def usage(self) -> Usage:
        return Usage(self.num_prompt_tokens, 3)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        raise NotImplementedError

    def cancel(self) -> None:
        pass

    def cancel_after(self, limit_s: float) -> None:
        pass


def call(app: ASGIApp, entries: Journal, body: bytes = b"{}", **scope: Any) -> list[Message]:
    """What the journal passes on for a call to this application; the client stays to the end."""
    return asyncio.run(acall(app, entries, [body], **scope))


async def acall(
    app: ASGIApp,
    entries: Journal,
    bodies: Iterable[bytes] = (b"{}",),
    *,
    headers: Headers | None = None,
    stays: bool = True,
    **scope: Any,
) -> list[Message]:
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": True} for body in bodies
    ]
    messages[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages and stays:
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    common = {"type": "http", "method": "POST", "path": PATH, "query_string": b""}
    await JournalMiddleware(app, entries)({**common, "headers": raw, **scope}, receive, send)
    return sent


def answering(
    response: Callable[[], Response], started: Callable[[], StartedGeneration] | None = None
) -> ASGIApp:
    """An application that reads the body and gives this answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        if started:
            context_of(scope).started = started()
        await response()(scope, receive, send)

    return app


def streaming(*events: bytes) -> Callable[[], Response]:
    async def pieces() -> Any:
        for each in events:
            yield each

    return lambda: StreamingResponse(pieces(), media_type="text/event-stream")


OK = answering(lambda: JsonResponse(success({"response": "Hello"})))
STREAM = answering(streaming(event({"response": "Hel"}), event({"response": "lo"}), END_OF_STREAM))


def whole(entries: Journal, number: int = 1) -> Any:
    entry = entries.get(number)
    assert entry is not None
    return json.loads(asyncio.run(views.whole(entry)))


def test_a_call_passes_through_unchanged_and_is_kept() -> None:
    entries = Journal()
    sent = call(OK, entries, b'{"prompt":"Hi"}', query_string=b"a=1")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert b"".join(m.get("body", b"") for m in sent) == success({"response": "Hello"})
    kept = whole(entries)
    assert (kept["path"], kept["query"], kept["model"]) == (PATH, "a=1", INT8)
    assert (kept["status"], kept["outcome"], kept["stream"]) == (200, "ok", False)
    assert (kept["request"]["body"], kept["answer"]["text"]) == ({"prompt": "Hi"}, "Hello")


def test_what_makes_no_text_is_not_kept() -> None:
    entries = Journal()
    call(OK, entries, path="/_emulator/healthz")
    call(OK, entries, method="GET")
    assert len(entries) == 0


def test_a_stream_is_kept_as_it_was_sent_and_as_text() -> None:
    entries = Journal()
    call(STREAM, entries)
    answer = whole(entries)["answer"]
    assert answer["text"] == "Hello"
    assert (
        answer["sent"] == 'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\ndata: [DONE]\n\n'
    )


ERROR = JsonResponse(b'{"errors":[{"message":"no","code":5007}],"success":false}', 400)
BARE_ERROR = JsonResponse(b'{"name":"AiError","internalCode":3040,"httpCode":429}', 429)


@pytest.mark.parametrize(
    ("app", "outcome"),
    [
        (OK, "ok"),
        (STREAM, "ok"),
        (answering(lambda: ERROR), "5007"),
        (answering(lambda: BARE_ERROR), "3040"),
        (answering(lambda: Response("gone", 502)), "error"),
        (answering(streaming(event({"response": "Hel"}))), "cut"),
        (answering(lambda: Response(status_code=499)), "cancelled"),
    ],
)
def test_every_call_has_an_outcome(app: ASGIApp, outcome: str) -> None:
    entries = Journal()
    call(app, entries)
    assert whole(entries)["outcome"] == outcome


def test_a_call_whose_answer_fails_is_cut_and_the_error_goes_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("it broke")

    entries = Journal()
    with pytest.raises(OSError, match="it broke"):
        call(app, entries)
    assert (whole(entries)["outcome"], entries.running) == ("cut", set())


def test_a_client_that_leaves_before_the_end_has_cancelled() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await ERROR(scope, receive, send)

    entries = Journal()
    asyncio.run(acall(app, entries, stays=False))
    assert whole(entries)["outcome"] == "cancelled"


def test_a_client_that_leaves_after_the_end_has_not() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JsonResponse(b"{}")(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    entries = Journal()
    asyncio.run(acall(app, entries, stays=False))
    assert whole(entries)["outcome"] == "ok"


def test_a_body_that_nobody_reads_is_not_kept() -> None:
    entries = Journal()
    call(ERROR, entries, b'{"prompt":"Hi"}')
    assert whole(entries)["request"] == {
        "headers": {},
        "bytes": 0,
        "bytes_left_out": 0,
        "body": None,
    }


# ── models and tokens ────────────────────────────────────────────────────────────────────────


STREAM_ANSWER = streaming(event({"response": "a"}), END_OF_STREAM)


def test_tokens_weights_and_prompt_are_those_of_the_backend() -> None:
    entries = Journal()
    call(
        answering(STREAM_ANSWER, lambda: StartedGeneration(FakeGeneration(), "weights", str)),
        entries,
    )
    call(
        answering(
            STREAM_ANSWER, lambda: StartedGeneration(FakeGeneration(), "w", lambda: "PROMPT")
        ),
        entries,
    )
    first, second = whole(entries, 1), whole(entries, 2)
    assert (first["answered_by"], first["prompt_tokens"]) == ("weights", 2)
    assert (first["completion_tokens"], entries.num_completion_tokens) == (3, 6)
    assert second["prompt"] == {"bytes": 6, "bytes_left_out": 0, "text": "PROMPT"}


def test_nothing_of_a_backend_is_held_after_the_end() -> None:
    entries = Journal()
    call(
        answering(STREAM_ANSWER, lambda: StartedGeneration(FakeGeneration(), "w", lambda: "p")),
        entries,
    )
    entry = entries.get(1)
    assert entry is not None and entry.started is None


@pytest.mark.parametrize(("num_tokens", "is_aside"), [(10, False), (5000, True)])
def test_a_long_prompt_is_rendered_beside_the_event_loop(num_tokens: int, is_aside: bool) -> None:
    threads = []

    def prompt() -> str:
        threads.append(threading.current_thread())
        return "PROMPT"

    entries = Journal()
    app = answering(
        STREAM_ANSWER, lambda: StartedGeneration(FakeGeneration(num_tokens), "w", prompt)
    )
    call(app, entries)
    assert [thread is not threading.main_thread() for thread in threads] == [is_aside]
    assert whole(entries)["prompt"]["text"] == "PROMPT"


def test_an_answer_that_no_backend_made_says_itself_what_it_cost() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    entries = Journal()
    call(answering(streaming(event({"response": "", "usage": usage}), END_OF_STREAM)), entries)
    assert (whole(entries)["prompt_tokens"], whole(entries)["completion_tokens"]) == (5, 7)


@pytest.mark.parametrize(
    ("body", "found", "model"),
    [
        (b'{"model":"@cf/a/b","messages":[]}', None, "@cf/a/b"),
        (b'{"messages":[{"content":"\\"model\\": \\"no\\""}]}', None, None),
        (b'[{"provider":"workers-ai"}]', "@cf/a/c", "@cf/a/c"),
        (b"\xff\x00", None, None),
    ],
)
def test_a_model_is_found_wherever_it_is_named(
    body: bytes, found: str | None, model: str | None
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).model = found
        await OK(scope, receive, send)

    entries = Journal()
    call(app, entries, body, path=f"/client/v4/accounts/{ACCOUNT_ID}/ai/run")
    assert whole(entries)["model"] == model


# ── forms of answers and bodies ──────────────────────────────────────────────────────────────


FORMS = [
    NativeFormat(),
    GzipFormat(),
    TensorFormat(""),
    ChatCompletionFormat("m", include_usage=True),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_the_text_is_found_in_every_form_of_answer(form: Any) -> None:
    async def chunks() -> Any:
        for text in ("Hel", "lo é"):
            yield Chunk(text)

    async def whole_app(scope: Scope, receive: Receive, send: Send) -> None:
        await JsonResponse(form.whole("Hello é", FakeGeneration()))(scope, receive, send)

    async def stream_app(scope: Scope, receive: Receive, send: Send) -> None:
        frames = form.events(chunks(), FakeGeneration())
        await StreamingResponse(frames, media_type="text/event-stream")(scope, receive, send)

    entries = Journal()
    call(whole_app, entries)
    call(stream_app, entries)
    assert [whole(entries, number)["answer"]["text"] for number in (1, 2)] == ["Hello é"] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[" * 5000,
        b'{"a":NaN}',
        b'{"a":1e999}',
        b"1" * 5000,
        b'{"a":"\xff"',
        b"\x1f\x8b",
    ],
)
def test_any_body_makes_valid_json(body: bytes) -> None:
    entries = Journal()
    call(OK, entries, body)
    assert isinstance(whole(entries)["request"]["body"], str)


def test_a_body_in_gzip_is_shown_unpacked() -> None:
    entries = Journal()
    call(OK, entries, gzip.compress(b'{"prompt":"Hi"}'))
    assert whole(entries)["request"]["body"] == {"prompt": "Hi"}


# ── bounds ───────────────────────────────────────────────────────────────────────────────────


def test_only_the_start_of_a_large_part_is_kept_and_the_rest_is_counted() -> None:
    entries = Journal()
    text = "x" * MAX_PART_BYTES + "y" * 10
    app = answering(
        streaming(*[b"z" * 1000] * 400),
        lambda: StartedGeneration(FakeGeneration(), "w", lambda: text),
    )
    asyncio.run(acall(app, entries, [b"x" * MAX_PART_BYTES, b"y" * 20]))
    kept = whole(entries)
    assert kept["request"]["bytes_left_out"] == 20
    assert kept["prompt"]["bytes_left_out"] == 10
    assert kept["answer"]["bytes_left_out"] == 400_000 - MAX_PART_BYTES
    assert kept["request"]["body"] == "x" * MAX_PART_BYTES


def test_the_oldest_give_way_by_number() -> None:
    entries = Journal(max_entries=3)
    for _ in range(5):
        call(OK, entries)
    assert [entry.id for entry in entries.newest(10)] == [5, 4, 3]
    assert (entries.get(2), entries.num_dropped) == (None, 2)


def test_the_oldest_give_way_by_size_and_the_count_of_bytes_is_right() -> None:
    entries = Journal(max_bytes=100_000)
    for size in (10, 50_000, 30_000, 70_000, 5, 90_000, 1000):
        call(OK, entries, b"x" * size)
        kept = entries.newest(100)
        assert entries.num_bytes == sum(entry.num_bytes for entry in kept) <= 100_000
    entries.clear()
    assert entries.num_bytes == 0


def test_a_call_that_gives_way_while_it_runs_goes_on_and_holds_nothing() -> None:
    entries = Journal(max_entries=1)
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entry = entries.get(1)
        await acall(OK, entries)
        await OK(scope, receive, send)
        assert entry is not None
        seen.append((bytes(entry.request_body.stored), bytes(entry.response_body.stored)))

    sent = call(app, entries)
    assert len(sent) == 2
    assert (seen, [entry.id for entry in entries.newest(9)]) == ([(b"", b"")], [2])
    assert entries.num_bytes == sum(entry.num_bytes for entry in entries.newest(9))


def test_a_journal_that_was_emptied_has_another_epoch_and_goes_on_counting() -> None:
    entries = Journal()
    call(OK, entries)
    epoch = entries.epoch
    entries.clear()
    assert (len(entries), entries.num_dropped) == (0, 0)
    assert entries.epoch != epoch
    call(OK, entries)
    assert [entry.id for entry in entries.newest(9)] == [2]


def test_the_newest_are_those_after_an_id() -> None:
    entries = Journal()
    for _ in range(6):
        call(OK, entries)
    assert [entry.id for entry in entries.newest(9, after=3)] == [6, 5, 4]
    assert [entry.id for entry in entries.newest(2, after=3)] == [6, 5]


# ── credentials ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("header", CREDENTIAL_HEADERS)
def test_no_credential_is_kept_in_any_place(header: str) -> None:
    def repeating() -> Response:
        return JsonResponse(to_json({"result": {"response": f"it is {SECRET}"}}))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started = StartedGeneration(FakeGeneration(), "w", lambda: f"prompt {SECRET}")
        await answering(repeating, lambda: started)(scope, receive, send)

    entries = Journal()
    value = {"authorization": f"Bearer {SECRET}", "cookie": f"a=1; session={SECRET}"}
    call(
        app,
        entries,
        to_json({"prompt": f"my key is {SECRET}", SECRET: 1}),
        headers={header: value.get(header, SECRET), "x-other": f"a {SECRET}"},
        path=f"{PATH}/{SECRET}",
        query_string=f"key={SECRET}".encode(),
    )
    entry = entries.get(1)
    assert entry is not None
    text = json.dumps([whole(entries), views.row(entry)])
    assert SECRET not in text
    assert text.count("[redacted]") >= 9


def test_a_credential_with_odd_characters_is_found_as_json_and_urls_write_it() -> None:
    secret = 'a"b\\c/d+e'
    entries = Journal()
    headers = {"authorization": f"Bearer {secret}"}
    call(
        OK,
        entries,
        b"no JSON: " + to_json(secret),
        headers=headers,
        query_string=b"a%22b%5Cc%2Fd%2Be",
    )
    kept = whole(entries)
    assert kept["request"]["body"] == 'no JSON: "[redacted]"'
    assert kept["query"] == "[redacted]"


def test_half_a_credential_at_the_end_of_what_is_kept_is_taken_out() -> None:
    entries = Journal()
    body = b"x" * (MAX_PART_BYTES - 8) + SECRET.encode()
    call(OK, entries, body, headers={"authorization": f"Bearer {SECRET}"})
    assert whole(entries)["request"]["body"] == "x" * (MAX_PART_BYTES - 8)


@pytest.mark.parametrize("end", ["", "x" * MAX_PART_BYTES], ids=["whole", "cut"])
def test_headers_inside_a_universal_body_count_as_headers(end: str) -> None:
    step = {"headers": {"Authorization": f"Bearer {SECRET}"}, "query": {"prompt": "Hi", "end": end}}
    entries = Journal()
    call(OK, entries, to_json([step]))
    text = json.dumps(whole(entries))
    assert SECRET not in text and "[redacted]" in text


def test_a_token_that_is_a_mere_word_spoils_no_text() -> None:
    entries = Journal()
    call(OK, entries, b'{"prompt":"x local"}', headers={"authorization": "Bearer local"})
    kept = whole(entries)
    assert kept["request"]["headers"] == {"authorization": "[redacted]"}
    assert kept["request"]["body"] == {"prompt": "x local"}


def test_a_credential_written_token_by_token_is_taken_out_of_the_text() -> None:
    pieces = [event({"response": piece}) for piece in ("sk-01", "2345", "6789", ".")]
    entries = Journal()
    headers = {"authorization": f"Bearer {SECRET}"}
    call(answering(streaming(*pieces, END_OF_STREAM)), entries, headers=headers)
    assert whole(entries)["answer"]["text"] == "[redacted]."
