"""Calls tools and gets objects from Workers AI with OpenAI's client `openai` for Python.

    python openai_tools_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from openai import OpenAI
from outcomes import print_outcomes
from weather import FORCED, OPEN_QUESTION, QUESTION, REQUEST, TOOL, Report, temperature

OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 200}
MAX_TURNS = 4


def loop(client: OpenAI, model: str) -> object:
    """Sends the content of the model's turns as a text, which may be empty."""
    return calls_until_text(client, model, lambda turn: turn.to_dict() | {"content": ""})


def loop_null(client: OpenAI, model: str) -> object:
    """Sends the model's turns as the client returns them: without a text, the content is null."""
    return calls_until_text(client, model, lambda turn: turn)


def calls_until_text(client: OpenAI, model: str, sent: Callable[[Any], Any]) -> object:
    """Calls tools until the completion is a text. `sent` returns what is sent for a turn."""
    messages = user(QUESTION)
    turns = []
    for _ in range(MAX_TURNS):
        completion = client.chat.completions.create(
            model=model, messages=messages, tools=[TOOL], **OPTIONS
        )
        turns.append(completion.choices[0].message)
        if not turns[-1].tool_calls:
            break
        messages += [sent(turns[-1]), *(result(call) for call in turns[-1].tool_calls)]
    calls = [call for turn in turns for call in turn.tool_calls or ()]
    return {"calls": called(calls), "text": turns[-1].content, "reasoning": reasoning(turns[0])}


def stream(client: OpenAI, model: str) -> object:
    chunks = client.chat.completions.create(
        model=model, messages=user(QUESTION), tools=[TOOL], stream=True, **OPTIONS
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    pieces = [call.function for delta in deltas for call in delta.tool_calls or ()]
    (name,) = [piece.name for piece in pieces if piece.name]
    arguments = json.loads("".join(piece.arguments or "" for piece in pieces))
    return {"calls": [(name, arguments)], "reasoning": "".join(reasoning(d) or "" for d in deltas)}


def stream_helper(client: OpenAI, model: str) -> object:
    """Lets the client's helper `stream()` assemble the completion from the events."""
    with client.chat.completions.stream(
        model=model, messages=user(QUESTION), tools=[TOOL], **OPTIONS
    ) as events:
        message = events.get_final_completion().choices[0].message
    return {"calls": called(message.tool_calls), "reasoning": reasoning(message)}


def forced(client: OpenAI, model: str) -> object:
    completion = client.chat.completions.create(
        model=model,
        messages=user(QUESTION),
        tools=[TOOL],
        tool_choice=FORCED,
        parallel_tool_calls=False,
        **OPTIONS,
    )
    return called(completion.choices[0].message.tool_calls)


def report(client: OpenAI, model: str) -> object:
    completion = client.chat.completions.parse(
        model=model, messages=user(REQUEST), response_format=Report, **OPTIONS
    )
    return completion.choices[0].message.parsed


def response(client: OpenAI, model: str) -> object:
    answer = client.responses.create(model=model, input=OPEN_QUESTION)
    types = [item.type for item in answer.output]
    return {"text": answer.output_text, "types": types, "usage": answer.usage.to_dict()}


def response_loop(client: OpenAI, model: str) -> object:
    tools = [{"type": "function", **TOOL["function"]}]
    items: list[Any] = user(QUESTION)
    calls = []
    for _ in range(MAX_TURNS):
        answer = client.responses.create(model=model, input=items, tools=tools)
        new = [item for item in answer.output if item.type == "function_call"]
        if not new:
            break
        items += [*answer.output, *(output_of(call) for call in new)]
        calls += new
    return {
        "calls": [(call.name, json.loads(call.arguments)) for call in calls],
        "text": answer.output_text,
    }


def response_stream(client: OpenAI, model: str) -> object:
    events = list(client.responses.create(model=model, input=OPEN_QUESTION, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    return {"text": "".join(deltas), "last": events[-1].type}


def user(content: str) -> list[Any]:  # `Any`, because mypy does not find the client's messages
    return [{"role": "user", "content": content}]


def result(call: Any) -> dict[str, Any]:
    content = str(temperature(**json.loads(call.function.arguments)))
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def output_of(call: Any) -> dict[str, Any]:
    output = str(temperature(**json.loads(call.arguments)))
    return {"type": "function_call_output", "call_id": call.call_id, "output": output}


def called(calls: Any) -> list[tuple[str, object]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def reasoning(message: Any) -> str | None:
    """Returns the key `reasoning_content`, for which the client's models have no attribute."""
    text: str | None = getattr(message, "reasoning_content", None)
    return text


CASES = (
    *(loop, loop_null, stream, stream_helper, forced, report),
    *(response, response_loop, response_stream),
)


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    client = OpenAI(base_url=f"{base_url}/accounts/{account_id}/ai/v1", api_key=api_token)
    print_outcomes(CASES, names, client)


if __name__ == "__main__":
    main(*sys.argv[1:])
