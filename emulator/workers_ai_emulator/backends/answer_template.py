"""Renders templates in the rules of scripts, such as `You asked about {{ groups[0] }}.`

A user who can write a script must not be able to block the server or to fill its memory. So
templates use only a small part of Jinja's language, without loops, calls and multiplication. The
time to render a template is therefore proportional to the length of the template and of its values.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from workers_ai_emulator.backends.budget import num_marks
from workers_ai_emulator.backends.patterns import Pattern
from workers_ai_emulator.json_values import texts_without_keys
from workers_ai_emulator.prompts.bounded_text import joined

NAMES = ("groups", "text", "model", "account", "call")

_MAX_SOURCE = 10_000  # the maximum number of characters of a template
_MAX_TEXT = 2**20  # the maximum number of characters of a rendered text, and of a filter's input
_MAX_READ = 4 * _MAX_TEXT  # the maximum number of characters that one rendering may read
_FILTERS = (
    *("capitalize", "default", "first", "int", "last", "length", "lower", "reverse", "title"),
    *("trim", "truncate", "upper", "urlencode", "wordcount"),
)
_TESTS = ("defined", "divisibleby", "even", "none", "odd", "undefined")
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getitem),
    *(nodes.Getattr, nodes.Slice, nodes.Filter, nodes.Test, nodes.If, nodes.CondExpr, nodes.Not),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Concat, nodes.Add, nodes.Sub),
    *(nodes.Neg, nodes.List, nodes.Keyword),
)

# What a template raises for wrong values; AssertionError comes from Jinja's filter `truncate`.
_MISTAKES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError)

# How many characters the filters of the current rendering may still read.
_left_to_read: ContextVar[int] = ContextVar("left_to_read", default=_MAX_READ)


class TemplateFailed(ValueError):
    """Raised if a template cannot be rendered with the values of a call. The text is the reason."""


def compiled(
    text: str, pattern: Pattern | None, *, key: str, is_json: bool = False
) -> Callable[[Mapping[str, Any]], str]:
    """Returns a function that renders a text, or the strings in a JSON text.

    The function takes the value of each name in NAMES, and raises TemplateFailed. `pattern`: the
    regular expression of the rule's condition `matches`, whose groups the text may use. Raises
    ValueError, which names the `key` of the text, if the text is no valid template.
    """
    if not num_marks(text):
        return lambda values: text
    try:
        template = _JsonTemplate(text, pattern) if is_json else _Template(text, pattern)
    except ValueError as error:
        raise ValueError(f"`{'json' if is_json and key == 'answer' else key}`: {error}") from error
    return template.render


class _Template:
    """A compiled template. Raises ValueError if the template is invalid."""

    def __init__(self, source: str, pattern: Pattern | None) -> None:
        if len(source) > _MAX_SOURCE:
            raise ValueError(f"a template has at most {_MAX_SOURCE} characters")
        environment = _environment()
        try:
            tree = environment.parse(source)
            _check(tree, pattern)
            code = environment.compile(tree)
        except TemplateSyntaxError as error:
            raise ValueError(f"no valid template: {error.message}") from error
        # Python's compiler also refuses code that is nested too deep, with one of these errors.
        except (RecursionError, SyntaxError, MemoryError) as error:
            raise ValueError("no valid template: it is nested too deep") from error
        self._num_names = Counter(node.name for node in tree.find_all(nodes.Name))
        self._template = environment.template_class.from_code(environment, code, {})

    def render(self, values: Mapping[str, Any]) -> str:
        """Returns the text. `values`: the value of each name in NAMES.

        Raises TemplateFailed if the template uses a value that the call does not have, or if the
        text would be too long.
        """
        lengths = (num * _length(values[name]) for name, num in self._num_names.items())
        if sum(lengths) > _MAX_READ:
            raise TemplateFailed("the values of the call are too long for a template")
        token = _left_to_read.set(_MAX_READ)
        try:
            text = joined(self._template.generate(values), _MAX_TEXT)
        except TemplateFailed:
            raise
        except _MISTAKES as error:
            raise TemplateFailed(str(error)) from error
        finally:
            _left_to_read.reset(token)
        if text is None:
            raise TemplateFailed(f"the rendered text has more than {_MAX_TEXT} characters")
        return text


class _JsonTemplate:
    """A JSON value whose strings are templates. Keys of objects are not rendered.

    `text`: the JSON text of the value. Raises ValueError if a template is invalid.
    """

    def __init__(self, text: str, pattern: Pattern | None) -> None:
        self._value = json.loads(text)
        sources = {each for each in texts_without_keys(self._value) if num_marks(each)}
        self._templates = {source: _Template(source, pattern) for source in sources}

    def render(self, values: Mapping[str, Any]) -> str:
        """Returns the JSON text of the value with rendered strings. Raises TemplateFailed."""
        return json.dumps(self._rendered(self._value, values), ensure_ascii=False)

    def _rendered(self, value: Any, values: Mapping[str, Any]) -> Any:
        match value:
            case dict():
                return {key: self._rendered(child, values) for key, child in value.items()}
            case list():
                return [self._rendered(child, values) for child in value]
            case str() if value in self._templates:
                return self._templates[value].render(values)
        return value


def _environment() -> ImmutableSandboxedEnvironment:
    # Jinja's optimizer takes time proportional to the cube of the depth of an expression.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=_shown, optimized=False
    )
    filters: dict[str, Callable[..., Any]] = {name: FILTERS[name] for name in _FILTERS}
    filters |= {"tojson": _to_json, "replace": _replace}
    environment.filters = {name: _bounded(function) for name, function in filters.items()}
    environment.tests = {name: TESTS[name] for name in _TESTS}
    environment.globals = {}
    return environment


def _shown(value: Any) -> Any:
    return "" if value is None else value  # the value of a group that has matched nothing


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a filter, so that it raises TemplateFailed if it would read too many characters."""

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        lengths = [len(each) for each in args if isinstance(each, str)]
        if max(lengths, default=0) > _MAX_TEXT:
            raise TemplateFailed(f"a text has more than {_MAX_TEXT} characters")
        left = _left_to_read.get() - sum(lengths)
        if left < 0:
            raise TemplateFailed(f"its filters would read more than {_MAX_READ} characters")
        _left_to_read.set(left)
        return function(*args, **kwargs)

    return bounded


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _replace(value: Any, old: str, new: str) -> str:
    text = str(value)
    if not old or len(text) + text.count(old) * len(new) > _MAX_TEXT:
        raise TemplateFailed(
            "`replace` needs a text that is not empty, and its result has at most "
            f"{_MAX_TEXT} characters"
        )
    return text.replace(old, new)


