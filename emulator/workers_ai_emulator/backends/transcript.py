"""Joins the messages of a request to one text, for the journal and for counts of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from workers_ai_emulator.prompts.messages import Message


def transcript(messages: Iterable[Message]) -> str:
    """Returns one line for each message, and one for each tool call in an assistant message."""
    return "\n".join(line for message in messages for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    if message.content or not message.tool_calls:
        yield f"{message.role}: {message.content}"
    for call in message.tool_calls:
        yield f"{message.role} calls {call.name} {call.arguments}"
