"""The OpenAI-compatible routes.

Responses have OpenAI's form; input schemas and errors are the same as for Workers AI's `ai/run`.
"""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import Request, Response

from workers_ai_emulator.models.spec import is_other_providers_name
from workers_ai_emulator.routes.embeddings import run_openai
from workers_ai_emulator.routes.gateway_response import through_named_gateway
from workers_ai_emulator.routes.generation import (
    body_of,
    find_model,
    generate,
    model_name,
    read_options,
)
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.tasks import responses_request
from workers_ai_emulator.tasks.response_formats.choice import (
    FormatChoice,
    chat_format,
    responses_format,
    text_format,
)
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.authorization import no_route
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import API_NOT_EMULATED, MESSAGES_UNSUPPORTED, WireError

router = EndpointRouter()


class _OpenAIChoice(Protocol):
    def __call__(self, *, include_usage: bool) -> FormatChoice: ...


@router.handles(endpoints.CHAT_COMPLETIONS)
async def chat_completions(request: Request) -> Response:
    """Runs OpenAI-compatible chat completions.

    [developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility]
    """
    body = await body_of(request)
    return await through_named_gateway(request, body, lambda: complete(request, body, chat_format))


@router.handles(endpoints.COMPLETIONS)
async def completions(request: Request) -> Response:
    """Runs OpenAI-compatible text completions.

    Cloudflare does not document this endpoint, but clients call it. We decided how it behaves.
    """
    body = await body_of(request)
    return await through_named_gateway(request, body, lambda: complete(request, body, text_format))


@router.handles(endpoints.EMBEDDINGS)
async def embeddings(request: Request) -> Response:
    """Computes OpenAI-compatible embeddings.

    [developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility]
    """
    body = await body_of(request)
    return await through_named_gateway(request, body, lambda: embed(request, body))


async def embed(request: Request, body: Any, *, prefix: str = "") -> Response:
    """Computes embeddings with the model that the body names. `prefix`: see `complete`."""
    spec = find_model(request, model_name(body).removeprefix(prefix))
    return await run_openai(request, spec, body)


@router.handles(endpoints.RESPONSES)
async def responses(request: Request) -> Response:
    """Runs OpenAI's Responses API [developers.cloudflare.com/workers-ai/models/gpt-oss-20b].

    A model without the key `input` in its schema is refused with the schema's error, as recorded
    from the service.
    """
    body = await body_of(request)
    return await through_named_gateway(request, body, lambda: run_responses(request, body))


async def run_responses(request: Request, body: Any) -> Response:
    """Runs the model that the body names, and returns a response of the Responses API."""
    spec = find_model(request, model_name(body))
    read_options(request, body)
    inputs = _without_nulls(body)
    choose_format = responses_format(inputs, to_json)
    return await generate(request, spec, inputs, choose_format, responses_request.parse)


@router.handles(endpoints.MESSAGES)
async def messages(request: Request) -> Response:
    """Refuses a request of Anthropic's Messages API, as the service does for its own models.

    [free-claude-code#946]
    """
    spec = find_model(request, model_name(await body_of(request)))
    if is_other_providers_name(spec.name):  # served because of `--any-model`
        raise WireError(API_NOT_EMULATED, "Anthropic's Messages API")
    raise WireError(MESSAGES_UNSUPPORTED, spec.name)


@router.handles(endpoints.OTHER_OPENAI)
async def other_endpoint(request: Request) -> Response:
    """Refuses requests for endpoints of OpenAI's API that Workers AI does not have.

    The response to a POST is an error with code 7000. The response to other methods has code 7001,
    as recorded from the service for a GET of `/ai/v1/models`.
    """
    raise no_route(request.scope["path"])


async def complete(
    request: Request, body: Any, choice: _OpenAIChoice, *, prefix: str = ""
) -> Response:
    """Runs the model that the body names, and returns a response in OpenAI's format.

    `choice`: `chat_format` or `text_format`. `prefix` is the text before the model's name in the
    body, for example `workers-ai/`.
    """
    name = model_name(body)
    spec = find_model(request, name.removeprefix(prefix))
    read_options(request, body)
    inputs = _inputs(body)
    options = inputs.get("stream_options") if isinstance(inputs, dict) else None
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    return await generate(request, spec, inputs, choice(include_usage=include_usage))


def _inputs(body: Any) -> Any:
    """Returns the model's input in the body of a request to an OpenAI-compatible route.

    Removes nulls, because OpenAI's clients send null for unset keys. If `max_tokens` is missing,
    sets it to `max_completion_tokens`. We do not know whether the service does the same.
    """
    inputs = _without_nulls(body)
    if isinstance(inputs, dict) and "max_completion_tokens" in inputs:
        inputs.setdefault("max_tokens", inputs["max_completion_tokens"])
    return inputs


def _without_nulls(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    return {key: value for key, value in body.items() if value is not None}
