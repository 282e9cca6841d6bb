"""Reads tool calls that are written as JSON, and passes the arguments on while they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Literal

from workers_ai_emulator.engine.types import Chunk, ToolCallDelta
from workers_ai_emulator.json_values import parse_json
from workers_ai_emulator.prompts.output_formats.markers import split_at

_NAME_FIRST = re.compile(
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_FIRST_KEY = re.compile(r'\s*\{\s*"((?:[^"\\]|\\.)*)"')
MAX_HEAD = 1024  # the maximum length of the text before the arguments, in characters
_KEYS = ("name", "arguments", "parameters", "type", "function", "id")


class JsonScanner:
    """Finds the end of a JSON object or array in a text that arrives in pieces.

    The value also ends before a `<` outside of strings. JSON has no such `<`, but many markers
    begin with it.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._is_in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> int | None:
        """Returns the index after the end of the value in `text`; None if it has not ended."""
        for i, character in enumerate(text):
            if self._is_in_string:
                self._read_in_string(character)
            elif character == '"':
                self._is_in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return i + 1
            elif character == "<":
                return i
        return None

    def _read_in_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._is_in_string = False


class JsonCallReader:
    """Reads a tool call of the form `{"name": …, "arguments": {…}}`, in any order of the keys.

    If the name comes first, the arguments are returned while they arrive; otherwise at the end of
    the call. `index`: the number of the call. `names`: the tools that may be called. The text is
    not a call if it is not an object of this form or has another name. If the completion ends
    within the arguments, the parts that have been returned stay a call.
    """

    def __init__(self, index: int, names: Collection[str]) -> None:
        self.state: Literal["open", "done", "failed"] = "open"
        self.rest = ""
        self.num_calls = 0
        self._index = index
        self._names = names
        self._head = ""
        self._scanner = JsonScanner()
        self._arguments: JsonScanner | None = None
        self._tail: JsonScanner | None = None

    def feed(self, text: str) -> list[Chunk]:
        if self._tail:
            self._read_tail(self._tail, text)
            return []
        if self._arguments:
            return self._read_arguments(self._arguments, text)
        return self._read_head(text)

    def flush(self) -> list[Chunk]:
        if not self.num_calls:
            return self._fail()
        self.state = "done"
        return []

    def _read_head(self, text: str) -> list[Chunk]:
        self._head += text
        if match := _NAME_FIRST.match(self._head):
            name = _decoded(match[1])
            if name is None or name not in self._names:
                return self._fail()
            self._arguments = JsonScanner()
            return [self._begin(name), *self.feed(self._head[match.end() :])]
        first_key = _FIRST_KEY.match(self._head)
        if not "{".startswith(self._head.lstrip()[:1]) or (first_key and first_key[1] not in _KEYS):
            return self._fail()
        end = self._scanner.feed(text)
        return [] if end is None else self._read_whole(len(self._head) - len(text) + end)

    def _read_whole(self, end: int) -> list[Chunk]:
        """Reads a call that ends at the index `end` of the text so far."""
        call = _call_of(self._head[:end])
        if call is None or call[0] not in self._names:
            return self._fail()
        self.state, self.rest = "done", self._head[end:]
        return [self._begin(*call)]

    def _begin(self, name: str, arguments: str = "") -> Chunk:
        self.num_calls = 1
        return Chunk(tool_call=ToolCallDelta(self._index, arguments, name), num_tokens=0)

    def _read_arguments(self, scanner: JsonScanner, text: str) -> list[Chunk]:
        end = scanner.feed(text)
        arguments = text if end is None else text[:end]
        delta = ToolCallDelta(self._index, arguments)
        if end is not None:
            self._tail = JsonScanner(depth=1)
            self.feed(text[end:])
        return [Chunk(tool_call=delta, num_tokens=0)] if arguments else []

    def _read_tail(self, scanner: JsonScanner, text: str) -> None:
        """Reads the rest of the call's object, whose other keys are ignored."""
        if (end := scanner.feed(text)) is not None:
            self.state, self.rest = "done", text[end:]

    def _fail(self) -> list[Chunk]:
        self.state, self.rest = "failed", self._head
        return []


