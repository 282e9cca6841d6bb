"""Converts a call to a rule of a script, which gives the same completion or error."""

from __future__ import annotations

import re
from typing import Any

from workers_ai_emulator.json_values import json_or_none, object_or_none
from workers_ai_emulator.middleware.journal.completion_text import SentCompletion
from workers_ai_emulator.middleware.journal.entry import Entry
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.wire.credentials import MARK
from workers_ai_emulator.wire.faults import MAX_MESSAGE_LENGTH

# What `wire/envelope.py` adds to the text of an error: the prefix, and the id of the request.
_ADDED = re.compile(r"\AAiError: | \([0-9a-f-]{36}\)\Z")
# Matches what the condition of a rule cannot contain: credentials, and lone surrogates, which JSON
# can contain and UTF-8 cannot.
_NOT_IN_RULES = re.compile(f"{re.escape(MARK)}|[\ud800-\udfff]")


def rule_of(entry: Entry, completion: SentCompletion | None) -> dict[str, Any] | None:
    """Returns a rule that applies to calls such as this one, with the same completion or error.

    The condition `contains` is the longest part of the entry's excerpt that has no credential and
    no lone surrogate. Returns None if the response is incomplete or contains neither a completion
    nor an error, or if rules do not apply to the model. Also returns None if the error says that no
    rule or no recording was found: the call has no response yet.
    """
    if entry.response_body.num_left_out or not _has_rules(entry.model):
        return None
    if (entry.status or 0) >= 400:
        parts = None if entry.is_unmatched else _error_keys(entry)
    elif entry.outcome != "ok":
        parts = None
    elif completion is not None:
        parts = _completion_keys(entry, completion)
    elif answers := _decisions(entry.response_body.text):
        parts = {"json": answers}
    else:
        parts = None
    return {**_conditions(entry), **parts} if parts else None


def _has_rules(model: str | None) -> bool:
    """Returns whether rules apply to calls of the model. They do not apply to embeddings."""
    spec = CATALOG.get(model or "")
    return spec is None or spec.embedding is None or spec.embedding.form == "decisions"


def _conditions(entry: Entry) -> dict[str, Any]:
    contains = max(_NOT_IN_RULES.split(entry.excerpt or ""), key=len)
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


def _decisions(body: str) -> dict[str, Any]:
    """Returns the answers in the response of a decision model, as a rule contains them.

    The rule has the probability of yes, or the probabilities of the options. Returns an empty
    object for other responses.
    """
    match json_or_none(body):
        case {"result": {"answers": dict(answers)}} | {"answers": dict(answers)}:
            values = {
                id: answer.get("noul", answer.get("probabilities"))
                for id, answer in answers.items()
                if isinstance(answer, dict)
            }
            return {id: value for id, value in values.items() if value is not None}
    return {}


def _error_keys(entry: Entry) -> dict[str, Any] | None:
    """Returns the fault that sends the entry's error, or None if the body contains no error."""
    message = _message(entry.response_body.text)
    if message is None:
        return None
    outcome = entry.outcome or ""
    code = {"code": int(outcome)} if outcome.isdecimal() else {}
    text = entry.redaction.text(_ADDED.sub("", message))[:MAX_MESSAGE_LENGTH]
    return {"fault": "error", "status": entry.status, **code, "message": text}


def _message(body: str) -> str | None:
    """Returns the message of the error in a body, in any of the endpoints' forms of errors."""
    match json_or_none(body):
        case (
            {"errors": [{"message": str(message)}, *_]}
            | {"error": [{"message": str(message)}, *_]}
            | {"error": {"message": str(message)}}
            | {"message": str(message)}
        ):
            return message
    return None


def _arguments(text: str) -> Any:
    """Returns the arguments of a tool call as an object; an empty one if they are not one."""
    return object_or_none(text) or {}
