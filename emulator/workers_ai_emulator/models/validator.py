"""A port of Cloudflare's JSON-schema validator, npm @cloudflare/cabidela ("cabidela" below).

The port accepts the same values as cabidela, and produces the same error texts, which clients
receive. Only values whose validation would take too long (see `_MAX_CHARACTERS`) are rejected
earlier and with another text. The port also keeps cabidela's mistakes. It behaves like version
0.2.4, with default options and node 22. Tests compare the port with cabidela.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from itertools import filterfalse
from types import NoneType
from typing import Any, NamedTuple, Protocol

# The maximum number of characters in all paths and error texts that one validation creates. 10,000
# messages with tool calls need a fifth of this number. Without a limit, the validation of 1 MiB of
# empty messages could take two minutes and create an error text of 200 MB.
_MAX_CHARACTERS = 2**25


class SchemaMismatch(ValueError):
    """A schema rejects a value. The client receives the text `Error: ` and this error's message."""


class Validator:
    """Validates values against one JSON schema.

    The constructor raises ValueError if the schema contains a keyword that is not supported.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = _compiled(schema)

    def validate(self, value: object) -> None:
        """Raises SchemaMismatch if the schema rejects the value.

        Also raises SchemaMismatch, with a text of our own, if the validation would take too long.
        """
        try:
            self._schema.count_matches(_Place(value, "", _Walk(_Budget(_MAX_CHARACTERS), value)))
        except _Mismatch as error:
            raise SchemaMismatch(str(error)) from None


class _Mismatch(Exception):
    """A schema rejects a value. If the schema is a branch of a `oneOf`, another branch may not."""


class _RootUnknown(Exception):
    """A result depends on the whole value, which is not known yet."""


class _Absent(Enum):
    """JavaScript values that do not exist in JSON."""

    UNDEFINED = "undefined"
    # Stands for a function that JavaScript finds in every object, such as `toString`.
    FUNCTION = "function"


_UNDEFINED = _Absent.UNDEFINED


@dataclass(slots=True)
class _Budget:
    """Limits the time and the memory of one validation.

    `num_characters`: how many characters the paths and error texts may still have.
    """

    num_characters: int

    def spend(self, text: str) -> None:
        """Counts the characters of a new path or error text. Raises SchemaMismatch at the limit."""
        self.num_characters -= len(text)
        if self.num_characters < 0:
            raise SchemaMismatch(
                "the paths of the input's values, and the error texts, have more than "
                f"{_MAX_CHARACTERS} characters, which is the emulator's limit"
            )


@dataclass(slots=True)
class _Walk:
    """The state of one validation.

    `root`: the whole value; undefined if it is not known yet. `errors`: the error texts so far, as
    the keys of a dict, which keeps their order. `evaluated`: the paths of the additional properties
    that were accepted, because they match the schema in `additionalProperties`.
    """

    budget: _Budget
    root: object
    errors: dict[str, None] = field(default_factory=dict)
    evaluated: set[str] = field(default_factory=set)


class _Place(NamedTuple):  # created faster than a frozen data class
    """A part of the validated value, and its path: for example `/prompt`, or "" for the whole.

    `is_branch`: whether a branch of `oneOf` or `anyOf` is being validated. If it is False, each new
    error text includes all earlier ones, as in cabidela, Cloudflare's validator.
    """

    value: object
    path: str
    walk: _Walk
    is_branch: bool = False

    def __str__(self) -> str:
        return self.path or "/"

    def path_of(self, key: str) -> str:
        path = f"{self.path}/{key}"
        self.walk.budget.spend(path)
        return path

    def child(self, key: str, value: object) -> "_Place":
        return _Place(value, self.path_of(key), self.walk, self.is_branch)

    def mismatch(self, message: str) -> _Mismatch:
        if self.walk.errors and not self.is_branch:
            message += ": " + ", ".join(self.walk.errors)
        self.walk.budget.spend(message)
        return _Mismatch(message)


class _Schema(Protocol):
    def count_matches(self, place: _Place) -> int:
        """Validates a value, and returns how many values matched the schema, as cabidela counts.

        cabidela is Cloudflare's validator. The result is usually 1. It is 0, for example, for an
        optional value that is absent. For a schema of the type `array`, it is the sum of the
        results for the array's items. Raises _Mismatch if the schema rejects the value.
        """


_UNPORTED = frozenset({"$ref", "allOf", "multipleOf", "not"})


def _compiled(schema: object) -> _Schema:
    """Converts a JSON schema to an object that validates values.

    The schemas `true` and `false` become the schema without keywords, so both accept every value,
    as in cabidela. (In the JSON Schema standard, `false` accepts no value.) Raises ValueError if
    the schema has an unsupported keyword.
    """
    if schema is None or schema is _UNDEFINED:
        return _MissingSchema()
    keywords = _keywords(schema)
    if unported := sorted(_UNPORTED & keywords.keys()):
        raise ValueError(f"schema keyword {unported[0]!r} is not supported")
    if "oneOf" in keywords:
        return _OneOf(_branches(keywords, "oneOf"))
    if "anyOf" in keywords:
        return _AnyOf(_branches(keywords, "anyOf"))
    is_object = keywords.get("type") == "object" or "properties" in keywords
    own = _compiled_object(keywords) if is_object else _compiled_value(keywords)
    if keywords.get("type") == "array":
        return _ArraySchema(_compiled(keywords.get("items", _UNDEFINED)), own)
    return own


def _keywords(schema: object) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


def _branches(keywords: Mapping[str, Any], name: str) -> list[_Schema]:
    """Returns the branches of `oneOf` or `anyOf`. A branch without a type gets the schema's own."""
    own_type = keywords.get("type", _UNDEFINED)
    return [_compiled({"type": own_type, **_keywords(branch)}) for branch in keywords[name]]


