"""Tests that the emulator's streams equal recorded streams except for texts, padding and counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.snapshots import Target

pytestmark = pytest.mark.parametrize("target", ["server"], indirect=True)

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
QUESTION = [{"role": "user", "content": "Reply with the word yes."}]
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def recorded(name: str) -> str:
    return (RECORDINGS / name).read_text("utf-8")


def emulated(target: Target, path: str, **body: Any) -> str:
    """Returns the emulator's stream for a short prompt. `path`: the path after `ai/`."""
    body |= {"messages": QUESTION, "temperature": 0, "stream": True}
    path = f"/client/v4/accounts/<account>/ai/{path}"
    response = target.send({"method": "POST", "path": path, "body": json.dumps(body)})
    assert response.headers["content-type"] == "text/event-stream"
    return response.content.decode()


def shape(stream: str) -> list[str]:
    """Returns the events of a stream with placeholders for values that may differ.

    Keeps only one of equal consecutive events.
    """
    assert stream.endswith("\n\n")
    lines = [_shape_of_event(event) for event in stream.removesuffix("\n\n").split("\n\n")]
    return [line for line, _ in groupby(lines)]


def _shape_of_event(event: str) -> str:
    assert event.startswith("data: ") and "\n" not in event
    data = event.removeprefix("data: ")
    return data if data == "[DONE]" else json.dumps(_blank(json.loads(data)))


def _blank(value: Any) -> Any:
    """Returns a JSON value with placeholders for texts, numbers and ids, and without padding.

    The padding is the random text in the key `p` of an event.
    """
    match value:
        case dict():
            assert "p" not in list(value)[:-1]
            return {key: _blank(item) for key, item in value.items() if key != "p"}
        case list():
            return [_blank(item) for item in value]
        case str() if value in ("", "stop", "chat.completion.chunk"):
            return value
        case str():
            return "…"
        case int():
            return 0
    return value


def side_by_side(recording: str, response: str) -> str:
    """Returns both streams in two columns, for the message of a failed assertion."""
    left, right = recording.split("\n\n"), response.split("\n\n")
    return "\n".join(f"{a[:90]:90} | {b}" for a, b in zip_longest(left, right, fillvalue=""))


@pytest.mark.recorded
@pytest.mark.parametrize("name", ["native-classic-p-2025-03.sse", "native-classic-p-second.sse"])
def test_a_native_stream_has_the_shape_of_the_recorded_one(target: Target, name: str) -> None:
    recording, response = recorded(name), emulated(target, "run/<model>")
    assert shape(response) == shape(recording), "\n" + side_by_side(recording, response)


@pytest.mark.recorded
@pytest.mark.parametrize("name", ["native-classic-p-2025-03.sse", "native-classic-p-second.sse"])
def test_padding_has_the_recorded_characters_and_lengths(target: Target, name: str) -> None:
    for stream in (recorded(name), emulated(target, "run/<model>")):
        for padding in paddings(stream):
            assert (ALPHABET * 2).startswith(padding)
            assert 0 < len(padding) < 50


def paddings(stream: str) -> Iterator[str]:
    for event in stream.split("\n\n"):
        if '"p":' in event:
            yield json.loads(event.removeprefix("data: "))["p"]


@pytest.mark.recorded
def test_an_openai_stream_has_the_recorded_shape_except_for_its_last_delta(
    target: Target,
) -> None:
    recording = recorded("openai-compat-llama3.1-8b-RECONSTRUCTED-2026-05.sse")
    text, last, last_again, done = shape(recording)
    assert '"prompt_tokens_details"' in last_again  # the service added this key in autumn 2026
    # In the emulator's last delta, `content` is an empty text, because some clients require the
    # key.
    last = last.replace('"delta": {}', '"delta": {"content": ""}')
    response = emulated(target, "v1/chat/completions", model="<model>")
    assert shape(response) == [text, last, done], "\n" + side_by_side(recording, response)


@pytest.mark.documented
def test_a_stream_of_2023_lacks_only_padding_and_usage(target: Target) -> None:
    text, done = shape(recorded("native-docs-2023.sse"))
    response = shape(emulated(target, "run/<model>"))
    assert (response[0], response[-1]) == (text, done)
