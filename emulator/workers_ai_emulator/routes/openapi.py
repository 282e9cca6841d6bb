"""Builds the OpenAPI document, with an operation for each row of the endpoint table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal

from workers_ai_emulator import __version__
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.wire import endpoints, errors
from workers_ai_emulator.wire.calls import MODEL_HEADER
from workers_ai_emulator.wire.endpoints import ENDPOINTS, Access, Endpoint
from workers_ai_emulator.wire.errors import ErrorType, Sender, error_types

Json = dict[str, Any]
Catalog = Mapping[str, ModelSpec]
# Models with the same JSON schemas. The document describes the paths and the schemas of the first
# model, because the description of each model would have tens of kilobytes.
Group = Sequence[ModelSpec]

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MODEL_PARAMETER = "{model:path}"


def document(catalog: Catalog) -> Json:
    """Returns the server's OpenAPI 3.1 document, for the models in `catalog`.

    If several models have the same schemas, describes the endpoint of one of them, and names the
    others.
    """
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        for path, operation in _operations(endpoint, catalog):
            item = paths.setdefault(path, {"parameters": _path_parameters(path)})
            item[endpoint.method.lower()] = operation
    responses = _share_error_responses(
        item[method] for item in paths.values() for method in item if method != "parameters"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "workers-ai-emulator",
            "version": __version__,
            "description": "Cloudflare Workers AI's text models, answered locally.",
        },
        "paths": paths,
        "components": {
            "parameters": _PATH_PARAMETERS,
            "responses": responses,
            "schemas": _schemas(catalog),
        },
    }


@dataclass(frozen=True, slots=True)
class _Details:
    """The parts of an endpoint's OpenAPI description that the endpoint table does not contain.

    `content`: the schemas of the successful response, by media type.
    `status`: the HTTP status of the successful response.
    `body`: the schema of the request body, or None if the endpoint reads no body.
    `query`: the descriptions of the parameters in the query and in headers.
    `errors`: the errors that the endpoint sends in addition to the errors of its access check and
    of inference.
    `refusals`: the HTTP statuses of error responses with the body `{"error": TEXT}`.
    """

    content: Json
    body: Json | None = None
    query: Iterable[Json] = ()
    errors: tuple[ErrorType, ...] = ()
    refusals: tuple[int, ...] = ()
    status: int = 200


def _operations(endpoint: Endpoint, catalog: Catalog) -> Iterator[tuple[str, Json]]:
    """Yields the OpenAPI path and operation of an endpoint.

    If a model's name is part of the endpoint's path, yields a path and an operation for each group
    of models.
    """
    describe = _DESCRIBE[endpoint]
    if _MODEL_PARAMETER not in endpoint.path:
        path = endpoint.path.replace(":path", "")
        yield path, _operation(endpoint, endpoint.summary, describe(catalog))
        return
    for first, *others in _groups(catalog):
        path = endpoint.path.replace(_MODEL_PARAMETER, first.name)
        operation = _operation(endpoint, f"Run {first.name}", describe({first.name: first}))
        if others:
            names = ", ".join(spec.name for spec in others)
            operation["description"] = f"These models have the same schemas: {names}."
        yield path, operation


def _operation(endpoint: Endpoint, summary: str, details: _Details) -> Json:
    success = {str(details.status): {"description": "success", "content": details.content}}
    operation = {
        "summary": summary,
        "parameters": [*details.query],
        "responses": success | _error_responses(endpoint, details),
    }
    if details.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(details.body)}
    return operation


# ── paths ─────────────────────────────────────────────────────────────────────────────────────


def _parameter(name: str, schema: Json, description: str = "") -> Json:
    parameter = {"name": name, "in": "path", "required": True, "schema": schema}
    return parameter | ({"description": description} if description else {})


_WORD: Json = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
_PATH_PARAMETERS: Json = {
    "account_id": _parameter(
        "account_id",
        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "Any 32 hexadecimal digits.",
    ),
    "gateway_id": _parameter("gateway_id", _WORD),
    "provider": _parameter("provider", _WORD),
    "script": _parameter("script", _WORD),
    "endpoint": _parameter("endpoint", _WORD),
    "name": _parameter("name", {"type": "string", "pattern": r"^[a-z]+\.(html|css|js|svg)$"}),
    "log_id": _parameter("log_id", _WORD),
    "operation": _parameter("operation", _WORD),
    "number": _parameter("number", {"type": "integer", "minimum": 1}, "The id of a request."),
}


def _path_parameters(path: str) -> list[Json]:
    names = [name for name in _PATH_PARAMETERS if f"{{{name}}}" in path]
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


# ── schemas ───────────────────────────────────────────────────────────────────────────────────


def _groups(catalog: Catalog) -> list[Group]:
    """Returns the models of the catalogue in groups that have the same JSON schemas."""
    groups: dict[str, list[ModelSpec]] = {}
    for spec in catalog.values():
        groups.setdefault(_group_name(spec), []).append(spec)
    return [*groups.values()]


def _group_name(spec: ModelSpec) -> str:
    return spec.name if spec.own_defaults else spec.family.name


def _schemas(catalog: Catalog) -> Json:
    """Returns the input and output schemas of all groups of models."""
    return {
        _schema(spec, side): spec.schema[side]
        for spec, *_ in _groups(catalog)
        for side in spec.schema
    }


def _schema(spec: ModelSpec, side: str) -> str:
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', _group_name(spec)).strip('-')}-{side}"


def _ref(spec: ModelSpec, side: str, part: str = "") -> Json:
    return {"$ref": f"#/components/schemas/{_schema(spec, side)}{part}"}


def _name_in(group: Group, prefix: str = "") -> Json:
    """Returns the schema of a string that is the name of a model in the group."""
    return {"enum": [prefix + spec.name for spec in group]}


def _object(**properties: Any) -> Json:
    """Returns the schema of a JSON object that must have these properties and may have others."""
    return {"type": "object", "properties": properties, "required": [*properties]}


def _any_of(schemas: Iterable[Json]) -> Json:
    return {"anyOf": [*schemas]}


def _list_of(item: Json) -> Json:
    return {"type": "array", "items": item}


def _one(item: Json) -> Json:
    return _list_of(item) | {"minItems": 1, "maxItems": 1}


_TEXT = {"type": "string"}
_BOOLEAN = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_NONE: Json = {"type": "array", "maxItems": 0}


# ── request bodies ────────────────────────────────────────────────────────────────────────────


def _input(catalog: Catalog) -> Json:
    """Returns the schema of a request body that is the input of any model in the catalogue."""
    return _any_of(_ref(spec, "input") for spec, *_ in _groups(catalog))


def _flat(catalog: Catalog, prefix: str = "") -> Json:
    """Returns the schema of an OpenAI request body: a model's input plus the key `model`.

    Only models that generate text accept such a body.
    """
    return _any_of(
        {"allOf": [_object(model=_name_in(group, prefix)), _ref(group[0], "input")]}
        for group in _groups(catalog)
        if group[0].embedding is None
    )


def _nested(catalog: Catalog) -> Json:
    """Returns the schema of a request body `{"model": NAME, "input": INPUT}`."""
    return _any_of(
        _object(model=_name_in(group), input=_ref(group[0], "input")) for group in _groups(catalog)
    )


def _steps(catalog: Catalog) -> Json:
    """Returns the schema of the body of AI Gateway's universal endpoint, a list of requests."""
    return _list_of(
        _any_of(
            _object(
                provider={"const": "workers-ai"},
                endpoint=_name_in(group),
                query=_ref(group[0], "input"),
            )
            for group in _groups(catalog)
        )
    ) | {"minItems": 1}


