"""Prepares messages with tool calls for a chat template.

Chat templates accept different conversations. The templates of Mistral accept only ids of nine
letters and digits, and those of Llama 3 only one tool call in each message. Many templates do not
support tools. The functions of this module change a conversation so that the template accepts it.
They do not change its meaning.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import Tool, ToolCall

_SHORT_ID = re.compile("[a-zA-Z0-9]{9}")
_INSTRUCTIONS = """\
You may call functions to answer the user. These are the functions, as JSON objects:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as a JSON object between <tool_call> tags:
<tool_call>
{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>"""


def link_results(messages: Sequence[Message]) -> list[Message]:
    """Gives each tool call an id, and each result of a tool the id and the name of its call.

    Ids that the client sent are kept. A result without an id belongs to the first call that has no
    result yet.
    """
    numbers = count(1)
    # Taking the first key of an OrderedDict is fast even if many keys were removed before it.
    open_calls: OrderedDict[str | None, ToolCall] = OrderedDict()
    linked: list[Message] = []
    for message in messages:
        if message.tool_calls:
            calls = tuple(
                call if call.id else replace(call, id=f"call{next(numbers):05}")
                for call in message.tool_calls
            )
            open_calls |= {call.id: call for call in calls}
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and open_calls:
            call_id = message.tool_call_id or next(iter(open_calls))
            call = open_calls.pop(call_id, None)
            name = message.name or (call.name if call else None)
            message = replace(message, tool_call_id=call_id, name=name)
        linked.append(message)
    return linked


def shorten_ids(messages: Sequence[Message]) -> list[Message]:
    """Replaces ids of tool calls by ids of nine letters and digits, for Mistral's templates.

    A result of a tool without an id, which belongs to no call, gets an id too.
    """
    return [
        replace(
            message,
            tool_calls=tuple(
                replace(call, id=_short_id(call.id) if call.id else None)
                for call in message.tool_calls
            ),
            tool_call_id=_short_id(message.tool_call_id or "") if _has_id(message) else None,
        )
        for message in messages
    ]


def _has_id(message: Message) -> bool:
    return bool(message.tool_call_id) or message.role == "tool"


def _short_id(call_id: str) -> str:
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def split_calls(messages: Sequence[Message]) -> list[Message]:
    """Splits messages with several tool calls, so that each message has at most one.

    The results of a call follow the message with the call. The calls must have ids. If several
    calls of a message have the same id, the results with this id follow the first of them.
    """
    split: list[Message] = []
    left = deque(messages)
    while left:
        message = left.popleft()
        if len(message.tool_calls) < 2:
            split.append(message)
            continue
        results: list[Message] = []
        while left and left[0].role == "tool":
            results.append(left.popleft())
        split += _split_message(message, results)
    return split


def _split_message(message: Message, results: Sequence[Message]) -> Iterator[Message]:
    """Yields a message for each call of `message`, with the results of the call after it."""
    results_of: dict[str | None, list[Message]] = {call.id: [] for call in message.tool_calls}
    others: list[Message] = []
    for result in results:
        results_of.get(result.tool_call_id, others).append(result)
    for i, call in enumerate(message.tool_calls):
        yield replace(message, content=message.content if i == 0 else "", tool_calls=(call,))
        yield from results_of.pop(call.id, [])
    yield from others


def describe_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Describes the tools in the system message, for chat templates that do not support tools.

    Tool calls become a part of the assistant's text, and results of tools become user messages. All
    have the form of the Hermes models, on which many models were trained. Without tools, tool calls
    and results, returns the messages unchanged.
    """
    told = list(_without_tool_messages(messages))
    if not tools:
        return told
    lines = "\n".join(json.dumps(tool.as_openai(), ensure_ascii=False) for tool in tools)
    text = _INSTRUCTIONS.format(tools=lines)
    if told and told[0].role == "system":
        return [replace(told[0], content=f"{told[0].content}\n\n{text}"), *told[1:]]
    return [Message("system", text), *told]


def _without_tool_messages(messages: Sequence[Message]) -> Iterator[Message]:
    """Yields the messages, with tool calls and results as text.

    Consecutive results and a user message after them become one user message, because some
    templates accept only alternating user and assistant messages.
    """
    results: list[str] = []
    for message in messages:
        if message.role == "tool":
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        if results and message.role == "user":
            message = replace(message, content="\n".join([*results, message.content]))
        elif results:
            yield Message("user", "\n".join(results))
        results = []
        yield _with_written_calls(message)
    if results:
        yield Message("user", "\n".join(results))


def _with_written_calls(message: Message) -> Message:
    if not message.tool_calls:
        return message
    calls = [
        json.dumps({"name": call.name, "arguments": call.arguments_object()}, ensure_ascii=False)
        for call in message.tool_calls
    ]
    texts = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    content = "\n".join([*([message.content] if message.content else []), *texts])
    return Message(message.role, content)


def as_values(message: Message) -> dict[str, Any]:
    """Returns a message as a JSON object, in the form in which chat templates expect it.

    Raises RequestRejected if the arguments of a tool call are not a JSON object.
    """
    values: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        values["tool_calls"] = [_call_values(call) for call in message.tool_calls]
    if message.role == "tool":
        given = {"tool_call_id": message.tool_call_id, "name": message.name}
        values |= {key: value for key, value in given.items() if value is not None}
    return values


def _call_values(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_object()}
    return {"id": call.id or "", "type": "function", "function": function}
