"""Builds the log line of a request: its path, the origin of its response, its error, a hint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from workers_ai_emulator.json_values import json_or_none
from workers_ai_emulator.wire.context import CallContext, context_of
from workers_ai_emulator.wire.excerpt import excerpt_of
from workers_ai_emulator.wire.redaction import Redaction
from workers_ai_emulator.wire.responses import CLIENT_CLOSED_REQUEST

MAX_ERROR_BYTES = 4096  # stored bytes of the body of a response with an error

_MAX_LENGTH = 300  # characters of an error's text, or of a name
_MAX_EXCERPT_LENGTH = 80  # characters


@dataclass(slots=True)
class Sent:
    """The response that a request got, as far as it was sent.

    `status`: 0 if no response was sent. `error_body`: the beginning of the body, if the status is
    that of an error. `is_complete`: whether the whole response was sent. `is_disconnected`: whether
    the client closed the connection before that.
    """

    status: int = 0
    error_body: bytes = b""
    is_complete: bool = False
    is_disconnected: bool = False


def log_line(scope: Scope, sent: Sent, hint: str, *, has_excerpt: bool) -> str:
    """Returns the log line of a request, without its duration.

    The line contains no credentials and no line breaks. `hint`: what the client has to change, or
    an empty text. `has_excerpt`: whether the line contains the beginning of the prompt or of the
    last message.
    """
    context = context_of(scope)
    redaction = context.redaction or Redaction.of(scope)

    def shown(text: str) -> str:
        return _printable(redaction.text(text[:_MAX_LENGTH], is_cut=len(text) > _MAX_LENGTH))

    line = f"{scope['method']} {redaction.path(scope['path'])} {sent.status or 'no response'}"
    if context.fault is not None:
        line += f", fault {context.fault}"
    parts = [_printable(line), *map(shown, _origin(scope, context))]
    if (error := _error(context, sent)) is not None:
        parts.append(f"{error.prefix}{shown(error.text)}")
    if hint:
        parts.append(f"hint: {shown(hint)}")
    parts += _ending(context, sent)
    if has_excerpt and (excerpt := excerpt_of(context.inputs)) is not None:
        text = redaction.text(excerpt, is_cut=True)[:_MAX_EXCERPT_LENGTH]
        parts.append(f"input {_printable(json.dumps(text, ensure_ascii=False))}")
    return ", ".join(parts)


def _origin(scope: Scope, context: CallContext) -> Iterator[str]:
    """Yields the model and the account if the path lacks them, and the rule or the recording."""
    model, account = _model(context), context.account
    if model and model not in scope["path"]:
        yield f"model {model}"
    if account and account not in scope["path"]:
        yield f"account {account}"
    if context.rule is not None:
        yield f"rule {context.rule}"
    if context.recording is not None:
        yield f"recording {context.recording}"
    if context.is_unmatched:
        yield "unmatched"


def _model(context: CallContext) -> str | None:
    named = context.inputs.get("model") if isinstance(context.inputs, dict) else None
    in_call = context.call.model if context.call else None
    return context.model or in_call or (named if isinstance(named, str) else None)


@dataclass(frozen=True, slots=True)
class _Error:
    """The text of an error. `prefix`: the error's code and a colon, if the error has a code."""

    prefix: str
    text: str


def _error(context: CallContext, sent: Sent) -> _Error | None:
    """Returns the error that was sent, or None.

    For an error that another program has sent, such as an upstream server, or that was recorded,
    finds the error in the body.
    """
    if context.error is not None:
        return _Error(f"{context.error.type.code}: ", str(context.error))
    return _error_in(json_or_none(sent.error_body))


def _error_in(value: Any) -> _Error | None:
    match value:
        case {"errors": [error, *_]} | {"error": [error, *_]} | {"error": dict(error)}:
            return _error_in(error)
        case {"internalCode": int(code), "description": str(text)}:
            return _Error(f"{code}: ", text)
        case {"code": int(code), "message": str(text)}:
            return _Error(f"{code}: ", text)
        case {"message": str(text)} | {"error": str(text)}:
            return _Error("", text)
    return None


def _ending(context: CallContext, sent: Sent) -> Iterator[str]:
    """Yields the token counts, the finish reason, and why the response is incomplete."""
    if context.started is not None:
        generation = context.started.generation
        usage, reason = generation.usage, generation.finish_reason
        yield (
            f"{usage.num_prompt_tokens} prompt ({usage.num_cached_tokens} cached) + "
            f"{usage.num_completion_tokens} completion tokens"
        )
        yield reason.value if reason else "unfinished"
    if sent.status == CLIENT_CLOSED_REQUEST or (sent.is_disconnected and not sent.is_complete):
        yield "the client disconnected"
    elif sent.status and not sent.is_complete:
        yield "the response broke off"


def _printable(text: str) -> str:
    """Escapes control characters, such as line breaks, which a request's path may contain."""
    return text if text.isprintable() else repr(text)
