"""The format of OpenAI's Responses API.

[OpenAI's API reference; Cloudflare's types in workerd, `types/defines/ai.d.ts`. No response of the
service was recorded.]
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from workers_ai_emulator.engine.types import Chunk, FinishReason, Generation, ToolCallDelta
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.response_formats.response_format import Json, Wrap, hex_id
from workers_ai_emulator.tasks.response_formats.usage import CACHED_TOKENS
from workers_ai_emulator.wire.envelope import END_OF_STREAM, event

# The keys of a request that the response repeats, and their values if the request has none.
_REPEATED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}


class ResponsesFormat:
    """The format of the Responses API: a list of items with reasoning, text and tool calls.

    `body`: the body of the request, some of whose keys the response repeats. `wrap`: writes the
    body of a response that is not a stream.
    """

    def __init__(self, spec: ModelSpec, body: Json, wrap: Wrap) -> None:
        self._model = spec.name
        self._repeated = {k: v if body.get(k) is None else body[k] for k, v in _REPEATED.items()}
        self._wrap = wrap
        self._created_at = int(time.time())

    def whole(self, completion: Completion, generation: Generation) -> bytes:
        items = _Items(generation)
        items.feed(Chunk(completion.text, reasoning=completion.reasoning))
        for index, call in enumerate(completion.tool_calls):
            delta = ToolCallDelta(index, call.arguments, call.name, call.id)
            items.feed(Chunk(tool_call=delta))
        items.flush()
        return self._wrap(self._ended(generation, items.done, completion.num_reasoning_tokens))

    async def events(
        self, chunks: AsyncIterator[Chunk], generation: Generation
    ) -> AsyncIterator[bytes]:
        """Yields the events of the Responses API, and `[DONE]` like all streams of the service.

        Each item of the response begins with the event `response.output_item.added` and ends with
        `response.output_item.done`.
        """
        events, items = _Events(), _Items(generation)
        num_reasoning = 0
        begun = self._response(generation, "in_progress", [])
        for kind in ("created", "in_progress"):
            yield events.write(f"response.{kind}", {"response": begun})
        async for chunk in chunks:
            if chunk.finish_reason is FinishReason.CANCELLED:
                return
            num_reasoning += chunk.num_tokens if chunk.reasoning else 0
            for kind, content in items.feed(chunk):
                yield events.write(kind, content)
        for kind, content in items.flush():
            yield events.write(kind, content)
        ended = self._ended(generation, items.done, num_reasoning)
        yield events.write(f"response.{ended['status']}", {"response": ended})
        yield END_OF_STREAM

    def _ended(self, generation: Generation, items: list[Json], num_reasoning: int) -> Json:
        """Returns the response with the items and the token counts."""
        is_cut = generation.finish_reason is FinishReason.LENGTH
        usage = generation.usage
        return self._response(generation, "incomplete" if is_cut else "completed", items) | {
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": {
                "input_tokens": usage.num_prompt_tokens,
                "input_tokens_details": CACHED_TOKENS,
                "output_tokens": usage.num_completion_tokens,
                "output_tokens_details": {"reasoning_tokens": num_reasoning},
                "total_tokens": usage.num_total_tokens,
            },
        }

    def _response(self, generation: Generation, status: str, items: list[Json]) -> Json:
        return {
            "id": f"resp_{hex_id(generation, 'response')}",
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": items,
            "previous_response_id": None,
            **self._repeated,
            "usage": None,
        }


Event = tuple[str, Json]  # the type of an event, and its content without the type


class _Items:
    """Builds the items of a response from chunks, and the events that show how the items grow.

    `done`: the items that are complete.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._item: _Item | None = None  # the item that still grows
        self.done: list[Json] = []

    def feed(self, chunk: Chunk) -> list[Event]:
        """Takes the next chunk, and returns the events that it causes."""
        events: list[Event] = []
        if chunk.reasoning:
            events += self._grow(_Item("reasoning"), chunk.reasoning)
        if chunk.text:
            events += self._grow(_Item("message"), chunk.text)
        if call := chunk.tool_call:
            item = _Item("function_call", call.index, call.name or "", call.id)
            events += self._grow(item, call.arguments)
        return events

    def flush(self) -> list[Event]:
        """Completes the last item, and returns the events. A response has at least one item."""
        if self._item is None and not self.done:
            return self._begin(_Item("message")) + self._end()
        return self._end()

    def _grow(self, item: _Item, text: str) -> list[Event]:
        """Adds a text to the item that grows. Begins a new item if it is not of the same kind."""
        events: list[Event] = []
        if self._item is None or not self._item.is_same(item):
            events += self._end() + self._begin(item)
        assert self._item is not None  # `_begin` has set it
        self._item.text.append(text)
        return events + ([self._delta(self._item, text)] if text else [])

    def _begin(self, item: _Item) -> list[Event]:
        self._item = item
        item.id = f"{_PREFIXES[item.kind]}_{hex_id(self._generation, f'item {len(self.done)}')}"
        if item.kind == "function_call" and item.call_id is None:
            item.call_id = f"call_{hex_id(self._generation, f'tool call {item.index}')[:24]}"
        added = {"output_index": len(self.done), "item": item.json("in_progress")}
        events = [("response.output_item.added", added)]
        if item.kind != "function_call":
            part = self._place(item) | {"part": item.part("")}
            events.append(("response.content_part.added", part))
        return events

    def _end(self) -> list[Event]:
        item, self._item = self._item, None
        if item is None:
            return []
        place, whole = self._place(item), "".join(item.text)
        events = [(f"{_TEXT_EVENTS[item.kind]}.done", place | {_TEXT_KEYS[item.kind]: whole})]
        if item.kind != "function_call":
            events.append(("response.content_part.done", place | {"part": item.part(whole)}))
        complete = item.json("completed")
        events.append(
            ("response.output_item.done", {"output_index": len(self.done), "item": complete})
        )
        self.done.append(complete)
        return events

    def _delta(self, item: _Item, text: str) -> Event:
        return f"{_TEXT_EVENTS[item.kind]}.delta", self._place(item) | {"delta": text}

    def _place(self, item: _Item) -> Json:
        """Returns the keys that say where a text belongs."""
        place: Json = {"item_id": item.id, "output_index": len(self.done)}
        return place if item.kind == "function_call" else place | {"content_index": 0}


