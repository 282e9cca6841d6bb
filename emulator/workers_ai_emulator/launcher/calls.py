"""Describes the calls in an emulator's journal, for the messages of failed assertions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workers_ai_emulator.json_values import texts_without_keys
from workers_ai_emulator.wildcards import is_like

MAX_LISTED = 20  # the maximum number of calls in a list

_MAX_TEXT = 80


def is_match(call: Mapping[str, Any], contains: str | None, model: str | None) -> bool:
    """Returns whether a journal entry meets both conditions. None stands for no condition.

    `contains`: a text that one of the texts in the request's body must contain. `model`: the name
    of the requested model, in which `*` matches any text.
    """
    if model is not None and not is_like(call.get("model") or "", model):
        return False
    texts = texts_without_keys(call["request"]["body"])
    return contains is None or any(contains in text for text in texts)


def list_of(calls: Sequence[Mapping[str, Any]], num_calls: int | None = None) -> str:
    """Returns one line for each journal entry: its request, and how the emulator answered it.

    Only describes the first 20 entries. `num_calls`: the number of all calls, if `calls` has only
    some of them.
    """
    lines = [f"  {number}. {described(call)}" for number, call in enumerate(calls[:MAX_LISTED], 1)]
    if num_others := (num_calls or len(calls)) - len(lines):
        lines.append(f"  and {num_others} more")
    return "\n".join(lines)


def described(call: Mapping[str, Any]) -> str:
    """Returns for example `@cf/author/model "Why?": status 200, rule 2`."""
    answer = [f"status {call['status']}" if call["status"] else "no response yet"]
    if call.get("rule"):
        answer.append(f"rule {call['rule']}")
    if call.get("recording"):
        answer.append(f"recording {call['recording']}")
    if call.get("fault"):
        answer.append(f"fault {call['fault']}")
    if error := _error(call):
        answer.append(error)
    excerpt = call["excerpt"] or json.dumps(call["request"]["body"], ensure_ascii=False)
    return f"{call.get('model') or call['path']} {_shortened(excerpt)}: {', '.join(answer)}"


def _shortened(text: str) -> str:
    shown = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
    return json.dumps(shown, ensure_ascii=False)


def _error(call: Mapping[str, Any]) -> str | None:
    """Returns the message of the error for a call that no rule and no recording answered."""
    if not call.get("unmatched") or (call["status"] or 0) < 400:
        return None
    try:
        body = json.loads(call["answer"]["sent"])
    except ValueError:
        return None
    match body:
        case {"errors": [{"message": str(message)}, *_]} | {"error": {"message": str(message)}}:
            return message
        case {"error": str(message)} | {"description": str(message)}:
            return message
    return None