def _check(tree: nodes.Template, pattern: Pattern | None) -> None:
    """Raises ValueError if a template uses a part of Jinja's language that is not allowed."""
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, _ALLOWED) or _reads_attribute(node):
            what = "an attribute" if _reads_attribute(node) else type(node).__name__.lower()
            raise ValueError(
                f"no valid template: {what} is not supported; use `{{{{ … }}}}` with names, "
                "filters and conditions"
            )
        if isinstance(node, nodes.Const) and node.value == math.inf:
            raise ValueError("no valid template: a number is too large")
        if isinstance(node, nodes.Name) and node.name not in NAMES:
            close = get_close_matches(node.name, NAMES, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; it has {', '.join(NAMES)}"
            raise ValueError(f"no valid template: unknown name `{node.name[:80]}`{hint}")
        if isinstance(node, nodes.Getitem | nodes.Getattr) and _is_groups(node.node):
            _check_group(node, pattern)


def _reads_attribute(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Getattr) and not _is_groups(node.node)


def _is_groups(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "groups"


def _check_group(node: nodes.Getitem | nodes.Getattr, pattern: Pattern | None) -> None:
    """Raises ValueError if the regular expression has no group with this number or name."""
    if isinstance(node, nodes.Getattr):
        key: Any = node.attr
    elif isinstance(node.arg, nodes.Const):
        key = node.arg.value
    else:
        return
    if pattern is None:
        raise ValueError("no valid template: `groups` needs a rule with `matches`")
    known = [*range(pattern.num_groups), *pattern.group_names]
    if key not in known:
        has = ", ".join(map(str, known)) or "none"
        raise ValueError(
            f"no valid template: `matches` has no group {str(key)[:80]}; its groups are {has[:200]}"
        )


def _length(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(each or "") for each in value.values())
    return len(value) if isinstance(value, str) else 20
