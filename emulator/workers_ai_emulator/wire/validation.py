"""Validates the rules of faults and scripts, and describes each mistake in one printable line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticKnownError

from workers_ai_emulator.files import one_line

_MAX_LINES = 20
_MAX_LINE = 400  # a line of an error message is cut to this many characters
_MAX_VALUE = 80  # the maximum number of characters that a line shows of an invalid value
_MAX_KEYS = 100  # the maximum number of keys of one object
_MAX_SHOWN_KEYS = 6  # if a rule has at most this many keys, they are listed for an unknown key
_MAX_SHOWN_LIMIT = 10**9  # larger limits are not shown

_Model = TypeVar("_Model", bound=BaseModel)


class BoundedModel(BaseModel):
    """A model that refuses objects with more than 100 keys, and values that are too long, at once.

    pydantic would first create a mistake, of about a kilobyte, for each unknown key of the object,
    and for each invalid item of the value.
    """

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        _check_num_keys(value)
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _check_length(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list | tuple | dict):
            metadata = cls.model_fields[info.field_name or ""].metadata
            limit = next(
                (each.max_length for each in metadata if hasattr(each, "max_length")), None
            )
            if limit is not None and len(value) > limit:
                context = {"field_type": "List", "max_length": limit, "actual_length": len(value)}
                raise PydanticKnownError("too_long", context)
        return value


def parse_rules_of(
    model: type[_Model], items: Iterable[Any], *, strict: bool = False, context: Any = None
) -> list[_Model]:
    """Validates each JSON value as a rule of type `model`, and returns the rules.

    Raises ValueError with one line per mistake: at most 20 lines, then the number of further
    mistakes.
    `strict`: whether pydantic refuses values of a wrong type. If False, pydantic converts some of
    these values, for example the string `"1"` to a number.
    `context`: a value that pydantic passes to the validators of `model`.
    """
    rules: list[_Model] = []
    lines: list[str] = []
    num_mistakes = 0
    for number, item in enumerate(items, 1):
        try:
            _check_num_keys(item)
            rules.append(model.model_validate(item, strict=strict or None, context=context))
        except ValidationError as error:
            num_mistakes += error.error_count()
            if len(lines) < _MAX_LINES:
                lines += [f"rule {number}: {_line(detail, model)}" for detail in error.errors()]
        except ValueError as error:
            num_mistakes += 1
            lines.append(f"rule {number}: {error}")
    if num_mistakes:
        raise ValueError("\n".join(_first(lines, num_mistakes)))
    return rules


def error_lines(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """Returns one line per mistake: the key, what it takes, and the start of the invalid value.

    For more than 20 mistakes, returns 20 lines and a last line with the number of further mistakes.
    `model`: the type of the validated value, whose keys are suggested in place of an unknown key.
    """
    details = error.errors()
    return _first([_line(detail, model) for detail in details[:_MAX_LINES]], len(details))


def shown(value: Any) -> str:
    """Returns the first 80 characters of a value's JSON, on one line.

    Converts only the beginning of the value, because the whole value may be huge.
    """
    if isinstance(value, str):
        value = value[:_MAX_VALUE]
    text = ""
    try:
        for part in json.JSONEncoder(default=str).iterencode(value):
            text += part[:_MAX_VALUE]
            if len(text) >= _MAX_VALUE:
                break
    # The value cannot be converted to JSON, for example because it contains itself.
    except (ValueError, TypeError, RecursionError):
        text += "..."
    return one_line(text)[:_MAX_VALUE]


def bounded(text: str) -> str:
    """Returns the text as one printable line. Cuts a long line to 400 characters and adds `...`."""
    line = one_line(" ".join(text[: 10 * _MAX_LINE].split()))
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."


def did_you_mean(text: str, names: Sequence[str]) -> str:
    """Returns a suggestion, with a semicolon before it, if one of the names is similar to `text`.

    Otherwise, returns an empty text.
    """
    return "".join(f"; did you mean `{name}`?" for name in _close(text, names))


def check_parameters(given: Iterable[str], taken: Sequence[str]) -> None:
    """Raises ValueError, with a line for each wrong name, if an unknown query parameter is given.

    `taken`: the names of the parameters that the endpoint takes. At most 20 lines, then the number
    of further mistakes.
    """
    unknown = [name for name in dict.fromkeys(given) if name not in taken]
    known = f"; it takes {', '.join(f'`{name}`' for name in taken)}"
    lines = [
        bounded(f"unknown query parameter `{name}`{did_you_mean(name, taken) or known}")
        for name in unknown[:_MAX_LINES]
    ]
    if lines:
        raise ValueError("\n".join(_first(lines, len(unknown))))


def _check_num_keys(value: Any) -> None:
    if isinstance(value, dict) and len(value) > _MAX_KEYS:
        text = "it has {number} keys, which is more than {limit}"
        context = {"number": len(value), "limit": _MAX_KEYS}
        raise PydanticCustomError("too_many_keys", text, context)


def _first(lines: Sequence[str], num_mistakes: int) -> list[str]:
    kept = list(lines[:_MAX_LINES])
    more = num_mistakes - len(kept)
    return [*kept, f"and {more} more"] if more else kept


def _line(detail: Any, model: type[BaseModel] | None = None) -> str:
    """Returns one line for a mistake. `detail`: a dict, whose type pydantic does not export.

    `model`: the type of the validated value, which has the keys and the limits of their values.
    """
    owner, field = _find(model, detail["loc"])
    where = _path(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key `{where}`{_suggestion(str(detail['loc'][-1]), owner)}"
        case "missing":
            return f"`{where}` is missing"
        case "too_many_keys":
            return f"`{where}`: {detail['msg']}" if where else str(detail["msg"])
    line, value = _reason(detail, field), detail["input"]
    if not where:
        return line if detail["type"] == "value_error" else f"it {line}, not {shown(value)}"
    space = " " if line.startswith("takes ") else ": "
    return f"`{where}`{space}{line}, not {shown(value)}{_similar(detail, value)}"


def _path(parts: Sequence[int | str]) -> str:
    """Returns the path of a value in a rule, such as `tool_calls[0].name`."""
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_VALUE]}" for part in parts
    )
    return one_line(path.removeprefix("."))[:_MAX_VALUE]


def _find(
    model: type[BaseModel] | None, parts: Sequence[int | str]
) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """Returns the field of a model, or of a nested model, and the model to which it belongs.

    `parts`: the keys and positions that lead to the value of the field. Either result may be None.
    """
    owner, field = model, None
    for part in parts:
        if isinstance(part, str):
            if field is not None:
                owner = next((each for each in _models(field.annotation)), None)
            field = None if owner is None else _fields(owner).get(part)
    return owner, field


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Returns the fields of a model by the keys that users write."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models that a type contains, such as that of the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _reason(detail: Any, field: FieldInfo | None) -> str:
    """Returns what the value of a key must be, such as `takes a whole number from 1`.

    For a mistake that a validator of ours has found, returns the text of its exception.
    """
    context = detail.get("ctx", {})
    match detail["type"].removesuffix("_type").removesuffix("_parsing"):
        case "string":
            return "takes a text"
        case "string_too_long":
            return f"takes a text of at most {context['max_length']} characters"
        case "string_too_short":
            return "takes a text that is not empty"
        case "bool":
            return "takes true or false"
        case "literal_error":
            return f"takes {_choices(context['expected'])}"
        case "dict" | "model" | "model_attributes":
            return "takes an object with keys and values"
        case "list" | "tuple":
            return "takes a list"
        case "too_long":
            return f"takes at most {context['max_length']} values"
        case "int" | "int_from_float" | "float" | "finite_number" | "greater_than":
            return f"takes {_number(detail, field)}"
        case "greater_than_equal" | "less_than_equal":
            return f"takes {_number(detail, field)}"
    return bounded(detail["msg"].removeprefix("Value error, "))


def _choices(expected: str) -> str:
    """Returns pydantic's list of choices, such as `'a', 'b' or 'c'`, in our form."""
    choices = expected.replace("'", "")
    return f"one of {choices}" if " or " in choices else choices