def _query(name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


_PAGING = [_query(name, {"type": "integer", "minimum": 1}) for name in ("page", "per_page")]
_SEARCH = [
    *(_query(name, _TEXT) for name in ("author", "search", "task")),
    _query("source", {"type": "number"}),
    _query("hide_experimental", {"type": "boolean"}),
    _query("format", {"const": "openrouter"}),
    *_PAGING,
]
_QUEUE_REQUEST = _query("queueRequest", {"enum": ["true", "false"]})
# The OpenAPI document describes only version 3 of the AI binding's protocol.
_BINDING_QUERY = [
    _query("version", {"const": 3}, required=True),
]


def _model_header(catalog: Catalog) -> Json:
    return _query(MODEL_HEADER, {"enum": [*catalog]}, required=True) | {"in": "header"}


# ── successful responses ──────────────────────────────────────────────────────────────────────


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _whole_or_stream(whole: Json) -> Json:
    """Returns the schemas, by media type, of a response that is JSON or a stream of events."""
    return _content(whole) | {"text/event-stream": {"schema": _object(data=_TEXT)}}


def _success(result: Json) -> Json:
    return _object(result=result, success={"const": True}, errors=_NONE, messages={"type": "array"})


def _page(row: Json) -> Json:
    return _object(
        success={"const": True},
        result=_list_of(row),
        errors=_NONE,
        messages=_NONE,
        result_info=_object(count=_COUNT, page=_COUNT, per_page=_COUNT, total_count=_COUNT),
    )


def _native(catalog: Catalog) -> Json:
    """Returns the schemas, by media type, of the responses of `ai/run`: JSON or a stream."""
    return _by_media_type(catalog, _success(_bare_output(catalog)))


def _by_media_type(catalog: Catalog, whole: Json) -> Json:
    """Returns the schemas of JSON, and of a stream if one of the models generates text."""
    has_streams = any(spec.embedding is None for spec in catalog.values())
    return _whole_or_stream(whole) if has_streams else _content(whole)


def _bare_output(catalog: Catalog) -> Json:
    return _any_of([*(_result(spec) for spec, *_ in _groups(catalog)), *_BATCH])


def _result(spec: ModelSpec) -> Json:
    """Returns the schema of the result of `ai/run`.

    The published output schema is right only for models that generate text without tools and
    without JSON mode. The responses of other models have further keys and forms, such as a JSON
    object in JSON mode, or match several branches of a `oneOf`.
    """
    if spec.embedding is not None:
        return _any_of(_VECTORS[spec.embedding.form])
    if spec.traits.form == "choices":
        choices = _object(id=_TEXT, object=_TEXT, created=_COUNT, model=_TEXT, choices=_list_of({}))
        return _any_of([choices, _RESPONSE]) if _accepts_input(spec) else choices
    if spec.traits.form == "both":
        return _object(choices=_list_of({}), response={}, usage={"type": "object"})
    if spec.traits.has_tools or spec.traits.json_mode != "none":
        return _object(usage={"type": "object"})
    return _ref(spec, "output", "/oneOf/0")


def _accepts_input(spec: ModelSpec) -> bool:
    """Returns whether the model's input may be a request of the Responses API."""
    branches = spec.schema["input"].get("oneOf", ())
    return any("input" in branch.get("properties", ()) for branch in branches)


_RESPONSE = _object(object={"const": "response"}, output={"type": "array"})
# The status of a batch, and its results.
_BATCH = [
    _object(status={"enum": ["queued", "running"]}, request_id=_TEXT, model=_TEXT),
    _object(
        responses=_list_of(_object(id=_COUNT, result={"type": "object"}, success=_BOOLEAN)),
        usage={"type": "object"},
    ),
]
_TASK = _object(id=_TEXT, name=_TEXT, description=_TEXT)
_CARD = _object(
    id=_TEXT,
    source={"type": "integer"},
    name=_TEXT,
    description=_TEXT,
    task=_TASK,
    tags={"type": "array"},
    properties=_list_of(_object(property_id=_TEXT, value={})),
)
_DESCRIBED_ACCOUNT = _object(
    id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
    name=_TEXT,
    type={"const": "standard"},
    created_on=_TEXT,
    settings={"type": "object"},
)
_VERIFIED = _object(id={"type": "string", "pattern": "^[0-9a-f]{32}$"}, status={"const": "active"})
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_FINISH_REASON = {"enum": ["stop", "length", "tool_calls"]}


def _completion(kind: str, **content: Json) -> Json:
    choice = _object(index={"const": 0}, **content, finish_reason=_FINISH_REASON)
    whole = _object(
        id=_TEXT,
        object={"const": kind},
        created={"type": "integer"},
        model=_TEXT,
        choices=_one(choice),
        usage=_USAGE,
    )
    return _whole_or_stream(whole)


_EMBEDDINGS_OF_TEXTS = _object(data=_list_of(_list_of(_NUMBER)), shape=_list_of(_COUNT))
_SCORE = _object(id=_COUNT, score=_NUMBER)
_SCORES = _object(response=_list_of(_SCORE))
_EMBEDDINGS_OF_CONTEXTS = _object(response=_list_of(_list_of(_NUMBER)), shape=_list_of(_COUNT))
# The results of embedding models, rerankers and decision models, by the form of the model.
_VECTORS: dict[str, list[Json]] = {
    "bge-en": [_EMBEDDINGS_OF_TEXTS],
    "bge-m3": [_EMBEDDINGS_OF_TEXTS, _EMBEDDINGS_OF_CONTEXTS, _SCORES],
    "gemma": [_EMBEDDINGS_OF_TEXTS],
    "qwen3": [_EMBEDDINGS_OF_TEXTS],
    "reranker": [_object(response=_list_of(_SCORE), usage=_USAGE)],
    "decisions": [_object(model=_TEXT, answers={"type": "object"}, usage={"type": "object"})],
}
_EMBEDDING = _object(
    object={"const": "embedding"}, embedding={"type": ["array", "string"]}, index=_COUNT
)
_EMBEDDINGS = _object(object={"const": "list"}, data=_list_of(_EMBEDDING), model=_TEXT)
_MESSAGE = _object(role={"const": "assistant"}, content={"type": ["string", "null"]})
_CHAT = _completion("chat.completion", message=_MESSAGE)
_COMPLETION = _completion("text_completion", text=_TEXT)
_STATUS = _content(_object(status=_TEXT))
_FAULT_RULE = _any_of([_object(fault=_TEXT), _TEXT])
_FAULTS = _content(_object(faults=_list_of(_object(fault=_TEXT))))
_ROW = _object(id=_COUNT, time=_TEXT, method=_TEXT, path=_TEXT)
_SCRIPT_RULE = _object(number=_COUNT, rule={"type": "object"}, used=_COUNT)
_ACCOUNT = _query("account", {"type": "string", "pattern": "^[0-9a-f]{32}$"})
_HTML = {"text/html": {"schema": _TEXT}}
_FILE = _HTML | {
    name: {"schema": _TEXT} for name in ("text/javascript", "text/css", "image/svg+xml")
}


# ── errors ────────────────────────────────────────────────────────────────────────────────────

_TOKEN_ERRORS = (errors.CREDENTIALS_MISSING, errors.HEADER_MALFORMED)
_BODY_ERRORS = (errors.INCOMPLETE_REQUEST, errors.REQUEST_TOO_LARGE)
_PROVIDER_ERRORS = (errors.GATEWAY_PROVIDER_FAILED, errors.GATEWAY_PROVIDER_INVALID)
_VERIFY_ERRORS = (*_TOKEN_ERRORS, errors.TOKEN_INVALID, errors.TOKEN_MISSING)
_ACCESS_ERRORS: dict[Access, tuple[ErrorType, ...]] = {
    Access.PUBLIC: (),
    Access.ACCOUNT_ID: (errors.INVALID_ACCOUNT,),
    Access.ACCOUNT: (errors.INVALID_ACCOUNT, *_TOKEN_ERRORS, errors.AUTHENTICATION_FAILED),
    Access.GATEWAY: tuple(error_types(Sender.GATEWAY)),
    Access.BINDING: (*_TOKEN_ERRORS, errors.AUTHENTICATION_FAILED),
    Access.CONTROL: (*_TOKEN_ERRORS, errors.AUTHENTICATION_FAILED),
}


# The form of the errors of Workers AI: in Cloudflare's envelope, without it, in the form of the
# Responses API, or in the form of Anthropic's Messages API.
_ErrorForm = Literal["envelope", "bare", "responses", "messages"]


def _error_form(endpoint: Endpoint) -> _ErrorForm:
    if endpoint is endpoints.RESPONSES:
        return "responses"
    if endpoint is endpoints.MESSAGES:
        return "messages"
    return "bare" if endpoint.access in (Access.GATEWAY, Access.BINDING) else "envelope"


def _error_responses(endpoint: Endpoint, details: _Details) -> Json:
    """Returns the OpenAPI error responses of an endpoint, one for each HTTP status."""
    types = {errors.NO_ROUTE, errors.METHOD_NOT_SUPPORTED, errors.FOREIGN_PAGE}
    types |= {*_ACCESS_ERRORS[endpoint.access], *details.errors}
    if endpoint.is_inference:
        types |= {errors.MODEL_NOT_FOUND, *error_types(Sender.WORKERS_AI)}
    form = _error_form(endpoint)
    by_status = attrgetter("status", "code", "text")
    responses = {
        str(status): _response([*rows], form=form)
        for status, rows in groupby(sorted(types, key=by_status), key=attrgetter("status"))
    }
    for status in details.refusals:
        response = responses.setdefault(str(status), _response([], form=form))
        response["content"]["application/json"]["schema"]["anyOf"].append(_object(error=_TEXT))
    return responses


def _share_error_responses(operations: Iterable[Json]) -> Json:
    """Replaces the error responses of the operations by references, and returns them by name.

    Most operations have the same error responses. Without references, these would be three quarters
    of the document.
    """
    names: dict[str, str] = {}
    shared: Json = {}
    for operation in operations:
        responses = operation["responses"]
        for status in [status for status in responses if status >= "400"]:
            text = json.dumps(responses[status])
            name = names.setdefault(text, f"error-{status}-{len(names) + 1}")
            shared[name] = responses[status]
            responses[status] = {"$ref": f"#/components/responses/{name}"}
    return shared


def _response(types: list[ErrorType], *, form: _ErrorForm) -> Json:
    description = "\n".join(f"* {row.code}: {row.summary}" for row in types) or "refused"
    bodies = _any_of(_failure(row, form=form) for row in types)
    return {"description": description, "content": _content(bodies)}


def _failure(error: ErrorType, *, form: _ErrorForm) -> Json:
    code = {"const": error.code}
    match error.sender:
        case Sender.WORKERS_AI | Sender.GATEWAY_LIMIT if form == "messages":
            return _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT))
        case Sender.GATEWAY_LIMIT if form == "bare":
            return _object(
                success={"const": False},
                result=_NONE,
                messages=_NONE,
                error=_one(_object(code=code, message=_TEXT)),
                name={"const": "AiGatewayError"},
                httpCode={"const": error.status},
                internalCode=code,
                message=_TEXT,
                description=_TEXT,
            )
        case Sender.GATEWAY_LIMIT:
            return _failed(_one(_object(message=_TEXT, code=code)), {"type": "object"})
        case Sender.GATEWAY:
            return _object(
                success={"const": False},
                result=_NONE,
                messages=_NONE,
                error=_one(_object(code=code, message=_TEXT)),
            )
        case Sender.WORKERS_AI if form == "bare":
            return _object(
                name={"const": "AiError"},
                internalCode=code,
                httpCode={"const": error.status},
                message=_TEXT,
                description=_TEXT,
                requestId={"type": "string", "pattern": f"^{_UUID}$"},
            )
        case Sender.WORKERS_AI if form == "responses":
            return _object(error=_object(code={"const": "invalid_prompt"}, message=_TEXT))
        case Sender.WORKERS_AI:
            message = {"type": "string", "pattern": rf"^AiError: [\s\S]* \({_UUID}\)$"}
            return _failed(_one(_object(message=message, code=code)), {"type": "object"})
    # `contains` permits further errors in the list, because some responses have several: one for
    # the unknown path and one for the malformed account id, or one for each mistake in the body of
    # a request to `/_emulator/`.
    entries = {"type": "array", "contains": _object(code=code, message=_TEXT)}
    return _failed(entries, {"type": "null"})


