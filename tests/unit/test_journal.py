"""Tests the journal (the list of the last calls): contents, limits, and hidden credentials."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from workers_ai_emulator.backends.rules import parse_rules
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    SamplingParams,
    StartedGeneration,
    ToolCallDelta,
    Usage,
)
from workers_ai_emulator.middleware.journal import entries, views
from workers_ai_emulator.middleware.journal.entry import MAX_PART_BYTES
from workers_ai_emulator.middleware.journal.journal import Journal
from workers_ai_emulator.middleware.journal.middleware import JournalMiddleware
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.choice import (
    chat_format,
    gzipped,
    responses_format,
    run_format,
    tensor_format,
    text_format,
)
from workers_ai_emulator.tasks.response_formats.response_format import ResponseFormat
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.envelope import END_OF_STREAM, event, failure, success, to_json
from workers_ai_emulator.wire.errors import BAD_INPUT, RATE_LIMITED, WireError
from workers_ai_emulator.wire.faults import error_of
from workers_ai_emulator.wire.redaction import CREDENTIAL_HEADERS
from workers_ai_emulator.wire.responses import JsonResponse

from tests.server import ACCOUNT_ID, INT8

PATH = f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}"
SECRET = "sk-0123456789"
Headers = Mapping[str, str]


@dataclass
class FakeGeneration:
    """A generation with two prompt tokens and three completion tokens, without text."""

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


def call(app: ASGIApp, journal: Journal, body: bytes = b"{}", **scope: Any) -> list[Message]:
    """Calls the application through the journal's middleware. Returns the sent messages."""
    return asyncio.run(acall(app, journal, [body], **scope))