_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
_TEXT_EVENTS = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
    "function_call": "response.function_call_arguments",
}
_TEXT_KEYS = {"reasoning": "text", "message": "text", "function_call": "arguments"}


@dataclass(slots=True)
class _Item:
    """An item of a response that grows. `index`, `name` and `call_id` are those of a tool call."""

    kind: Literal["reasoning", "message", "function_call"]
    index: int = 0
    name: str = ""
    call_id: str | None = None
    id: str = ""
    text: list[str] = field(default_factory=list)

    def is_same(self, other: _Item) -> bool:
        """Returns whether the text of `other` continues this item."""
        return (self.kind, self.index) == (other.kind, other.index)

    def json(self, status: str) -> Json:
        """Returns the item. Its text is missing while the item grows."""
        text = "".join(self.text)
        item: Json = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return item | {"call_id": self.call_id, "name": self.name, "arguments": text}
        content = [self.part(text)] if status == "completed" else []
        if self.kind == "reasoning":
            return item | {"summary": [], "content": content}
        return item | {"role": "assistant", "content": content}

    def part(self, text: str) -> Json:
        """Returns the only part of the item's content."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": []}


class _Events:
    """Writes the events of a stream, which are numbered."""

    def __init__(self) -> None:
        self._number = 0

    def write(self, kind: str, content: Json) -> bytes:
        """Returns an event. `kind`: its type. `content`: the other keys of its JSON object."""
        numbered = {"type": kind, "sequence_number": self._number, **content}
        self._number += 1
        return b"event: " + kind.encode() + b"\n" + event(numbered)
