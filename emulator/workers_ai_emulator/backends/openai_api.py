"""Builds requests for servers with OpenAI's API, and decodes their events and errors.

The module does no I/O.
"""

from __future__ import annotations

import json
import re
from typing import Any

from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    EngineError,
    RequestRejected,
)
from workers_ai_emulator.engine.types import Chunk, FinishReason, SamplingParams, Usage
from workers_ai_emulator.prompts.chat import wrap_prompt
from workers_ai_emulator.prompts.messages import Message, parse_flattened, parse_llama2
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest

Json = dict[str, Any]

_MAX_MESSAGE = 1000  # characters; a server's error text is cut to this length
_MAX_DIGITS = 15  # a token count that is a string with more digits is ignored
_END_OF_STREAM = "[DONE]"

# These patterns find numbers in a server's error text about a prompt that is too long. _LIMIT finds
# the context length: OpenAI, vLLM and llama_cpp.server write "maximum context length is 512
# tokens", llama-server writes "context size (512 tokens)". Some servers write the number of prompt
# and completion tokens together, which _TOTAL finds. Other servers write the number of prompt
# tokens, which _PROMPT finds.
_LIMIT = re.compile(r"context (?:length|window) (?:is|of) (?:only )?(\d+)|context size \((\d+)")
_TOTAL = re.compile(r"requested (?:about )?(\d+) tokens")
_PROMPT = re.compile(r"(\d+) (?:prompt|input) tokens|request \((\d+) tokens|resulted in (\d+)")


class UpstreamFailed(EngineError):
    """The upstream server is unreachable, rejects the API key, or sends an unusable response."""


def streaming_request(request: TextGenerationRequest, model: str) -> tuple[str, Json]:
    """Converts a Workers AI request to an OpenAI request: returns its path and its body.

    The OpenAI request asks for a stream. If the Workers AI request sets `raw`, its prompt is sent
    unchanged to `/completions`. Any other prompt is converted to messages, as Workers AI converts
    it, and sent to `/chat/completions`.
    """
    if request.prompt is not None and request.raw and not request.is_flattened:
        return "/completions", {"model": model, "prompt": request.prompt} | _options(request.params)
    messages = [{"role": m.role, "content": m.content} for m in _messages(request)]
    return "/chat/completions", {"model": model, "messages": messages} | _options(request.params)


def _messages(request: TextGenerationRequest) -> list[Message]:
    if request.prompt is None:
        return request.messages
    if request.is_flattened:
        return parse_flattened(request.prompt) or [Message("user", request.prompt)]
    return parse_llama2(request.prompt) or wrap_prompt(request.prompt)


def _options(params: SamplingParams) -> Json:
    """Returns the sampling parameters and stream options as keys of an OpenAI request.

    Omits parameters that are unset or have no effect, because some servers reject keys that they do
    not support, such as `top_k`. The repetition penalty has two keys: vLLM reads
    `repetition_penalty`, and llama.cpp's servers read `repeat_penalty`.
    """
    options: Json = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": params.seed,
        "frequency_penalty": params.frequency_penalty or None,
        "presence_penalty": params.presence_penalty or None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if params.repetition_penalty not in (0, 1):
        options["repetition_penalty"] = options["repeat_penalty"] = params.repetition_penalty
    return {key: value for key, value in options.items() if value is not None}


class EventDecoder:
    """Decodes the events of an OpenAI stream: call `feed` for each event, then `flush` once.

    `is_done`: whether the server has sent the event `[DONE]`. If the server sends no token counts,
    the usage has `num_prompt_tokens` prompt tokens, and one completion token for each event with
    text.
    """

    def __init__(self, num_prompt_tokens: int, max_tokens: int) -> None:
        self.is_done = False
        self.max_tokens = max_tokens
        self._num_prompt_tokens = num_prompt_tokens
        self._num_texts = 0
        self._usage: Usage | None = None
        self._finish_reason: FinishReason | None = None

    def feed(self, data: str, kind: str = "message") -> list[Chunk]:
        """Decodes one event. Returns its text as one chunk, or an empty list if it has no text.

        `kind`: the event's field `event`. Raises an EngineError if the event reports an error. If
        the data is not a JSON object, raises UpstreamFailed for the kind `message`, and ignores
        other kinds, such as `ping`. Also ignores events without data, which some servers send to
        keep the connection open.
        """
        if data.strip() == _END_OF_STREAM:
            self.is_done = True
            return []
        event = _parse_object(data)
        if kind == "error" or (event and event.get("error")):
            raise error_from(_error_status(event or {}), data, self.max_tokens)
        if event is None:
            if not data.strip() or kind != "message":
                return []
            raise UpstreamFailed(f"sent an event that is not a JSON object: {one_line(data)}")
        self._usage = _usage(event.get("usage")) or self._usage
        text, finish_reason = _choice(event)
        self._finish_reason = finish_reason or self._finish_reason
        self._num_texts += bool(text)
        return [Chunk(text)] if text else []

    def flush(self) -> list[Chunk | Usage]:
        """Ends the stream: returns the usage, and a last empty chunk with the finish reason.

        Raises UpstreamFailed if the server has sent neither a finish reason nor `[DONE]`.
        """
        reason = self._finish_reason or (FinishReason.STOP if self.is_done else None)
        if reason is None:
            raise UpstreamFailed(
                "ended a stream without a finish reason; its log may have the cause"
            )
        # The end-of-text token counts as a completion token, but servers send no event for it.
        num_end_tokens = reason is FinishReason.STOP
        counted = Usage(self._num_prompt_tokens, self._num_texts + num_end_tokens)
        return [self._usage or counted, Chunk("", reason)]


