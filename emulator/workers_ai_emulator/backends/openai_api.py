"""OpenAI's API as its clients see it: what to ask, and what events and errors say. Pure."""

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


class UpstreamFailed(EngineError):
    """The upstream server cannot be reached, breaks off, or does not speak OpenAI's API."""


_MAX_MESSAGE = 1000  # characters of a server's error text that are passed on
_END_OF_STREAM = "[DONE]"

# "maximum context length is 512 tokens" of OpenAI, vLLM and llama_cpp.server, "(512 tokens)" of
# llama-server; and of either what came: all of it, or the prompt alone.
_LIMIT = re.compile(r"context (?:length|window) (?:is|of) (?:only )?(\d+)|context size \((\d+)")
_TOTAL = re.compile(r"requested (?:about )?(\d+) tokens")
_PROMPT = re.compile(r"(\d+) (?:prompt|input) tokens|request \((\d+) tokens|resulted in (\d+)")


def call_for(request: TextGenerationRequest, model: str) -> tuple[str, Json]:
    """The path and the body that ask for the request's text as a stream.

    A prompt becomes the conversation that the service makes of it; only a raw one stays a text.
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
    """What differs from a server's own defaults: strict ones refuse keys they do not know.

    `top_k` is known to vLLM and llama.cpp's servers. Repetition has two names: vLLM's first.
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
    """Makes chunks of events. Feed it all of them, then flush it; `is_done` once all have come.

    Without a usage from the server `num_prompt_tokens` stands, and texts are counted.
    """

    def __init__(self, num_prompt_tokens: int, max_tokens: int) -> None:
        self.is_done = False
        self.max_tokens = max_tokens
        self._num_prompt_tokens = num_prompt_tokens
        self._num_texts = 0
        self._usage: Usage | None = None
        self._ending: FinishReason | None = None

    def feed(self, data: str) -> list[Chunk]:
        """The text in an event, if any. Raises what the server says, or UpstreamFailed."""
        if data.strip() == _END_OF_STREAM:
            self.is_done = True
            return []
        event = _object(data)
        if event is None:
            raise UpstreamFailed(f"sent an event that is no JSON object: {clip(data)}")
        if error := event.get("error"):
            status = error.get("code") if isinstance(error, dict) else None
            raise error_of(status if isinstance(status, int) else 500, data, self.max_tokens)
        self._usage = _usage(event.get("usage")) or self._usage
        text, ending = _choice(event)
        self._ending = ending or self._ending
        self._num_texts += bool(text)
        return [Chunk(text)] if text else []

    def flush(self) -> list[Chunk | Usage]:
        """The usage and the end. Raises UpstreamFailed if the stream had none."""
        ending = self._ending or (FinishReason.STOP if self.is_done else None)
        if ending is None:
            raise UpstreamFailed("ended a stream before its end; its own log may say why")
        num_ends = ending is FinishReason.STOP  # the token that ends it has no text
        counted = Usage(self._num_prompt_tokens, self._num_texts + num_ends)
        return [self._usage or counted, Chunk("", ending)]


def _choice(event: Json) -> tuple[str, FinishReason | None]:
    """The text of an event of either endpoint, and why it is the last one."""
    match event.get("choices"):
        case [dict() as choice, *_]:
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
            ending = _ending(choice.get("finish_reason"))
            return text if isinstance(text, str) else "", ending
    return "", None


def _ending(reason: Any) -> FinishReason | None:
    if reason == "length":
        return FinishReason.LENGTH
    return FinishReason.STOP if reason else None


def _usage(value: Any) -> Usage | None:
    match value:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion), **others}:
            match others.get("prompt_tokens_details"):
                case {"cached_tokens": int(cached)}:
                    return Usage(prompt, completion, cached)
            return Usage(prompt, completion)
    return None


def error_of(status: int, body: str, max_tokens: int) -> EngineError:
    """What an answer with this status and body means for the one who asked for `max_tokens`."""
    message = clip(_message(body))
    if status in (429, 503):
        return CapacityExceeded(f"answers {status}: {message}")
    if status in (400, 413, 422):
        return _context_exceeded(message, max_tokens) or RequestRejected(message)
    if status in (401, 403):
        return UpstreamFailed(f"refuses the key, so check --upstream-api-key: {status} {message}")
    if status == 404:
        where = "so check --upstream-url and --upstream-model"
        return UpstreamFailed(f"does not have what it is asked for, {where}: 404 {message}")
    return UpstreamFailed(f"answers {status}: {message}")


def _context_exceeded(message: str, max_tokens: int) -> ContextTooLong | None:
    """Said in the service's words, if the message tells the numbers."""
    limit, total, prompt = (pattern.search(message) for pattern in (_LIMIT, _TOTAL, _PROMPT))
    if limit and total:
        return ContextTooLong(_number(total), _number(limit))
    if limit and prompt:
        return ContextTooLong(_number(prompt) + max_tokens, _number(limit))
    return None


def _number(match: re.Match[str]) -> int:
    return int(next(filter(None, match.groups())))


def _message(body: str) -> str:
    """The text of an error, in whatever of the usual places it is; else all of the body."""
    match _object(body):
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
    return body or "nothing"


def clip(text: str) -> str:
    """A line that can be shown: not too long, nothing that a terminal would obey."""
    line = " ".join(text[: 4 * _MAX_MESSAGE].split())[:_MAX_MESSAGE]
    return "".join(filter(str.isprintable, line))


def model_names(body: str) -> list[str]:
    """The names in a list of models. Raises UpstreamFailed where there is none."""
    match _object(body):
        case {"data": [*models]}:
            names = [model.get("id") for model in models if isinstance(model, dict)]
            return [name for name in names if isinstance(name, str)]
    raise UpstreamFailed(f"has no list of models, so name one with --upstream-model: {clip(body)}")


def _object(text: str) -> Json | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