class _MissingSchema:
    """Stands for the items' schema in an array's schema without the keyword `items`."""

    def count_matches(self, place: _Place) -> int:
        raise place.mismatch(f"No schema for path '{place}'")


@dataclass(frozen=True, slots=True)
class _OneOf:
    branches: list[_Schema]

    def count_matches(self, place: _Place) -> int:
        """Returns 1 if the match counts of the branches add up to 1, otherwise 0.

        At the top level (path ""), raises _Mismatch instead of returning 0.
        """
        # As in cabidela, a branch without an error ends the loop if the sum is not 1.
        matches = _sum_matches(self.branches, place, lambda sum_so_far: sum_so_far != 1)
        if matches != 1 and not place.path:
            raise place.mismatch(f"oneOf at '{place}' not met, {matches} matches")
        return int(matches == 1)


@dataclass(frozen=True, slots=True)
class _AnyOf:
    branches: list[_Schema]

    def count_matches(self, place: _Place) -> int:
        """Returns 1 if the match count of a branch is above 0, otherwise 0.

        At the top level (path ""), raises _Mismatch instead of returning 0.
        """
        matches = _sum_matches(self.branches, place, lambda sum_so_far: sum_so_far != 0)
        if not matches and not place.path:
            raise place.mismatch(f"anyOf at '{place}' not met")
        return int(matches > 0)


def _sum_matches(branches: Sequence[_Schema], place: _Place, is_end: Callable[[int], bool]) -> int:
    """Validates a value against the branches of `oneOf` or `anyOf`, in order.

    Returns the sum of the branches' match counts. Adds the error texts of the branches that reject
    the value to `place.walk.errors`. After a branch that does not reject the value, `is_end`
    receives the sum so far, and the loop ends if the result is True.
    """
    branch_place = _Place(place.value, place.path, place.walk, is_branch=True)
    matches = 0
    for branch in branches:
        try:
            matches += branch.count_matches(branch_place)
        except _Mismatch as error:
            place.walk.errors[str(error)] = None
        else:
            if is_end(matches):
                break
    return matches


@dataclass(frozen=True, slots=True)
class _ArraySchema:
    """A schema of the type `array`. `own`: the schema without the items, for texts and bytes."""

    items: _Schema
    own: _Schema

    def count_matches(self, place: _Place) -> int:
        value = place.value
        if isinstance(value, str) or (isinstance(value, list) and _is_binary(value)):
            return self.own.count_matches(place)
        return sum(self.items.count_matches(place.child(*entry)) for entry in _entries(value))


class _Property(NamedTuple):
    """A property in the keyword `properties`.

    `absent_errors`: the error texts if the property is absent, with `_PATH` in place of its path;
    None if they are not always the same, or if the absent property is an error.
    """

    key: str
    schema: _Schema
    absent_errors: tuple[str, ...] | None


_PATH = "\0"


def _properties(keywords: Mapping[str, Any]) -> list[_Property]:
    """Returns the properties in the order in which JavaScript lists the keys."""
    schemas = [(key, _compiled(schema)) for key, schema in _entries(keywords.get("properties"))]
    return [_Property(key, schema, _absent_errors(key, schema)) for key, schema in schemas]


