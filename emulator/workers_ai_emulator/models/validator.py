"""Cloudflare's JSON-schema validator, ported: the same verdict, the same text byte for byte.

Clients see these texts, so every oddity is kept. The facts come from running npm
@cloudflare/cabidela 0.2.4 with its default options under node 22; the golden vectors in
tests/data/validator and the differential test in tests/conformance hold the port to it.

Values are what `json` gives; they are read as JavaScript reads what JSON.parse gives: all numbers
are doubles, strings are UTF-16, integer keys come first, objects inherit members. Recursion is
as deep as the schema, never as deep as the value.

Not ported: the keywords in `_UNPORTED` (refused), patterns that mean something else to `re`, and
inherited members but those of Object.prototype: users can make the package read no others.
"""

import math
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Any

# Any: a schema is JSON, and each keyword is read where its type is known.
Schema = Mapping[str, Any]


class SchemaMismatch(ValueError):
    """The value is refused; `str()` is the text the service sends after `Error: `."""


class Validator:
    """Checks values against one schema.

    A schema with a keyword this port does not know raises ValueError here, not at the first value.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        _refuse_unported(schema)
        self._schema = schema

    def validate(self, value: object) -> None:
        """Raise SchemaMismatch unless the schema accepts the value."""
        _count_matches(self._schema, _Place(value, "", _Walk()))


_UNPORTED = frozenset(
    {"$ref", "allOf", "anyOf", "maxProperties", "minProperties", "multipleOf", "not"}
)


def _refuse_unported(schema: object) -> None:
    if not isinstance(schema, Mapping):
        return
    if unported := sorted(_UNPORTED & schema.keys()):
        raise ValueError(f"schema keyword {unported[0]!r} is not supported")
    for keyword in ("items", "additionalProperties", "unevaluatedProperties"):
        _refuse_unported(schema.get(keyword))
    for part in (*schema.get("oneOf", ()), *schema.get("properties", {}).values()):
        _refuse_unported(part)


class _Absent(Enum):
    """What JavaScript has where JSON has nothing."""

    UNDEFINED = "undefined"
    FUNCTION = "function"  # inherited from Object.prototype; of no JSON type


_UNDEFINED = _Absent.UNDEFINED


@dataclass(frozen=True, slots=True)
class _Walk:
    """What all places of one walk share; the dict is an ordered set."""

    errors: dict[str, None] = field(default_factory=dict)
    evaluated: set[str] = field(default_factory=set)
    is_branch: bool = False  # inside a oneOf an error does not list the ones before it


@dataclass(frozen=True, slots=True)
class _Place:
    """A value and where it is; the path is "" at the root."""

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
    """0 where there is nothing to match, and the number of matching items for an array."""
    if schema is None or schema is _UNDEFINED:
        raise place.mismatch(f"No schema for path '{place}'")
    schema = _keywords(schema)
    if "oneOf" in schema:
        return _match_one_of(schema, place)
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
    """A schema that is no object accepts everything: true and, unlike in the standard, false."""
    return schema if isinstance(schema, Mapping) else {}


def _match_one_of(schema: Schema, place: _Place) -> int:
    """1 when the branches matched once; else 0, or an error at the root."""
    branch_place = replace(place, walk=replace(place.walk, is_branch=True))
    matches = 0
    for branch in schema["oneOf"]:
        typed_branch = {"type": schema.get("type", _UNDEFINED), **_keywords(branch)}
        try:
            matches += _count_matches(typed_branch, branch_place)
        except SchemaMismatch as error:
            place.walk.errors[str(error)] = None
        else:
            if matches != 1:  # so a branch that matched nothing ends the search as well
                break
    if matches != 1 and not place.path:
        raise place.mismatch(f"oneOf at '{place}' not met, {matches} matches")
    return int(matches == 1)


def _match_object(schema: Schema, place: _Place) -> bool:
    """Whether any property matched. Nothing asks whether the value is an object at all."""
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
    """The paths of the properties that matched."""
    children = (
        (place.child(key, _member(place.value, key)), subschema)
        for key, subschema in _entries(schema.get("properties", {}))
    )
    return {child.path for child, subschema in children if _count_matches(subschema, child)}


def _match_others(schema: object, place: _Place, known: set[str], evaluated: set[str]) -> int:
    """How many of the value's properties outside `known` the schema matches."""
    paths = [f"{place.path}/{key}" for key in _keys(place.value)]
    others = [path for path in paths if path not in known]
    if schema is False and others:
        listed = ", ".join(others)
        raise place.mismatch(
            f"Additional or unevaluated properties '{listed}' at '{place}' not allowed"
        )
    matches = 0
    for path in others:
        # The package takes the key back from the path, so of a key "a/b" it reads property "b",
        # and it starts a walk of its own there: the texts inside have relative paths.
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
    # JavaScript's $ is the very end, Python's also stands before a last line feed.
    python_pattern = re.sub(
        r"(\\.|\[(?:\\.|[^\]\\])*\])|\$", lambda match: match[1] or r"\Z", pattern
    )
    try:
        return re.search(python_pattern, _text(value), re.ASCII) is not None
    except (re.error, SchemaMismatch):  # the package takes whatever goes wrong for "not found"
        return False


def _types(value: object) -> tuple[str, ...]:
    """The package's names for what the value is, as its messages list them."""
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
    """Whether the first item that is neither string nor number is missing, or null."""
    others = (item for item in items if not isinstance(item, str) and not _is_number(item))
    return next(others, None) is None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_same(value: object, other: object) -> bool:
    """JavaScript's `===`: by value, but an object is only the same as itself."""
    if _is_number(value) and _is_number(other):
        return _double(value) == _double(other)
    is_primitive = value is None or isinstance(value, str | bool)
    return is_primitive and type(value) is type(other) and value == other


_INDEX = re.compile("0|[1-9][0-9]{0,9}")
_NO_INDEX = 2**32 - 1  # JavaScript's array indices are smaller


def _keys(value: object) -> list[str]:
    """An object's keys in JavaScript's order: indices by size, then the others as written."""
    keys = value if isinstance(value, Mapping) else ()
    return sorted(
        keys, key=lambda key: min(int(key), _NO_INDEX) if _INDEX.fullmatch(key) else _NO_INDEX
    )


def _entries(value: object) -> Iterator[tuple[str, Any]]:
    """What JavaScript's `for (key in value)` meets."""
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


def _member(value: object, key: str) -> object:
    """What the package reads at `value[key]`: nothing from a falsy value, else as JavaScript."""
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
    """The number as JavaScript holds it; what is too large for a double is infinite."""
    assert isinstance(number, int | float)
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _text(value: object) -> str:
    """The value as JavaScript's template literals print it."""
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
        case dict() if "toString" in value:  # a member of the user's, so not a function
            raise SchemaMismatch("Cannot convert object to primitive value")
        case _Absent():
            return value.value
    return "[object Object]"


def _leaves(values: list[object]) -> Iterator[object]:
    """The items of nested lists in order, with null for an empty list: both print as nothing."""
    pending: list[object] = [values]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item or [None]))
        else:
            yield item


def _number_text(number: float) -> str:
    """The shortest digits that give the double back, with an exponent from 1e21 and below 1e-6."""
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number + 0.0)), "f").removesuffix(".0")
    mantissa, exponent = repr(number).split("e")
    return f"{mantissa}e{int(exponent):+d}"
