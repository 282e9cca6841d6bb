"""Defines the tools (functions) that a request offers to the model, and the calls of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workers_ai_emulator.engine.errors import RequestRejected
from workers_ai_emulator.json_values import is_too_deep


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    `parameters`: the JSON schema of the function's arguments, which are an object. `strict`: the
    value of OpenAI's key `strict`, which asks a server to enforce this schema; None if the client
    sent none.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool | None = None

    def as_openai(self) -> dict[str, Any]:
        """Returns the tool in the form of OpenAI's API, in which chat templates expect it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model must call a tool.

    With the mode `auto`, the model decides; with `none`, it must not call a tool; with `required`,
    it must call at least one. `name`: the tool that it must call, in the mode `required`; None if
    it may choose the tool. `is_parallel`: whether a completion may contain several calls; None if
    the request does not contain `parallel_tool_calls`.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    is_parallel: bool | None = None

    @property
    def allows_several(self) -> bool:
        """Whether a completion may contain more than one call.

        If the request requires a call and does not contain `parallel_tool_calls`, only one call is
        allowed. Otherwise, small models often repeat the call until `max_tokens` is reached.
        """
        return self.mode == "auto" if self.is_parallel is None else self.is_parallel

    def callable_tools(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """Returns those of the tools that the model may call."""
        if self.mode == "none":
            return ()
        return tuple(tool for tool in tools if self.name in (None, tool.name))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by the model.

    `arguments`: the function's arguments as a JSON text. `id`: identifies the call, so that a later
    message with the result of the tool can refer to it; None if the client sent none.
    """

    name: str
    arguments: str
    id: str | None = None

    def arguments_object(self) -> dict[str, Any]:
        """Returns the arguments as a JSON object. An empty text is an empty object.

        Raises RequestRejected if the arguments are not the text of a JSON object, or if they are
        nested too deeply.
        """
        try:
            value = json.loads(self.arguments) if self.arguments.strip() else {}
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or is_too_deep(value):
            raise RequestRejected(
                f"the arguments of the tool call '{self.name[:100]}' in the messages "
                "are not a JSON object, or are nested too deeply"
            )
        return value