async def acall(
    app: ASGIApp,
    journal: Journal,
    bodies: Iterable[bytes] = (b"{}",),
    *,
    headers: Headers | None = None,
    disconnects: bool = False,
    **scope: Any,
) -> list[Message]:
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": True} for body in bodies
    ]
    messages[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages and not disconnects:
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    common = {"type": "http", "method": "POST", "path": PATH, "query_string": b""}
    await JournalMiddleware(app, journal)({**common, "headers": raw, **scope}, receive, send)
    return sent


def responding(
    response: Callable[[], Response], started: Callable[[], StartedGeneration] | None = None
) -> ASGIApp:
    """Returns an ASGI application that reads the request body and sends this response.

    `started`: creates the generation that the application stores in the request's context.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        if started:
            context_of(scope).started = started()
        await response()(scope, receive, send)

    return app


def streaming(*events: bytes) -> Callable[[], Response]:
    async def parts() -> Any:
        for part in events:
            yield part

    return lambda: StreamingResponse(parts(), media_type="text/event-stream")


OK = responding(lambda: JsonResponse(success({"response": "Hello"})))
STREAM = responding(streaming(event({"response": "Hel"}), event({"response": "lo"}), END_OF_STREAM))


def view_of(journal: Journal, number: int = 1) -> Any:
    entry = journal.get(number)
    assert entry is not None
    return json.loads(asyncio.run(views.whole(entry)))


def test_a_call_is_stored_and_not_changed() -> None:
    journal = Journal()
    sent = call(OK, journal, b'{"prompt":"Hi"}', query_string=b"a=1")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert b"".join(m.get("body", b"") for m in sent) == success({"response": "Hello"})
    view = view_of(journal)
    assert (view["path"], view["query"], view["model"]) == (PATH, "a=1", INT8)
    assert (view["status"], view["outcome"], view["stream"]) == (200, "ok", False)
    assert (view["request"]["body"], view["answer"]["text"]) == ({"prompt": "Hi"}, "Hello")


def test_only_inference_calls_are_stored() -> None:
    journal = Journal()
    call(OK, journal, path="/_emulator/healthz")
    call(OK, journal, method="GET")
    assert journal.num_entries() == 0


def test_a_stream_is_stored_as_sent_and_as_text() -> None:
    journal = Journal()
    call(STREAM, journal)
    response = view_of(journal)["answer"]
    assert response["text"] == "Hello"
    assert (
        response["sent"]
        == 'data: {"response":"Hel"}\n\ndata: {"response":"lo"}\n\ndata: [DONE]\n\n'
    )


ERROR = JsonResponse(b'{"errors":[{"message":"no","code":5007}],"success":false}', 400)
BARE_ERROR = JsonResponse(b'{"name":"AiError","internalCode":3040,"httpCode":429}', 429)


@pytest.mark.parametrize(
    ("app", "outcome"),
    [
        (OK, "ok"),
        (STREAM, "ok"),
        (responding(lambda: ERROR), "5007"),
        (responding(lambda: BARE_ERROR), "3040"),
        (responding(lambda: Response("gone", 502)), "error"),
        (responding(streaming(event({"response": "Hel"}))), "cut"),
        (responding(streaming(b"event: ping\n\nevent: mess", b"age_stop\ndata: {}\n\n")), "ok"),
        (responding(streaming(b"event: response.completed\ndata: {", b"}\n\n")), "ok"),
        (responding(streaming(b"event: response.completed\ndata: {")), "cut"),
        (responding(lambda: Response(status_code=499)), "cancelled"),
    ],
)
def test_every_call_has_an_outcome(app: ASGIApp, outcome: str) -> None:
    journal = Journal()
    call(app, journal)
    assert view_of(journal)["outcome"] == outcome


def test_an_error_during_the_response_is_raised_and_the_outcome_is_cut() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("broken")

    journal = Journal()
    with pytest.raises(OSError, match="broken"):
        call(app, journal)
    assert (view_of(journal)["outcome"], journal.running) == ("cut", set())


def test_a_disconnect_before_the_end_is_a_cancelled_call() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await ERROR(scope, receive, send)

    journal = Journal()
    asyncio.run(acall(app, journal, disconnects=True))
    assert view_of(journal)["outcome"] == "cancelled"


def test_a_disconnect_after_the_end_does_not_change_the_outcome() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JsonResponse(b"{}")(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    journal = Journal()
    asyncio.run(acall(app, journal, disconnects=True))
    assert view_of(journal)["outcome"] == "ok"


def test_a_body_that_the_application_does_not_read_is_not_stored() -> None:
    journal = Journal()
    call(ERROR, journal, b'{"prompt":"Hi"}')
    assert view_of(journal)["request"] == {
        "headers": {},
        "bytes": 0,
        "bytes_left_out": 0,
        "body": None,
    }


# ── models and tokens ────────────────────────────────────────────────────────────────────────


STREAM_RESPONSE = streaming(event({"response": "a"}), END_OF_STREAM)


def test_tokens_weights_and_prompt_are_the_backends() -> None:
    journal = Journal()
    call(
        responding(STREAM_RESPONSE, lambda: StartedGeneration(FakeGeneration(), "weights", str)),
        journal,
    )
    call(
        responding(
            STREAM_RESPONSE, lambda: StartedGeneration(FakeGeneration(), "w", lambda: "PROMPT")
        ),
        journal,
    )
    first, second = view_of(journal, 1), view_of(journal, 2)
    assert (first["answered_by"], first["prompt_tokens"]) == ("weights", 2)
    assert (first["completion_tokens"], journal.num_completion_tokens) == (3, 6)
    assert second["prompt"] == {"bytes": 6, "bytes_left_out": 0, "text": "PROMPT"}


def test_the_generation_is_released_after_the_end() -> None:
    journal = Journal()
    call(
        responding(STREAM_RESPONSE, lambda: StartedGeneration(FakeGeneration(), "w", lambda: "p")),
        journal,
    )
    entry = journal.get(1)
    assert entry is not None and entry.started is None


@pytest.mark.parametrize(("num_tokens", "uses_thread"), [(10, False), (5000, True)])
def test_a_long_prompt_is_rendered_in_a_thread(num_tokens: int, uses_thread: bool) -> None:
    threads = []

    def prompt() -> str:
        threads.append(threading.current_thread())
        return "PROMPT"

    journal = Journal()
    app = responding(
        STREAM_RESPONSE, lambda: StartedGeneration(FakeGeneration(num_tokens), "w", prompt)
    )
    call(app, journal)
    assert [thread is not threading.main_thread() for thread in threads] == [uses_thread]
    assert view_of(journal)["prompt"]["text"] == "PROMPT"


def test_without_a_backend_the_token_counts_are_those_in_the_response() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    journal = Journal()
    call(responding(streaming(event({"response": "", "usage": usage}), END_OF_STREAM)), journal)
    assert (view_of(journal)["prompt_tokens"], view_of(journal)["completion_tokens"]) == (5, 7)


@pytest.mark.parametrize(
    ("body", "found", "model"),
    [
        (b'{"model":"@cf/a/b","messages":[]}', None, "@cf/a/b"),
        (b'{"messages":[{"content":"\\"model\\": \\"no\\""}]}', None, None),
        (b'[{"provider":"workers-ai"}]', "@cf/a/c", "@cf/a/c"),
        (b"\xff\x00", None, None),
    ],
)
def test_the_model_is_the_routes_or_the_one_in_the_body(
    body: bytes, found: str | None, model: str | None
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).model = found
        await OK(scope, receive, send)

    journal = Journal()
    call(app, journal, body, path=f"/client/v4/accounts/{ACCOUNT_ID}/ai/run")
    assert view_of(journal)["model"] == model


# ── formats of responses and bodies ──────────────────────────────────────────────────────────


CHOICES = Traits(form="choices")
SGLANG = Traits(form="choices", server="sglang")


@pytest.mark.parametrize("traits", [Traits(), Traits(has_tools=True), CHOICES, SGLANG], ids=repr)
@pytest.mark.parametrize(
    "choose",
    [
        run_format(success),
        run_format(gzipped),
        tensor_format(""),
        chat_format(include_usage=True),
        text_format(include_usage=True),
    ],
)
@pytest.mark.parametrize("prompt", [None, "x"])
def test_the_text_is_found_in_every_response_format(
    choose: Any, traits: Traits, prompt: str | None
) -> None:
    request = TextGenerationRequest(prompt, [], False, False, SamplingParams())
    response_format = choose(replace(CATALOG[INT8], traits=traits, retired_on=None), request)

    texts = texts_in_journal(response_format, Completion("Hello é"), Chunk("Hel"), Chunk("lo é"))
    assert texts == ["Hello é"] * 2


def texts_in_journal(
    response_format: ResponseFormat, completion: Completion, *chunks: Chunk
) -> list[str | None]:
    """Sends a completion as a whole and as a stream. Returns the texts in the journal's entries."""
    return [view["answer"]["text"] for view in views_of(response_format, completion, *chunks)]


def views_of(response_format: ResponseFormat, completion: Completion, *chunks: Chunk) -> list[Any]:
    """Sends a completion as a whole and as a stream. Returns the journal's entries as JSON."""
    completion = replace(completion, chunks=chunks)

    async def iterate() -> AsyncIterator[Chunk]:
        for chunk in chunks:
            yield chunk

    async def whole_app(scope: Scope, receive: Receive, send: Send) -> None:
        body = response_format.whole(completion, FakeGeneration())
        await JsonResponse(body)(scope, receive, send)

    async def stream_app(scope: Scope, receive: Receive, send: Send) -> None:
        events = response_format.events(iterate(), FakeGeneration())
        await StreamingResponse(events, media_type="text/event-stream")(scope, receive, send)

    journal = Journal()
    call(whole_app, journal)
    call(stream_app, journal)
    return [view_of(journal, number) for number in (1, 2)]


def test_the_text_of_json_mode_is_json() -> None:
    body = success({"response": {"a": 1}, "usage": {}})
    journal = Journal()
    call(JsonResponse(body), journal)
    assert view_of(journal)["answer"]["text"] == '{"a":1}'


CALLS = (ToolCall("weather", '{"city":"Paris"}'), ToolCall("time", "{}"))
PARTS = [
    Chunk(reasoning="Hm"),
    Chunk("I ask."),
    Chunk(tool_call=ToolCallDelta(0, "", "weather")),
    Chunk(tool_call=ToolCallDelta(0, '{"city":')),
    Chunk(tool_call=ToolCallDelta(0, '"Paris"}')),
    Chunk(tool_call=ToolCallDelta(1, "{}", "time")),
    Chunk("", FinishReason.TOOL_CALLS),
]


@pytest.mark.parametrize("text", ["", "I ask."])
@pytest.mark.parametrize(
    ("traits", "choose"),
    [
        (Traits(has_tools=True), run_format(success)),
        (CHOICES, run_format(success)),
        (SGLANG, run_format(success)),
        (Traits(has_tools=True), chat_format(include_usage=True)),
        (CHOICES, responses_format({}, to_json)),
    ],
)
def test_tool_calls_are_lines_in_the_text(choose: Any, traits: Traits, text: str) -> None:
    request = TextGenerationRequest(None, [], False, False, SamplingParams())
    response_format = choose(replace(CATALOG[INT8], traits=traits, retired_on=None), request)
    chunks = [chunk for chunk in PARTS if text or not chunk.text]
    texts = texts_in_journal(response_format, Completion(text, "Hm", CALLS), *chunks)
    expected = 'weather {"city":"Paris"}\ntime {}'
    assert texts == [f"{text}\n{expected}" if text else expected] * 2


def test_a_response_without_text_and_tool_calls_has_no_text() -> None:
    journal = Journal()
    call(JsonResponse(success({"usage": {}})), journal)
    assert view_of(journal)["answer"]["text"] is None


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
def test_a_body_that_is_not_json_is_shown_as_text(body: bytes) -> None:
    journal = Journal()
    call(OK, journal, body)
    assert isinstance(view_of(journal)["request"]["body"], str)


def test_a_body_in_gzip_is_shown_decompressed() -> None:
    journal = Journal()
    call(OK, journal, gzip.compress(b'{"prompt":"Hi"}'))
    assert view_of(journal)["request"]["body"] == {"prompt": "Hi"}


# ── bounds ───────────────────────────────────────────────────────────────────────────────────


def test_only_the_start_of_a_large_part_is_stored_and_the_rest_is_counted() -> None:
    journal = Journal()
    text = "x" * MAX_PART_BYTES + "y" * 10
    app = responding(
        streaming(*[b"z" * 1000] * 400),
        lambda: StartedGeneration(FakeGeneration(), "w", lambda: text),
    )
    asyncio.run(acall(app, journal, [b"x" * MAX_PART_BYTES, b"y" * 20]))
    view = view_of(journal)
    assert view["request"]["bytes_left_out"] == 20
    assert view["prompt"]["bytes_left_out"] == 10
    assert view["answer"]["bytes_left_out"] == 400_000 - MAX_PART_BYTES
    assert view["request"]["body"] == "x" * MAX_PART_BYTES


def test_the_oldest_entries_are_dropped_above_the_maximum_number() -> None:
    journal = Journal(max_entries=3)
    for _ in range(5):
        call(OK, journal)
    assert [entry.id for entry in journal.newest(10)] == [5, 4, 3]
    assert (journal.get(2), journal.num_dropped()) == (None, 2)


def test_the_oldest_entries_are_dropped_above_the_maximum_size() -> None:
    journal = Journal(max_bytes=100_000)
    for size in (10, 50_000, 30_000, 70_000, 5, 90_000, 1000):
        call(OK, journal, b"x" * size)
        entries = journal.newest(100)
        assert journal.num_bytes() == sum(entry.num_bytes for entry in entries) <= 100_000
    journal.clear()
    assert journal.num_bytes() == 0


def test_a_call_that_is_dropped_while_it_runs_completes_and_stores_nothing() -> None:
    journal = Journal(max_entries=1)
    stored = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entry = journal.get(1)
        await acall(OK, journal)
        await OK(scope, receive, send)
        assert entry is not None
        stored.append((bytes(entry.request_body.stored), bytes(entry.response_body.stored)))

    sent = call(app, journal)
    assert len(sent) == 2
    assert (stored, [entry.id for entry in journal.newest(9)]) == ([(b"", b"")], [2])
    assert journal.num_bytes() == sum(entry.num_bytes for entry in journal.newest(9))


def test_clearing_the_journal_changes_the_epoch_but_not_the_next_id() -> None:
    journal = Journal()
    call(OK, journal)
    epoch = journal.epoch
    journal.clear()
    assert (journal.num_entries(), journal.num_dropped()) == (0, 0)
    assert journal.epoch != epoch
    call(OK, journal)
    assert [entry.id for entry in journal.newest(9)] == [2]


# ── accounts ─────────────────────────────────────────────────────────────────────────────────


ONE, OTHER = "1" * 32, "2" * 32


def path_of(account: str) -> str:
    return f"/client/v4/accounts/{account}/ai/run/{INT8}"


def unmatched(response: ASGIApp) -> ASGIApp:
    """Returns an application that marks the call as unmatched, and then responds."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).is_unmatched = True
        await response(scope, receive, send)

    return app


def test_many_calls_of_an_account_drop_no_entries_of_another_one() -> None:
    journal = Journal(max_entries=4)
    call(OK, journal, path=path_of(ONE))
    for _ in range(6):
        call(OK, journal, path=path_of(OTHER))
    assert [entry.id for entry in journal.newest(9)] == [7, 6, 5, 1]
    assert [journal.num_dropped(account) for account in (ONE, OTHER, None)] == [0, 3, 3]
    assert [journal.num_entries(account) for account in (ONE, OTHER, None)] == [1, 3, 4]


def test_large_calls_of_an_account_drop_no_entries_of_another_one() -> None:
    journal = Journal(max_bytes=100_000)
    call(OK, journal, path=path_of(ONE))
    for _ in range(3):
        call(OK, journal, b"x" * 60_000, path=path_of(OTHER))
    assert [entry.id for entry in journal.newest(9)] == [4, 1]
    assert journal.num_bytes() == journal.num_bytes(ONE) + journal.num_bytes(OTHER)


def test_of_accounts_with_as_many_entries_the_oldest_entry_is_dropped() -> None:
    journal = Journal(max_entries=2)
    for account in (ONE, OTHER, "3" * 32):
        call(OK, journal, path=path_of(account))
    assert [entry.id for entry in journal.newest(9)] == [3, 2]


def test_clearing_an_account_leaves_the_entries_and_counts_of_the_others() -> None:
    journal = Journal(max_entries=2)
    for account in (ONE, ONE, OTHER, OTHER):
        call(unmatched(OK), journal, path=path_of(account))
    epoch = journal.epoch
    journal.clear(ONE)
    assert [entry.account for entry in journal.newest(9)] == [OTHER]
    assert (journal.num_dropped(ONE), journal.num_dropped(OTHER)) == (0, 1)
    assert [journal.num_unmatched(account) for account in (ONE, OTHER, None)] == [0, 2, 2]
    assert journal.epoch != epoch


def test_unmatched_calls_are_counted_although_their_entries_are_dropped() -> None:
    journal = Journal(max_entries=2)
    for _ in range(5):
        call(unmatched(OK), journal)
    call(OK, journal)
    assert (len(journal.unmatched()), journal.num_unmatched()) == (1, 5)
    journal.clear()
    assert journal.num_unmatched() == 0


def test_a_running_call_is_unmatched_until_the_journal_is_cleared() -> None:
    journal = Journal()
    counts = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        counts.append(journal.num_unmatched())
        journal.clear()
        counts.append(journal.num_unmatched())
        await OK(scope, receive, send)

    call(unmatched(app), journal)
    assert [*counts, journal.num_unmatched()] == [1, 0, 0]


def test_an_entry_has_the_account_whose_rules_apply() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).account = OTHER
        await JournalMiddleware(OK, journal)(scope, receive, send)

    journal = Journal()
    call(app, Journal(), path=path_of(ONE))
    assert view_of(journal)["account"] == OTHER


def test_counts_of_more_than_the_maximum_number_of_accounts_are_part_of_the_total(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entries, "_MAX_COUNTED_ACCOUNTS", 2)
    counts = entries.Counts()
    for account in (ONE, ONE, OTHER, "3" * 32):
        counts.add(account)
    assert [counts.of(account) for account in (ONE, OTHER, None)] == [0, 1, 4]


# ── what an entry says of its call ───────────────────────────────────────────────────────────


def with_inputs(inputs: Any, response: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).inputs = inputs
        await response(scope, receive, send)

    return app


def test_an_entry_has_the_beginning_of_the_prompt_without_credentials() -> None:
    journal = Journal()
    headers = {"authorization": f"Bearer {SECRET}"}
    inputs = {"prompt": f"{SECRET} " + "x" * 300}
    asyncio.run(acall(with_inputs(inputs, OK), journal, headers=headers))
    excerpt = view_of(journal)["excerpt"]
    assert excerpt.startswith("[redacted] xxx") and len(excerpt) < 201


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        (b'{"messages":[{"role":"user","content":"Hi"}],"temperature":99}', "Hi"),
        (b"not JSON", None),
        (b'{"prompt":', None),
    ],
)
def test_the_excerpt_of_a_refused_call_is_that_of_its_body(body: bytes, excerpt: str) -> None:
    journal = Journal()
    call(responding(lambda: JsonResponse(b"{}", 400)), journal, body)
    assert view_of(journal)["excerpt"] == excerpt


def test_a_stream_has_a_number_of_events() -> None:
    journal = Journal()
    first, second = event({"response": "a"}), event({"response": "b"})
    parts = [first + second[:5], second[5:-1], second[-1:], END_OF_STREAM, b"data: half"]
    call(responding(streaming(*parts)), journal)
    call(OK, journal)
    assert (view_of(journal)["events"], view_of(journal, 2)["events"]) == (3, None)


@pytest.mark.parametrize(
    ("events", "num_tokens"),
    [
        ([event({"response": "a"}), event({"response": "b"}), b'data: {"resp'], 2),
        ([event({"response": "a", "usage": {"prompt_tokens": 2, "completion_tokens": 1}})] * 2, 1),
        ([event({"response": "a"})] * 9, 3),
        ([], 0),
    ],
)
def test_a_cut_stream_has_the_completion_tokens_that_were_sent(
    events: list[bytes], num_tokens: int
) -> None:
    journal = Journal()
    started = partial(StartedGeneration, FakeGeneration(), "weights", lambda: "Hi")
    call(responding(streaming(*events), started), journal)
    view = view_of(journal)
    assert (view["outcome"], view["completion_tokens"]) == ("cut", num_tokens)


def test_a_response_has_reasoning_apart_from_its_text() -> None:
    request = TextGenerationRequest(None, [], False, False, SamplingParams())
    chat = chat_format(include_usage=True)
    for choose, traits in (
        (run_format(success), CHOICES),
        (responses_format({}, to_json), CHOICES),
        (chat, CHOICES),
        (chat, replace(CHOICES, reasoning_keys=("reasoning",))),
    ):
        response_format = choose(replace(CATALOG[INT8], traits=traits, retired_on=None), request)
        chunks = [Chunk(reasoning="Hm"), Chunk(reasoning=", so"), Chunk("Yes."), PARTS[-1]]
        for view in views_of(response_format, Completion("Yes.", "Hm, so"), *chunks):
            assert (view["answer"]["reasoning"], view["answer"]["text"]) == ("Hm, so", "Yes.")
    journal = Journal()
    call(OK, journal)
    assert view_of(journal)["answer"]["reasoning"] is None


def test_a_call_has_a_rule_of_a_script_with_its_completion() -> None:
    request = TextGenerationRequest(None, [], False, False, SamplingParams())
    choose = run_format(success)
    response_format = choose(replace(CATALOG[INT8], traits=CHOICES, retired_on=None), request)
    for view in views_of(response_format, Completion("I ask.", "Hm", CALLS), *PARTS):
        [rule] = parse_rules([view["as_rule"]])
        assert (rule.completion.text, rule.completion.reasoning) == ("I ask.", "Hm")
        calls = [(each.name, json.loads(each.arguments)) for each in rule.completion.tool_calls]
        assert calls == [("weather", {"city": "Paris"}), ("time", {})]


def test_the_text_of_a_call_has_the_pieces_that_are_numbers() -> None:
    def delta(content: Any) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"content": content}}]})

    journal = Journal()
    call(
        responding(streaming(delta("It costs "), delta(5), delta(" dollars."), END_OF_STREAM)),
        journal,
    )
    assert view_of(journal)["answer"]["text"] == "It costs 5 dollars."


def test_the_rule_of_a_call_applies_to_calls_with_the_same_message() -> None:
    inputs = {"messages": [{"role": "user", "content": f"{SECRET}: the rest\nof it"}]}
    journal = Journal()
    headers = {"x-api-key": SECRET}
    asyncio.run(acall(with_inputs(inputs, OK), journal, headers=headers))
    rule = view_of(journal)["as_rule"]
    assert rule == {"model": INT8, "contains": ": the rest\nof it", "answer": "Hello"}


def test_the_rule_of_a_call_contains_no_lone_surrogate() -> None:
    journal = Journal()
    asyncio.run(acall(with_inputs({"prompt": "ab\ud800 the rest"}, OK), journal))
    rule = view_of(journal)["as_rule"]
    assert rule["contains"] == " the rest"
    assert parse_rules([rule])


@pytest.mark.parametrize(
    "app",
    [
        responding(lambda: JsonResponse(b"{}", 400)),
        responding(lambda: JsonResponse(success({"usage": {}}))),
        responding(streaming(event({"response": "Hel"}))),
        responding(lambda: JsonResponse(success({"response": "x" * 400_000}))),
    ],
    ids=["error", "no completion", "cut", "too large"],
)
def test_a_call_without_a_whole_completion_has_no_rule(app: ASGIApp) -> None:
    journal = Journal()
    call(app, journal)
    assert view_of(journal)["as_rule"] is None


@pytest.mark.parametrize("model", ["@cf/baai/bge-m3", "@cf/baai/bge-reranker-base"])
@pytest.mark.parametrize(
    "response", [JsonResponse(success({"response": [{"id": 0, "score": 0.5}]})), ERROR]
)
def test_embeddings_and_rankings_have_no_rule(model: str, response: JsonResponse) -> None:
    journal = Journal()
    call(responding(lambda: response), journal, path=PATH.replace(INT8, model))
    assert view_of(journal)["as_rule"] is None


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("error", [WireError(BAD_INPUT, "no {{ text }}"), WireError(RATE_LIMITED)])
def test_a_call_with_an_error_has_a_rule_with_this_error(error: WireError, is_bare: bool) -> None:
    body = failure(error, str(uuid4()), is_bare=is_bare)
    journal = Journal()
    call(responding(lambda: JsonResponse(body, error.type.status)), journal)
    [rule] = parse_rules([view_of(journal)["as_rule"]])
    assert rule.own_fault is not None
    again = error_of(rule.own_fault, INT8, is_gateway=False)
    assert (again.message, again.type.code) == (error.message, error.type.code)
    assert again.type.status == error.type.status


def test_a_call_that_no_rule_answered_has_no_rule_with_the_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).is_unmatched = True
        await responding(lambda: ERROR)(scope, receive, send)

    journal = Journal()
    call(app, journal)
    assert view_of(journal)["as_rule"] is None


def test_an_answer_with_braces_is_no_template_in_the_rule() -> None:
    journal = Journal()
    call(responding(lambda: JsonResponse(success({"response": "{{ text }}"}))), journal)
    [rule] = parse_rules([view_of(journal)["as_rule"]])
    assert rule.completion.text == "{{ text }}" and rule.responses[0].render is None


def test_the_newest_entries_after_an_id_are_returned() -> None:
    journal = Journal()
    for _ in range(6):
        call(OK, journal)
    assert [entry.id for entry in journal.newest(9, after=3)] == [6, 5, 4]
    assert [entry.id for entry in journal.newest(2, after=3)] == [6, 5]


# ── credentials ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("header", CREDENTIAL_HEADERS)
def test_a_credential_is_redacted_everywhere(header: str) -> None:
    def echo() -> Response:
        return JsonResponse(to_json({"result": {"response": f"it is {SECRET}"}}))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started = StartedGeneration(FakeGeneration(), "w", lambda: f"prompt {SECRET}")
        await responding(echo, lambda: started)(scope, receive, send)

    journal = Journal()
    value = {"authorization": f"Bearer {SECRET}", "cookie": f"a=1; session={SECRET}"}
    call(
        app,
        journal,
        to_json({"prompt": f"my key is {SECRET}", SECRET: 1}),
        headers={header: value.get(header, SECRET), "x-other": f"a {SECRET}"},
        path=f"{PATH}/{SECRET}",
        query_string=f"key={SECRET}".encode(),
    )
    entry = journal.get(1)
    assert entry is not None
    text = json.dumps([view_of(journal), views.row(entry)])
    assert SECRET not in text
    assert text.count("[redacted]") >= 9


def test_a_credential_is_redacted_as_escaped_in_json_and_urls() -> None:
    secret = 'a"b\\c/d+e'
    journal = Journal()
    headers = {"authorization": f"Bearer {secret}"}
    call(
        OK,
        journal,
        b"no JSON: " + to_json(secret),
        headers=headers,
        query_string=b"a%22b%5Cc%2Fd%2Be",
    )
    view = view_of(journal)
    assert view["request"]["body"] == 'no JSON: "[redacted]"'
    assert view["query"] == "[redacted]"


def test_the_start_of_a_credential_at_the_end_of_a_stored_part_is_removed() -> None:
    journal = Journal()
    body = b"x" * (MAX_PART_BYTES - 8) + SECRET.encode()
    call(OK, journal, body, headers={"authorization": f"Bearer {SECRET}"})
    assert view_of(journal)["request"]["body"] == "x" * (MAX_PART_BYTES - 8)


@pytest.mark.parametrize("end", ["", "x" * MAX_PART_BYTES], ids=["whole", "cut"])
def test_credentials_in_headers_inside_a_universal_body_are_redacted(end: str) -> None:
    step = {"headers": {"Authorization": f"Bearer {SECRET}"}, "query": {"prompt": "Hi", "end": end}}
    journal = Journal()
    call(OK, journal, to_json([step]))
    text = json.dumps(view_of(journal))
    assert SECRET not in text and "[redacted]" in text


@pytest.mark.parametrize(
    "request_parts",
    [
        {"body": to_json({"api_key": SECRET})},
        {"body": gzip.compress(to_json([{"headers": {"x-goog-api-key": SECRET}}]), mtime=0)},
        {"headers": {"x-auth-token": SECRET}},
        {"query_string": f"api_token={SECRET}".encode()},
        {"path": f"{PATH}/token/{SECRET}"},
    ],
)
def test_a_credential_is_found_by_its_name_and_redacted_everywhere(request_parts: Any) -> None:
    def echo() -> Response:
        return JsonResponse(to_json({"result": {"response": f"it is {SECRET}"}}))

    journal = Journal()
    parts = {"path": f"{PATH}/{SECRET}", "headers": {"x-other": SECRET}} | request_parts
    call(responding(echo), journal, **parts)
    entry = journal.get(1)
    assert entry is not None
    text = json.dumps([view_of(journal), views.row(entry)])
    assert SECRET not in text and "it is [redacted]" in text


def test_a_credential_of_a_running_call_is_redacted() -> None:
    async def read_while_running() -> str:
        journal = Journal()
        texts: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            entry = journal.get(1)
            assert entry is not None
            texts.append((await views.whole(entry)).decode())

        bodies = [to_json({"api_key": SECRET})[:-1], b"}"]
        await acall(app, journal, bodies, path=f"{PATH}/{SECRET}")
        return texts[0]

    assert SECRET not in asyncio.run(read_while_running())


def test_a_short_token_is_not_redacted_in_texts() -> None:
    journal = Journal()
    call(OK, journal, b'{"prompt":"x local"}', headers={"authorization": "Bearer local"})
    view = view_of(journal)
    assert view["request"]["headers"] == {"authorization": "[redacted]"}
    assert view["request"]["body"] == {"prompt": "x local"}


def test_a_credential_spread_over_several_events_is_redacted_in_the_text() -> None:
    pieces = [event({"response": piece}) for piece in ("sk-01", "2345", "6789", ".")]
    journal = Journal()
    headers = {"authorization": f"Bearer {SECRET}"}
    call(responding(streaming(*pieces, END_OF_STREAM)), journal, headers=headers)
    assert view_of(journal)["answer"]["text"] == "[redacted]."
