"""Converts journal entries to JSON: a summary for the list of calls, or all details of a call."""

from __future__ import annotations

import asyncio
from typing import Any

from workers_ai_emulator.middleware.journal.completion_text import SentCompletion, completion_in
from workers_ai_emulator.middleware.journal.entry import Entry, Part
from workers_ai_emulator.middleware.journal.script_rule import rule_of
from workers_ai_emulator.wire.envelope import to_json

Json = dict[str, Any]

# An entry with more bytes than this is converted to JSON in a thread, because the conversion on the
# event loop would delay other requests.
_LONG_BYTES = 2**15


def row(entry: Entry) -> Json:
    """Returns the summary of an entry for the list of calls. Unknown values are null."""
    usage = entry.usage
    return {
        "id": entry.id,
        "time": entry.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "method": entry.method,
        "path": entry.path,
        "account": entry.shown_account,
        "model": entry.model,
        "excerpt": entry.excerpt,
        "answered_by": entry.answered_by,
        "status": entry.status,
        "outcome": entry.outcome,
        "fault": entry.fault,
        "rule": entry.rule,
        "recording": entry.recording,
        "unmatched": entry.is_unmatched,
        "stream": entry.is_stream,
        "events": entry.num_events if entry.is_stream else None,
        "prompt_tokens": usage.num_prompt_tokens if usage else None,
        "cached_tokens": usage.num_cached_tokens if usage else None,
        "completion_tokens": usage.num_completion_tokens if usage else None,
        "first_byte_ms": _ms(entry.first_s),
        "duration_ms": _ms(entry.elapsed_s if entry.duration_s is None else entry.duration_s),
        "tokens_per_second": _tokens_per_second(entry),
    }


async def whole(entry: Entry) -> bytes:
    """Returns all details of an entry as JSON: the summary, headers, bodies and the prompt."""
    duplicate = entry.copy()
    if entry.num_bytes > _LONG_BYTES:
        return await asyncio.to_thread(_whole, duplicate)
    return _whole(duplicate)


def _whole(entry: Entry) -> bytes:
    # Finds the credentials in the part of the body that has arrived, to redact them below.
    entry.learn_body()
    completion = completion_in(entry.response_body.text, is_stream=entry.is_stream)
    return to_json(
        row(entry)
        | {
            "query": entry.query,
            "longest_gap_ms": _ms(entry.longest_gap_s),
            "request": {
                "headers": entry.request_headers,
                **_sizes(entry.request_body),
                "body": _body(entry),
            },
            "prompt": _prompt(entry),
            "answer": {
                "headers": entry.response_headers,
                "num_pieces": entry.num_pieces,
                **_sizes(entry.response_body),
                **_response(entry, completion),
            },
            "as_rule": rule_of(entry, completion),
        }
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _tokens_per_second(entry: Entry) -> float | None:
    """Returns the completion tokens per second, or None if they cannot be computed.

    For a stream, the time is measured from the first token to the last one. For other responses, it
    is measured from the arrival of the request to the response.
    """
    num_tokens = entry.usage.num_completion_tokens if entry.usage else 0
    if entry.first_s is None or num_tokens == 0:
        return None
    if entry.is_stream:
        num_tokens, seconds = num_tokens - 1, entry.last_s - entry.first_s
    else:
        seconds = entry.last_s
    return round(num_tokens / seconds, 1) if num_tokens and seconds > 0 else None


def _sizes(part: Part) -> Json:
    return {"bytes": part.num_bytes, "bytes_left_out": part.num_left_out}


def _body(entry: Entry) -> Any:
    """Returns the request's body, without credentials, as a JSON value.

    A body that is not JSON is returned as a text, an empty body as None.
    """
    part = entry.request_body
    text = part.text
    return entry.redaction.json(text, is_cut=part.num_left_out > 0) if text else None


def _prompt(entry: Entry) -> Json | None:
    part = entry.prompt
    if part is None:
        return None
    text = part.text
    return _sizes(part) | {"text": entry.redaction.text(text, is_cut=part.num_left_out > 0)}


def _response(entry: Entry, completion: SentCompletion | None) -> Json:
    """Returns a dict with the response's body (`sent`) and the completion in the body.

    `text` also has a line for each tool call, but not the reasoning. Texts are None if the body
    contains none.
    """
    is_cut = entry.response_body.num_left_out > 0

    def redacted(text: str | None) -> str | None:
        return None if text is None else entry.redaction.text(text, is_cut=is_cut)

    return {
        "text": redacted(completion.text if completion else None),
        "reasoning": redacted((completion.reasoning or None) if completion else None),
        "sent": redacted(entry.response_body.text),
    }
