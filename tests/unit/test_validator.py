"""Tests the validator, a port of the npm package @cloudflare/cabidela, with recorded results.

The results for the published schemas are in tests/data/validator. The cases in this file show one
peculiarity of the package each, with small schemas.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.models.validator import SchemaMismatch, Validator

REPOSITORY = Path(__file__).resolve().parent.parent.parent
VECTORS = {
    "llama-2-7b-chat-int8": "cabidela-0.2.4_int8-schema-2026.json",
    "llama-2-7b-chat-fp16": "cabidela-0.2.4_fp16-schema-2025.json",
}


FAMILIES = REPOSITORY / "emulator/workers_ai_emulator/models/cards/families"


def verdict(schema: dict[str, Any], value: object) -> str:
    return result(Validator(schema), value)


def result(validator: Validator, value: object) -> str:
    try:
        validator.validate(value)
    except SchemaMismatch as error:
        return f"Error: {error}"
    return "valid"


def vectors() -> Iterator[Any]:
    for model, file_name in VECTORS.items():
        path = REPOSITORY / "tests" / "data" / "validator" / file_name
        for name, vector in json.loads(path.read_text(encoding="utf-8")).items():
            request = vector["request"]
            if name == "prompt 131073 chars":  # the file contains a shortened prompt
                request = {"prompt": "a" * 131073}
            yield pytest.param(model, request, vector["result"], id=f"{model}: {name}")


@pytest.mark.parametrize(("model", "request_body", "expected"), list(vectors()))
def test_published_schema_gives_the_recorded_result(
    model: str, request_body: object, expected: str
) -> None:
    path = REPOSITORY / "emulator/workers_ai_emulator/models/cards" / f"{model}.json"
    schema = json.loads(path.read_text(encoding="utf-8"))["schema"]["input"]
    assert verdict(schema, request_body) == expected


def test_every_family_of_schemas_has_recorded_results() -> None:
    recorded = REPOSITORY / "tests" / "data" / "validator" / "families"
    names = sorted(path.name for path in FAMILIES.iterdir())
    assert names == sorted(path.name for path in recorded.iterdir())


@pytest.mark.parametrize("path", sorted(FAMILIES.iterdir()), ids=lambda path: path.stem)
def test_schema_of_a_family_gives_the_recorded_results(path: Path) -> None:
    validator = Validator(json.loads(path.read_text(encoding="utf-8"))["input"])
    recorded = REPOSITORY / "tests" / "data" / "validator" / "families" / path.name
    vectors = json.loads(recorded.read_text(encoding="utf-8"))
    results = [{**vector, "result": result(validator, vector["request"])} for vector in vectors]
    assert results == vectors


def prop(schema: Any, name: str = "p") -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}}


TWO_STRINGS = {"a": {"type": "string"}, "b": {"type": "string"}}
OPEN = {"type": "object", "additionalProperties": {"properties": TWO_STRINGS, "required": ["a"]}}
ONE_OF = {"oneOf": [{"type": "string"}, {"type": "array", "items": prop({})}]}
ANY_OF = {
    "anyOf": [{"type": "string"}, {"type": "number"}, {"type": "array", "items": {}}],
}

QUIRKS = {
    "a bool is no integer": (
        prop({"type": "integer"}),
        '{"p": true}',
        "Type mismatch of '/p', 'integer' not in 'boolean'",
    ),
    "1.0 is an integer": (prop({"type": "integer"}), '{"p": 1.0}', None),
    "a number too large for a double is infinite, so no integer": (
        prop({"type": "integer"}),
        '{"p": 1' + 400 * "0" + "}",
        "Type mismatch of '/p', 'integer' not in 'number'",
    ),
    "infinity is over the maximum": (
        prop({"type": "number", "maximum": 5}),
        '{"p": 1' + 400 * "0" + "}",
        "'/p' must be <= 5",
    ),
    "minus infinity is under the minimum": (
        prop({"type": "number", "minimum": 0.001}),
        '{"p": -1' + 400 * "0" + "}",
        "'/p' must be >= 0.001",
    ),
    "numbers are rounded before they are compared": (
        prop({"type": "integer", "maximum": 2**53}),
        '{"p": 9007199254740993}',
        None,
    ),
    "minus zero is zero": (prop({"enum": [0], "minimum": 0}), '{"p": -0.0}', None),
    "an exclusive maximum is refused itself": (
        prop({"type": "number", "exclusiveMaximum": 5}),
        '{"p": 5}',
        "'/p' must be < 5",
    ),
    "an exclusive minimum is refused itself": (
        prop({"type": "number", "exclusiveMinimum": 5}),
        '{"p": 5}',
        "'/p' must be > 5",
    ),
    "numbers print as in JavaScript": (
        prop({"enum": [1e21, 1e-7, -0.0, 100, 123456789012345678901]}),
        '{"p": [1e20, 1.5e300, 0.000001, 2.50, -0.0, 1e999, -1e999]}',
        "enum 100000000000000000000,1.5e+300,0.000001,2.5,0,Infinity,-Infinity"
        " not in 1e+21,1e-7,0,100,123456789012345680000 at '/p'",
    ),
    "other values print as in JavaScript": (
        prop({"enum": ["a", None, [1, 2], {}]}),
        '{"p": [null, [], [[true], "x", {"valueOf": 1}]]}',
        "enum ,,true,x,[object Object] not in a,,1,2,[object Object] at '/p'",
    ),
    "an object with a toString of its own cannot be printed": (
        {"oneOf": [prop({"enum": ["a"]})]},
        '{"p": {"toString": "x"}}',
        "oneOf at '/' not met, 0 matches: Cannot convert object to primitive value",
    ),
    "true is not 1": (
        prop({"enum": [1]}),
        '{"p": true}',
        "enum true not in 1 at '/p'",
    ),
    "a const that is met ends the check where there is no type": (
        prop({"const": 1, "enum": [2], "pattern": "x"}),
        '{"p": 1}',
        None,
    ),
    "objects are never the same": (
        prop({"const": {}}),
        '{"p": {}}',
        "const [object Object] doesn't match [object Object] at '/p'",
    ),
    "a string's length counts UTF-16 units": (
        prop({"type": "string", "maxLength": 1}),
        '{"p": "\\ud83d\\ude00"}',
        "Length of '/p' must be <= 1",
    ),
    "half a surrogate pair is one unit": (
        prop({"type": "string", "minLength": 2}),
        '{"p": "\\ud83d"}',
        "Length of '/p' must be >= 2 not met",
    ),
    "a pattern's dollar is the very end": (
        prop({"type": "string", "pattern": "^a$"}),
        '{"p": "a\\n"}',
        "'/p' failed test ^a$ patttern",
    ),
    "a bad pattern refuses everything": (
        prop({"type": "string", "pattern": "("}),
        '{"p": "a"}',
        "'/p' failed test ( patttern",
    ),
    "a pattern's digits are the ten": (
        prop({"pattern": "\\d"}),
        '{"p": "\u0663"}',
        "'/p' failed test \\d patttern",
    ),
    "a pattern refuses what cannot be printed": (
        prop({"pattern": "a"}),
        '{"p": {"toString": "a"}}',
        "'/p' failed test a patttern",
    ),
    "integer keys come first": (
        {"type": "array", "items": {"type": "string"}},
        '{"b": 1, "01": 1, "10": 1, "9": 1}',
        "Type mismatch of '/9', 'string' not in 'number','integer'",
    ),
    "an integer beyond array indices is a plain key": (
        {"type": "array", "items": {"type": "string"}},
        '{"9999999999": 1, "b": 1, "4294967295": 1}',
        "Type mismatch of '/9999999999', 'string' not in 'number','integer'",
    ),
    "an array of strings and numbers is binary, its items are not looked at": (
        {"type": "array", "items": {"type": "string"}},
        '["a", 5]',
        None,
    ),
    "an array whose first other item is null is binary too": (
        {"type": "array", "items": {"type": "string"}},
        '["a", null, true]',
        None,
    ),
    "an array whose first other item is false is not": (
        {"type": "array", "items": {"type": "string"}},
        '["a", false, null]',
        "Type mismatch of '/1', 'string' not in 'boolean'",
    ),
    "an array without an item schema is refused": (
        {"type": "array"},
        "[{}]",
        "No schema for path '/0'",
    ),
    "a false schema accepts": (prop(False), '{"p": 1}', None),
    "a list of types is never met": (
        prop({"type": ["string", "null"]}),
        '{"p": "a"}',
        "Type mismatch of '/p', 'string,null' not in 'string'",
    ),
    "a string has a length to match": (prop({"type": "number"}, "length"), '"abc"', None),
    "an empty string has none": (
        {**prop({}, "length"), "required": ["length"]},
        '""',
        "required properties at '/' are 'length'",
    ),
    "an array has a length to mismatch": (
        prop({"type": "string"}, "length"),
        "[true]",
        "Type mismatch of '/length', 'string' not in 'number','integer'",
    ),
    "an array has its indices for properties": (
        prop({"type": "string"}, "1"),
        '["a", 5]',
        "Type mismatch of '/1', 'string' not in 'number','integer'",
    ),
    "a string has its UTF-16 units for properties": (
        prop({"type": "string", "minLength": 2}, "0"),
        '"\\ud83d\\ude00"',
        "Length of '/0' must be >= 2 not met",
    ),
    "every object inherits toString, a value without a type": (
        prop({"type": "string"}, "toString"),
        "{}",
        "Type mismatch of '/toString', 'string' not in ",
    ),
    "a toString of one's own hides it": (
        prop({"type": "string"}, "toString"),
        '{"toString": "a"}',
        None,
    ),
    "every object inherits __proto__, an object": (
        prop({"type": "string"}, "__proto__"),
        "{}",
        "Type mismatch of '/__proto__', 'string' not in 'object'",
    ),
    "a __proto__ from JSON is an ordinary key": (
        {"type": "array", "items": {"type": "string"}},
        '{"__proto__": 5}',
        "Type mismatch of '/__proto__', 'string' not in 'number','integer'",
    ),
    "an extra key inside a closed object is refused": (
        {**prop({}), "additionalProperties": False},
        '{"x": 1, "p": 1, "0": 1}',
        "Additional or unevaluated properties '/0, /x' at '/' not allowed",
    ),
    "what additionalProperties matched is still unevaluated": (
        {"type": "object", "additionalProperties": {}, "unevaluatedProperties": False},
        '{"x": 1}',
        "Additional or unevaluated properties '/x' at '/' not allowed",
    ),
    "what additionalProperties matched is evaluated under a path with one slash too many": (
        {"type": "object", "additionalProperties": {}, "unevaluatedProperties": False},
        '{"x": 1, "/x": 1}',
        "Additional or unevaluated properties '/x' at '/' not allowed",
    ),
    "so that path can meet a requirement": (
        {"type": "object", "additionalProperties": {}, "required": ["/x"]},
        '{"x": 1}',
        None,
    ),
    "errors inside additionalProperties are not listed outside": (
        {"type": "object", "additionalProperties": ONE_OF, "required": ["p"]},
        '{"x": 1}',
        "required properties at '/' are 'p'",
    ),
    "the path starts again inside additionalProperties": (
        {"oneOf": [prop(OPEN)]},
        '{"p": {"x": {"b": "c"}}}',
        "oneOf at '/' not met, 0 matches: required properties at '/x' are 'a'",
    ),
    "of an extra key only what follows the last slash is read": (
        OPEN,
        '{"a/x": {"a": "b"}}',
        "required properties at '/x' are 'a'",
    ),
    "of an extra key that inherited member may be read": (
        OPEN,
        '{"a/constructor": {"a": "b"}}',
        "required properties at '/constructor' are 'a'",
    ),
    "an array of one matches once, an array of two does not": (
        {**prop(ONE_OF), "required": ["p"]},
        '{"p": [{"p": 1}, {"p": 2}]}',
        "required properties at '/' are 'p': Type mismatch of '/p', 'string' not in 'array'",
    ),
    "a oneOf ends at the first branch that matches nothing": (
        {"type": "object", "oneOf": [{"properties": {"x": {}}}, {"properties": {"p": {}}}]},
        '{"p": 1}',
        "oneOf at '/' not met, 0 matches",
    ),
    "the same error is listed once": (
        {"oneOf": [prop({"type": "string"}), prop({"type": "string"})]},
        '{"p": 1}',
        "oneOf at '/' not met, 0 matches: "
        "Type mismatch of '/p', 'string' not in 'number','integer'",
    ),
    "an anyOf ends at the first branch that matches, with the errors of earlier branches": (
        {"type": "object", "properties": {"p": ANY_OF}, "required": ["q"]},
        '{"p": 5}',
        "required properties at '/' are 'q': "
        "Type mismatch of '/p', 'string' not in 'number','integer'",
    ),
    "an anyOf that no branch matches is like an absent property": (
        prop(ANY_OF),
        '{"p": true}',
        None,
    ),
    "such a property does not meet a requirement": (
        {**prop(ANY_OF), "required": ["p"]},
        '{"p": true}',
        "required properties at '/' are 'p': Type mismatch of '/p', 'string' not in 'boolean', "
        "Type mismatch of '/p', 'number' not in 'boolean'",
    ),
    "an anyOf that matches more than once is met": (
        {**prop(ANY_OF), "required": ["p"]},
        '{"p": [true, {}]}',
        None,
    ),
    "an absent object leaves an error if an anyOf requires its properties": (
        {**prop({"anyOf": [{**prop({}), "required": ["p"]}]}, "x"), "required": ["y"]},
        "{}",
        "required properties at '/' are 'y': required properties at '/x' are 'p'",
    ),
    "an anyOf of the whole value must be met": (
        {"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]},
        '"a"',
        "anyOf at '/' not met: Length of '/' must be >= 2 not met, "
        "Type mismatch of '/', 'null' not in 'string'",
    ),
    "a oneOf next to an anyOf replaces it": (
        {"oneOf": [{"type": "string"}], "anyOf": [{"type": "number"}]},
        '"a"',
        None,
    ),
    "a branch without a type takes its parent's, and undefined for none": (
        {"oneOf": [{"minLength": 1}]},
        '"a"',
        "oneOf at '/' not met, 0 matches: Type mismatch of '/', 'undefined' not in 'string'",
    ),
    "minProperties counts the properties of the whole value": (
        prop({"type": "object", "minProperties": 2}),
        '{"p": {"a": 1, "b": 2}}',
        "minProperties at '/p' is 2, got 1",
    ),
    "the text for maxProperties contains minProperties": (
        prop({"type": "object", "minProperties": 0, "maxProperties": 1}),
        '{"p": {}, "q": 1}',
        "maxProperties at '/p' is 0, got 2",
    ),
    "maxProperties counts the characters of a text": (
        {"type": "object", "maxProperties": 1},
        '"ab"',
        "maxProperties at '/' is undefined, got 2",
    ),
    "an absent property does not depend on the number of its own properties": (
        {
            "properties": {"p": {"oneOf": [{"type": "object", "minProperties": 1}]}},
            "required": ["q"],
        },
        '{"a": 1}',
        "required properties at '/' are 'q'",
    ),
    "null has no number of properties": (
        {"type": "object", "minProperties": 0},
        "null",
        "Cannot convert undefined or null to object",
    ),
}


@pytest.mark.parametrize(("schema", "body", "expected"), QUIRKS.values(), ids=QUIRKS)
def test_quirk_of_the_package_is_kept(
    schema: dict[str, Any], body: str, expected: str | None
) -> None:
    assert verdict(schema, json.loads(body)) == (f"Error: {expected}" if expected else "valid")


def test_value_nested_deeper_than_python_recurses_is_printed() -> None:
    value: list[Any] = ["x"]
    for _ in range(100_000):
        value = [value]
    assert verdict({"enum": ["a"]}, value) == "Error: enum x not in a at '/'"


def test_validation_does_not_change_the_value() -> None:
    value = {"p": {"b": 1}, "9": 1, "1": 2}
    before = json.dumps(value)
    verdict({**prop({"default": 1}, "q"), "additionalProperties": {}}, value)
    assert json.dumps(value) == before


def lists(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "array", "items": items}}


LONG = "x" * 2**20


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (lists({"type": "object"}), {LONG: [{}] * 100_000}),
        (lists({"oneOf": [{"enum": ["a"]}]}), [[True] + [LONG] * 100_000]),
        (
            {"type": "array", "items": {"type": "object", "additionalProperties": {}}},
            {LONG: dict.fromkeys(map(str, range(100_000)))},
        ),
    ],
    ids=["paths of items", "error texts", "paths of additional properties"],
)
def test_paths_and_error_texts_have_a_maximum_length(schema: dict[str, Any], value: object) -> None:
    # Without the maximum, the texts would have 100,000 times a million characters.
    assert "more than 33554432 characters" in verdict(schema, value)


def test_conversation_of_twenty_thousand_messages_is_valid() -> None:
    schema = json.loads((FAMILIES / "chat-completions.json").read_text(encoding="utf-8"))["input"]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert verdict(schema, {"messages": messages * 10_000}) == "valid"


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"multipleOf": 2}]},
        {"type": "object", "properties": {"p": {"$ref": "x#/y"}}},
        {"type": "array", "items": {"allOf": []}},
        {"oneOf": [prop({"type": "object", "additionalProperties": {"not": {}}})]},
    ],
)
def test_keyword_that_is_not_ported_is_rejected_at_once(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"schema keyword '.*' is not supported"):
        Validator(schema)


def test_property_may_have_the_name_of_a_keyword_that_is_not_ported() -> None:
    assert verdict(prop({"type": "string"}, "not"), {"not": "a"}) == "valid"
