"""Validates the input of a text-generation request, and converts it for the engine.

The limits and defaults of the parameters are those of Cloudflare's published schemas, which are in
`models/cards`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import Tool, ToolChoice
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    INVALID_DATA,
    JSON_MODE_UNSUPPORTED,
    LORA_UNSUPPORTED,
    WireError,
    refused_by_engine,
)

if TYPE_CHECKING:  # only the backend `llama` needs this module, and its import is slow
    from workers_ai_emulator.prompts.chat import ChatTemplate

_DATA_URL = re.compile(r"data:([^;,]*)[;,]")


@dataclass(frozen=True, slots=True)
class JsonMode:
    """The completion must be JSON. `schema`: its JSON schema; None if it may be any JSON object."""

    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TextGenerationRequest:
    """The valid input of a text-generation request: a prompt or, if `prompt` is None, messages.

    `raw`: whether the client has applied a chat template to the prompt itself. `is_flattened`:
    whether an old SDK has joined the messages into the prompt. `tools`: the tools that the model
    may call. `json_mode`: None if the completion may be any text. `template_variables`: values for
    the chat template, such as `enable_thinking`.
    """

    prompt: str | None
    messages: list[Message]
    raw: bool
    stream: bool
    params: SamplingParams
    is_flattened: bool = False
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    json_mode: JsonMode | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_characters(self) -> int:
        return len(self.prompt or "") + sum(len(m.role) + len(m.content) for m in self.messages)

    def render(self, template: ChatTemplate) -> list[int]:
        """Returns the prompt tokens. Applies the chat template if the input needs it."""
        if self.prompt is None:
            return template.render(self.messages)
        if self.is_flattened:
            return template.render_flattened(self.prompt)
        if self.raw:
            return template.render_raw(self.prompt)
        return template.render_prompt(self.prompt)


def parse(
    body: Any, spec: ModelSpec, *, seed: int | None = None, is_flattened: bool = False
) -> TextGenerationRequest:
    """Validates a model's input, and returns it as a TextGenerationRequest.

    `seed` is used if the body has no seed. `is_flattened`: whether an old SDK has joined the
    messages into the prompt. For an invalid or unsupported input, raises WireError with the
    service's error.
    """
    try:
        spec.validator.validate(body)
    except SchemaMismatch as error:
        raise WireError(BAD_INPUT, error) from error
    if isinstance(body.get("lora"), str):
        raise WireError(LORA_UNSUPPORTED, spec.name)
    if _field(body.get("response_format"), "type"):
        raise WireError(JSON_MODE_UNSUPPORTED)
    values = spec.defaults | {"seed": seed} | body
    prompt = body["prompt"] if isinstance(body.get("prompt"), str) else None
    return TextGenerationRequest(
        prompt=prompt,
        messages=_messages(body.get("messages")) if prompt is None else [],
        raw=values["raw"],
        stream=values["stream"],
        params=_sampling_params(values),
        is_flattened=is_flattened,
    )


def _messages(value: Any) -> list[Message]:
    """Converts the value of the key `messages` in a validated body to messages.

    The value is a list of messages, or an object with messages as values: Cloudflare's schema
    accepts both forms. Items that are not messages are ignored.
    """
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list):
        return []
    return [
        Message(role, _text(_field(item, "content")))
        for item in items
        if isinstance(role := _field(item, "role"), str)
    ]


def _field(value: Any, name: str) -> Any:
    """Returns the property `name` of a JSON object.

    Returns None if `value` is not an object or has no such property.
    """
    return value.get(name) if isinstance(value, dict) else None


def _text(content: Any) -> str:
    """Returns the text of a message's content. Raises WireError if the content has base64 data.

    If the content has several parts, joins their texts by line breaks, as vLLM does. We assume that
    the service does the same.
    """
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if data_type := next(filter(None, map(_data_type, parts)), None):
        raise WireError(INVALID_DATA, data_type)
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _data_type(part: Any) -> str | None:
    """Returns the media type of the image or audio in a message part of OpenAI's format.

    Returns None if the part contains no base64 data.
    """
    match part:
        case {"image_url": {"url": str(url)} | str(url)} if data := _DATA_URL.match(url):
            return data[1] or "text/plain"  # the default media type of data URLs [RFC 2397]
        case {"input_audio": {"data": str(), "format": str(audio_format)}}:
            return f"audio/{audio_format}"
    return None


def _sampling_params(values: Mapping[str, Any]) -> SamplingParams:
    max_tokens = int(values["max_tokens"])
    if max_tokens < 1:
        raise refused_by_engine(f"max_tokens must be at least 1, got {max_tokens}.")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=float(values["temperature"]),
        top_k=_integer(values.get("top_k")),
        top_p=values.get("top_p"),
        seed=_integer(values.get("seed")),
        repetition_penalty=float(values.get("repetition_penalty", 1.0)),
        frequency_penalty=float(values.get("frequency_penalty", 0.0)),
        presence_penalty=float(values.get("presence_penalty", 0.0)),
    )


def _integer(value: float | None) -> int | None:
    return None if value is None else int(value)
