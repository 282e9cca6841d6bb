"""Decodes the tool calls in the events of servers with OpenAI's API. Does no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.backends.openai_api import UpstreamFailed, one_line
from workers_ai_emulator.engine.types import ToolCallDelta


@dataclass(slots=True)
class _Call:
    """A tool call of the stream. `number`: its number in the completion, from 0 on."""

    number: int
    id: str | None
    has_arguments: bool = False


class ToolCallDecoder:
    """Decodes the entries of `delta.tool_calls`: call `feed` for each list, then `flush` once.

    An entry belongs to an earlier call if it has the call's `index`, and if it has no `id` or the
    call's `id`: some servers send the same `index` for all calls. Without `index`, an entry with a
    name begins a new call.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def feed(self, entries: Any) -> list[ToolCallDelta]:
        """Decodes the value of `tool_calls` in an event.

        Raises UpstreamFailed if the value has another form than that of OpenAI's API.
        """
        match entries:
            case None:
                return []
            case [*items]:
                return [self._delta(item) for item in items]
        raise _unknown(entries)

    def flush(self) -> list[ToolCallDelta]:
        """Ends the calls of a stream. Returns the arguments `{}` for all calls without arguments.

        Some servers send an empty text as the arguments of a function without parameters.
        """
        return [ToolCallDelta(call.number, "{}") for call in self._calls if not call.has_arguments]

    def _delta(self, entry: Any) -> ToolCallDelta:
        match entry:
            case {"function": dict(function)}:
                name = _text(function.get("name"), entry)
                arguments = _arguments(function.get("arguments"), entry)
            case _:
                raise _unknown(entry)
        call_id, index = _text(entry.get("id"), entry), _index(entry.get("index"), entry)
        call = self._find(index, call_id, name)
        is_new = call is None
        if call is None:
            if not name:
                raise _unknown(entry)
            call = self._add(index, call_id)
        call.has_arguments |= not arguments.isspace() and arguments != ""
        if is_new:
            return ToolCallDelta(call.number, arguments, name, call_id)
        return ToolCallDelta(call.number, arguments)

    def _find(self, index: int | None, call_id: str | None, name: str | None) -> _Call | None:
        """Returns the earlier call to which an entry belongs, or None."""
        if index is not None:
            call = self._by_index.get(index)
        else:
            call = self._calls[-1] if self._calls and (call_id or not name) else None
        is_other = call is not None and call_id is not None and call.id not in (None, call_id)
        return None if is_other else call

    def _add(self, index: int | None, call_id: str | None) -> _Call:
        call = _Call(len(self._calls), call_id)
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call


def _text(value: Any, entry: Any) -> str | None:
    """Returns the value of `id` or `name`; None for an empty text, which some servers send."""
    if value is not None and not isinstance(value, str):
        raise _unknown(entry)
    return value or None


def _index(value: Any, entry: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _unknown(entry)
    return value


def _arguments(value: Any, entry: Any) -> str:
    """Returns the value of `arguments` as a JSON text. Some servers send an object."""
    match value:
        case None:
            return ""
        case str():
            return value
        case dict():
            return json.dumps(value, ensure_ascii=False)
    raise _unknown(entry)


def _unknown(entry: Any) -> UpstreamFailed:
    return UpstreamFailed(f"sent a tool call in an unknown form: {one_line(json.dumps(entry))}")
