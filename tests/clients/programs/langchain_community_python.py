"""Calls Workers AI with LangChain's completion model of the package `langchain-community`.

    python langchain_community_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from langchain_community.llms.cloudflare_workersai import CloudflareWorkersAI
from outcomes import print_outcomes

MODEL = "@cf/meta/llama-2-7b-chat-int8"


def chat(model: Any) -> object:  # `Any`, because mypy does not find the client
    return {"text": model(model=MODEL).invoke("Name a fruit.", max_tokens=6, temperature=0)}


def stream(model: Any) -> object:
    return list(model(model=MODEL).stream("Name a fruit.", max_tokens=6, temperature=0))


def unknown_model(model: Any) -> object:
    return model(model="@cf/meta/llama-9").invoke("Name a fruit.")


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    model = partial(
        CloudflareWorkersAI,
        base_url=f"{base_url}/accounts",
        account_id=account_id,
        api_token=api_token,
    )
    print_outcomes((chat, stream, unknown_model), names, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
