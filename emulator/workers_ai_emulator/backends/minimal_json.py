"""Makes small values that satisfy a JSON schema, for completions without a model.

This module supports only a part of JSON Schema: `type`, `enum`, `const`, `properties`, `required`,
`additionalProperties`, `items`, `prefixItems`, `minItems`, `minLength`, `format`, the limits of
numbers, `multipleOf`, `allOf`, and `$ref` within the schema. Of `anyOf` and `oneOf`, it uses the
first branch. It ignores all other keywords, for example `pattern` and `uniqueItems`.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard
from urllib.parse import unquote

from workers_ai_emulator.engine.errors import RequestRejected
from workers_ai_emulator.wire.validation import shown

_MAX_STEPS = 20_000  # a limit for the number of values, and of keywords that are read
_MAX_LENGTH = 1_000_000  # a limit for the number of characters of the value
_MAX_REF_LENGTH = 1000  # characters
_MAX_DEPTH = 100  # the maximum depth of nested lists and objects in the value
_FORMATS = {
    "date": "1970-01-01",
    "date-time": "1970-01-01T00:00:00Z",
    "email": "a@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "00:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-0000-0000-000000000000",
}


def minimal_value(schema: object) -> Any:
    """Returns a small JSON value that satisfies the schema, as far as this module supports it.

    Raises RequestRejected if the schema is malformed, if it accepts no value, if it has a `$ref` to
    another document, or if the value would be very large.
    """
    return _Maker(schema).value(schema)


def minimal_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a small JSON object that satisfies the schema, whose keyword `type` may be missing.

    Raises RequestRejected as `minimal_value` does, and if the schema accepts no object.
    """
    value = minimal_value({**schema, "type": "object"})
    if not isinstance(value, dict):
        raise _rejected("it accepts no object")
    return value


