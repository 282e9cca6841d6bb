"""Calls Workers AI with LiteLLM's provider `cloudflare`. ROUTE is `ai/v1` or `ai/run/`.

    python litellm_python.py ROUTE BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# Each tested version of the client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import litellm
from outcomes import print_outcomes

MODEL = "cloudflare/@cf/meta/llama-2-7b-chat-int8"


def chat(ask: Any) -> object:  # `Any`, because mypy does not find the client
    answer = ask(model=MODEL)
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage = {count: getattr(answer.usage, count) for count in counts}
    return {"text": answer.choices[0].message.content, "usage": usage}


def stream(ask: Any) -> object:
    return [chunk.choices[0].delta.content or "" for chunk in ask(model=MODEL, stream=True)]


def unknown_model(ask: Any) -> object:
    return ask(model="cloudflare/@cf/meta/llama-9")


def main(route: str, base_url: str, account_id: str, api_key: str, *names: str) -> None:
    litellm.suppress_debug_info = True  # keeps LiteLLM's texts out of the output
    ask = partial(
        litellm.completion,
        api_base=f"{base_url}/accounts/{account_id}/{route}",
        api_key=api_key,
        messages=[{"role": "user", "content": "Name a fruit."}],
        max_tokens=6,
        temperature=0,
        allowed_openai_params=["temperature"],  # without it, LiteLLM 1.72 rejects it
    )
    print_outcomes((chat, stream, unknown_model), names, ask)


if __name__ == "__main__":
    main(*sys.argv[1:])