def _error_status(event: Json) -> int:
    """Returns the HTTP status in an error event, or 500 if it has none."""
    match event.get("error"):
        case {"code": code} if (status := _count(code)) is not None and 400 <= status < 600:
            return status
    return 500


def _choice(event: Json) -> tuple[str, FinishReason | None]:
    """Returns the text and finish reason in an event of `/chat/completions` or `/completions`."""
    match event.get("choices"):
        case [dict() as choice, *_]:
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
            return _content(text), _finish_reason(choice.get("finish_reason"))
    return "", None


def _content(value: Any) -> str:
    """Returns the text in `value`, the value of the key `content` or `text` in an event.

    The value may be a text, a number, null (no text), or a list of parts. Parts of other types than
    `text`, such as `reasoning`, are ignored. Raises UpstreamFailed for any other value, because
    ignoring it would lose text.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case int() | float() if not isinstance(value, bool):
            return json.dumps(value)
        case [*parts]:
            return "".join(_content(_part(part)) for part in parts)
    raise UpstreamFailed(f"sent content that is not text: {one_line(json.dumps(value))}")


def _part(part: Any) -> Any:
    match part:
        case {"type": "text", "text": text}:
            return text
        case {"type": str(kind)} if kind != "text":  # for example a part of the type `reasoning`
            return None
    return part if isinstance(part, str) else {"part": part}


def _finish_reason(reason: Any) -> FinishReason | None:
    if reason == "length":
        return FinishReason.LENGTH
    return FinishReason.STOP if reason else None


def _usage(value: Any) -> Usage | None:
    """Returns the usage in an event.

    Returns None if the number of prompt tokens or the number of completion tokens is missing or is
    not a whole number.
    """
    match value:
        case {"prompt_tokens": prompt, "completion_tokens": completion, **others}:
            counts = _count(prompt), _count(completion)
            if counts[0] is None or counts[1] is None:
                return None
            match others.get("prompt_tokens_details"):
                case {"cached_tokens": cached}:
                    return Usage(counts[0], counts[1], _count(cached) or 0)
            return Usage(counts[0], counts[1])
    return None


def _count(value: Any) -> int | None:
    """Converts a token count to an integer, because some servers send `2.0` or `"2"`.

    Returns None if the value is not a whole number of at least 0.
    """
    match value:
        case bool():
            return None
        case int() if value >= 0:
            return value
        case float() if value >= 0 and value.is_integer():
            return int(value)
        case str() if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
            return int(value)
    return None


def error_from(status: int, body: str, max_tokens: int) -> EngineError:
    """Converts an error response of the upstream server to an EngineError.

    `max_tokens`: the maximum number of completion tokens in the request.
    """
    message = one_line(_message(body))
    if status in (429, 503):
        return CapacityExceeded(f"answers {status}: {message}")
    if status in (400, 413, 422):
        return _context_exceeded(message, max_tokens) or RequestRejected(message)
    if status in (401, 403):
        return UpstreamFailed(f"rejects the key, check --upstream-api-key: {status} {message}")
    if status == 404:
        reason = "does not have the path or the model, check --upstream-url and --upstream-model"
        return UpstreamFailed(f"{reason}: 404 {message}")
    return UpstreamFailed(f"answers {status}: {message}")


def _context_exceeded(message: str, max_tokens: int) -> ContextTooLong | None:
    """Returns a ContextTooLong with the numbers in an upstream server's error text.

    Returns None if the text lacks the context length or the number of tokens.
    """
    limit, total, prompt = (pattern.search(message) for pattern in (_LIMIT, _TOTAL, _PROMPT))
    if limit and total:
        return ContextTooLong(_number(total), _number(limit))
    if limit and prompt:
        return ContextTooLong(_number(prompt) + max_tokens, _number(limit))
    return None


def _number(match: re.Match[str]) -> int:
    return int(next(filter(None, match.groups())))


def _message(body: str) -> str:
    """Returns the error text in the body of an error response.

    Different servers send the error text under different JSON keys. If the body has none of these
    keys, the error text is the whole body.
    """
    match _parse_object(body):
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
    return body or "nothing"


def one_line(text: str) -> str:
    """Returns the text as one line of at most 1,000 characters, without control characters."""
    line = " ".join(text[: 4 * _MAX_MESSAGE].split())[:_MAX_MESSAGE]
    return "".join(filter(str.isprintable, line))


def model_names(body: str) -> list[str]:
    """Returns the names of the models in `body`, the body of a response from `/models`.

    Raises UpstreamFailed if the body has no list of models.
    """
    match _parse_object(body):
        case {"data": [*models]}:
            names = [model.get("id") for model in models if isinstance(model, dict)]
            return [name for name in names if isinstance(name, str)]
    raise UpstreamFailed(
        f"sent no list of models, name one with --upstream-model: {one_line(body)}"
    )


def _parse_object(text: str) -> Json | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
