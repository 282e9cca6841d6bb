"""Tests that the endpoint table agrees with the routes and with the OpenAPI document."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from workers_ai_emulator.app import ROUTERS
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.routes.openapi import document
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.calls import inference_call
from workers_ai_emulator.wire.endpoints import ENDPOINTS, Endpoint

from tests.server import ACCOUNT_ID, INT8

ACCOUNT = f"/client/v4/accounts/{ACCOUNT_ID}"
GATEWAY = f"/v1/{ACCOUNT_ID}/default"
SIDES = ("input", "output")
VALUES = {"account_id": ACCOUNT_ID, "gateway_id": "default", "model": INT8}


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def filled(path: str) -> str:
    """Returns the path with a value in place of every parameter."""
    return re.sub(r"{(\w+)(:path)?}", lambda gap: VALUES.get(gap[1], "x"), path)


def test_every_endpoint_has_a_route_and_every_route_is_an_endpoint() -> None:
    routes = [route for router in ROUTERS for route in router.routes]
    served = {(method, route.path) for route in routes for method in route.methods or ()}
    assert len(routes) == len(ENDPOINTS), "a route is attached without the table"
    assert served == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


def test_the_document_describes_every_endpoint_with_one_model_of_each_family() -> None:
    models: dict[str, str] = {}
    for name, spec in CATALOG.items():
        models.setdefault(spec.family.name, name)
    described = {
        (method.upper(), path)
        for path, item in document(CATALOG)["paths"].items()
        for method in item.keys() - {"parameters"}
    }
    expected = {
        (endpoint.method, endpoint.path.replace("{model:path}", model).replace(":path", ""))
        for endpoint in ENDPOINTS
        for model in models.values()
    }
    assert described == expected


def test_the_document_describes_the_parameters_that_an_endpoint_takes() -> None:
    paths = document(CATALOG)["paths"]
    for endpoint in ENDPOINTS:
        if endpoint.parameters is not None:
            described = paths[endpoint.path][endpoint.method.lower()]["parameters"]
            assert tuple(each["name"] for each in described) == endpoint.parameters


def test_the_document_names_every_model_and_stays_below_a_megabyte() -> None:
    text = json.dumps(document(CATALOG))
    assert all(name in text for name in CATALOG)
    assert len(text) < 10**6


def test_a_model_with_its_own_defaults_has_its_own_schemas() -> None:
    own = replace(CATALOG[INT8], name="@cf/a/b", own_defaults={"max_tokens": 7})
    added = replace(CATALOG[INT8], name="@cf/a/c")
    described = document({INT8: CATALOG[INT8], own.name: own, added.name: added})
    assert described["components"]["schemas"].keys() == {
        f"{name}-{side}" for name in ("llama-2-7b-chat-int8", "cf-a-b") for side in SIDES
    }
    run = "/client/v4/accounts/{account_id}/ai/run/"
    operation = described["paths"][f"{run}{INT8}"]["post"]
    assert operation["description"] == "These models have the same schemas: @cf/a/c."
    assert f"{run}{own.name}" in described["paths"]
    assert f"{run}{added.name}" not in described["paths"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_a_request_is_an_inference_call_if_its_endpoint_runs_a_model(endpoint: Endpoint) -> None:
    scope = {
        "type": "http",
        "method": endpoint.method,
        "path": filled(endpoint.path),
        "headers": [],
    }
    call = inference_call(scope)
    assert (call and call.endpoint) == (endpoint if endpoint.is_inference else None)


@pytest.mark.parametrize(
    ("path", "headers", "call"),
    [
        (f"{ACCOUNT}/ai/run", {}, (endpoints.RUN, "/ai/run", ACCOUNT_ID, None)),
        (
            f"{ACCOUNT}/ai/run/{INT8}",
            {},
            (endpoints.RUN_MODEL, f"/ai/run/{INT8}", ACCOUNT_ID, INT8),
        ),
        (
            f"{ACCOUNT}/ai/v1/chat/completions",
            {},
            (endpoints.CHAT_COMPLETIONS, "/ai/v1/chat/completions", ACCOUNT_ID, None),
        ),
        (GATEWAY, {}, (endpoints.GATEWAY_UNIVERSAL, "", ACCOUNT_ID, None)),
        (
            f"{GATEWAY}/workers-ai/run/{INT8}",
            {},
            (endpoints.GATEWAY_RUN_MODEL[0], f"/workers-ai/run/{INT8}", ACCOUNT_ID, INT8),
        ),
        (
            f"{GATEWAY}/workers-ai/v1/completions",
            {},
            (endpoints.GATEWAY_COMPLETIONS[0], "/workers-ai/v1/completions", ACCOUNT_ID, None),
        ),
        (
            f"/ai-gateway/gateways/gw/workers-ai/run/{INT8}",
            {},
            (endpoints.GATEWAY_RUN_MODEL[1], f"/workers-ai/run/{INT8}", None, INT8),
        ),
        ("/run", {"cf-consn-model-id": INT8}, (endpoints.BINDING_RUN, "/run", None, INT8)),
        ("/v1/x", {}, None),
        (f"{ACCOUNT}/ai/runs", {}, None),
        ("/", {}, None),
    ],
)
def test_an_inference_call_has_account_model_and_the_path_without_account(
    path: str, headers: dict[str, str], call: tuple[object, ...] | None
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    found = inference_call({"type": "http", "method": "POST", "path": path, "headers": raw})
    assert call == (found and (found.endpoint, found.path, found.account_id, found.model))


@pytest.mark.parametrize("scope", [{"type": "lifespan"}, {"type": "http", "method": "GET"}])
def test_other_requests_are_no_inference_calls(scope: dict[str, object]) -> None:
    assert inference_call({"path": "/run", "headers": [], **scope}) is None