def _failed(entries: Json, result: Json) -> Json:
    return _object(errors=entries, success={"const": False}, result=result, messages=_NONE)


# ── every endpoint ────────────────────────────────────────────────────────────────────────────


def _fixed(
    content: Json, *, query: Iterable[Json] = (), **details: Any
) -> Callable[[Catalog], _Details]:
    """Returns a function that returns the same description of an endpoint for every catalogue."""
    return lambda catalog: _Details(content, query=query, **details)


def _binding_run(catalog: Catalog) -> _Details:
    content = _by_media_type(catalog, _bare_output(catalog))
    body = _object(inputs=_input(catalog))
    return _Details(content, body, [_model_header(catalog), *_BINDING_QUERY])


def _universal(catalog: Catalog) -> _Details:
    return _Details(_native(catalog), _steps(catalog), errors=_PROVIDER_ERRORS)


def _chat(catalog: Catalog) -> _Details:
    return _Details(_CHAT, _flat(catalog))


def _completions(catalog: Catalog) -> _Details:
    return _Details(_COMPLETION, _flat(catalog))


def _responses(catalog: Catalog) -> _Details:
    names = [name for name, spec in catalog.items() if spec.embedding is None]
    body = _object(model={"enum": names}, input={"type": ["string", "array"]})
    return _Details(_whole_or_stream(_RESPONSE), body)


