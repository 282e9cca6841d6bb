"""Defines the tools (functions) that a request offers to the model, and the calls of tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    `parameters`: the JSON schema of the function's arguments, which are an object.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model must call a tool.

    With the mode `auto`, the model decides; with `none`, it must not call a tool; with `required`,
    it must call at least one. `name`: the tool that it must call, in the mode `required`; None if
    it may choose the tool.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by the model.

    `arguments`: the function's arguments as a JSON text. `id`: identifies the call, so that a later
    message with the result of the tool can refer to it; None if the client sent none.
    """

    name: str
    arguments: str
    id: str | None = None
