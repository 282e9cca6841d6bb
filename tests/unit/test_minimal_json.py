"""Tests the values that the backend `scripted` makes for JSON schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from workers_ai_emulator.backends.minimal_json import minimal_object, minimal_value
from workers_ai_emulator.engine.errors import RequestRejected

OBJECT = {"type": "object"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, {}),
        (OBJECT, {}),
        ({"properties": {"a": {"type": "string"}}}, {}),
        (CITY, {"city": ""}),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"type": ["string", "null"]}, ""),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "string", "minLength": 3}, "xxx"),
        ({"type": "string", "format": "date"}, "1970-01-01"),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"type": "array", "minItems": 1}, [""]),
        ({"required": ["x"], "additionalProperties": {"type": "integer"}}, {"x": 0}),
    ],
)
def test_a_value_has_only_what_the_schema_requires(schema: dict[str, Any], value: Any) -> None:
    assert minimal_value(schema) == value
    assert jsonschema_rs.is_valid(schema, value)


@pytest.mark.parametrize(
    ("limits", "value"),
    [
        ({}, 0),
        ({"minimum": -5, "maximum": 5}, 0),
        ({"minimum": 18}, 18),
        ({"minimum": 1.5}, 2),
        ({"exclusiveMinimum": 0}, 1),
        ({"maximum": -3}, -3),
        ({"exclusiveMaximum": 0, "minimum": -9}, -1),
        ({"minimum": 10, "multipleOf": 7}, 14),
        ({"minimum": True, "maximum": "x"}, 0),
        ({"minimum": 10**300}, 10**300),
    ],
)
def test_an_integer_is_as_near_to_zero_as_its_limits_allow(
    limits: dict[str, Any], value: int
) -> None:
    assert minimal_value({"type": "integer", **limits}) == value


@pytest.mark.parametrize(
    "limits",
    [
        {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"minimum": 0.25, "maximum": 0.75},
        {"minimum": -0.75, "exclusiveMaximum": -0.25},
    ],
)
def test_a_number_may_be_a_fraction(limits: dict[str, Any]) -> None:
    schema = {"type": "number", **limits}
    assert jsonschema_rs.is_valid(schema, minimal_value(schema))


def test_a_number_is_finite() -> None:
    schema = {"type": "number", "multipleOf": 1e-320, "minimum": 1e10}
    with pytest.raises(RequestRejected, match="no simple number"):
        minimal_value(schema)


def test_required_properties_have_the_order_of_the_schema() -> None:
    properties = {"b": {"type": "string"}, "c": {"type": "string"}, "a": {"type": "string"}}
    value = minimal_value({"properties": properties, "required": ["x", "a", "b"]})
    assert [*value] == ["b", "a", "x"]


def test_included_schemas_are_joined() -> None:
    schema = {
        "$defs": {"named": {"properties": {"name": {"$ref": "#/$defs/t~1x"}}, "required": ["name"]}}
        | {"t/x": {"type": "string"}},
        "allOf": [{"$ref": "#/$defs/named"}, {"required": ["size"]}],
        "properties": {"size": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    }
    assert minimal_value(schema) == {"size": 0, "name": ""}
    assert jsonschema_rs.is_valid(schema, minimal_value(schema))


def test_a_recursive_schema_ends_where_its_recursion_is_optional() -> None:
    tree = {"properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "name": {}}}
    assert minimal_value({**tree, "required": ["name", "children"]}) == {"children": [], "name": ""}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "a part of it accepts no value"),
        ({"type": "text"}, '"text" is no type'),
        ({"enum": []}, "`enum` is not a list of values"),
        ({"anyOf": []}, "`anyOf` is not a list of schemas"),
        ({"$ref": "other.json"}, "points outside of the schema"),
        ({"$ref": "#/$defs/x"}, 'the $ref "#/$defs/x" points to nothing'),
        ({"$ref": "#"}, "too large"),
        ({"allOf": [{"$ref": "#"}] * 1000}, "too large"),
        ({"required": ["a"], "properties": {"a": {"$ref": "#"}}}, "nested too deep"),
        ({"type": "array", "minItems": 10**9}, "too large"),
        ({"type": "array", "minItems": 2, "items": {"$ref": "#"}}, "nested too deep"),
        (
            {"$defs": {"a": {"minItems": 200, "items": {"minItems": 200}}}, "$ref": "#/$defs/a"},
            "large",
        ),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no simple number"),
        ({"type": "string", "minLength": 1e300}, "too large"),
        ({"minItems": 5000, "items": {"const": "x" * 1000}}, "too large"),
        ({"minItems": 5000, "items": {"enum": [{"x": ["y" * 1000]}]}}, "too large"),
        ({"minItems": 1500, "items": {"required": ["x" * 1000]}}, "too large"),
        ({"required": [str(n) for n in range(50_000)]}, "too large"),
        (
            {"type": "number", "minimum": 10**400, "multipleOf": 0.5},
            "limit of a number is too large",
        ),
    ],
)
def test_a_schema_without_a_small_value_is_rejected(schema: Any, reason: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        minimal_value(schema)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_tool_without_parameters_gets_an_empty_object() -> None:
    assert minimal_object({}) == {}
    assert minimal_object(CITY) == {"city": ""}
    with pytest.raises(RequestRejected, match="it accepts no object"):
        minimal_object({"enum": ["a"]})


def test_the_value_is_json() -> None:
    schema = {"required": ["a"], "properties": {"a": {"type": "number", "minimum": 1e300}}}
    assert json.loads(json.dumps(minimal_value(schema), allow_nan=False)) == {"a": 1e300}
