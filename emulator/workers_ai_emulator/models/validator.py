"""A port of Cloudflare's JSON-schema validator, npm @cloudflare/cabidela ("cabidela" below).

The port accepts the same values as cabidela, and produces the same error texts, which clients
receive. The port also keeps cabidela's mistakes. It behaves like version 0.2.4, with default
options and node 22. Tests compare the port with cabidela.

Values come from Python's `json`, but are treated as JavaScript treats values from JSON.parse: all
numbers are doubles, strings are UTF-16, integer keys come before other keys, and objects inherit
members. The recursion depth depends only on the schema, so a deeply nested value cannot exhaust
the stack.

The port raises ValueError for the schema keywords in `_UNPORTED`. It does not support patterns that
have different meanings in JavaScript and in Python's `re`. Of the members that JavaScript objects
inherit, it supports only those of Object.prototype, such as `toString`.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

# A schema is a JSON object, so the values of its keywords have the type Any.
Schema = Mapping[str, Any]


class SchemaMismatch(ValueError):
    """A schema rejects a value. The client receives the text `Error: ` and this error's message."""


class Validator:
    """Validates values against one JSON schema.

    The constructor raises ValueError if the schema contains a keyword that is not supported.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = _prepared(schema)

    def validate(self, value: object) -> None:
        """Raises SchemaMismatch if the schema rejects the value."""
        _count_matches(self._schema, _Place(value, "", _Walk()))


_UNPORTED = frozenset({"$ref", "allOf", "maxProperties", "minProperties", "multipleOf", "not"})


def _prepared(schema: Any) -> Any:
    """Returns a copy of a schema in which branches and `properties` are prepared.

    Each branch of `oneOf` and `anyOf` has a type: its own or that of the schema. `properties` is a
    `_Properties` object. Raises ValueError if the schema has an unsupported keyword.
    """
    if not isinstance(schema, dict):
        return schema
    if unported := sorted(_UNPORTED & schema.keys()):
        raise ValueError(f"schema keyword {unported[0]!r} is not supported")
    prepared = dict(schema)
    for keyword in ("items", "additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            prepared[keyword] = _prepared(schema[keyword])
    own_type = schema.get("type", _UNDEFINED)
    for keyword in {"oneOf", "anyOf"} & schema.keys():
        branches = ({"type": own_type, **_keywords(branch)} for branch in schema[keyword])
        prepared[keyword] = [_prepared(branch) for branch in branches]
    if "properties" in schema:
        prepared["properties"] = _Properties(schema["properties"])
    return prepared


class _Absent(Enum):
    """JavaScript values that do not exist in JSON."""

    UNDEFINED = "undefined"
    # Stands for a function that JavaScript finds in every object, such as `toString`.
    FUNCTION = "function"


_UNDEFINED = _Absent.UNDEFINED


class _Properties:
    """The schemas in the keyword `properties`, in the order in which JavaScript lists the keys."""

    def __init__(self, properties: object) -> None:
        self._schemas = [(key, _prepared(schema)) for key, schema in _entries(properties)]
        self._checked_if_absent = frozenset(
            key for key, schema in self._schemas if key in _INHERITED or not _is_optional(schema)
        )

    def of(self, value: object) -> list[tuple[str, Any]]:
        """Returns the keys and schemas to validate in `value`.

        Leaves out absent properties whose schemas have no effect on absent properties, because a
        request has only a few of the properties in its schema.
        """
        if not isinstance(value, dict):
            return self._schemas
        always = self._checked_if_absent
        return [item for item in self._schemas if item[0] in value or item[0] in always]


def _is_optional(schema: object) -> bool:
    """Returns whether the match count of an absent value is always 0, without any error."""
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    effective = {"oneOf", "anyOf", "properties"}
    return schema.get("type") != "object" and schema.keys().isdisjoint(effective)


@dataclass(slots=True)
class _Walk:
    """The state of one validation.

    `errors`: the error texts so far, as the keys of a dict, which keeps their order. `evaluated`:
    the paths of the additional properties that were accepted, because they match the schema in
    `additionalProperties`. `is_branch`: whether a branch of `oneOf` or `anyOf` is being validated.
    If it is False, each new error text includes all earlier ones, as in cabidela, Cloudflare's
    validator.
    """

    errors: dict[str, None] = field(default_factory=dict)
    evaluated: set[str] = field(default_factory=set)
    is_branch: bool = False


class _Place(NamedTuple):  # created faster than a frozen data class
    """A part of the validated value, and its path: for example `/prompt`, or "" for the whole."""

    value: object
    path: str
    walk: _Walk

    def __str__(self) -> str:
        return self.path or "/"

    def child(self, key: str, value: object) -> "_Place":
        return _Place(value, f"{self.path}/{key}", self.walk)

    def mismatch(self, message: str) -> SchemaMismatch:
        if self.walk.errors and not self.walk.is_branch:
            message += ": " + ", ".join(self.walk.errors)
        return SchemaMismatch(message)


def _count_matches(schema: object, place: _Place) -> int:
    """Validates a value, and returns how many values matched the schema, as cabidela counts them.

    cabidela is Cloudflare's validator. The result is usually 1. It is 0, for example, for an
    optional value that is absent. For a schema of the type `array`, it is the sum of the results
    for the array's items. Raises SchemaMismatch if the schema rejects the value.
    """
    if schema is None or schema is _UNDEFINED:
        raise place.mismatch(f"No schema for path '{place}'")
    schema = _keywords(schema)
    if "oneOf" in schema:
        return _match_one_of(schema, place)
    if "anyOf" in schema:
        return _match_any_of(schema, place)
    if schema.get("type") == "array" and not {"string", "binary"} & {*_types(place.value)}:
        items = schema.get("items", _UNDEFINED)
        return sum(_count_matches(items, place.child(*item)) for item in _entries(place.value))
    if schema.get("type") == "object" or "properties" in schema:
        return int(_match_object(schema, place))
    if place.value is _UNDEFINED:
        return 0
    _check_value(schema, place)
    return 1


def _keywords(schema: object) -> Schema:
    """Returns the keywords of a schema with their values.

    Returns no keywords for the schemas `true` and `false`, so both accept every value, as in
    cabidela. (In the JSON Schema standard, `false` accepts no value.)
    """
    return schema if isinstance(schema, dict) else {}


def _match_one_of(schema: Schema, place: _Place) -> int:
    """Returns 1 if the match counts of the branches of `oneOf` add up to 1, otherwise 0.

    At the top level (path ""), raises SchemaMismatch instead of returning 0.
    """
    # As in cabidela, a branch without an error ends the loop if the sum is not 1.
    matches = _sum_matches(schema["oneOf"], place, lambda sum_so_far: sum_so_far != 1)
    if matches != 1 and not place.path:
        raise place.mismatch(f"oneOf at '{place}' not met, {matches} matches")
    return int(matches == 1)


def _match_any_of(schema: Schema, place: _Place) -> int:
    """Returns 1 if the match count of a branch of `anyOf` is above 0, otherwise 0.

    At the top level (path ""), raises SchemaMismatch instead of returning 0.
    """
    matches = _sum_matches(schema["anyOf"], place, lambda sum_so_far: sum_so_far != 0)
    if not matches and not place.path:
        raise place.mismatch(f"anyOf at '{place}' not met")
    return int(matches > 0)


def _sum_matches(branches: list[Schema], place: _Place, is_end: Callable[[int], bool]) -> int:
    """Validates a value against the branches of `oneOf` or `anyOf`, in order.

    Returns the sum of the branches' match counts (see `_count_matches`). Adds the error texts of
    the branches that reject the value to `place.walk.errors`. After a branch that does not reject
    the value, `is_end` receives the sum so far, and the loop ends if the result is True.
    """
    walk = _Walk(place.walk.errors, place.walk.evaluated, is_branch=True)
    branch_place = _Place(place.value, place.path, walk)
    matches = 0
    for branch in branches:
        try:
            matches += _count_matches(branch, branch_place)
        except SchemaMismatch as error:
            place.walk.errors[str(error)] = None
        else:
            if is_end(matches):
                break
    return matches


def _match_object(schema: Schema, place: _Place) -> bool:
    """Validates the properties of a value as cabidela does.

    Returns whether at least one property has a match count (see `_count_matches`) above 0. Raises
    SchemaMismatch if a required property is missing, or if a schema rejects a property. Does not
    check whether the value is an object.
    """
    known = _match_properties(schema, place)
    matches, evaluated = len(known), place.walk.evaluated
    if "additionalProperties" in schema:
        matches += _match_others(schema["additionalProperties"], place, known, evaluated)
    if "unevaluatedProperties" in schema:
        evaluated = evaluated | known
        matches += _match_others(schema["unevaluatedProperties"], place, evaluated, evaluated)
    required = schema.get("required", ())
    if not {f"{place.path}/{key}" for key in required} <= evaluated | known:
        raise place.mismatch(f"required properties at '{place}' are '{_text(required)}'")
    return matches > 0


def _match_properties(schema: Schema, place: _Place) -> set[str]:
    """Validates the properties that the schema lists in its keyword `properties`.

    Returns the paths of the properties of which at least one value matches: `_count_matches`
    returns more than 0.
    """
    known = set()
    for key, subschema in schema["properties"].of(place.value) if "properties" in schema else ():
        child = place.child(key, _member(place.value, key))
        if _count_matches(subschema, child):
            known.add(child.path)
    return known


def _match_others(schema: object, place: _Place, known: set[str], evaluated: set[str]) -> int:
    """Validates a value's other properties, whose paths are not in `known`, against `schema`.

    Returns how many other properties have a match count (see `_count_matches`) above 0, and adds
    their paths to `evaluated`. Raises SchemaMismatch if `schema` rejects one of the other
    properties, or if `schema` is False and the value has other properties.
    """
    paths = [f"{place.path}/{key}" for key in _keys(place.value)]
    others = [path for path in paths if path not in known]
    if schema is False and others:
        listed = ", ".join(others)
        raise place.mismatch(
            f"Additional or unevaluated properties '{listed}' at '{place}' not allowed"
        )
    matches = 0
    for path in others:
        # cabidela, Cloudflare's validator, uses only the part of the path after the last slash. So
        # a property "a/b" is called "b" in error texts.
        key = path.rpartition("/")[2]
        if _count_matches(schema, _Place(_member(place.value, key), f"/{key}", _Walk())):
            matches += 1
            evaluated.add(f"/{path}")
    return matches


def _check_value(schema: Schema, place: _Place) -> None:
    value, expected = place.value, schema.get("type")
    is_untyped = expected is None or expected is _UNDEFINED
    if "const" in schema:
        if not _is_same(value, schema["const"]):
            texts = f"{_text(value)} doesn't match {_text(schema['const'])}"
            raise place.mismatch(f"const {texts} at '{place}'")
        if is_untyped:
            return
    if "enum" in schema:
        if not any(_is_same(value, allowed) for allowed in schema["enum"]):
            texts = f"{_text(value)} not in {_text(schema['enum'])}"
            raise place.mismatch(f"enum {texts} at '{place}'")
        if is_untyped:
            return
    if "type" in schema and expected not in _types(value):
        actual = ",".join(f"'{name}'" for name in _types(value))
        raise place.mismatch(f"Type mismatch of '{place}', '{_text(expected)}' not in {actual}")
    if expected == "string":
        _check_length(schema, place)
    elif expected in ("number", "integer"):
        _check_range(schema, place)
    if "pattern" in schema and not _is_pattern_found(schema["pattern"], value):
        raise place.mismatch(f"'{place}' failed test {schema['pattern']} patttern")


def _check_length(schema: Schema, place: _Place) -> None:
    assert isinstance(place.value, str)
    length = _length(place.value)
    if "maxLength" in schema and length > schema["maxLength"]:
        raise place.mismatch(f"Length of '{place}' must be <= {_text(schema['maxLength'])}")
    if "minLength" in schema and length < schema["minLength"]:
        raise place.mismatch(f"Length of '{place}' must be >= {_text(schema['minLength'])} not met")


_LIMITS = (
    ("minimum", operator.lt, ">="),
    ("exclusiveMinimum", operator.le, ">"),
    ("maximum", operator.gt, "<="),
    ("exclusiveMaximum", operator.ge, "<"),
)


def _check_range(schema: Schema, place: _Place) -> None:
    number = _double(place.value)
    for keyword, is_outside, sign in _LIMITS:
        if keyword in schema and is_outside(number, _double(schema[keyword])):
            raise place.mismatch(f"'{place}' must be {sign} {_text(schema[keyword])}")


def _is_pattern_found(pattern: str, value: object) -> bool:
    # JavaScript's $ matches only at the end of a text; Python's $ also matches before a line feed
    # at the end, so it is replaced by \Z.
    python_pattern = re.sub(
        r"(\\.|\[(?:\\.|[^\]\\])*\])|\$", lambda match: match[1] or r"\Z", pattern
    )
    try:
        return re.search(python_pattern, _text(value), re.ASCII) is not None
    except (re.error, SchemaMismatch):  # as in cabidela, an error means "not found"
        return False


def _types(value: object) -> tuple[str, ...]:
    """Returns the names of the JSON types that a value has, as cabidela's error texts list them.

    A whole number, for example, is both a `number` and an `integer`.
    """
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int() | float():
            return ("number", "integer") if _double(value).is_integer() else ("number",)
        case str():
            return ("string",)
        case list():
            return ("array", "binary") if _is_binary(value) else ("array",)
        case dict():
            return ("object",)
    return ()


def _is_binary(items: list[object]) -> bool:
    """Returns whether cabidela gives an array the type `binary` in addition to `array`.

    cabidela looks for the first item that is neither a string nor a number. The array is `binary`
    if this item is null, or if there is no such item.
    """
    others = (item for item in items if not isinstance(item, str) and not _is_number(item))
    return next(others, None) is None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_same(value: object, other: object) -> bool:
    """Compares two values like JavaScript's `===`: objects and arrays are never equal."""
    if _is_number(value) and _is_number(other):
        return _double(value) == _double(other)
    is_primitive = value is None or isinstance(value, str | bool)
    return is_primitive and type(value) is type(other) and value == other


