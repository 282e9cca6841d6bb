"""The catalogue over HTTP: which models and tasks there are, and what they take."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request, Response

from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.routes.access import account_router
from workers_ai_emulator.routes.generation import find_model
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.wire.envelope import JsonResponse, page, success

_PAGE_SIZE = 50  # seen on the service where `per_page` is not given

router = account_router("/ai")


@router.get("/models/search")
async def search_models(request: Request) -> Response:
    """The models served here, in pages; one beyond the end is empty, as SDKs need it to be.

    Filters: `search`, `author`, `task`, `source`, `hide_experimental`; others change nothing.
    [developers.cloudflare.com/api/resources/ai/subresources/models/methods/list]
    """
    query = request.query_params
    cards = [spec.card for spec in _catalog(request).values() if _is_wanted(spec, query)]
    return _page(request, cards)


@router.get("/models/schema")
async def model_schema(request: Request) -> Response:
    """The published `input` and `output` schemas of `?model=`. An unknown one is 5007, inferred."""
    return JsonResponse(success(find_model(request, request.query_params.get("model", "")).schema))


@router.get("/tasks/search")
async def search_tasks(request: Request) -> Response:
    """The tasks of the models served here. The form of a row is inferred from a model's card."""
    tasks = {spec.card["task"]["id"]: spec.card["task"] for spec in _catalog(request).values()}
    return _page(request, list(tasks.values()))


def _catalog(request: Request) -> Mapping[str, ModelSpec]:
    engines: ModelManager = request.app.state.engines
    return engines.catalog


def _is_wanted(spec: ModelSpec, query: Mapping[str, str]) -> bool:
    card = spec.card
    properties = {row["property_id"]: row["value"] for row in card["properties"]}
    return (
        query.get("search", "").lower() in f"{card['name']} {card['description']}".lower()
        and query.get("author", spec.author).lower() == spec.author.lower()
        and query.get("task", card["task"]["name"]).lower() == card["task"]["name"].lower()
        and query.get("source", str(card["source"])) == str(card["source"])
        and not (query.get("hide_experimental") == "true" and properties.get("beta") == "true")
    )


def _page(request: Request, rows: list[dict[str, object]]) -> Response:
    query = request.query_params
    number = _positive(query.get("page"), default=1)
    size = _positive(query.get("per_page"), default=_PAGE_SIZE)
    return JsonResponse(page(rows, number=number, size=size))


def _positive(text: str | None, *, default: int) -> int:
    """The number in a query string. What is none counts as not given [inferred]."""
    is_number = text is not None and text.isascii() and text.isdecimal() and len(text) < 10
    return int(text or 0) or default if is_number else default
