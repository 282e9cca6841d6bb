"""Tests recordings: how a call finds its recording, hidden credentials, the folder, differences."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.middleware.recordings import folder as folder_module
from workers_ai_emulator.middleware.recordings.capture import ResponseCapture
from workers_ai_emulator.middleware.recordings.difference import difference, nearest
from workers_ai_emulator.middleware.recordings.fingerprint import fingerprint
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.json_lines import line_of
from workers_ai_emulator.middleware.recordings.recorder import Recorder
from workers_ai_emulator.middleware.recordings.recording import RecordedResponse, Recording
from workers_ai_emulator.middleware.recordings.recording_file import parse_recording, recording_text
from workers_ai_emulator.middleware.recordings.recordings import Recordings
from workers_ai_emulator.middleware.recordings.request import Json, RecordedRequest
from workers_ai_emulator.middleware.recordings.series import Series
from workers_ai_emulator.middleware.recordings.state import RecordingState
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.redaction import Redaction

from tests import irregular_files

TOKEN = "cfut_0123456789abcdefghijklmnopqrstuvwx"
REDACTION = Redaction(Headers({"authorization": f"Bearer {TOKEN}"}))


def call_to(path: str, account_id: str | None, model: str | None) -> InferenceCall:
    return InferenceCall(endpoints.RUN_MODEL, path, account_id, model)


CALL = call_to("/ai/run/@cf/a/model", "0" * 32, "@cf/a/model")
JSON_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"cf-ai-req-id", b"id")],
}
STREAM_START = {**JSON_START, "headers": [(b"content-type", b"text/event-stream")]}


def request_of(
    body: Any, *, call: InferenceCall = CALL, query: bytes = b"", redaction: Redaction = REDACTION
) -> RecordedRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RecordedRequest.of(call, query, data, redaction)


def part(body: bytes, *, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}


def capture_of(*messages: dict[str, Any]) -> ResponseCapture:
    capture = ResponseCapture()
    for message in messages:
        capture.feed(message)
    return capture


def event(text: str) -> bytes:
    return f"data: {json.dumps({'response': text})}\n\n".encode()


def events_in(capture: ResponseCapture) -> list[str]:
    response = capture.response("whole", REDACTION)
    assert response is not None and response.events is not None
    return [text for _, text in response.events]


def recording_of(request: RecordedRequest, **response: Any) -> Recording:
    fields: dict[str, Any] = {"status": 200, "headers": {}, "text": "x"} | response
    return Recording("llama", request.content, RecordedResponse(**fields))


# ── the lookup key ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"a","max_tokens":8}',
        b'\n{ "max_tokens": 8.0,\n "prompt": "\\u0061" }',
        b'\xef\xbb\xbf{"max_tokens":8e0,"prompt":"a"}',
        gzip.compress(b'{"prompt":"a","max_tokens":8}', mtime=0),
    ],
)
def test_the_key_does_not_depend_on_the_serialisation_of_a_body(body: bytes) -> None:
    assert request_of(body).key == request_of({"prompt": "a", "max_tokens": 8}).key


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a"},
        {"prompt": "a", "max_tokens": "8"},
        {"prompt": "a", "max_tokens": 8.5},
        {"prompt": "a", "max_tokens": True},
        {"prompt": "a", "max_tokens": 8, "stream": False},
        b'{"prompt":"a","max_tokens":8',
    ],
)
def test_the_key_depends_on_the_values_in_a_body(body: Any) -> None:
    assert request_of(body).key != request_of({"prompt": "a", "max_tokens": 8}).key


def test_the_key_depends_on_path_query_and_model_but_not_on_the_account() -> None:
    binding = call_to("/run", None, "@cf/a/model")
    keys = {
        request_of({}).key,
        request_of({}, query=b"queueRequest=true").key,
        request_of({}, call=binding).key,
        request_of({}, call=binding, query=b"version=3").key,
        request_of({}, call=call_to("/run", None, "@cf/b/model")).key,
    }
    assert len(keys) == 5
    assert request_of({}, call=call_to(CALL.path, "1" * 32, CALL.model)).key in keys
    assert request_of({}, query=b"b=2&a=1").key == request_of({}, query=b"a=1&b=2").key


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"a":NaN}', b'{"a":1e999}', b"[" * 900 + b"]" * 900, b"[" * 10**6],
)
def test_a_body_that_is_not_json_has_a_key_and_can_be_stored(body: bytes) -> None:
    request = request_of(body)
    assert request.key == request_of(body).key != request_of({}).key
    text = recording_text(recording_of(request))
    assert parse_recording(text).recorded_request.key == request.key


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("@cf/meta/llama-2-7b-chat-int8", "cf-meta-llama-2-7b-chat-int8"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "call"),
        ("a\x00b\nc", "a-b-c"),
        ("x" * 500, "x" * 60),
    ],
)
def test_a_file_name_has_only_safe_characters(model: str, slug: str) -> None:
    assert request_of({"model": model}).slug == slug
    assert request_of({}, call=call_to("/run", None, model)).slug == slug


# ── secrets ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": f"my token is {TOKEN}."},
        {TOKEN: 1},
        {"headers": {"Authorization": "Bearer short"}},
        f'{{"prompt": "{TOKEN}"'.encode(),
        b'{"headers": {"authorization": "Bearer short"}',
        b"\xff" + TOKEN.encode(),
    ],
)
def test_a_stored_request_has_no_credentials(body: Any) -> None:
    text = recording_text(recording_of(request_of(body)))
    assert TOKEN not in text and "short" not in text
    assert "redacted" in text or "base64" in text


def test_the_key_does_not_depend_on_the_token() -> None:
    other = Redaction(Headers({"x-auth-key": "another-key-of-mine"}))
    one = request_of({"prompt": f"say {TOKEN}"})
    assert one.key == request_of({"prompt": "say another-key-of-mine"}, redaction=other).key


def test_a_credential_in_a_response_is_redacted() -> None:
    whole = capture_of(JSON_START, part(b'{"response":"' + TOKEN.encode() + b'"}', is_last=True))
    response = whole.response("whole", REDACTION)
    assert response is not None and response.text == '{"response":"[redacted]"}'
    assert events_in(capture_of(STREAM_START, part(event(TOKEN)))) == [event("[redacted]").decode()]


def test_a_response_with_a_credential_that_cannot_be_redacted_is_not_stored() -> None:
    pieces = [part(event(TOKEN[:9])), part(event("")), part(event(TOKEN[9:]))]
    assert capture_of(STREAM_START, *pieces).response("whole", REDACTION) is None
    compressed = capture_of(JSON_START, part(gzip.compress(TOKEN.encode()), is_last=True))
    assert compressed.response("whole", REDACTION) is None


# ── the capture ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_has_the_same_events_for_parts_of_any_size(size: int) -> None:
    stream = event("a") + event("é") + b"data: \xff\n\n" + b"data: [DONE]\n\n"
    parts = [part(stream[i : i + size]) for i in range(0, len(stream), size)]
    capture = capture_of(STREAM_START, *parts)
    assert capture.is_over and len(events_in(capture)) == 4
    response = capture.response("whole", REDACTION)
    assert response is not None
    assert b"".join(data for _, data in response.event_bytes) == stream
    for answer in (response, response.without_times()):
        recording = Recording("x", {"path": "/"}, answer)
        assert parse_recording(recording_text(recording)) == recording


def test_a_binary_body_is_stored_byte_for_byte() -> None:
    data = gzip.compress(b"{}")
    response = capture_of(JSON_START, part(data, is_last=True)).response("whole", REDACTION)
    assert response is not None and response.base64 and response.body == data


@pytest.mark.parametrize(
    ("last", "is_disconnected", "is_cancelled", "ending"),
    [
        (part(b"", is_last=True), False, False, "whole"),
        (part(b"", is_last=True), False, True, "broken off"),
        (part(event("b")), False, False, "broken off"),
        (part(event("b")), True, False, "client left"),
        (part(b"data: [DONE]\n\n"), True, True, "whole"),
        (part(b'event: message_stop\ndata: {"type":"message_stop"}\n\n'), True, True, "whole"),
    ],
)
def test_the_ending_of_a_stream_is_captured(
    last: dict[str, Any], is_disconnected: bool, is_cancelled: bool, ending: str
) -> None:
    capture = capture_of(STREAM_START, part(event("a")), last)
    assert capture.ending(is_disconnected=is_disconnected, is_cancelled=is_cancelled) == ending


def test_only_done_ends_a_recording_before_the_last_message() -> None:
    completed = part(b"event: response.completed\ndata: {}\n\n")
    assert not capture_of(STREAM_START, completed).is_over
    assert capture_of(STREAM_START, completed, part(b"data: [DONE]\n\n")).is_over


@pytest.mark.parametrize(
    ("start", "ending", "reason"),
    [
        (JSON_START, "client left", "the client disconnected"),
        (JSON_START, "broken off", "it broke off"),
        ({**JSON_START, "status": 401, "headers": []}, "whole", "401 is not a response of a model"),
        ({**JSON_START, "headers": [(b"content-encoding", b"br")]}, "whole", "it is compressed"),
        ({**JSON_START, "status": 429}, "whole", ""),
        (STREAM_START, "client left", ""),
    ],
)
def test_an_incomplete_or_unrelated_response_is_not_recorded(
    start: Any, ending: Any, reason: str
) -> None:
    assert (capture_of(start, part(b"{}")).reason_not_to_record(ending) or "").startswith(reason)
    assert bool(capture_of(start).reason_not_to_record(ending)) == bool(reason)


def test_an_error_of_ai_gateway_without_a_request_id_is_recorded() -> None:
    start = {**JSON_START, "status": 404, "headers": []}
    error = {"message": "Model not found: openai/x", "code": 7003}
    body = json.dumps({"errors": [error], "success": False}).encode()
    capture = capture_of(start, part(body[:20]), part(body[20:], is_last=True))
    assert capture.reason_not_to_record("whole") is None


def test_a_response_that_is_too_large_is_not_recorded() -> None:
    capture = capture_of(JSON_START, *[part(bytes(2**20))] * 65)
    assert capture.reason_not_to_record("whole") == "it is larger than 64 MiB"
    response = capture.response("whole", REDACTION)
    assert response is not None and response.body == b""


# ── the folder ────────────────────────────────────────────────────────────────────────────────


def test_responses_to_equal_requests_keep_their_order(tmp_path: Path) -> None:
    folder, request = Folder(tmp_path / "new"), request_of({"prompt": "a"})
    for number in (10, 2, 1):
        folder.write(recording_of(request, text=str(number)), number)
    folder.write(recording_of(request_of({"prompt": "b"})), 1)
    texts = [folder.read(path).answer.text for path in folder.find(request)]
    assert texts == ["1", "2", "10"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: Expecting value, column 1"),
        ("[]", "line 1: it is not a JSON object"),
        ('{\n"version": 3}', "line 2: version: it is 1 or 2, not 3"),
        ('{"version": []}', "version: it is 1 or 2"),
        ('{"version": 2, "answer": {"json": 1,\n"text": ""}}', "it has json and text"),
        ('{"version": 2,\n"answer": {"status": 200,\n"headers": [}}', "line 3: Expecting value"),
        (
            '{"version": 2,\n"answer": {\n"status": 200,\n"ms": 1}}',
            "line 4: unknown key `answer.ms`",
        ),
        ('{"version": 2,\n"answer":\n{"timed_events": [[1, ""],\n["x", ""]]}}', "line 4: "),
        ("[" * 10**5, "nested too deep"),
        (
            '{"recorded_at": "", "source": "", "request": {"path": "/"}, "answer": '
            '{"status": 200, "headers": {}, "after_ms": 0, "base64": "%"}}',
            "answer.base64",
        ),
        (
            '{"recorded_at": "", "source": "", "request": {}, "answer": '
            '{"status": 200, "headers": {}, "after_ms": 0}}',
            "path is missing",
        ),
        (
            '{"recorded_at": "", "source": "", "request": {"path": 5}, "answer": '
            '{"status": 200, "headers": {}, "after_ms": 0}}',
            "path is missing",
        ),
        (
            '{"recorded_at": "", "source": "", "request": {"path": "/"}, "answer": '
            '{"status": 200, "headers": {"a": "b\\r\\nc: d"}, "after_ms": 0}}',
            "`answer.headers`: a header has characters",
        ),
        (
            '{"recorded_at": "", "source": "", "request": {"path": "/"}, "answer": '
            '{"status": 200, "headers": {"a": "猫"}, "after_ms": 1e300}}',
            "`answer.headers`: a header .* `answer.after_ms`",
        ),
        ('{"request": ' + "[" * 300 + "]" * 300 + "}", "nested too deep"),
        ('{"\\u001b[31m": 1}', r"unknown key `\\x1b\[31m`"),
    ],
)
def test_a_damaged_file_is_an_error_with_its_name_and_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(WireError, match=reason) as raised:
        Folder(tmp_path).read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [*irregular_files.KINDS, "huge"])
def test_a_recording_that_is_no_regular_file_costs_one_line(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, request = Folder(tmp_path), request_of({"prompt": "a"})
    path = folder.write(recording_of(request), 1)
    path.unlink()
    other = folder.write(recording_of(request_of({"prompt": "b"})), 1)
    if kind == "huge":
        monkeypatch.setattr(folder_module, "_MAX_FILE_BYTES", 1000)
        path.write_bytes(b" " * 1001)
    else:
        irregular_files.make(path, kind)
    with pytest.raises(WireError, match=r"cannot read .* is ") as raised:
        folder.read(path)
    assert "\n" not in str(raised.value)
    assert [found for found, _ in folder.comparable(request)] == [other]
    assert len(caplog.records) == 1


def test_lone_surrogates_in_a_recording_are_replaced() -> None:
    response = recording_of(request_of({}), text="a\ud83db").answer
    assert response.body == "a\ufffdb".encode()
    stream = recording_of(request_of({}), text=None, events=((0, "a\ud83db"), (0, "\udcff"))).answer
    assert [data for _, data in stream.event_bytes] == ["a\ufffdb".encode(), b"\xff"]


def test_an_unusable_folder_is_an_invalid_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="--backend record"):
        Folder(tmp_path / "missing").prepare_to_replay()
    (tmp_path / "file").touch()
    with pytest.raises(SettingInvalid, match="cannot write"):
        Folder(tmp_path / "file").prepare_to_record()


def test_a_response_is_recorded_if_the_client_disconnects_at_its_last_event(tmp_path: Path) -> None:
    """Cancels the sender of the response while it sends the last event."""
    request, is_sent = request_of({"prompt": "a"}), False

    async def source(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STREAM_START)
        sending = asyncio.create_task(cast(Any, send(part(b"data: [DONE]\n\n"))))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
        assert sending.cancelled()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal is_sent
        is_sent = message["type"] == "http.response.body"

    folder = Folder(tmp_path)
    recorder, state = Recorder("test", keeps_times=False), RecordingState(folder)
    asyncio.run(recorder.record(request, REDACTION, state, source, {}, receive, send))
    (path,) = folder.find(request)
    assert folder.read(path).answer.ending == "whole" and not is_sent


@pytest.mark.parametrize("order", list(permutations([1, 2, 3, 4])))
def test_the_files_of_equal_calls_do_not_depend_on_the_order_in_which_the_calls_end(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    request, folder = request_of({"prompt": "a"}), Folder(tmp_path)
    series = Series(folder, request)
    for number in order:
        series.add(recording_of(request, text="aabb"[number - 1]), number)
    paths = [folder.path_of(request, number) for number in (1, 3)]
    assert folder.find(request) == paths
    found = [folder.read(path) for path in paths]
    assert [(item.answer.text, item.times) for item in found] == [("a", 2), ("b", 2)]


def test_older_recordings_are_deleted_only_when_a_new_one_has_been_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, folder = request_of({"prompt": "a"}), Folder(tmp_path)
    older = [folder.write(recording_of(request, text=f"old {n}"), n) for n in (1, 2, 3)]
    series = Series(folder, request)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", Mock(side_effect=OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            series.add(recording_of(request, text="new"), 1)
    assert [folder.read(path).answer.text for path in older] == ["old 1", "old 2", "old 3"]
    written = series.add(recording_of(request, text="new 2"), 2)
    assert folder.find(request) == [written]
    series.add(recording_of(request, text="new 1"), 1)
    texts = [folder.read(path).answer.text for path in folder.find(request)]
    assert texts == ["new 1", "new 2"]


def test_a_series_does_not_keep_the_request_in_memory(tmp_path: Path) -> None:
    state = RecordingState(Folder(tmp_path))
    request = request_of({"prompt": "a"})
    state.series_of(request).add(recording_of(request, text="a"), 1)
    reference = weakref.ref(request)
    del request
    gc.collect()
    assert reference() is None


def test_older_recordings_are_kept_for_the_newest_calls(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    requests = [request_of({"prompt": str(number)}) for number in range(101)]
    for request in requests:
        folder.write(recording_of(request, text='{"id": "old", "response": "a"}'), 1)
    state = RecordingState(folder)
    series = [state.series_of(request) for request in requests]
    texts = []
    for each, request in zip(series, requests, strict=True):
        path = each.add(recording_of(request, text='{"id": "new", "response": "a"}'), 1)
        texts.append(json.loads(folder.read(path).answer.text or "")["id"])
    assert texts == ["new", *100 * ["old"]]


def test_a_folder_is_described_while_a_thread_creates_others(tmp_path: Path) -> None:
    recordings = Recordings(Settings(backend="record", record_mode="all", cassettes=tmp_path))
    names = [*map(str, range(5000))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as executor:
            creating = executor.submit(lambda: [recordings.folder_named(name) for name in names])
            while not creating.done():
                assert asyncio.run(recordings.describe(None))["folder"] is None
    finally:
        sys.setswitchinterval(interval)
    assert [folder.path.name for folder in creating.result()] == names


def test_a_folder_is_described_with_its_name(tmp_path: Path) -> None:
    recordings = Recordings(Settings(backend="record", record_mode="all", cassettes=tmp_path))
    recordings.use_folder(recordings.folder_named("a/b"), None)
    assert asyncio.run(recordings.describe(None))["folder"] == "a/b"


# ── the file ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ('{"a":"é","b":[1.5,null]}', {"json": {"a": "é", "b": [1.5, None]}}),
        ('{"a": 1}', {"text": '{"a": 1}'}),
        ('{"a":1,"a":2}', {"text": '{"a":1,"a":2}'}),
        ('{"a":NaN}', {"text": '{"a":NaN}'}),
        ('{"a":1e3}', {"text": '{"a":1e3}'}),
        ('{"a":"\\ud800"}', {"text": '{"a":"\\ud800"}'}),
        ("[" * 150 + "]" * 150, {"text": "[" * 150 + "]" * 150}),
        ("3", {"text": "3"}),
        ("", {"text": ""}),
    ],
)
def test_a_body_is_stored_as_json_only_if_that_keeps_its_bytes(body: str, stored: Json) -> None:
    text = recording_text(recording_of(request_of({}), text=body))
    answer = json.loads(text)["answer"]
    assert {key: answer[key] for key in stored} == stored
    assert parse_recording(text).answer.body == body.encode()


def test_an_edited_body_or_event_is_replayed() -> None:
    request = request_of({})
    for fields in ({"text": '{"a":"x"}'}, {"text": None, "events": ((None, 'data: ["x"]\n\n'),)}):
        text = recording_text(recording_of(request, **fields)).replace('"x"', '\n "y"')
        answer = parse_recording(text).answer
        data = answer.body + b"".join(event for _, event in answer.event_bytes)
        assert data in (b'{"a":"y"}', b'data: ["y"]\n\n')


@pytest.mark.parametrize(
    ("place", "line"),
    [((), 2), (("a",), 3), (("b", 1), 6), (("b", 1, "c"), 6), (("b", 9), 5), (("a", "x"), 3)],
)
def test_the_line_of_a_value_in_json_is_found(place: tuple[str | int, ...], line: int) -> None:
    assert line_of('\n{\n"a"\t: "}", \n"b" :\n\t[{},\n{"c":1}]}', place) == line


# ── equal responses ───────────────────────────────────────────────────────────────────────────

UUID, OTHER_UUID = "00000000-1111-2222-3333-444444444444", "55555555-1111-2222-3333-444444444444"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"id": "id-1", "created": 1}, {"id": "id-2", "created": 2}),
        ({"message": f"bad ({UUID})"}, {"message": f"bad ({OTHER_UUID})"}),
        ({"usage": {"cached_tokens": 1}}, {"usage": {"cached_tokens": 0}}),
        ({"tool_calls": [{"id": "call_1"}]}, {"tool_calls": [{"id": "call_2"}]}),
        ({"response": "a", "p": "abc"}, {"response": "a"}),
        (
            {"response": {"object": "response", "id": "1"}},
            {"response": {"object": "response", "id": "2"}},
        ),
    ],
)
def test_ids_times_and_padding_do_not_make_responses_different(one: Json, other: Json) -> None:
    assert is_same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"response": UUID}, {"response": OTHER_UUID}),
        ({"response": {"id": 1}}, {"response": {"id": 2}}),
        ({"arguments": {"id": "1"}}, {"arguments": {"id": "2"}}),
        ({"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}),
        ({"usage": {"total_tokens": 1}}, {"usage": {"total_tokens": 2}}),
        (
            {"result": {"status": "queued", "request_id": UUID}},
            {"result": {"status": "queued", "request_id": OTHER_UUID}},
        ),
    ],
)
def test_texts_token_counts_and_ids_of_batches_make_responses_different(
    one: Json, other: Json
) -> None:
    assert not is_same(one, other)


def is_same(one: Json, other: Json) -> bool:
    """Returns whether the values are the same answer, as a body and as an event of a stream."""
    texts = (json.dumps(one), json.dumps(other))
    bodies = {fingerprint(RecordedResponse(200, {"cf-ai-req-id": t}, text=t)) for t in texts}
    events = [((len(text), f"data: {text}\n\n"),) for text in texts]
    streams = {fingerprint(RecordedResponse(200, {}, events=item)) for item in events}
    assert len(bodies) == len(streams)
    return len(bodies) == 1


# ── the difference ────────────────────────────────────────────────────────────────────────────


def test_the_nearest_request_has_the_fewest_differences() -> None:
    others = [
        (1, request_of({"prompt": "Why is the sky blue?", "max_tokens": 8})),
        (2, request_of({"prompt": "Why is the sky so blue?", "max_tokens": 9})),
        (3, request_of({"prompt": "Tell me a joke.", "max_tokens": 9})),
        (
            4,
            request_of(
                {"prompt": "Why is the sky blue?", "max_tokens": 9}, call=call_to("/x", "", "")
            ),
        ),
    ]
    found = nearest(request_of({"prompt": "Why is the sky red?", "max_tokens": 9}), others)
    assert found is not None and found[0] == 2
    assert nearest(request_of({}), []) is None


def test_a_difference_has_the_removed_and_the_added_lines() -> None:
    old = request_of({"prompt": "a", "max_tokens": 8, "seed": 1})
    new = request_of({"prompt": "a", "max_tokens": 9, "stream": True})
    assert difference(old, new) == ['- "max_tokens": 8', '+ "max_tokens": 9', '- "seed": 1',
                                    '+ "stream": true']  # fmt: skip
    assert difference(old, old) == []


def test_a_long_text_is_shown_from_its_first_difference() -> None:
    shown = difference(
        request_of({"prompt": "x" * 10**6}), request_of({"prompt": "x" * 10**6 + "\x1by"})
    )
    assert [line[:13] for line in shown] == ['- "prompt": …', '+ "prompt": …']
    assert shown[1].endswith('x\\u001by"') and all(len(line) < 150 for line in shown)


def test_a_difference_has_a_limited_number_of_lines() -> None:
    shown = difference(request_of([*range(5000)]), request_of([*range(10000, 15000)]))
    assert shown[-1].startswith("… and ") and len(shown) < 20
