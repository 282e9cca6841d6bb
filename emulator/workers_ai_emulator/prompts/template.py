"""Runs a chat template: Jinja, set up as templates expect it, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_OWN_CHARACTERS = 2**18  # that a template writes beside what it was given
_MAX_REPEATS = 4
MAX_REASON_LENGTH = 1000
_HIDE = "hide"
_HIDDEN = "hidden characters"  # no template can name a variable with a space
_SEARCHES = (
    *("count", "find", "index", "rfind", "rindex", "partition", "rpartition", "split", "rsplit"),
    *("startswith", "endswith", "removeprefix", "removesuffix", "replace"),
)


class LimitExceeded(TemplateError):
    """A template takes too much time or memory, or writes too much."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given.

    In the messages some characters are hidden: each of `hidden` stands there as another one.
    """

    messages: list[dict[str, str]]
    bos_token: str
    eos_token: str
    hidden: dict[str, str]

    @property
    def max_characters(self) -> int:
        """How long a prompt made of it may be."""
        typed = sum(len(text) for message in self.messages for text in message.values())
        return _MAX_OWN_CHARACTERS + _MAX_REPEATS * typed


class Renderer(Protocol):
    """Runs one template. Any thread may use it."""

    is_isolated: bool  # rendering waits for another process, so it is not for an event loop

    def render(self, conversation: Conversation) -> str:
        """The prompt's text.

        Raises TemplateError with the template's own words where it refuses, and LimitExceeded.
        """

    def close(self) -> None:
        """Give back what it holds. May be called again."""


class JinjaRenderer:
    """Runs a template in this process, in Jinja's sandbox, which cannot stop one that never ends.

    What transformers gives a template is there. Where a template looks for a text, it finds the
    hidden one too. Raises ValueError if it does not parse.
    """

    is_isolated = False

    def __init__(self, source: str) -> None:
        environment = _Environment()
        try:
            tree = environment.parse(source)
            _hide_operands(tree, environment)
            code = environment.compile(tree)
        except Exception as error:  # Python's own, too: it refuses what is nested too deeply
            raise ValueError(f"its chat template is not valid: {reason_of(error)}") from error
        self._template = environment.template_class.from_code(
            environment, code, environment.make_globals(None)
        )

    def render(self, conversation: Conversation) -> str:
        pieces = self._template.generate(
            {
                "messages": conversation.messages,
                "add_generation_prompt": True,
                "bos_token": conversation.bos_token,
                "eos_token": conversation.eos_token,
                _HIDDEN: str.maketrans(conversation.hidden),
            }
        )
        try:
            return _join(pieces, conversation.max_characters)
        except MemoryError as error:
            raise LimitExceeded("its chat template took too much memory") from error
        except LimitExceeded:
            raise
        except Exception as error:  # a template is a program: anything can come out of it
            raise TemplateError(reason_of(error)) from error

    def close(self) -> None:
        pass


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, and a sandbox.

    A text that a template looks for in a message is hidden there, so it is looked for in its
    hidden form wherever the plain one is not found. What it writes is never hidden.
    """

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        self.filters |= {"tojson": _to_json, "replace": _replace, _HIDE: _hide}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str) and args and __obj.__name__ in _SEARCHES:
            sought, *others = args
            if not (isinstance(sought, str) and sought in text):
                args = (_hide(__context, sought), *others)
        return super().call(__context, __obj, *args, **kwargs)


class _GenerationTag(Extension):
    """`{% generation %}` marks what an assistant says, for training only."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _hide_operands(tree: nodes.Template, environment: _Environment) -> None:
    """Let texts be compared in their hidden form: two are equal, or one in the other, as before."""
    for comparison in list(tree.find_all(nodes.Compare)):
        holders: list[Any] = [comparison, *comparison.ops]
        for holder in holders:
            line = holder.expr.lineno
            holder.expr = nodes.Filter(holder.expr, _HIDE, [], [], None, None, lineno=line)
    tree.set_environment(environment)


@pass_context
def _hide(context: Context, value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(context[_HIDDEN])
    if isinstance(value, list):
        return [_hide(context, item) for item in value]
    if isinstance(value, tuple):
        return tuple(_hide(context, item) for item in value)
    return value


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int | None = None) -> Any:
    """Jinja's filter, by way of the method, which knows of hidden texts."""
    environment = context.environment
    assert isinstance(environment, _Environment)
    replace = str(text).replace
    return environment.call(context, replace, old, new, -1 if count is None else count)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter, which templates are written for: Jinja's own escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _join(pieces: Iterable[str], max_characters: int) -> str:
    """Raises LimitExceeded as soon as there are too many characters."""
    kept: list[str] = []
    left = max_characters
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise LimitExceeded(f"its chat template writes more than {max_characters} characters")
        kept.append(piece)
    return "".join(kept)


def reason_of(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_REASON_LENGTH]
