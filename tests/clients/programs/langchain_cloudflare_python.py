"""Calls Workers AI with LangChain's chat model of the package `langchain-cloudflare`.

    python langchain_cloudflare_python.py ENDPOINT_FORMAT BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from langchain_cloudflare import ChatCloudflareWorkersAI
from outcomes import print_outcomes

MODEL = "@cf/meta/llama-2-7b-chat-int8"


def chat(model: Any) -> object:  # `Any`, because mypy does not find the client
    message = model(model=MODEL).invoke("Name a fruit.")
    usage = {
        "prompt_tokens": message.usage_metadata["input_tokens"],
        "completion_tokens": message.usage_metadata["output_tokens"],
        "total_tokens": message.usage_metadata["total_tokens"],
    }
    return {"text": message.content, "usage": usage}


def stream(model: Any) -> object:
    return [chunk.content for chunk in model(model=MODEL).stream("Name a fruit.")]


def unknown_model(model: Any) -> object:
    return model(model="@cf/meta/llama-9").invoke("Name a fruit.")


def main(endpoint_format: str, base_url: str, account_id: str, api_token: str, *names: str) -> None:
    model = partial(
        ChatCloudflareWorkersAI,
        endpoint_format=endpoint_format,
        base_url=base_url,
        account_id=account_id,
        api_token=api_token,
        max_tokens=6,
        temperature=0,
    )
    print_outcomes((chat, stream, unknown_model), names, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
