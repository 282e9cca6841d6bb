"""Decodes the events of servers with OpenAI's API. Does no I/O."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from workers_ai_emulator.backends.openai_api import (
    Json,
    UpstreamFailed,
    error_from,
    one_line,
)
from workers_ai_emulator.backends.reasoning_text import ReasoningText
from workers_ai_emulator.backends.tool_call_decoder import ToolCallDecoder
from workers_ai_emulator.engine.types import Chunk, FinishReason, Usage
from workers_ai_emulator.json_values import object_or_none

_MAX_DIGITS = 15  # a token count with more digits is ignored
_END_OF_STREAM = "[DONE]"


class EventDecoder:
    """Decodes the events of an OpenAI stream: call `feed` for each event, then `flush` once.

    `is_done`: whether the server has sent the event `[DONE]`. `max_tokens`: the maximum number of
    completion tokens in the request, or 0 if it has none. `separates_reasoning`: whether the
    reasoning is separate from the text. If it is False, the reasoning becomes a part of the text.
    `has_tools`: whether the service offers tools to the model. If it is False, tool calls are left
    out, and `left_out_tool` is set to the name of the last tool that the server has called.
    """

    def __init__(
        self, max_tokens: int, *, separates_reasoning: bool = True, has_tools: bool = True
    ) -> None:
        self.is_done = False
        self.left_out_tool: str | None = None
        self._has_tools = has_tools
        self.max_tokens = max_tokens
        self._tool_calls = ToolCallDecoder()
        self._reasoning_text = None if separates_reasoning else ReasoningText()
        self._usage: Usage | None = None
        self._finish_reason: FinishReason | None = None

    def feed(self, data: str, kind: str = "message") -> list[Chunk]:
        """Decodes one event. Returns its reasoning, its text and its tool calls as chunks.

        The chunks together count as one token. `kind`: the event's field `event`. Raises an
        EngineError if the event reports an error. If the data is not a JSON object, raises
        UpstreamFailed for the kind `message`, and ignores other kinds, such as `ping`. Also ignores
        events without data, which some servers send to keep the connection open.
        """
        if data.strip() == _END_OF_STREAM:
            self.is_done = True
            return []
        event = object_or_none(data)
        if kind == "error" or (event and event.get("error")):
            raise error_from(_error_status(event or {}), data, self.max_tokens)
        if event is None:
            if not data.strip() or kind != "message":
                return []
            raise UpstreamFailed(f"sent an event that is not a JSON object: {one_line(data)}")
        self._usage = _usage(event.get("usage")) or self._usage
        choice = _choice(event)
        self._finish_reason = _finish_reason(choice.get("finish_reason")) or self._finish_reason
        chunks = self._converted(self._chunks(choice))
        return chunks[:1] + [replace(chunk, num_tokens=0) for chunk in chunks[1:]]

    def flush(self) -> list[Chunk | Usage]:
        """Ends the stream: returns the server's usage, and a last chunk with the finish reason.

        Raises UpstreamFailed if the server has sent neither a finish reason nor `[DONE]`.
        """
        reason = self._finish_reason or (FinishReason.STOP if self.is_done else None)
        if reason is None:
            raise UpstreamFailed(
                "ended a stream without a finish reason; its log may have the cause"
            )
        usage = [self._usage] if self._usage else []
        return [*usage, *self._converted(self._last_chunks(reason))]

    def _last_chunks(self, reason: FinishReason) -> list[Chunk]:
        if reason is FinishReason.LENGTH:
            return [Chunk("", reason, num_tokens=0)]
        if not self._has_tools:
            return [Chunk("", FinishReason.STOP)]
        # If the request names the tool to call, some servers send `stop` and not `tool_calls`. The
        # end-of-text token counts as a completion token, but servers send no event for it.
        reason = FinishReason.TOOL_CALLS if self._tool_calls.has_calls else FinishReason.STOP
        ends = (Chunk(tool_call=delta, num_tokens=0) for delta in self._tool_calls.flush())
        return [*ends, Chunk("", reason)]

    def _converted(self, chunks: list[Chunk]) -> list[Chunk]:
        return [*map(self._reasoning_text.feed, chunks)] if self._reasoning_text else chunks

    def _chunks(self, choice: Json) -> list[Chunk]:
        """Returns the reasoning, the text and the tool calls in a choice as chunks."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            text = _content(choice.get("text"))
            return [Chunk(text)] if text else []
        chunks = []
        # vLLM and llama-server send `reasoning_content`, newer versions of vLLM send `reasoning`.
        if reasoning := _content(delta.get("reasoning_content") or delta.get("reasoning")):
            chunks.append(Chunk(reasoning=reasoning))
        if text := _content(delta.get("content")):
            chunks.append(Chunk(text))
        deltas = self._tool_calls.feed(delta.get("tool_calls"))
        if not self._has_tools:
            self.left_out_tool = next((d.name for d in deltas if d.name), self.left_out_tool)
            return chunks
        return chunks + [Chunk(tool_call=delta) for delta in deltas]


def _error_status(event: Json) -> int:
    """Returns the HTTP status in an error event, or 500 if it has none."""
    match event.get("error"):
        case {"code": code} if (status := _count(code)) is not None and 400 <= status < 600:
            return status
    return 500


def _choice(event: Json) -> Json:
    """Returns the first choice in an event; an empty object if it has none."""
    match event.get("choices"):
        case [dict() as choice, *_]:
            return choice
    return {}


def _content(value: Any) -> str:
    """Returns the text in `value`, the value of a key such as `content` or `text` in an event.

    The value may be a text, a number, null (no text), or a list of parts. Parts of other types than
    `text`, such as `reasoning`, are ignored. Raises UpstreamFailed for any other value, because
    ignoring it would lose text.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case int() | float() if not isinstance(value, bool):
            return json.dumps(value)
        case [*parts]:
            return "".join(_content(_part(part)) for part in parts)
    raise UpstreamFailed(f"sent content that is not text: {one_line(json.dumps(value))}")


def _part(part: Any) -> Any:
    match part:
        case {"type": "text", "text": text}:
            return text
        case {"type": str(kind)} if kind != "text":  # for example a part of the type `reasoning`
            return None
    return part if isinstance(part, str) else {"part": part}


def _finish_reason(reason: Any) -> FinishReason | None:
    if reason == "length":
        return FinishReason.LENGTH
    return FinishReason.STOP if reason else None


def _usage(value: Any) -> Usage | None:
    """Returns the usage in an event.

    Returns None if the number of prompt tokens or the number of completion tokens is missing, is
    not a whole number, or has too many digits.
    """
    match value:
        case {"prompt_tokens": prompt, "completion_tokens": completion, **others}:
            counts = _count(prompt), _count(completion)
            if counts[0] is None or counts[1] is None:
                return None
            match others.get("prompt_tokens_details"):
                case {"cached_tokens": cached}:
                    return Usage(counts[0], counts[1], _count(cached) or 0)
            return Usage(counts[0], counts[1])
    return None


def _count(value: Any) -> int | None:
    """Converts a token count to an integer, because some servers send `2.0` or `"2"`.

    Returns None if the value is not a whole number of at least 0, or if it has too many digits.
    """
    match value:
        case bool():
            return None
        case int() | float() if 0 <= value < 10**_MAX_DIGITS and value == int(value):
            return int(value)
        case str() if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
            return int(value)
    return None