class HeadedCallReader:
    """Reads a tool call whose name is written before its arguments, which are a JSON object.

    `head`: a pattern for the text up to the arguments; its group `name` is the tool's name, and its
    group `id` the id of the call. `end`: the marker after the call; empty if there is none.
    """

    def __init__(
        self, index: int, names: Collection[str], head: re.Pattern[str], end: str = ""
    ) -> None:
        self.state: Literal["open", "done", "failed"] = "open"
        self.rest = ""
        self.num_calls = 0
        self._index = index
        self._names = names
        self._pattern = head
        self._end = end
        self._head = ""
        self._arguments: JsonScanner | None = None
        self._has_arguments = False

    def feed(self, text: str) -> list[Chunk]:
        if self._has_arguments:
            self._read_end(text)
            return []
        if self._arguments:
            return self._read_arguments(self._arguments, text)
        self._head += text
        match = self._pattern.match(self._head, 0, MAX_HEAD)
        if not match and len(self._head) <= MAX_HEAD:
            return []
        if not match or match["name"] not in self._names:
            return self.flush()
        self.num_calls = 1
        self._arguments = JsonScanner()
        call_id = match["id"] or None
        delta = ToolCallDelta(self._index, name=match["name"], id=call_id)
        arguments = self.feed(self._head[match.end() :])
        return [Chunk(tool_call=delta, num_tokens=0), *arguments]

    def flush(self) -> list[Chunk]:
        self.state = "done" if self.num_calls else "failed"
        # After a call, the text that is held can only be the beginning of the closing marker.
        self.rest = "" if self.num_calls else self._head
        return []

    def _read_arguments(self, scanner: JsonScanner, text: str) -> list[Chunk]:
        end = scanner.feed(text)
        arguments = text if end is None else text[:end]
        if end is not None:
            self._has_arguments = True
            self._read_end(text[end:])
        delta = ToolCallDelta(self._index, arguments)
        return [Chunk(tool_call=delta, num_tokens=0)] if arguments else []

    def _read_end(self, text: str) -> None:
        """Reads the marker after the call, if it follows after white space."""
        self.rest += text
        after = self.rest.lstrip()
        if self._end and after.startswith(self._end):
            self.state, self.rest = "done", after[len(self._end) :]
        elif not self._end or not self._end.startswith(after):
            self.state = "done"


class EnclosedReader:
    """Reads one tool call up to a closing marker.

    `reader`: reads the call itself. `end`: the marker after the call. White space and `}` before
    the marker are dropped; other text before it is a part of the answer.
    """

    def __init__(self, reader: JsonCallReader, end: str) -> None:
        self.state: Literal["open", "done", "failed"] = "open"
        self.rest = ""
        self._reader = reader
        self._end = end
        self._held = ""
        self._has_read = False  # whether the reader has read its call

    @property
    def num_calls(self) -> int:
        return self._reader.num_calls

    def feed(self, text: str) -> list[Chunk]:
        if self._has_read:
            self._read_end(text)
            return []
        chunks = self._reader.feed(text)
        if self._reader.state == "failed":
            self.state, self.rest = "failed", self._reader.rest
        elif self._reader.state == "done":
            self._has_read = True
            self._read_end(self._reader.rest)
        return chunks

    def flush(self) -> list[Chunk]:
        chunks = [] if self._has_read else self._reader.flush()
        self.state = "done" if self.num_calls else "failed"
        # After a call, the text that is held can only be the beginning of the closing marker.
        self.rest = "" if self.num_calls else self._reader.rest
        return chunks

    def _read_end(self, text: str) -> None:
        self._held += text
        between, marker, rest = split_at(self._held, self._end)
        if marker and not between.strip("} \n\t\r"):
            self.state, self.rest = "done", rest
        elif between.strip("} \n\t\r"):
            self.state, self.rest = "done", self._held


class JsonListReader:
    """Reads a JSON array of tool calls, such as `[{"name": …, "arguments": {…}}, …]`."""

    def __init__(self, index: int, names: Collection[str]) -> None:
        self.state: Literal["open", "done", "failed"] = "open"
        self.rest = ""
        self.num_calls = 0
        self._index = index
        self._names = names
        self._held = ""
        self._opening = ""  # the text before the call that is being read
        self._reader: JsonCallReader | None = None

    def feed(self, text: str) -> list[Chunk]:
        chunks: list[Chunk] = []
        while self.state == "open":
            if self._reader is None:
                self._held, text = self._held + text, ""
                if not self._begin_call():
                    break
            reader = self._reader
            assert reader is not None
            chunks += reader.feed(text or self._take_held())
            text = ""
            if reader.state == "open":
                break
            self._end_call(reader)
        return chunks

    def flush(self) -> list[Chunk]:
        chunks = self._reader.flush() if self._reader else []
        if self._reader:
            self._end_call(self._reader)
        if self.state == "open":
            self.state, self.rest = ("done" if self.num_calls else "failed"), self._held
        return chunks

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held

    def _begin_call(self) -> bool:
        """Begins the next call if its text has begun. Ends the list at its closing bracket."""
        after = self._held.lstrip()
        opening = "," if self.num_calls else "["
        if self.num_calls and after.startswith("]"):
            self.state, self.rest = "done", after[1:]
        elif after and not after.startswith(opening):
            self.state, self.rest = ("done" if self.num_calls else "failed"), self._held
        elif after[1:].lstrip():
            self._reader = JsonCallReader(self._index + self.num_calls, self._names)
            self._opening, self._held = self._held[: -len(after)] + opening, after[1:]
            return True
        return False

    def _end_call(self, reader: JsonCallReader) -> None:
        self._reader = None
        self.num_calls += reader.num_calls
        if reader.state == "done":
            self._held = reader.rest
            return
        self.state = "done" if self.num_calls else "failed"
        self.rest = self._opening + reader.rest


def _decoded(text: str) -> str | None:
    """Returns the text that a JSON string contains; None if the string is not valid."""
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _call_of(text: str) -> tuple[str, str] | None:
    """Returns the name and the arguments of a call that is a JSON object; None if it is none."""
    try:
        value: Any = parse_json(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return value["name"], arguments
