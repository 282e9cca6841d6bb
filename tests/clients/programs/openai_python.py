"""Calls Workers AI with OpenAI's client `openai` for Python, with a changed base URL.

    python openai_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from typing import Any

from openai import OpenAI
from outcomes import print_outcomes

MODEL = "@cf/meta/llama-2-7b-chat-int8"
CHAT: dict[str, Any] = {  # `Any`, because the values have several types
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name a fruit."}],
    "max_tokens": 6,
    "temperature": 0,
}


def chat(client: OpenAI) -> object:
    return checked(client.chat.completions.create(**CHAT))


def chat_without_retries(client: OpenAI) -> object:
    return chat(client.with_options(max_retries=0))


def prompt(client: OpenAI) -> object:
    return checked(
        client.completions.create(model=MODEL, prompt="Name a fruit.", max_tokens=6, temperature=0)
    )


def stream(client: OpenAI) -> object:
    return [checked(chunk) for chunk in client.chat.completions.create(**CHAT, stream=True)]


def stream_with_usage(client: OpenAI) -> object:
    chunks = client.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    )
    return [checked(chunk) for chunk in chunks]


def stream_helper(client: OpenAI) -> object:
    """Lets the client's helper `stream()` assemble the completion from the events."""
    with client.chat.completions.stream(**CHAT) as events:
        for _ in events:
            pass
        return events.current_completion_snapshot.to_dict()


def prompt_stream(client: OpenAI) -> object:
    chunks = client.completions.create(
        model=MODEL, prompt="Name a fruit.", max_tokens=6, temperature=0, stream=True
    )
    return [chunk.to_dict() for chunk in chunks]


def unknown_model(client: OpenAI) -> object:
    return client.chat.completions.create(**CHAT | {"model": "@cf/meta/llama-9"})


def bad_input(client: OpenAI) -> object:
    return client.chat.completions.create(**CHAT | {"temperature": 9})


def checked(answer: Any) -> object:  # `Any`, because the client's models have no common type
    """Returns the response's fields. Raises if a type differs from the client's declaration."""
    type(answer).model_validate_json(answer.to_json(), strict=True)
    fields: object = answer.to_dict()
    return fields


CASES = (
    *(chat, chat_without_retries, prompt, unknown_model, bad_input),
    *(stream, stream_with_usage, stream_helper, prompt_stream),
)


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    client = OpenAI(base_url=f"{base_url}/accounts/{account_id}/ai/v1", api_key=api_token)
    print_outcomes(CASES, names, client)


if __name__ == "__main__":
    main(*sys.argv[1:])