_INDEX = re.compile("0|[1-9][0-9]{0,9}")
_NO_INDEX = 2**32 - 1  # greater than any array index of JavaScript


def _keys(value: object) -> list[str]:
    """Returns an object's keys in JavaScript's order: first integers by size, then all others."""
    keys = value if isinstance(value, Mapping) else ()
    return sorted(
        keys, key=lambda key: min(int(key), _NO_INDEX) if _INDEX.fullmatch(key) else _NO_INDEX
    )


def _entries(value: object) -> Iterator[tuple[str, Any]]:
    """Yields the keys of an object, or the indices of an array as text, each with its value.

    The keys have the order of JavaScript's `for (key in value)`.
    """
    if isinstance(value, Mapping):
        yield from ((key, value[key]) for key in _keys(value))
    elif isinstance(value, list):
        yield from ((str(index), item) for index, item in enumerate(value))


_OBJECT_FUNCTIONS = frozenset(
    {
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)
_INHERITED = _OBJECT_FUNCTIONS | {"__proto__"}


def _member(value: object, key: str) -> object:
    """Returns JavaScript's `value[key]`, including members that objects inherit.

    Returns undefined if `value` is falsy, as cabidela does.
    """
    if isinstance(value, dict) and key in value:
        return value[key]
    if value in (None, False, 0, "", _UNDEFINED):
        return _UNDEFINED
    if isinstance(value, str | list) and key == "length":
        return _length(value)
    if isinstance(value, str | list) and _INDEX.fullmatch(key):
        return _item(value, int(key))
    if key == "__proto__":
        return [] if isinstance(value, list) else {}
    return _Absent.FUNCTION if key in _OBJECT_FUNCTIONS else _UNDEFINED


def _length(value: str | list[object]) -> int:
    return len(_utf16(value)) // 2 if isinstance(value, str) else len(value)


def _item(value: str | list[object], index: int) -> object:
    if isinstance(value, list):
        return value[index] if index < len(value) else _UNDEFINED
    unit = _utf16(value)[2 * index : 2 * index + 2]
    return unit.decode("utf-16-le", "surrogatepass") or _UNDEFINED


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _double(number: object) -> float:
    """Converts a number of any size to a double; infinity if the number is too large."""
    assert isinstance(number, int | float)
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _text(value: object) -> str:
    """Converts a value to text as JavaScript does in a template literal, `${value}`."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return _number_text(_double(value))
        case str():
            return value
        case list():
            return ",".join("" if leaf is None else _text(leaf) for leaf in _leaves(value))
        # In JavaScript, the conversion fails, because the object's `toString` is no function.
        case dict() if "toString" in value:
            raise SchemaMismatch("Cannot convert object to primitive value")
        case _Absent():
            return value.value
    return "[object Object]"


def _leaves(values: list[object]) -> Iterator[object]:
    """Yields all items of nested arrays, in order.

    Yields None in place of an empty array, because JavaScript converts null and an empty array
    inside an array to the same empty text.
    """
    pending: list[object] = [values]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item or [None]))
        else:
            yield item


def _number_text(number: float) -> str:
    """Converts a double to text as JavaScript does: with the fewest digits that identify it.

    The text has an exponent if the absolute value is at least 1e21 or below 1e-6.
    """
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number + 0.0)), "f").removesuffix(".0")
    mantissa, exponent = repr(number).split("e")
    return f"{mantissa}e{int(exponent):+d}"
