"""What counts as the same call, what a recording holds, and how calls differ."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.middleware.recordings.capture import ResponseCapture
from workers_ai_emulator.middleware.recordings.difference import difference, nearest
from workers_ai_emulator.middleware.recordings.folder import Folder
from workers_ai_emulator.middleware.recordings.recorder import Recorder
from workers_ai_emulator.middleware.recordings.recording import RecordedResponse, Recording
from workers_ai_emulator.middleware.recordings.request import RecordedRequest
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import InferenceCall
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.redaction import Redaction

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


def recorded(
    body: Any, *, call: InferenceCall = CALL, query: bytes = b"", redaction: Redaction = REDACTION
) -> RecordedRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RecordedRequest.of(call, query, data, redaction)


def part(body: bytes, *, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}


def tape_of(*messages: dict[str, Any]) -> ResponseCapture:
    tape = ResponseCapture()
    for message in messages:
        tape.feed(message)
    return tape


def event(text: str) -> bytes:
    return f"data: {json.dumps({'response': text})}\n\n".encode()


def events_of(tape: ResponseCapture) -> list[str]:
    answer = tape.response("whole", REDACTION)
    assert answer is not None and answer.events is not None
    return [text for _, text in answer.events]


def recording_of(request: RecordedRequest, **answer: Any) -> Recording:
    fields: dict[str, Any] = {"status": 200, "headers": {}, "after_ms": 1, "text": "x"} | answer
    return Recording(
        recorded_at="now",
        source="llama",
        request=request.content,
        answer=RecordedResponse(**fields),
    )


# ── the key ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"a","max_tokens":8}',
        b'\n{ "max_tokens": 8.0,\n "prompt": "\\u0061" }',
        b'\xef\xbb\xbf{"max_tokens":8e0,"prompt":"a"}',
        gzip.compress(b'{"prompt":"a","max_tokens":8}'),
    ],
)
def test_how_a_body_is_written_makes_no_other_call(body: bytes) -> None:
    assert recorded(body).key == recorded({"prompt": "a", "max_tokens": 8}).key


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
def test_what_a_body_says_makes_another_call(body: Any) -> None:
    assert recorded(body).key != recorded({"prompt": "a", "max_tokens": 8}).key


def test_the_account_makes_no_other_call_but_path_query_and_model_do() -> None:
    binding = call_to("/run", None, "@cf/a/model")
    keys = {
        recorded({}).key,
        recorded({}, query=b"queueRequest=true").key,
        recorded({}, call=binding).key,
        recorded({}, call=binding, query=b"version=3").key,
        recorded({}, call=call_to("/run", None, "@cf/b/model")).key,
    }
    assert len(keys) == 5
    assert recorded({}, call=call_to(CALL.path, "1" * 32, CALL.model)).key in keys
    assert recorded({}, query=b"b=2&a=1").key == recorded({}, query=b"a=1&b=2").key


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"a":NaN}', b'{"a":1e999}', b"[" * 900 + b"]" * 900, b"[" * 10**6],
)
def test_what_is_no_json_has_a_key_and_a_file_too(body: bytes) -> None:
    request = recorded(body)
    assert request.key == recorded(body).key != recorded({}).key
    text = recording_of(request).to_text()
    assert Recording.parse(text.encode()).recorded_request.key == request.key


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
def test_a_file_s_name_is_harmless(model: str, slug: str) -> None:
    assert recorded({"model": model}).slug == slug
    assert recorded({}, call=call_to("/run", None, model)).slug == slug


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
def test_no_credential_is_in_a_stored_request(body: Any) -> None:
    text = recording_of(recorded(body)).to_text()
    assert TOKEN not in text and "short" not in text
    assert "redacted" in text or "base64" in text


def test_a_call_is_the_same_with_another_token() -> None:
    other = Redaction(Headers({"x-auth-key": "another-key-of-mine"}))
    one = recorded({"prompt": f"say {TOKEN}"})
    assert one.key == recorded({"prompt": "say another-key-of-mine"}, redaction=other).key


def test_a_credential_that_an_answer_repeats_is_taken_out() -> None:
    whole = tape_of(JSON_START, part(b'{"response":"' + TOKEN.encode() + b'"}', is_last=True))
    answer = whole.response("whole", REDACTION)
    assert answer is not None and answer.text == '{"response":"[redacted]"}'
    assert events_of(tape_of(STREAM_START, part(event(TOKEN)))) == [event("[redacted]").decode()]


def test_an_answer_that_repeats_a_credential_in_pieces_is_not_stored() -> None:
    pieces = [part(event(TOKEN[:9])), part(event("")), part(event(TOKEN[9:]))]
    assert tape_of(STREAM_START, *pieces).response("whole", REDACTION) is None
    packed = tape_of(JSON_START, part(gzip.compress(TOKEN.encode()), is_last=True))
    assert packed.response("whole", REDACTION) is None


# ── the tape ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_has_the_same_events_however_it_was_cut(size: int) -> None:
    stream = event("a") + event("é") + b"data: \xff\n\n" + b"data: [DONE]\n\n"
    parts = [part(stream[i : i + size]) for i in range(0, len(stream), size)]
    tape = tape_of(STREAM_START, *parts)
    assert tape.is_over and len(events_of(tape)) == 4
    answer = tape.response("whole", REDACTION)
    assert answer is not None
    assert b"".join(data for _, data in answer.event_bytes) == stream
    recording = Recording(recorded_at="now", source="x", request={"path": "/"}, answer=answer)
    assert Recording.parse(recording.to_text().encode()) == recording


def test_a_body_that_is_no_text_is_kept_to_the_byte() -> None:
    data = gzip.compress(b"{}")
    answer = tape_of(JSON_START, part(data, is_last=True)).response("whole", REDACTION)
    assert answer is not None and answer.base64 and answer.body == data


@pytest.mark.parametrize(
    ("last", "has_left", "is_cancelled", "ending"),
    [
        (part(b"", is_last=True), False, False, "whole"),
        (part(b"", is_last=True), False, True, "broken off"),
        (part(event("b")), False, False, "broken off"),
        (part(event("b")), True, False, "client left"),
        (part(b"data: [DONE]\n\n"), True, True, "whole"),
    ],
)
def test_how_a_stream_ended_is_known(
    last: dict[str, Any], has_left: bool, is_cancelled: bool, ending: str
) -> None:
    tape = tape_of(STREAM_START, part(event("a")), last)
    assert tape.ending(is_disconnected=has_left, is_cancelled=is_cancelled) == ending


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
def test_what_is_no_answer_is_not_recorded(start: Any, ending: Any, reason: str) -> None:
    assert (tape_of(start, part(b"{}")).reason_not_to_record(ending) or "").startswith(reason)
    assert bool(tape_of(start).reason_not_to_record(ending)) == bool(reason)


def test_an_answer_that_is_too_large_is_let_go() -> None:
    tape = tape_of(JSON_START, *[part(bytes(2**20))] * 65)
    assert tape.reason_not_to_record("whole") == "it is larger than 64 MiB"
    answer = tape.response("whole", REDACTION)
    assert answer is not None and answer.body == b""


# ── the folder ────────────────────────────────────────────────────────────────────────────────


def test_answers_to_one_call_are_found_in_their_order(tmp_path: Path) -> None:
    folder, request = Folder(tmp_path / "new"), recorded({"prompt": "a"})
    for number in (10, 2, 1):
        folder.write(recording_of(request, text=str(number)), number)
    folder.write(recording_of(recorded({"prompt": "b"})), 1)
    texts = [folder.read(path).answer.text for path in folder.find(request)]
    assert texts == ["1", "2", "10"]
    folder.delete(request)
    assert len(list(folder.path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "valid dictionary"),
        ('{"version": 2}', "version: Input should be 1"),
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
    ],
)
def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(WireError, match=reason) as raised:
        Folder(tmp_path).read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="--backend record"):
        Folder(tmp_path / "missing").prepare_to_replay()
    (tmp_path / "file").touch()
    with pytest.raises(SettingInvalid, match="cannot write"):
        Folder(tmp_path / "file").prepare_to_record()


def test_a_recording_is_not_lost_when_the_client_leaves_at_its_end(tmp_path: Path) -> None:
    """As a source does that is cancelled while the last event goes out."""
    request, is_sent = recorded({"prompt": "a"}), False

    async def source(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STREAM_START)
        sending = asyncio.create_task(cast(Any, send(part(b"data: [DONE]\n\n"))))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
        assert sending.cancelled()

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal is_sent
        is_sent = message["type"] == "http.response.body"

    folder = Folder(tmp_path)
    recorder = Recorder(folder, "test")
    asyncio.run(recorder.record(request, REDACTION, source, {}, nothing, send))
    (path,) = folder.find(request)
    assert folder.read(path).answer.ending == "whole" and not is_sent


# ── the difference ────────────────────────────────────────────────────────────────────────────


def test_the_nearest_call_is_the_one_with_fewest_differences() -> None:
    others = [
        (1, recorded({"prompt": "Why is the sky blue?", "max_tokens": 8})),
        (2, recorded({"prompt": "Why is the sky so blue?", "max_tokens": 9})),
        (3, recorded({"prompt": "Tell me a joke.", "max_tokens": 9})),
        (
            4,
            recorded(
                {"prompt": "Why is the sky blue?", "max_tokens": 9}, call=call_to("/x", "", "")
            ),
        ),
    ]
    found = nearest(recorded({"prompt": "Why is the sky red?", "max_tokens": 9}), others)
    assert found is not None and found[0] == 2
    assert nearest(recorded({}), []) is None


def test_a_difference_shows_what_is_missing_and_what_is_new() -> None:
    old = recorded({"prompt": "a", "max_tokens": 8, "seed": 1})
    new = recorded({"prompt": "a", "max_tokens": 9, "stream": True})
    assert difference(old, new) == ['- "max_tokens": 8', '+ "max_tokens": 9', '- "seed": 1',
                                    '+ "stream": true']  # fmt: skip
    assert difference(old, old) == []


def test_a_long_text_is_shown_where_it_begins_to_differ() -> None:
    shown = difference(
        recorded({"prompt": "x" * 10**6}), recorded({"prompt": "x" * 10**6 + "\x1by"})
    )
    assert [line[:13] for line in shown] == ['- "prompt": …', '+ "prompt": …']
    assert shown[1].endswith('x\\u001by"') and all(len(line) < 150 for line in shown)


def test_a_difference_ends_after_a_few_lines() -> None:
    shown = difference(recorded([*range(5000)]), recorded([*range(10000, 15000)]))
    assert shown[-1].startswith("… and ") and len(shown) < 20
