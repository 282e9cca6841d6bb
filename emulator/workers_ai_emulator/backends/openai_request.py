"""Builds requests for servers with OpenAI's API. Does no I/O."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from workers_ai_emulator.backends.openai_api import Json
from workers_ai_emulator.backends.transcript import transcript
from workers_ai_emulator.prompts.messages import (
    Message,
    parse_flattened,
    parse_llama2,
    wrap_prompt,
)
from workers_ai_emulator.prompts.tools import Tool, ToolCall
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A request for a server with OpenAI's API: its path and its body.

    `prompt`: the raw prompt or the joined messages, for the journal and for the token count.
    `may_shorten`: whether the completion may have fewer tokens than `max_tokens` if the server's
    context is too short.
    """

    path: str
    body: Json
    prompt: str
    may_shorten: bool = False

    def without_max_tokens(self) -> OpenAIRequest:
        """Returns the request without `max_tokens`.

        With such a request, the completion of a chat may fill the rest of the context.
        """
        body = {key: value for key, value in self.body.items() if key != "max_tokens"}
        return replace(self, body=body, may_shorten=False)


def streaming_request(request: TextGenerationRequest, model: str) -> OpenAIRequest:
    """Converts a Workers AI request to an OpenAI request, which asks for a stream.

    If the Workers AI request sets `raw`, its prompt is sent unchanged to `/completions`. Any other
    prompt is converted to messages, as Workers AI converts it, and sent to `/chat/completions`.
    """
    if request.prompt is not None and request.raw and not request.is_flattened:
        body: Json = {"model": model, "prompt": request.prompt} | _options(request)
        return OpenAIRequest("/completions", body, request.prompt)
    messages = _messages(request)
    body = {"model": model, "messages": [*_written(messages)]} | _options(request)
    body |= _tool_options(request) | _template_options(request)
    # `/completions` has no `may_shorten`: without `max_tokens`, servers generate only 16 tokens.
    may_shorten = request.params.may_shorten
    return OpenAIRequest("/chat/completions", body, transcript(messages), may_shorten)


def _messages(request: TextGenerationRequest) -> list[Message]:
    if request.prompt is None:
        return request.messages
    if request.is_flattened:
        return parse_flattened(request.prompt) or [Message("user", request.prompt)]
    return parse_llama2(request.prompt) or wrap_prompt(request.prompt)


def _written(messages: Sequence[Message]) -> Iterator[Json]:
    """Yields the messages in OpenAI's form, in which each tool call has an id.

    A message of the role `function`, from OpenAI's first API for tools, becomes one of the role
    `tool`.
    """
    ids = _CallIds()
    for message in messages:
        written: Json = {"role": message.role, "content": message.content}
        if message.role in ("tool", "function"):
            written |= {"role": "tool", "tool_call_id": ids.of_result(message)}
        if message.tool_calls:
            written["tool_calls"] = [_written_call(call, ids) for call in message.tool_calls]
        if message.name:
            written["name"] = message.name
        yield written


def _written_call(call: ToolCall, ids: _CallIds) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": ids.of_call(call), "type": "function", "function": function}


class _CallIds:
    """Gives ids to tool calls and to their results if the client sent none.

    Workers AI's own responses contain no ids, so its clients need not send any. A result without an
    id gets the id of the first call that has no result yet. If the result has a tool's name, calls
    of this tool come first.
    """

    def __init__(self) -> None:
        self._num_new = 0
        # The ids of the calls without a result, of all tools and of each tool. Taking the first key
        # of an OrderedDict takes the same time however many keys were removed before it.
        self._open: OrderedDict[str, set[str]] = OrderedDict()  # values: the names of the tools
        self._open_of: defaultdict[str | None, OrderedDict[str, None]] = defaultdict(OrderedDict)

    def of_call(self, call: ToolCall) -> str:
        call_id = call.id or self._new()
        self._open.setdefault(call_id, set()).add(call.name)
        self._open_of[call.name].setdefault(call_id)
        return call_id

    def of_result(self, message: Message) -> str:
        call_id = message.tool_call_id or self._first_open(message.name) or self._new()
        for name in self._open.pop(call_id, ()):
            del self._open_of[name][call_id]
        return call_id

    def _first_open(self, name: str | None) -> str | None:
        return next(iter(self._open_of.get(name) or self._open), None)

    def _new(self) -> str:
        """Returns an id of nine letters and digits, which Mistral's chat templates require."""
        self._num_new += 1
        return f"call{self._num_new:05}"


def _options(request: TextGenerationRequest) -> Json:
    """Returns the keys of an OpenAI request for sampling, for JSON mode and for the stream.

    Omits parameters that are unset or have no effect, because some servers reject keys that they do
    not support, such as `top_k`. The repetition penalty has two keys: vLLM reads
    `repetition_penalty`, and llama.cpp's servers read `repeat_penalty`.
    """
    params = request.params
    options: Json = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": params.seed,
        "frequency_penalty": params.frequency_penalty or None,
        "presence_penalty": params.presence_penalty or None,
        "stop": [*params.stop] or None,
        "response_format": request.json_mode and _response_format(request.json_mode),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if params.repetition_penalty not in (0, 1):
        options["repetition_penalty"] = options["repeat_penalty"] = params.repetition_penalty
    return {key: value for key, value in options.items() if value is not None}


def _response_format(json_mode: JsonMode) -> Json:
    if json_mode.schema is None:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": dict(json_mode.schema)},
    }


def _tool_options(request: TextGenerationRequest) -> Json:
    """Returns the keys for tools; no keys if the request offers no tools.

    If the request names the tool that the model must call, returns only this tool, and `required`
    as the choice: llama-server ignores a choice that names a tool. Omits values that are the
    default.
    """
    choice = request.tool_choice
    tools = [tool for tool in request.tools if choice.name in (None, tool.name)]
    if not tools:
        return {}
    options: Json = {"tools": [_written_tool(tool) for tool in tools]}
    if choice.mode != "auto":
        options["tool_choice"] = choice.mode
    if choice.is_parallel is False:
        options["parallel_tool_calls"] = False
    return options


def _written_tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": dict(tool.parameters)}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _template_options(request: TextGenerationRequest) -> Json:
    """Returns the variables for the chat template as keys of an OpenAI request.

    `reasoning_effort` is a key of OpenAI's API. For the others, servers have the key
    `chat_template_kwargs`.
    """
    variables = dict(request.template_variables)
    effort = variables.pop("reasoning_effort", None)
    options: Json = {} if effort is None else {"reasoning_effort": effort}
    return options | {"chat_template_kwargs": variables} if variables else options