def _number(detail: Any, field: FieldInfo | None) -> str:
    """Describes the numbers that a key takes, with their limits."""
    limits = [] if field is None else [*field.metadata, *_metadata(field.annotation)]
    is_whole = detail["type"].startswith("int") or int in _types(field and field.annotation)
    least, above, most = (
        next((getattr(limit, name) for limit in limits if hasattr(limit, name)), None)
        for name in ("ge", "gt", "le")
    )
    context = detail.get("ctx", {})
    least, above = context.get("ge", least), context.get("gt", above)
    text = "a whole number" if is_whole else "a number"
    text += "" if least is None else f" from {least:g}"
    text += "" if above is None else f" above {above:g}"
    is_shown = isinstance(most, int | float) and most <= _MAX_SHOWN_LIMIT
    return text + (f" to {most:g}" if is_shown else "")


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yields the limits in a type, such as those of the items of a list."""
    for argument in get_args(annotation):
        if isinstance(argument, FieldInfo):
            yield from argument.metadata
        yield from _metadata(argument)


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _similar(detail: Any, value: Any) -> str:
    """Returns a suggestion if one of the choices of a key is similar to the given text."""
    if detail["type"] != "literal_error" or not isinstance(value, str):
        return ""
    choices = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    return did_you_mean(value, choices)


def _suggestion(key: str, model: type[BaseModel] | None) -> str:
    """Returns a suggestion if one of the model's keys is similar to `key`.

    Otherwise, returns all keys of the model if they are few, and an empty text if they are many.
    """
    names = [] if model is None else [*_fields(model)]
    if similar := did_you_mean(key, names):
        return similar
    is_short = 0 < len(names) <= _MAX_SHOWN_KEYS
    return f"; the keys are {', '.join(f'`{name}`' for name in names)}" if is_short else ""


def _close(text: str, names: Sequence[str]) -> list[str]:
    return get_close_matches(text[:_MAX_VALUE], names, n=1)
