"""Routes that list the served models, their tasks, and the schemas of a model."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request, Response

from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.generation import find_model
from workers_ai_emulator.routes.openrouter_list import entry_of
from workers_ai_emulator.routes.paging import openrouter_page_of, page_of
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.envelope import success
from workers_ai_emulator.wire.responses import JsonResponse

_PAGE_SIZE = 50  # the default of the query parameter `per_page`, as on the service

router = EndpointRouter()


@router.handles(endpoints.SEARCH_MODELS)
@router.handles(endpoints.BINDING_SEARCH_MODELS)
async def search_models(request: Request) -> Response:
    """Lists one page of the served models that match the filters in the query.

    The filters are `search`, `author`, `task`, `source` and `hide_experimental`. With
    `format=openrouter`, the list has OpenRouter's form, and contains only the models that generate
    text. Other query parameters are ignored.
    [developers.cloudflare.com/api/resources/ai/subresources/models/methods/list]
    """
    query = request.query_params
    specs = [spec for spec in services_of(request).catalog.values() if _matches(spec, query)]
    if query.get("format") == "openrouter":
        entries = [entry_of(spec) for spec in specs if spec.embedding is None]
        return openrouter_page_of(request, entries, default_size=_PAGE_SIZE)
    return page_of(request, [spec.card for spec in specs], default_size=_PAGE_SIZE)


@router.handles(endpoints.MODEL_SCHEMA)
async def model_schema(request: Request) -> Response:
    """Returns the input and output schemas of the model that `?model=` names.

    Raises WireError with code 5007 if no served model has this name. We do not know which code the
    service sends.
    """
    spec = find_model(request, request.query_params.get("model", ""))
    return JsonResponse(success(spec.schema))


@router.handles(endpoints.SEARCH_TASKS)
async def search_tasks(request: Request) -> Response:
    """Lists the tasks of the served models.

    A task has the same keys as in the list of models. We do not know which keys the service sends.
    """
    cards = [spec.card for spec in services_of(request).catalog.values()]
    tasks = {card["task"]["id"]: card["task"] for card in cards}
    return page_of(request, list(tasks.values()), default_size=_PAGE_SIZE)


def _matches(spec: ModelSpec, query: Mapping[str, str]) -> bool:
    card = spec.card
    properties = {row["property_id"]: row["value"] for row in card["properties"]}
    return (
        query.get("search", "").lower() in f"{card['name']} {card['description']}".lower()
        and query.get("author", spec.author).lower() == spec.author.lower()
        and query.get("task", card["task"]["name"]).lower() == card["task"]["name"].lower()
        and query.get("source", str(card["source"])) == str(card["source"])
        and not (query.get("hide_experimental") == "true" and properties.get("beta") == "true")
    )