def _absent_errors(key: str, schema: _Schema) -> tuple[str, ...] | None:
    walk = _Walk(_Budget(_MAX_CHARACTERS), _UNDEFINED)
    try:
        schema.count_matches(_Place(_UNDEFINED, _PATH, walk, is_branch=True))
    except (_Mismatch, _RootUnknown):
        return None
    return None if key in _INHERITED else tuple(walk.errors)


@dataclass(frozen=True, slots=True)
class _OtherProperties:
    """The keyword `additionalProperties` or `unevaluatedProperties`.

    `schema` is None if the keyword is False: such properties are not allowed.
    """

    schema: _Schema | None

    def count_matches(self, place: _Place, known: set[str], evaluated: set[str]) -> int:
        """Validates a value's other properties, whose paths are not in `known`.

        Returns how many other properties have a match count above 0, and adds their paths to
        `evaluated`. Raises _Mismatch if the schema rejects one of the other properties.
        """
        paths = map(place.path_of, _keys(place.value))
        others = [path for path in paths if path not in known]
        if self.schema is None:
            if others:
                listed = f"'{', '.join(others)}' at '{place}'"
                raise place.mismatch(f"Additional or unevaluated properties {listed} not allowed")
            return 0
        matches = 0
        for path in others:
            if self.schema.count_matches(_other_place(place, path)):
                matches += 1
                evaluated.add(f"/{path}")
        return matches


def _other_place(place: _Place, path: str) -> _Place:
    """Returns the property `path` of a value as a value of its own, without earlier errors.

    cabidela, Cloudflare's validator, uses only the part of the path after the last slash. So a
    property "a/b" is called "b" in error texts.
    """
    key = path.rpartition("/")[2]
    walk = _Walk(place.walk.budget, place.value)
    return _Place(_member(place.value, key), f"/{key}", walk)


@dataclass(frozen=True, slots=True)
class _NumProperties:
    """The keywords `minProperties` and `maxProperties`; None: the schema does not have the keyword.

    As in cabidela, they limit the properties of the whole validated value, not of the object that
    the schema describes, and both error texts contain `minProperties`.
    """

    least: int | None
    most: int | None

    def check(self, place: _Place) -> None:
        """Raises _Mismatch if the number of properties is outside of the limits."""
        count = _num_keys(place.walk.root)
        least = "undefined" if self.least is None else _text(self.least)
        if self.least is not None and count < self.least:
            raise place.mismatch(f"minProperties at '{place}' is {least}, got {count}")
        if self.most is not None and count > self.most:
            raise place.mismatch(f"maxProperties at '{place}' is {least}, got {count}")


def _num_keys(value: object) -> int:
    """Returns how many keys JavaScript's `Object.keys(value)` has. Raises _Mismatch for null."""
    if value is _UNDEFINED:
        raise _RootUnknown
    if value is None:
        raise _Mismatch("Cannot convert undefined or null to object")
    if isinstance(value, str | list):
        return _length(value)
    return len(value) if isinstance(value, Mapping) else 0


@dataclass(frozen=True, slots=True)
class _ObjectSchema:
    """A schema of the type `object`, or with the keyword `properties`."""

    properties: list[_Property]
    required: list[str]
    required_text: str
    additional: _OtherProperties | None
    unevaluated: _OtherProperties | None
    num_properties: _NumProperties | None

    def count_matches(self, place: _Place) -> int:
        """Returns 1 if at least one property has a match count above 0, otherwise 0.

        Raises _Mismatch if a required property is missing, or if a schema rejects a property. As
        in cabidela, does not check whether the value is an object.
        """
        if self.num_properties is not None:
            self.num_properties.check(place)
        known = self._match_properties(place)
        matches, evaluated = len(known), place.walk.evaluated
        if self.additional is not None:
            matches += self.additional.count_matches(place, known, evaluated)
        if self.unevaluated is not None:
            evaluated = evaluated | known
            matches += self.unevaluated.count_matches(place, evaluated, evaluated)
        paths = map(place.path_of, self.required)
        if not all(path in known or path in evaluated for path in paths):
            raise place.mismatch(f"required properties at '{place}' are '{self.required_text}'")
        return int(matches > 0)

    def _match_properties(self, place: _Place) -> set[str]:
        """Validates the properties in the keyword `properties`.

        Returns the paths of the properties whose match count is above 0.
        """
        value, known = place.value, set()
        # The errors of an absent property are known in advance if the value is an object and
        # nothing has been added to `evaluated`. Most properties of a schema are absent.
        own_keys = value.keys() if isinstance(value, dict) and not place.walk.evaluated else None
        for key, schema, absent_errors in self.properties:
            if absent_errors is not None and own_keys is not None and key not in own_keys:
                _add_errors(absent_errors, place, key)
                continue
            child = place.child(key, _member(value, key))
            if schema.count_matches(child):
                known.add(child.path)
        return known