class _Maker:
    """Makes the value for one schema. `root`: the whole schema, into which each `$ref` points."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._steps_left = _MAX_STEPS
        self._length_left = _MAX_LENGTH

    def value(self, schema: object, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise _rejected("its value is nested too deeply")
        keywords = self._keywords(schema)
        if "const" in keywords:
            return self._constant(keywords["const"])
        if "enum" in keywords:
            return self._constant(_first(keywords["enum"]))
        match _type(keywords, is_root=depth == 0):
            case "object":
                return self._object(keywords, depth)
            case "array":
                return self._array(keywords, depth)
            case "string":
                return self._string(keywords)
            case "integer" | "number" as kind:
                return _number(keywords, is_integer=kind == "integer")
            case "boolean":
                return False
            case "null":
                return None
            case other:
                raise _rejected(f"{shown(other)} is no type")

    def _keywords(self, schema: object) -> dict[str, Any]:
        """Returns the keywords of a schema, together with those of the schemas that it includes.

        It includes the target of `$ref`, all branches of `allOf`, and the first branch of `anyOf`
        and `oneOf`.
        """
        merged: dict[str, Any] = {}
        pending = [schema]
        while pending:
            part = pending.pop()
            if part is True:
                continue
            if not isinstance(part, Mapping):
                raise _rejected("a part of it accepts no value")
            self._count(1 + len(part))
            for keyword, value in part.items():
                if keyword in _INCLUDING:
                    pending.extend(reversed(self._included(keyword, value)))
                else:
                    self._merge(merged, keyword, value)
        return merged

    def _included(self, keyword: str, value: Any) -> list[object]:
        if keyword == "$ref":
            return [self._target(value)]
        if not isinstance(value, list) or not value:
            raise _rejected(f"`{keyword}` is not a list of schemas")
        included = value if keyword == "allOf" else value[:1]
        self._count(len(included))
        return included

    def _target(self, reference: object) -> object:
        """Returns the schema to which a `$ref` such as `#/$defs/name` points."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _rejected(f"the $ref {shown(reference)} points outside of the schema")
        parts = reference[1:_MAX_REF_LENGTH].split("/")[1:]
        self._count(len(parts))
        target: Any = self._root
        for part in parts:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                raise _rejected(f"the $ref {shown(reference)} points to nothing")
            target = target[key]
        return target

    def _merge(self, merged: dict[str, Any], keyword: str, value: Any) -> None:
        """Adds a keyword. Unites the values of `properties` and `required` in several schemas."""
        if keyword == "properties" and isinstance(value, Mapping):
            self._count(len(value))
            merged.setdefault(keyword, {}).update(value)
        elif keyword == "required" and isinstance(value, list):
            self._count(len(value))
            merged.setdefault(keyword, []).extend(value)
        elif keyword not in ("properties", "required"):
            merged.setdefault(keyword, value)

    def _object(self, keywords: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Returns an object with all required properties, in the order of `properties`."""
        properties = _mapping(keywords, "properties")
        required = [key for key in _list(keywords, "required") if isinstance(key, str)]
        needed = set(required)
        ordered = [key for key in properties if key in needed]
        others = keywords.get("additionalProperties", True)
        self._count_length(sum(map(len, required)))
        return {
            key: self.value(properties.get(key, others), depth + 1)
            for key in dict.fromkeys([*ordered, *required])
        }

    def _array(self, keywords: Mapping[str, Any], depth: int) -> list[Any]:
        """Returns an array with as few items as `minItems` allows."""
        first = _list(keywords, "prefixItems")
        items = keywords.get("items", True)
        num_items = _integer(keywords.get("minItems"))
        self._count(num_items)
        schemas = (first[i] if i < len(first) else items for i in range(num_items))
        return [self.value(schema, depth + 1) for schema in schemas]

    def _string(self, keywords: Mapping[str, Any]) -> str:
        name = keywords.get("format")
        text = _FORMATS.get(name, "") if isinstance(name, str) else ""
        length = _integer(keywords.get("minLength"))
        self._count_length(length)
        return text.ljust(length, "x")

    def _constant(self, value: Any) -> Any:
        self._count_length(len(json.dumps(value)))
        return value

    def _count_length(self, length: int) -> None:
        self._length_left -= length
        if self._length_left < 0:
            raise _rejected("its value is too large")

    def _count(self, num_steps: int) -> None:
        self._steps_left -= num_steps
        if self._steps_left < 0:
            raise _rejected("it or its value is too large")


_INCLUDING = frozenset({"$ref", "allOf", "anyOf", "oneOf"})

# The type of a schema without the keyword `type`, by the first of these keywords that it has.
_TYPES = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "exclusiveMinimum": "number",
    "maximum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}


def _type(keywords: Mapping[str, Any], *, is_root: bool) -> object:
    """Returns the type of the value; the first one if the schema allows several types."""
    match keywords.get("type"):
        case [first, *_]:
            return first
        case None:
            default = "object" if is_root else "string"
            return next((kind for key, kind in _TYPES.items() if key in keywords), default)
        case other:
            return other


def _first(values: object) -> Any:
    if not isinstance(values, list) or not values:
        raise _rejected("`enum` is not a list of values")
    return values[0]


def _mapping(keywords: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = keywords.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(keywords: Mapping[str, Any], name: str) -> list[Any]:
    value = keywords.get(name)
    return value if isinstance(value, list) else []


def _number(keywords: Mapping[str, Any], *, is_integer: bool) -> float:
    """Returns the number with the smallest absolute value within the limits of the schema."""
    limits = {name: limit for name, limit in keywords.items() if _is_finite(limit)}
    try:
        for number in sorted(_candidates(limits, is_integer=is_integer), key=abs):
            if all(is_kept(number, limits[name]) for name, is_kept in _LIMITS if name in limits):
                return int(number) if is_integer else number
    except OverflowError as error:
        raise _rejected("a limit of a number is too large") from error
    raise _rejected("no simple number is within its limits")


_LIMITS = (
    ("minimum", operator.ge),
    ("exclusiveMinimum", operator.gt),
    ("maximum", operator.le),
    ("exclusiveMaximum", operator.lt),
)


def _candidates(limits: Mapping[str, float], *, is_integer: bool) -> Iterator[float]:
    """Yields numbers, of which one is within the limits unless the limits are unusual.

    They are 0, the multiples next to each limit, and the number in the middle of the limits.
    """
    given = [limits[name] for name, _ in _LIMITS if name in limits]
    step = limits.get("multipleOf") or 1
    multiples = {(limit // step + n) * step for limit in given for n in (-1, 0, 1)}
    finite = filter(math.isfinite, {0, *multiples})
    yield from (number for number in finite if not is_integer or number % 1 == 0)
    if given and not is_integer and "multipleOf" not in limits:
        yield (min(given) + max(given)) / 2


def _is_finite(value: object) -> TypeGuard[float]:
    """Returns whether the value is a finite number. Python reads `1e999` as infinity."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(value: object) -> int:
    """Returns a limit such as `minItems` as an integer; 0 if it is missing or malformed."""
    return max(0, math.ceil(value)) if _is_finite(value) else 0


def _rejected(reason: str) -> RequestRejected:
    return RequestRejected(
        f"the backend scripted cannot make a value for the JSON schema: {reason}; add a rule"
    )
