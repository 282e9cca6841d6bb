"""Calls tools and gets objects from Workers AI with LiteLLM's provider `cloudflare`.

    python litellm_tools_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import litellm
from outcomes import print_outcomes
from weather import FORCED, QUESTION, REQUEST, TOOL, Report, temperature

MAX_TURNS = 4


def loop(ask: Any, model: str) -> object:  # `Any`, because mypy does not find the client
    """Sends the content of the model's turns as a text, which may be empty."""
    return calls_until_text(ask, model, lambda turn: turn.to_dict() | {"content": ""})


def loop_null(ask: Any, model: str) -> object:
    """Sends the model's turns as the client returns them: without a text, the content is null."""
    return calls_until_text(ask, model, lambda turn: turn)


def calls_until_text(ask: Any, model: str, sent: Callable[[Any], Any]) -> object:
    """Calls tools until the completion is a text. `sent` returns what is sent for a turn."""
    messages: list[Any] = user(QUESTION)
    turns = []
    for _ in range(MAX_TURNS):
        answer = ask(model=f"cloudflare/{model}", messages=messages, tools=[TOOL])
        turns.append(answer.choices[0].message)
        if not turns[-1].tool_calls:
            break
        messages += [sent(turns[-1]), *(result(call) for call in turns[-1].tool_calls)]
    calls = [call for turn in turns for call in turn.tool_calls or ()]
    return {"calls": called(calls), "text": turns[-1].content, "reasoning": reasoning(turns[0])}


def stream(ask: Any, model: str) -> object:
    """Lets the client's helper `stream_chunk_builder()` assemble the completion."""
    chunks = list(
        ask(model=f"cloudflare/{model}", messages=user(QUESTION), tools=[TOOL], stream=True)
    )
    message = litellm.stream_chunk_builder(chunks).choices[0].message
    return {"calls": called(message.tool_calls), "reasoning": reasoning(message)}


def forced(ask: Any, model: str) -> object:
    answer = ask(
        model=f"cloudflare/{model}", messages=user(QUESTION), tools=[TOOL], tool_choice=FORCED
    )
    return called(answer.choices[0].message.tool_calls)


def report(ask: Any, model: str) -> object:
    answer = ask(model=f"cloudflare/{model}", messages=user(REQUEST), response_format=Report)
    return Report.model_validate_json(answer.choices[0].message.content)


def user(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


def result(call: Any) -> dict[str, Any]:
    content = str(temperature(**json.loads(call.function.arguments)))
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def called(calls: Any) -> list[tuple[str, object]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def reasoning(message: Any) -> str | None:
    text: str | None = getattr(message, "reasoning_content", None)
    return text


def main(base_url: str, account_id: str, api_key: str, *names: str) -> None:
    litellm.suppress_debug_info = True  # keeps LiteLLM's texts out of the output
    ask = partial(
        litellm.completion,
        api_base=f"{base_url}/accounts/{account_id}/ai/v1",
        api_key=api_key,
        max_tokens=200,
        temperature=0,
    )
    print_outcomes((loop, loop_null, stream, forced, report), names, ask)


if __name__ == "__main__":
    main(*sys.argv[1:])
