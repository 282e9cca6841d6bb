"""Parses completions in which a marker begins every tool call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from workers_ai_emulator.engine.types import Chunk
from workers_ai_emulator.prompts.output_formats.markers import split_at


class CallReader(Protocol):
    """Reads one tool call, or a list of them, after its marker.

    `state`: `open` at first, `done` after the end of the call, `failed` if the text is not a call.
    `rest`: in the state `done`, the text after the call; in the state `failed`, the whole text.
    """

    state: Literal["open", "done", "failed"]
    rest: str

    @property
    def num_calls(self) -> int:
        """How many calls have begun."""

    def feed(self, text: str) -> list[Chunk]:
        """Reads the next text, and returns the parts of tool calls that are now complete."""

    def flush(self) -> list[Chunk]:
        """Returns what is left when the completion ends within the call."""


class TaggedCallParser:
    """Parses a text with tool calls. All text outside the calls is the answer.

    `make_reader`: a function that returns a reader for a call; its argument is the number of calls
    before. `ignored`: markers that are neither a part of a call nor of the answer. White space
    after a call is dropped if the answer does not continue.
    """

    def __init__(
        self, marker: str, make_reader: Callable[[int], CallReader], ignored: Sequence[str] = ()
    ) -> None:
        self._marker = marker
        self._make_reader = make_reader
        self._ignored = ignored
        self._reader: CallReader | None = None
        self._num_calls = 0
        self._is_after_call = False  # whether only white space followed the last call
        self._held = ""

    def feed(self, text: str) -> list[Chunk]:
        chunks: list[Chunk] = []
        left: str | None = text
        while left is not None:
            if self._reader is None:
                left = self._read_text(left, chunks)
            else:
                left = self._read_call(self._reader, left, chunks)
        return chunks

    def flush(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        while self._reader is not None:
            reader = self._reader
            chunks += reader.flush()
            left = self._close(reader, chunks)
            chunks += self.feed(left) if left else []
        if self._held.strip() or not self._is_after_call:
            chunks += text_chunks(self._held)
        return chunks

    def _read_text(self, text: str, chunks: list[Chunk]) -> str | None:
        """Reads text outside the calls. Returns the text after a marker; None if there is none."""
        before, marker, rest = split_at(self._held + text, self._marker, *self._ignored)
        if self._is_after_call and not before.strip():
            before, rest = "", rest if marker else before + rest
        self._is_after_call &= not before
        chunks += text_chunks(before)
        self._held = "" if marker else rest
        if marker == self._marker:
            self._reader = self._make_reader(self._num_calls)
        return rest if marker else None

    def _read_call(self, reader: CallReader, text: str, chunks: list[Chunk]) -> str | None:
        """Reads a call. Returns the text after the call; None if the call has not ended."""
        chunks += reader.feed(text)
        return None if reader.state == "open" else self._close(reader, chunks)

    def _close(self, reader: CallReader, chunks: list[Chunk]) -> str:
        """Ends the reader, and returns the text that it has not read.

        If the text was not a call, the marker before it is a part of the answer.
        """
        self._reader = None
        self._num_calls += reader.num_calls
        self._is_after_call = reader.state == "done"
        if reader.state == "failed":
            chunks += text_chunks(self._marker)
        return reader.rest


def text_chunks(text: str) -> list[Chunk]:
    """Returns a list with the text as a chunk of no tokens; an empty list for an empty text."""
    return [Chunk(text, num_tokens=0)] if text else []
