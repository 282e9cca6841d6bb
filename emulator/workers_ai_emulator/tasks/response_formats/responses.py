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
        for chunk in completion.chunks:
            items.feed(chunk)
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


Kind = Literal["reasoning", "message", "function_call"]
Event = tuple[str, Json]  # the type of an event, and its content without the type


class _Items:
    """Builds the items of a response from chunks, and the events that show how the items grow.

    A reasoning or a message ends when another item begins. The parts of several tool calls may
    alternate, so all calls end at the end of the response.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._items: list[_Item] = []
        self._text: _Item | None = None  # the reasoning or message that still grows
        self._calls: dict[int, _Item] = {}  # key: the number of the tool call

    @property
    def done(self) -> list[Json]:
        """All items, after `flush`."""
        return [item.json("completed") for item in self._items]

    def feed(self, chunk: Chunk) -> list[Event]:
        """Takes the next chunk, and returns the events that it causes."""
        events: list[Event] = []
        if chunk.reasoning:
            events += self._grow_text("reasoning", chunk.reasoning)
        if chunk.text:
            events += self._grow_text("message", chunk.text)
        if chunk.tool_call:
            events += self._grow_call(chunk.tool_call)
        return events

    def flush(self) -> list[Event]:
        """Completes the items that grow, and returns the events.

        A response has at least one item.
        """
        events = [] if self._items else self._begin(self._new_text("message"))
        events += self._end_text()
        for call in self._calls.values():
            events += self._end(call)
        return events

    def _grow_text(self, kind: Kind, text: str) -> list[Event]:
        events: list[Event] = []
        item = self._text
        if item is None or item.kind != kind:
            events += self._end_text()
            item = self._new_text(kind)
            events += self._begin(item)
        return events + self._grow(item, text)

    def _grow_call(self, delta: ToolCallDelta) -> list[Event]:
        events: list[Event] = []
        item = self._calls.get(delta.index)
        if item is None:
            events += self._end_text()
            item = self._calls[delta.index] = self._new_call(delta)
            events += self._begin(item)
        return events + self._grow(item, delta.arguments)

    def _new_text(self, kind: Kind) -> _Item:
        self._text = self._new(kind)
        return self._text

    def _new_call(self, delta: ToolCallDelta) -> _Item:
        item = self._new("function_call")
        item.name = delta.name or ""
        new_id = f"call_{hex_id(self._generation, f'tool call {delta.index}')[:24]}"
        item.call_id = new_id if delta.id is None else delta.id
        return item

    def _new(self, kind: Kind) -> _Item:
        index = len(self._items)
        item = _Item(kind, index, f"{_PREFIXES[kind]}_{hex_id(self._generation, f'item {index}')}")
        self._items.append(item)
        return item

    def _begin(self, item: _Item) -> list[Event]:
        added = {"output_index": item.index, "item": item.json("in_progress")}
        events = [("response.output_item.added", added)]
        if item.kind != "function_call":
            events.append(("response.content_part.added", item.place() | {"part": item.part("")}))
        return events

    def _grow(self, item: _Item, text: str) -> list[Event]:
        if not text:
            return []
        item.text.append(text)
        return [(f"{_TEXT_EVENTS[item.kind]}.delta", item.place() | {"delta": text})]

    def _end_text(self) -> list[Event]:
        item, self._text = self._text, None
        return [] if item is None else self._end(item)

    def _end(self, item: _Item) -> list[Event]:
        place, whole = item.place(), "".join(item.text)
        events = [(f"{_TEXT_EVENTS[item.kind]}.done", place | {_TEXT_KEYS[item.kind]: whole})]
        if item.kind != "function_call":
            events.append(("response.content_part.done", place | {"part": item.part(whole)}))
        complete = {"output_index": item.index, "item": item.json("completed")}
        return [*events, ("response.output_item.done", complete)]


_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
_TEXT_EVENTS = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
    "function_call": "response.function_call_arguments",
}
_TEXT_KEYS = {"reasoning": "text", "message": "text", "function_call": "arguments"}


@dataclass(slots=True)
class _Item:
    """An item of a response. `index`: its place in the list of items.

    `name` and `call_id` are those of a tool call.
    """

    kind: Kind
    index: int
    id: str
    name: str = ""
    call_id: str | None = None
    text: list[str] = field(default_factory=list)

    def place(self) -> Json:
        """Returns the keys that say where a part of the item's text belongs."""
        place: Json = {"item_id": self.id, "output_index": self.index}
        return place if self.kind == "function_call" else place | {"content_index": 0}

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
