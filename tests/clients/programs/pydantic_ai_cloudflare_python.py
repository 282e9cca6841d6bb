"""Calls Workers AI with Pydantic AI and `pydantic-ai-cloudflare`.

    python pydantic_ai_cloudflare_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error. BASE_URL is ignored, because the package
always calls gateway.ai.cloudflare.com.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import asyncio
import sys
from typing import Any

from outcomes import print_outcomes
from pydantic_ai import Agent
from pydantic_ai_cloudflare import CloudflareProvider

MODEL = "@cf/meta/llama-2-7b-chat-int8"


def chat(agent_of: Any) -> object:  # `Any`, because mypy does not find the client
    result = agent_of(MODEL).run_sync("Name a fruit.")
    usage = {
        "prompt_tokens": result.usage.input_tokens,
        "completion_tokens": result.usage.output_tokens,
        "total_tokens": result.usage.total_tokens,
    }
    return {"text": result.output, "usage": usage}


def stream(agent_of: Any) -> object:
    async def pieces() -> list[str]:
        async with agent_of(MODEL).run_stream("Name a fruit.") as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(pieces())


def unknown_model(agent_of: Any) -> object:
    return agent_of("@cf/meta/llama-9").run_sync("Name a fruit.")


def main(_base_url: str, account_id: str, api_key: str, *names: str) -> None:
    def agent_of(model: str) -> Any:
        provider = CloudflareProvider(account_id=account_id, api_key=api_key)
        settings = {"max_tokens": 6, "temperature": 0}
        return Agent(provider.chat_model(model), model_settings=settings)

    print_outcomes((chat, stream, unknown_model), names, agent_of)


if __name__ == "__main__":
    main(*sys.argv[1:])