def _embeddings(catalog: Catalog) -> _Details:
    return _Details(_content(_EMBEDDINGS), _texts(catalog))


def _texts(catalog: Catalog, prefix: str = "") -> Json:
    """Returns the schema of an OpenAI request body for embeddings."""
    names = [prefix + name for name, spec in catalog.items() if spec.embedding and not spec.decides]
    return _object(model={"enum": names}, input={"type": ["string", "array"]})


def _compat(catalog: Catalog) -> _Details:
    return _Details(_CHAT, _flat(catalog, "workers-ai/"), errors=_PROVIDER_ERRORS)


def _compat_embeddings(catalog: Catalog) -> _Details:
    body = _texts(catalog, "workers-ai/")
    return _Details(_content(_EMBEDDINGS), body, errors=_PROVIDER_ERRORS)


def _run(catalog: Catalog) -> _Details:
    return _Details(_native(catalog), _input(catalog), [_QUEUE_REQUEST])


def _of_account(
    content: Json, *, errors_of_body: tuple[ErrorType, ...] = (), **details: Any
) -> Callable[[Catalog], _Details]:
    """Describes an endpoint of the emulator that takes the query parameter `account`."""
    all_errors = (*errors_of_body, errors.CONTROL_INVALID)
    return _fixed(content, query=[_ACCOUNT], errors=all_errors, **details)


