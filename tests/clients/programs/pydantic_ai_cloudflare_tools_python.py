"""Calls tools and gets objects from Workers AI with Pydantic AI and `pydantic-ai-cloudflare`.

    python pydantic_ai_cloudflare_tools_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error. BASE_URL
is ignored, because the package always calls gateway.ai.cloudflare.com.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from outcomes import print_outcomes
from pydantic_ai import Agent
from pydantic_ai.direct import model_request_sync
from pydantic_ai.messages import ModelMessage, ModelRequest, ThinkingPart, ToolCallPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition
from pydantic_ai_cloudflare import CloudflareProvider
from weather import QUESTION, REQUEST, TOOL, Report, temperature

SETTINGS: Any = {"max_tokens": 200, "temperature": 0}


def loop_null(agent_of: Any, model: str) -> object:  # `Any`, because mypy does not find the client
    result = with_tool(agent_of(model)).run_sync(QUESTION)
    return outcome(result.all_messages()) | {"text": result.output}


def stream(agent_of: Any, model: str) -> object:
    async def streamed() -> dict[str, object]:
        agent = with_tool(agent_of(model))
        async with agent.iter(QUESTION) as run:
            async for node in run:
                if agent.is_model_request_node(node):
                    async with node.stream(run.ctx) as events:
                        async for _ in events:
                            pass
                        return outcome([events.response])
        raise ValueError("the agent sent no request")

    return asyncio.run(streamed())


def forced(agent_of: Any, model: str) -> object:
    tool = TOOL["function"]
    definition = ToolDefinition(name=tool["name"], parameters_json_schema=tool["parameters"])
    parameters = ModelRequestParameters(function_tools=[definition], allow_text_output=False)
    response = model_request_sync(
        agent_of(model).model,
        [ModelRequest.user_text_prompt(QUESTION)],
        model_settings=SETTINGS,
        model_request_parameters=parameters,
    )
    return outcome([response])["calls"]


def report(agent_of: Any, model: str) -> object:
    """Gets an object with the client's default method: a call of a tool `final_result`."""
    return agent_of(model, output_type=Report).run_sync(REQUEST).output


def with_tool(agent: Any) -> Any:
    tool = TOOL["function"]
    agent.tool_plain(temperature, name=tool["name"], description=tool["description"])
    return agent


def outcome(messages: list[ModelMessage]) -> dict[str, object]:
    parts = [part for message in messages for part in message.parts]
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    reasoning = [part.content for part in parts if isinstance(part, ThinkingPart)]
    return {
        "calls": [(call.tool_name, json.loads(call.args_as_json_str())) for call in calls],
        "reasoning": reasoning[0] if reasoning else None,
    }


def main(_base_url: str, account_id: str, api_key: str, *names: str) -> None:
    def agent_of(model: str, **options: Any) -> Any:
        provider = CloudflareProvider(account_id=account_id, api_key=api_key)
        return Agent(provider.chat_model(model), model_settings=SETTINGS, **options)

    print_outcomes((loop_null, stream, forced, report), names, agent_of)


if __name__ == "__main__":
    main(*sys.argv[1:])
