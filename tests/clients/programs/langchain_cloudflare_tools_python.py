"""Calls tools and gets objects from Workers AI with the package `langchain-cloudflare`.

    python langchain_cloudflare_tools_python.py ENDPOINT_FORMAT BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from langchain_cloudflare import ChatCloudflareWorkersAI
from langchain_core.messages import HumanMessage, ToolMessage
from outcomes import print_outcomes
from weather import QUESTION, REQUEST, TOOL, Report, temperature

MAX_TURNS = 4


def loop(model_of: Any, name: str) -> object:  # `Any`, because mypy does not find the client
    model = model_of(model=name).bind_tools([TOOL])
    messages: list[Any] = [HumanMessage(QUESTION)]
    turns = []
    for _ in range(MAX_TURNS):
        turns.append(model.invoke(messages))
        if not turns[-1].tool_calls:
            break
        messages += [turns[-1], *(result(call) for call in turns[-1].tool_calls)]
    calls = [call for turn in turns for call in turn.tool_calls]
    return {"calls": called(calls), "text": turns[-1].text, "reasoning": reasoning(turns[0])}


def forced(model_of: Any, name: str) -> object:
    model = model_of(model=name).bind_tools([TOOL], tool_choice="get_temperature")
    return called(model.invoke(QUESTION).tool_calls)


def report(model_of: Any, name: str) -> object:
    """Gets an object with the client's default method, which depends on the model."""
    model = model_of(model=name).with_structured_output(Report)
    return model.invoke(f"{REQUEST} Answer as a Report.")


def result(call: Any) -> Any:
    return ToolMessage(str(temperature(**call["args"])), tool_call_id=call["id"], name=call["name"])


def called(calls: Any) -> list[tuple[str, object]]:
    return [(call["name"], call["args"]) for call in calls]


def reasoning(message: Any) -> str | None:
    blocks = message.content if isinstance(message.content, list) else []
    texts = [block.get("thinking") for block in blocks if block.get("type") == "thinking"]
    return "".join(texts) or None


def main(endpoint_format: str, base_url: str, account_id: str, api_token: str, *names: str) -> None:
    model_of = partial(
        ChatCloudflareWorkersAI,
        endpoint_format=endpoint_format,
        base_url=base_url,
        account_id=account_id,
        api_token=api_token,
        max_tokens=200,
        temperature=0,
    )
    print_outcomes((loop, forced, report), names, model_of)


if __name__ == "__main__":
    main(*sys.argv[1:])
