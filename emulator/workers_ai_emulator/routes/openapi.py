"""The document of what this server answers: routes, the published schemas, and every error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

from workers_ai_emulator import __version__
from workers_ai_emulator.errors import (
    AiError,
    AuthenticationFailed,
    CloudflareError,
    CredentialsMissing,
    ForeignOrigin,
    GatewayError,
    HeaderMalformed,
    InvalidAccount,
    MethodNotSupported,
    NoRoute,
    TokenInvalid,
    TokenMissing,
    WireError,
)
from workers_ai_emulator.models.catalog import ModelSpec

Json = dict[str, Any]

_ACCOUNT = "/client/v4/accounts/{account_id}"
_GATEWAY = "/v1/{account_id}/{gateway_id}"
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

_PATH = [NoRoute, MethodNotSupported, ForeignOrigin]
_CALLER = [CredentialsMissing, HeaderMalformed, AuthenticationFailed]
_IN_ACCOUNT = [*_PATH, InvalidAccount, *_CALLER]
_MODEL = AiError.__subclasses__()
_GATEWAY_ONLY = GatewayError.__subclasses__()
_TOKEN = [CredentialsMissing, HeaderMalformed, TokenInvalid, TokenMissing]


def document(catalog: Mapping[str, ModelSpec]) -> Json:
    """An OpenAPI 3.1 document, valid JSON as it is."""
    paths = _api(catalog) | _gateway(catalog) | _own()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "workers-ai-emulator",
            "version": __version__,
            "description": "Cloudflare Workers AI's text generation, answered locally.",
        },
        "paths": {path: _parameters(path) | item for path, item in paths.items()},
        "components": {"parameters": _PARAMETERS, "schemas": _schemas(catalog)},
    }


_PARAMETERS: Json = {
    "account_id": {
        "name": "account_id",
        "in": "path",
        "required": True,
        "description": "Any will do that has the form of one.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
    "gateway_id": {
        "name": "gateway_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    },
}


def _schemas(catalog: Mapping[str, ModelSpec]) -> Json:
    """The published schemas, as they are."""
    specs = catalog.values()
    return {_schema(spec, side): spec.schema[side] for spec in specs for side in spec.schema}


def _schema(spec: ModelSpec, side: str) -> str:
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', spec.name).strip('-')}-{side}"


def _ref(spec: ModelSpec, side: str, part: str = "") -> Json:
    return {"$ref": f"#/components/schemas/{_schema(spec, side)}{part}"}


def _parameters(path: str) -> Json:
    names = [name for name in _PARAMETERS if f"{{{name}}}" in path]
    return {"parameters": [{"$ref": f"#/components/parameters/{name}"} for name in names]}


def _api(catalog: Mapping[str, ModelSpec]) -> Json:
    errors = _responses([*_IN_ACCOUNT, *_MODEL])
    listing = _responses(_IN_ACCOUNT)
    runs = {
        f"{_ACCOUNT}/ai/run/{spec.name}": _post(
            spec.card["description"], _ref(spec, "input"), _native(spec), errors
        )
        for spec in catalog.values()
    }
    nested, natives = _nested(catalog), _native(*catalog.values())
    completions = {
        f"{_ACCOUNT}/ai/v1/{path}": _post(summary, _flat(catalog), answer, errors)
        for path, (summary, answer) in _completions().items()
    }
    return {
        **runs,
        f"{_ACCOUNT}/ai/run": _post("Run the model that the body names", nested, natives, errors),
        **completions,
        f"{_ACCOUNT}/ai/models/search": _get("The models", _page(_CARD), listing, _SEARCH),
        f"{_ACCOUNT}/ai/models/schema": _get(
            "A model's schemas",
            _success(_object(input={"type": "object"}, output={"type": "object"})),
            errors,
            [_query("model", _names(catalog), required=True)],
        ),
        f"{_ACCOUNT}/ai/tasks/search": _get("The tasks", _page(_TASK), listing, _PAGING),
        f"{_ACCOUNT}/tokens/verify": _get(
            "Verify an account's token", _success(_VERIFIED), _responses([*_IN_ACCOUNT, *_TOKEN])
        ),
        "/client/v4/user/tokens/verify": _get(
            "Verify a user's token", _success(_VERIFIED), _responses([*_PATH, *_TOKEN])
        ),
    }


def _gateway(catalog: Mapping[str, ModelSpec]) -> Json:
    errors = _responses([*_PATH, *_GATEWAY_ONLY, *_MODEL], via_gateway=True)
    runs = {
        f"{_GATEWAY}/workers-ai/{spec.name}": _post(
            spec.card["description"], _ref(spec, "input"), _native(spec), errors
        )
        for spec in catalog.values()
    }
    completions = {
        f"{_GATEWAY}/workers-ai/v1/{path}": _post(summary, _flat(catalog), answer, errors)
        for path, (summary, answer) in _completions().items()
    }
    summary, answer = _completions()["chat/completions"]
    compat = _flat(catalog, prefix="workers-ai/")
    path = f"{_GATEWAY}/compat/chat/completions"
    return {**runs, **completions, path: _post(summary, compat, answer, errors)}


def _own() -> Json:
    status = _content(_object(status={"type": "string"}))
    ready = {"200": {"description": "ready", "content": status}}
    wrong = _responses(_PATH)
    busy = {"503": {"description": "not yet", "content": status}}
    metrics = {"200": {"description": "for Prometheus", "content": {"text/plain": {}}}}
    return {
        "/_emulator/healthz": {"get": _operation("Is it alive?", ready | wrong)},
        "/_emulator/readyz": {"get": _operation("Is it ready?", ready | busy | wrong)},
        "/_emulator/metrics": {"get": _operation("What is it doing?", metrics | wrong)},
        "/_emulator/openapi.json": _get("This document", {"type": "object"}, wrong),
    }


# ── inputs ────────────────────────────────────────────────────────────────────────────────────


def _object(**properties: Any) -> Json:
    """An object that has all of these, and may have more."""
    return {"type": "object", "properties": properties, "required": [*properties]}


def _names(catalog: Mapping[str, ModelSpec]) -> Json:
    return {"type": "string", "enum": [*catalog]}


def _flat(catalog: Mapping[str, ModelSpec], prefix: str = "") -> Json:
    """A model's name and its input in one object, as OpenAI's clients send it."""
    models = catalog.values()
    named = [(_object(model={"const": prefix + m.name}), _ref(m, "input")) for m in models]
    return {"anyOf": [{"allOf": [name, inputs]} for name, inputs in named]}


def _nested(catalog: Mapping[str, ModelSpec]) -> Json:
    """A model's name beside its input."""
    models = catalog.values()
    return {"anyOf": [_object(model={"const": m.name}, input=_ref(m, "input")) for m in models]}


