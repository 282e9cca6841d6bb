"""Validates the input of a text-generation request, and converts it for the engine.

The limits and defaults of the parameters are those of Cloudflare's published schemas, which are in
`models/cards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.json_values import texts_of
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import Tool, ToolChoice
from workers_ai_emulator.tasks.embeddings import NO_TEXT
from workers_ai_emulator.tasks.json_mode import JsonMode, parse_json_mode
from workers_ai_emulator.tasks.message_checks import check_messages
from workers_ai_emulator.tasks.messages import parse_messages
from workers_ai_emulator.tasks.reasoning import template_variables
from workers_ai_emulator.tasks.sampling import parse_sampling_params
from workers_ai_emulator.tasks.task_hint import task_hint
from workers_ai_emulator.tasks.tools import parse_tools
from workers_ai_emulator.wire.errors import BAD_INPUT, INVALID_DATA, LORA_UNSUPPORTED, WireError

if TYPE_CHECKING:  # only the backend `llama` needs this module, and its import is slow
    from workers_ai_emulator.prompts.chat import ChatTemplate


@dataclass(frozen=True, slots=True)
class TextGenerationRequest:
    """The valid input of a text-generation request: a prompt or, if `prompt` is None, messages.

    `raw`: whether the client has applied a chat template to the prompt itself; False for messages.
    `is_flattened`: whether an old SDK has joined the messages into the prompt. `tools`: the tools
    that the model may call. `json_mode`: None if the completion may be any text.
    `template_variables`: values for the chat template, such as `enable_thinking`.
    `separates_reasoning`: whether the model's reasoning is separated from its answer.
    """

    prompt: str | None
    messages: list[Message]
    raw: bool
    stream: bool
    params: SamplingParams
    is_flattened: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    json_mode: JsonMode | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    separates_reasoning: bool = True

    @property
    def num_characters(self) -> int:
        """The number of characters of the input that may become a part of the prompt."""
        return self.num_prompt_characters + sum(map(len, texts_of(self.template_variables)))

    @property
    def num_prompt_characters(self) -> int:
        """The number of characters of the prompt or the messages, and of the tools."""
        num_in_tools = sum(map(len, texts_of([tool.as_openai() for tool in self.tools])))
        return len(self.prompt or "") + sum(m.num_characters for m in self.messages) + num_in_tools

    def render(self, template: ChatTemplate) -> list[int]:
        """Returns the prompt tokens. Applies the chat template if the input needs it."""
        if self.prompt is None:
            return template.render(self.messages, self.tools, self.template_variables)
        if self.is_flattened:
            return template.render_flattened(self.prompt)
        if self.raw:
            return template.render_raw(self.prompt)
        return template.render_prompt(self.prompt, self.template_variables)


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
        raise WireError(BAD_INPUT, error, hint=task_hint(spec, body)) from error
    if spec.embedding is not None:  # a model whose schema has no required key
        raise WireError(BAD_INPUT, NO_TEXT, hint=task_hint(spec, body))
    _refuse_adapters_and_images(body, spec)
    # If a schema accepts null, null has the same meaning as an absent key.
    given = {k: v for k, v in body.items() if v is not None}
    values = spec.defaults | {"seed": seed} | given
    prompt = body["prompt"] if isinstance(body.get("prompt"), str) else None
    tools, tool_choice = parse_tools(body) if spec.traits.has_tools else ((), ToolChoice())
    return TextGenerationRequest(
        prompt=prompt,
        messages=_messages(body, spec) if prompt is None else [],
        raw=prompt is not None and values.get("raw") is True,
        stream=values.get("stream") is True,
        params=replace(
            parse_sampling_params(values, spec.schema["input"], spec.traits),
            may_shorten=_may_shorten(body, spec),
        ),
        is_flattened=is_flattened,
        tools=tools if prompt is None else (),
        tool_choice=tool_choice,
        json_mode=parse_json_mode(values, spec.traits, is_retired=spec.retired_on is not None),
        # without the effort that is the schema's default, which other weights may not know
        template_variables=template_variables(
            {**spec.own_defaults, **given}, spec, is_chat=prompt is None
        ),
        separates_reasoning=spec.traits.thinking != "in_text",
    )


def _messages(body: Mapping[str, Any], spec: ModelSpec) -> list[Message]:
    messages = parse_messages(body.get("messages"))
    check_messages(messages, spec.traits)
    return messages


def _refuse_adapters_and_images(body: Mapping[str, Any], spec: ModelSpec) -> None:
    """Raises WireError if the body asks for a LoRA adapter, or has an image in the key `image`."""
    if isinstance(body.get("lora"), str):
        raise WireError(LORA_UNSUPPORTED, spec.name)
    if spec.traits.has_image and body.get("image"):
        raise WireError(INVALID_DATA, "image")


def _may_shorten(body: Mapping[str, Any], spec: ModelSpec) -> bool:
    """Returns whether `max_tokens` may be reduced if the context is too short.

    Models with the response form `choices` have large defaults, such as 2,000, for the long
    contexts of the service. A local context may be shorter.
    """
    is_default = body.get("max_tokens") is None and body.get("max_completion_tokens") is None
    return is_default and spec.traits.form == "choices"