def _add_errors(absent_errors: Sequence[str], place: _Place, key: str) -> None:
    for template in absent_errors:
        text = template.replace(_PATH, place.path_of(key))
        place.walk.budget.spend(text)
        place.walk.errors[text] = None


def _compiled_object(keywords: Mapping[str, Any]) -> _ObjectSchema:
    required = keywords.get("required", [])
    additional, unevaluated = (
        _OtherProperties(None if keywords[name] is False else _compiled(keywords[name]))
        if name in keywords
        else None
        for name in ("additionalProperties", "unevaluatedProperties")
    )
    limits = (keywords.get("minProperties"), keywords.get("maxProperties"))
    return _ObjectSchema(
        _properties(keywords),
        required,
        _text(required),
        additional,
        unevaluated,
        None if limits == (None, None) else _NumProperties(*limits),
    )


@dataclass(frozen=True, slots=True)
class _ValueSchema:
    """A schema of any other type, or without a type.

    `enum_text`: the text of the keyword `enum` in error texts.
    """

    keywords: Mapping[str, Any]
    enum_text: str

    def count_matches(self, place: _Place) -> int:
        """Returns 0 if the value is absent, otherwise 1. Raises _Mismatch if it is rejected."""
        if place.value is _UNDEFINED:
            return 0
        if self._is_accepted_by_constants(place):
            return 1
        schema = self.keywords
        expected = schema.get("type")
        if "type" in schema and expected not in json_types(place.value):
            actual = ",".join(f"'{name}'" for name in json_types(place.value))
            raise place.mismatch(f"Type mismatch of '{place}', '{_text(expected)}' not in {actual}")
        if expected == "string":
            _check_length(schema, place)
        elif expected in ("number", "integer"):
            _check_range(schema, place)
        if "pattern" in schema and not _is_pattern_found(schema["pattern"], place.value):
            raise place.mismatch(f"'{place}' failed test {schema['pattern']} patttern")
        return 1

    def _is_accepted_by_constants(self, place: _Place) -> bool:
        """Validates the value against the keywords `const` and `enum`.

        Returns whether the value is accepted, because the schema has one of the two and no type.
        """
        schema, value = self.keywords, place.value
        is_untyped = schema.get("type", _UNDEFINED) in (None, _UNDEFINED)
        if "const" in schema:
            if not _is_same(value, schema["const"]):
                texts = f"{_text(value)} doesn't match {_text(schema['const'])}"
                raise place.mismatch(f"const {texts} at '{place}'")
            if is_untyped:
                return True
        if "enum" in schema:
            if not any(_is_same(value, allowed) for allowed in schema["enum"]):
                texts = f"{_text(value)} not in {self.enum_text}"
                raise place.mismatch(f"enum {texts} at '{place}'")
            return is_untyped
        return False


def _compiled_value(keywords: Mapping[str, Any]) -> _ValueSchema:
    return _ValueSchema(keywords, _text(keywords.get("enum", [])))


def _check_length(schema: Mapping[str, Any], place: _Place) -> None:
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


def _check_range(schema: Mapping[str, Any], place: _Place) -> None:
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
    except (re.error, _Mismatch):  # as in cabidela, an error means "not found"
        return False


def json_types(value: object) -> tuple[str, ...]:
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
    # `map` and `filterfalse` need no Python code per item: an array may have millions of items.
    other_types = filterfalse({int, float, str}.__contains__, map(type, items))
    return next(other_types, NoneType) is NoneType


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
        case int() if abs(value) < 2**53:
            return str(value)
        case int() | float():
            return _number_text(_double(value))
        case str():
            return value
        case list():
            return ",".join("" if leaf is None else _text(leaf) for leaf in _leaves(value))
        # In JavaScript, the conversion fails, because the object's `toString` is no function.
        case dict() if "toString" in value:
            raise _Mismatch("Cannot convert object to primitive value")
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