def _query(name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


_PAGING = [_query(name, {"type": "integer", "minimum": 1}) for name in ("page", "per_page")]
_SEARCH = [
    *(_query(name, {"type": "string"}) for name in ("author", "search", "task")),
    _query("source", {"type": "number"}),
    _query("hide_experimental", {"type": "boolean"}),
    *_PAGING,
]

# ── answers ───────────────────────────────────────────────────────────────────────────────────

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NONE: Json = {"type": "array", "maxItems": 0}
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_TASK = _object(id=_TEXT, name=_TEXT, description=_TEXT)
_CARD = _object(
    id=_TEXT,
    source={"type": "integer"},
    name=_TEXT,
    description=_TEXT,
    task=_TASK,
    tags={"type": "array"},
    properties={"type": "array", "items": _object(property_id=_TEXT, value=_TEXT)},
)
_VERIFIED = _object(id={"type": "string", "pattern": "^[0-9a-f]{32}$"}, status={"const": "active"})


_CHOICE: Json = {"logprobs": {"type": "null"}, "finish_reason": {"enum": ["stop", "length"]}}
_MESSAGE = _object(role={"const": "assistant"}, content=_TEXT)


def _completions() -> dict[str, tuple[str, Json]]:
    """OpenAI's paths, each with what it is and its answer."""
    chat = _completion("chat.completion", message=_MESSAGE)
    text = _completion("text_completion", text=_TEXT)
    return {
        "chat/completions": ("OpenAI's chat completions", chat),
        "completions": ("OpenAI's completions", text),
    }


def _completion(kind: str, **content: Json) -> Json:
    choice = _object(index={"const": 0}, **content, **_CHOICE)
    whole = _object(
        id={"type": "string", "pattern": "^id-[0-9]+$"},
        object={"const": kind},
        created={"type": "integer"},
        model=_TEXT,
        choices=_one(choice),
        usage=_USAGE,
    )
    return _whole_or_stream(whole)


def _native(*specs: ModelSpec) -> Json:
    """The published output: its first form in an envelope, or a stream."""
    whole = [_ref(spec, "output", "/oneOf/0") for spec in specs]
    return _whole_or_stream(_success({"anyOf": whole}))


def _whole_or_stream(whole: Json) -> Json:
    """JSON, or events whose data is JSON or `[DONE]`."""
    return _content(whole) | {"text/event-stream": {"schema": _object(data=_TEXT)}}


def _success(result: Json) -> Json:
    return _object(result=result, success={"const": True}, errors=_NONE, messages={"type": "array"})


def _page(row: Json) -> Json:
    return _object(
        success={"const": True},
        result={"type": "array", "items": row},
        errors=_NONE,
        messages=_NONE,
        result_info=_object(count=_COUNT, page=_COUNT, per_page=_COUNT, total_count=_COUNT),
    )


# ── errors ────────────────────────────────────────────────────────────────────────────────────


def _responses(errors: Iterable[type[WireError]], *, via_gateway: bool = False) -> Json:
    """A response for every status that these errors have."""
    by_status = groupby(sorted(errors, key=attrgetter("status")), key=attrgetter("status"))
    return {str(status): _response([*group], via_gateway) for status, group in by_status}


def _response(errors: list[type[WireError]], via_gateway: bool) -> Json:
    lines = {error.code: (error.__doc__ or "").splitlines()[0] for error in errors}
    description = "\n".join(f"* {code}: {line}" for code, line in lines.items())
    bodies = [_failure(error, via_gateway) for error in errors]
    return {"description": description, "content": _content({"anyOf": bodies})}


def _failure(error: type[WireError], via_gateway: bool) -> Json:
    code = {"const": error.code}
    if issubclass(error, GatewayError):
        return _object(
            success={"const": False},
            result=_NONE,
            messages=_NONE,
            error=_one(_object(code=code, message=_TEXT)),
        )
    if issubclass(error, CloudflareError):
        # A malformed account id on a path that nothing serves makes two errors of one.
        entries = {"type": "array", "contains": _object(code=code, message=_TEXT), "maxItems": 2}
        return _failed(entries, {"type": "null"})
    if via_gateway:
        return _object(
            name={"const": "AiError"},
            internalCode=code,
            httpCode={"const": error.status},
            message=_TEXT,
            description=_TEXT,
            requestId={"type": "string", "pattern": f"^{_UUID}$"},
        )
    message = {"type": "string", "pattern": rf"^AiError: [\s\S]* \({_UUID}\)$"}
    return _failed(_one(_object(message=message, code=code)), {"type": "object"})


def _failed(entries: Json, result: Json) -> Json:
    return _object(errors=entries, success={"const": False}, result=result, messages=_NONE)


def _one(item: Json) -> Json:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": 1}


# ── operations ────────────────────────────────────────────────────────────────────────────────


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _operation(summary: str, responses: Json, parameters: Iterable[Json] = ()) -> Json:
    return {"summary": summary, "parameters": [*parameters], "responses": responses}


def _get(summary: str, answer: Json, errors: Json, parameters: Iterable[Json] = ()) -> Json:
    success = {"200": {"description": "done", "content": _content(answer)}}
    return {"get": _operation(summary, success | errors, parameters)}


def _post(summary: str, body: Json, answer: Json, errors: Json) -> Json:
    success = {"200": {"description": "done", "content": answer}}
    operation = _operation(summary, success | errors)
    return {"post": operation | {"requestBody": {"required": True, "content": _content(body)}}}
