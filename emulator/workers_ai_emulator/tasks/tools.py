"""Converts the tools of a request's body, and the choice between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.prompts.tools import Tool, ToolChoice
from workers_ai_emulator.wire.errors import refused_by_engine

_NO_PARAMETERS: dict[str, Any] = {"properties": {}}
_OBJECT = {"type": "object"}  # arguments are an object, even if the schema does not say it


def parse_tools(body: Mapping[str, Any]) -> tuple[tuple[Tool, ...], ToolChoice]:
    """Returns the tools of a body that the model's schema accepts, and the choice between them.

    A tool has the service's form `{name, description, parameters}` or OpenAI's form with the key
    `function`. Without `tools`, the keys `functions` and `function_call` of old versions of
    OpenAI's API are used.

    Raises WireError if a tool is not a function or has no name, if two tools have the same name, or
    if a schema is nested too deeply. Also raises WireError if the choice is invalid, or names a
    tool that the body does not contain.
    """
    values, choice = body.get("tools"), body.get("tool_choice")
    if not isinstance(values, list):
        values = _functions(body.get("functions"))
        choice = choice or body.get("function_call")
    tools = tuple(_tool(value, f"tools[{i}]") for i, value in enumerate(values))
    [(name, count)] = Counter(tool.name for tool in tools).most_common(1) or [("", 0)]
    if count > 1:
        raise refused_by_engine(f"Two tools have the name '{_short(name)}'.")
    parallel = body.get("parallel_tool_calls")
    is_parallel = parallel if isinstance(parallel, bool) else None
    return _choose(tools, choice, is_parallel=is_parallel)


def _functions(values: Any) -> list[Any]:
    """Returns the items of `functions`, without those that have JavaScript code.

    The schemas of 2024 describe functions with code, which the service does not show to the model.
    """
    items = values if isinstance(values, list) else []
    return [item for item in items if isinstance(item, dict) and "code" not in item]


def _tool(value: Any, path: str) -> Tool:
    if isinstance(value, dict) and value.get("type") == "custom":
        raise refused_by_engine(f"{path}: only tools of the type 'function' are supported.")
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name.strip():
        raise refused_by_engine(f"{path}: a tool needs a name.")
    description, parameters = function.get("description"), function.get("parameters")
    strict = function.get("strict")
    if is_too_deep(parameters):
        raise refused_by_engine(f"{path}: the parameters are nested too deeply.")
    return Tool(
        name=name,
        description=description if isinstance(description, str) else "",
        parameters=_NO_PARAMETERS | (parameters if isinstance(parameters, dict) else {}) | _OBJECT,
        strict=strict if isinstance(strict, bool) else None,
    )


def _choose(
    tools: tuple[Tool, ...], choice: Any, *, is_parallel: bool | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """Returns the tools that the choice allows, and the choice as a ToolChoice."""
    match choice:
        case "none":  # the model does not need to know tools that it must not call
            return (), ToolChoice("none", is_parallel=is_parallel)
        case None | "auto":
            return tools, ToolChoice(is_parallel=is_parallel)
        case "required" | "any":
            return _require(tools), ToolChoice("required", is_parallel=is_parallel)
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode), "tools": [*allowed]}}:
            names = dict.fromkeys(map(_name, allowed))
            _check_names(tools, names)
            kept = tuple(tool for tool in tools if tool.name in names)
            return _choose(kept, mode, is_parallel=is_parallel)
        case dict() if name := _name(choice):
            _check_names(tools, [name])
            return tools, ToolChoice("required", name, is_parallel=is_parallel)
    raise refused_by_engine(
        "tool_choice must be 'none', 'auto', 'required' or an object that names a function."
    )


def _require(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    if not tools:
        raise refused_by_engine("tool_choice requires a tool call, but there are no tools.")
    return tools


def _name(value: Any) -> str | None:
    """Returns the tool's name in `{"function": {"name": …}}` or `{"name": …}`, otherwise None."""
    match value:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    return None


def _check_names(tools: Sequence[Tool], names: Iterable[str | None]) -> None:
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise refused_by_engine(f"tool_choice names '{_short(name)}', which is not in tools.")


def _short(name: str | None) -> str:
    return (name or "")[:100]
