"""Tests the decoder of upstream events with responses that vLLM really sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.backends.openai_api import error_from
from workers_ai_emulator.backends.openai_events import EventDecoder
from workers_ai_emulator.engine.errors import ContextTooLong, RequestRejected
from workers_ai_emulator.engine.types import Chunk, FinishReason, Usage
from workers_ai_emulator.tasks.completion import Collector, Completion

RECORDINGS = Path(__file__).parents[1] / "data" / "upstream" / "vllm-0.32.jsonl"
EXCHANGES: dict[str, Any] = {
    exchange["shows"]: exchange
    for exchange in map(json.loads, RECORDINGS.read_text("utf-8").splitlines())
}


def decoded(shows: str) -> tuple[Completion, FinishReason | None, Usage]:
    """Returns the completion, its finish reason and its usage in a recorded stream."""
    decoder, collector = EventDecoder(0), Collector()
    chunks: list[Chunk] = []
    for event in EXCHANGES[shows]["body"].split("\n\n"):
        chunks += decoder.feed(event.removeprefix("data: "))
    usage, *last = decoder.flush()
    assert isinstance(usage, Usage)
    chunks += [item for item in last if isinstance(item, Chunk)]
    for chunk in chunks:
        collector.add(chunk)
    return collector.completion, chunks[-1].finish_reason, usage


def test_a_text_of_vllm_is_decoded() -> None:
    completion, reason, usage = decoded("text")
    assert completion == Completion("1. Red\n2. Blue\n3. Green")
    assert (reason, usage) == (FinishReason.STOP, Usage(13, 12))


@pytest.mark.parametrize(
    ("shows", "name", "arguments"),
    [
        # Without `strict`, vLLM does not enforce the schema, which requires the argument `city`.
        ("required call", "get_weather", "{}"),
        ("required call of a named tool", "get_time", "{}"),
        ("strict call", "get_weather", '{"city": "Paris"}'),
    ],
)
def test_a_tool_call_of_vllm_is_decoded(shows: str, name: str, arguments: str) -> None:
    completion, reason, _ = decoded(shows)
    (call,) = completion.tool_calls
    assert (call.name, json.loads(call.arguments)) == (name, json.loads(arguments))
    assert call.id and call.id.startswith("chatcmpl-tool-")
    assert (completion.text, reason) == ("", FinishReason.TOOL_CALLS)


def test_arguments_that_vllm_sends_in_pieces_are_joined() -> None:
    completion, reason, usage = decoded("arguments in pieces")
    (call,) = completion.tool_calls
    assert call.arguments.startswith('{\n    "type": "object",')
    assert (reason, usage.num_completion_tokens) == (FinishReason.LENGTH, 60)


@pytest.mark.parametrize(
    ("shows", "text"),
    [
        ("call cut by max_tokens before its name", ""),
        ("JSON cut by max_tokens", '{\n  "n'),
    ],
)
def test_a_completion_of_vllm_that_max_tokens_cuts_has_the_reason_length(
    shows: str, text: str
) -> None:
    completion, reason, _ = decoded(shows)
    assert (completion, reason) == (Completion(text), FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("shows", "num_tokens"), [("prompt too long", 2049 + 60), ("max_tokens too large", 5000)]
)
def test_an_error_of_vllm_about_the_context_length_becomes_context_too_long(
    shows: str, num_tokens: int
) -> None:
    exchange = EXCHANGES[shows]
    error = error_from(
        exchange["status"], exchange["body"], max_tokens=exchange["request"]["max_tokens"]
    )
    assert isinstance(error, ContextTooLong)
    assert (error.num_tokens, error.context_length) == (num_tokens, 2048)


def test_an_invalid_json_schema_is_an_error_in_vllms_stream() -> None:
    assert EXCHANGES["invalid JSON schema"]["status"] == 200
    with pytest.raises(RequestRejected, match="Invalid type: nonsense"):
        decoded("invalid JSON schema")
