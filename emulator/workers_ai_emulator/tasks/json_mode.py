"""Reads JSON mode from a request's body: whether the completion must be JSON, and its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.wire.errors import JSON_MODE_UNSUPPORTED, WireError, refused_by_engine


@dataclass(frozen=True, slots=True)
class JsonMode:
    """The completion must be JSON. `schema`: its JSON schema; None if it may be any JSON object."""

    schema: Mapping[str, Any] | None


def parse_json_mode(
    body: Mapping[str, Any], traits: Traits, *, is_retired: bool = False
) -> JsonMode | None:
    """Returns the JSON mode of a body that the model's schema accepts; None if it asks for none.

    The schema is in `response_format`, or for some models in `guided_json`. `is_retired`: whether
    the service has retired the model. Raises WireError if the model has no JSON mode, if the type
    of `response_format` is unknown, or if the schema is not an object or is nested too deeply.
    """
    if traits.guided_json and isinstance(schema := body.get("guided_json"), dict):
        return _json_mode(schema)
    response_format = body.get("response_format")
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if not kind or kind == "text":
        return None
    if traits.json_mode == "none":
        # In 2025, the service's error text had the typo `suuport`. For a model that is not retired,
        # the text had no typo in 2026 [recorded 2026-07].
        raise WireError(JSON_MODE_UNSUPPORTED, "suuport" if is_retired else "support")
    if kind == "json_object":
        return JsonMode(None)
    if kind == "json_schema":
        return _json_mode(_schema(body["response_format"].get("json_schema")))
    raise refused_by_engine("response_format.type must be 'text', 'json_object' or 'json_schema'.")


def _json_mode(schema: Mapping[str, Any] | None) -> JsonMode:
    if is_too_deep(schema):
        raise refused_by_engine("the JSON schema is nested too deeply.")
    return JsonMode(schema)


def _schema(value: Any) -> Mapping[str, Any] | None:
    """Returns the schema in `json_schema`: the value itself, or the value's key `schema`.

    The service accepts both a schema and OpenAI's object with the schema's name. [recorded]
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise refused_by_engine("response_format.json_schema must be an object.")
    is_wrapped = isinstance(value.get("name"), str) and "type" not in value
    if isinstance(value.get("schema"), dict) and (is_wrapped or "properties" not in value):
        schema: Mapping[str, Any] = value["schema"]
        return schema
    return None if is_wrapped else value