_new_faults = _of_account(
    _FAULTS,
    body=_any_of([_FAULT_RULE, _list_of(_FAULT_RULE)]),
    errors_of_body=_BODY_ERRORS,
)
_SCRIPT_BODY = _object(answer=_TEXT)
_new_script = _of_account(
    _content(_object(rules=_COUNT)),
    body=_any_of([_TEXT, _SCRIPT_BODY, _list_of(_any_of([_TEXT, _SCRIPT_BODY]))]),
    errors_of_body=_BODY_ERRORS,
)
_RECORDINGS = _content(
    _object(
        folder={"type": ["string", "null"]},
        path=_TEXT,
        recordings=_list_of(_object(file=_TEXT, used=_COUNT)),
    )
)

_OPENROUTER_ENTRY = _object(id=_TEXT, name=_TEXT, context_length=_COUNT, pricing={"type": "object"})
_search = _fixed(
    _content(_any_of([_page(_CARD), _object(result_info={}, data=_list_of(_OPENROUTER_ENTRY))])),
    query=_SEARCH,
)
_COMPAT_MODELS = _object(
    object={"const": "list"},
    data=_list_of(
        _object(
            id=_TEXT,
            object={"const": "model"},
            created_at=_COUNT,
            owned_by=_TEXT,
            cost_in={"type": "number"},
            cost_out={"type": "number"},
        )
    ),
)
_NOT_EMULATED = _fixed({}, errors=(errors.NOT_EMULATED,))
_OTHER_API = _fixed({}, errors=(errors.API_NOT_EMULATED,))

