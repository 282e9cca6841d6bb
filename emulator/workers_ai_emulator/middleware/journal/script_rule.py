"""Converts a call and its completion to a rule of a script, which gives the same completion."""

from __future__ import annotations

import json
from typing import Any

from workers_ai_emulator.middleware.journal.completion_text import SentCompletion
from workers_ai_emulator.middleware.journal.entry import Entry
from workers_ai_emulator.wire.credentials import MARK


def rule_of(entry: Entry, completion: SentCompletion | None) -> dict[str, Any] | None:
    """Returns a rule that applies to calls such as this one, and that has this completion.

    The condition `contains` is the beginning of the prompt or of the last message, up to a
    credential. Returns None if the response is incomplete, or if it contains no completion.
    """
    if completion is None or entry.outcome != "ok" or entry.response_body.num_left_out:
        return None
    parts = _completion_keys(entry, completion)
    return {**_conditions(entry), **parts} if parts else None


def _conditions(entry: Entry) -> dict[str, Any]:
    contains = max((entry.excerpt or "").split(MARK), key=len)
    conditions = {"model": entry.model, "contains": contains}
    return {name: value for name, value in conditions.items() if value}


def _completion_keys(entry: Entry, completion: SentCompletion) -> dict[str, Any]:
    redacted = entry.redaction.text
    keys: dict[str, Any] = {}
    if completion.reasoning:
        keys["reasoning"] = redacted(completion.reasoning)
    if completion.answer:
        keys["answer"] = redacted(completion.answer)
    if calls := completion.tool_calls:
        keys["tool_calls"] = [
            {"name": redacted(name), "arguments": _arguments(redacted(text))}
            for name, text in calls
        ]
    return keys


def _arguments(text: str) -> Any:
    """Returns the arguments of a tool call as an object; an empty one if they are not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