_DESCRIBE: dict[Endpoint, Callable[[Catalog], _Details]] = {
    endpoints.RUN: lambda catalog: _Details(_native(catalog), _nested(catalog), [_QUEUE_REQUEST]),
    endpoints.RUN_MODEL: _run,
    endpoints.CHAT_COMPLETIONS: _chat,
    endpoints.COMPLETIONS: _completions,
    endpoints.RESPONSES: _responses,
    endpoints.EMBEDDINGS: _embeddings,
    endpoints.MESSAGES: _fixed({}, errors=(errors.API_NOT_EMULATED,)),
    endpoints.OTHER_OPENAI: _fixed({}),
    endpoints.SEARCH_MODELS: _search,
    endpoints.MODEL_SCHEMA: lambda catalog: _Details(
        _content(_success(_object(input={"type": "object"}, output={"type": "object"}))),
        query=[_query("model", {"type": "string", "enum": [*catalog]}, required=True)],
        errors=(errors.NO_SUCH_MODEL,),
    ),
    endpoints.SEARCH_TASKS: _fixed(_content(_page(_TASK)), query=_PAGING),
    endpoints.LIST_ACCOUNTS: _fixed(
        _content(_page(_DESCRIBED_ACCOUNT)), query=[_query("name", _TEXT), *_PAGING]
    ),
    endpoints.SHOW_ACCOUNT: _fixed(_content(_success(_DESCRIBED_ACCOUNT))),
    endpoints.USER: _fixed({}, errors=(errors.USER_FORBIDDEN,)),
    endpoints.MEMBERSHIPS: _fixed({}, errors=(errors.USER_FORBIDDEN,)),
    endpoints.VERIFY_USER_TOKEN: _fixed(_content(_success(_VERIFIED)), errors=_VERIFY_ERRORS),
    endpoints.VERIFY_ACCOUNT_TOKEN: _fixed(_content(_success(_VERIFIED)), errors=_VERIFY_ERRORS),
    endpoints.SESSION_TOKEN: _fixed(_content(_success(_object(token=_TEXT, exchange_url=_TEXT)))),
    endpoints.EXCHANGE_TOKEN: _fixed(
        _content(_object(token=_TEXT, prewarm=_TEXT, inspector_websocket=_TEXT))
    ),
    endpoints.PREWARM: _fixed(_content(_success({"type": "null"}))),
    endpoints.SUBDOMAIN: _fixed(_content(_success(_object(subdomain=_TEXT)))),
    endpoints.PREVIEW_TOKEN: _fixed(_content(_success(_object(preview_token=_TEXT)))),
    endpoints.PROVIDER_URL: _fixed(_content(_success(_TEXT))),
    **{row: _OTHER_API for row in ENDPOINTS if row.summary == endpoints.OTHER_API},
    endpoints.GATEWAY_UNIVERSAL: _universal,
    endpoints.GATEWAY_UNIVERSAL_SLASH: _universal,
    **dict.fromkeys(endpoints.GATEWAY_COMPAT, _compat),
    **dict.fromkeys(endpoints.GATEWAY_COMPAT_EMBEDDINGS, _compat_embeddings),
    endpoints.GATEWAY_COMPAT_MODELS: _fixed(_content(_COMPAT_MODELS)),
    **dict.fromkeys(endpoints.GATEWAY_CHAT_COMPLETIONS, _chat),
    **dict.fromkeys(endpoints.GATEWAY_COMPLETIONS, _completions),
    **dict.fromkeys(endpoints.GATEWAY_EMBEDDINGS, _embeddings),
    **dict.fromkeys(endpoints.GATEWAY_RESPONSES, _responses),
    **dict.fromkeys(endpoints.GATEWAY_RUN_MODEL, _run),
    endpoints.BINDING_SEARCH_MODELS: _search,
    endpoints.BINDING_RUN: _binding_run,
    endpoints.BINDING_GATEWAY_RUN: _binding_run,
    endpoints.BINDING_GATEWAY_UNIVERSAL: _universal,
    endpoints.BINDING_GATEWAY_URL: _fixed(_content(_success(_object(url=_TEXT)))),
    endpoints.BINDING_WEBSOCKET: _NOT_EMULATED,
    endpoints.BINDING_GET_LOG: _NOT_EMULATED,
    endpoints.BINDING_PATCH_LOG: _NOT_EMULATED,
    endpoints.BINDING_TO_MARKDOWN: _NOT_EMULATED,
    endpoints.BINDING_MARKDOWN_FORMATS: _NOT_EMULATED,
    endpoints.BINDING_AUTORAG: _NOT_EMULATED,
    endpoints.BINDING_AUTORAG_LIST: _NOT_EMULATED,
    endpoints.HEALTHZ: _fixed(_content(_object(status=_TEXT, pid=_COUNT))),
    endpoints.READYZ: _fixed(_STATUS),
    endpoints.INFO: _fixed(
        _content(_object(version=_TEXT, pid=_COUNT, started_at=_TEXT, settings={"type": "object"}))
    ),
    endpoints.METRICS: _fixed({"text/plain": {"schema": _TEXT}}),
    endpoints.OPENAPI: _fixed(_content({"type": "object"})),
    endpoints.SHOW_FAULTS: _of_account(_FAULTS),
    endpoints.ADD_FAULTS: _new_faults,
    endpoints.REPLACE_FAULTS: _new_faults,
    endpoints.DELETE_FAULTS: _of_account(_FAULTS),
    endpoints.SHOW_SCRIPT: _of_account(_content(_object(rules=_list_of(_SCRIPT_RULE)))),
    endpoints.REPLACE_SCRIPT: _new_script,
    endpoints.PUT_SCRIPT: _new_script,
    endpoints.DELETE_SCRIPT: _of_account(_content(_object(rules=_COUNT))),
    endpoints.UNMATCHED: _of_account(
        _content(_object(num_unmatched=_COUNT, requests=_list_of(_ROW)))
    ),
    endpoints.UNUSED: _of_account(
        _content(_object(rules=_list_of(_SCRIPT_RULE), recordings=_list_of(_TEXT)))
    ),
    endpoints.SHOW_RECORDINGS: _of_account(_RECORDINGS),
    endpoints.USE_RECORDINGS: _of_account(
        _RECORDINGS,
        body=_object(folder={"type": ["string", "null"]}),
        errors_of_body=_BODY_ERRORS,
    ),
    endpoints.SHOW_NEURONS: _fixed(_content(_object(spent={"type": "object"}))),
    endpoints.RESET: _of_account(_STATUS),
    endpoints.REQUESTS: _fixed(
        _content(_object(epoch=_TEXT, kept=_COUNT, dropped=_COUNT, requests=_list_of(_ROW))),
        query=[
            _ACCOUNT,
            _query("limit", {"type": "integer"}),
            _query("after", {"type": "integer"}),
        ],
        errors=(errors.CONTROL_INVALID,),
        refusals=(400,),
    ),
    endpoints.ONE_REQUEST: _fixed(_content(_ROW), refusals=(404,)),
    endpoints.LOAD: _fixed(
        _content(_object(status=_TEXT, samples={"type": "array"})),
        query=[_query("after", {"type": "number"})],
        errors=(errors.CONTROL_INVALID,),
        refusals=(400,),
    ),
    endpoints.DASHBOARD_REDIRECT: _fixed({}, status=307),
    endpoints.DASHBOARD: _fixed(_HTML),
    endpoints.DASHBOARD_FILE: _fixed(_FILE),
}
