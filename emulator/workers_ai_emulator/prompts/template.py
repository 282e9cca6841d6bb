"""Renders chat templates with Jinja, in a sandbox, with the functions that transformers provides.

The caller masks the messages before rendering, so that they cannot contain special tokens such as
`</s>`: unused characters replace the characters with which special tokens begin or end, such as `<`
and `>`. The caller restores the original characters in the rendered text.

A template may compare a message with a text, or search a message for a text. The text must then be
masked like the message. So this module masks both operands of every comparison. (Masking a masked
message again does not change it.) Search methods such as `find` first search a message for the
given text. If the message does not contain the text, they search for the masked text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, Protocol

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workers_ai_emulator.json_values import texts_of
from workers_ai_emulator.prompts.bounded_text import joined

# A rendered prompt may have at most _MAX_OWN_CHARACTERS characters, plus _MAX_REPEATS times the
# number of characters in the messages.
_MAX_OWN_CHARACTERS = 2**18
_MAX_REPEATS = 4
MAX_REASON_LENGTH = 1000
_MASK = "mask"
# The name of a variable that templates cannot use, because the name contains a space.
_MASKED = "masked characters"
_SEARCHES = (
    *("count", "find", "index", "rfind", "rindex", "partition", "rpartition", "split", "rsplit"),
    *("startswith", "endswith", "removeprefix", "removesuffix", "replace"),
)


class LimitExceeded(TemplateError):
    """Rendering a template took too much time or memory, or the rendered prompt is too long."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The values that a chat template renders: the messages, the tools and two special tokens.

    `masked`: maps each character with which a special token begins or ends to the character that
    replaces it in the messages and tools. `tools`: None if there are no tools. `variables`: other
    values that the template may use, such as `enable_thinking`.
    """

    messages: list[dict[str, Any]]
    bos_token: str
    eos_token: str
    masked: dict[str, str]
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def max_characters(self) -> int:
        """The maximum number of characters in the rendered prompt."""
        values = (self.messages, self.tools, self.variables)
        num_characters = sum(map(len, texts_of(values)))
        return _MAX_OWN_CHARACTERS + _MAX_REPEATS * num_characters


class Renderer(Protocol):
    """Renders one chat template. Any thread may call its methods.

    `is_isolated`: whether the template runs in a subprocess. If so, `render` blocks, so it must not
    be called on the event loop's thread.
    """

    is_isolated: bool

    def render(self, conversation: Conversation) -> str:
        """Returns the rendered prompt, in which the text of the messages is still masked.

        In masked text, other characters replace the first and last characters of special tokens.
        Raises TemplateError with the template's error text if the template rejects the
        conversation. Raises LimitExceeded if rendering exceeds the limit of time, memory or length.
        If the template runs in a subprocess, raises CapacityExceeded if other conversations keep
        the subprocess busy, and EngineError if it cannot be started or the model is unloaded.
        """

    def close(self) -> None:
        """Ends the subprocess of the template, if any. May be called more than once."""


class JinjaRenderer:
    """Renders a chat template in the current process, without a time limit.

    Jinja's sandbox cannot stop an endless loop. So the server itself renders only the stand-in
    model's template; `IsolatedRenderer` renders all other templates in a subprocess. The
    constructor raises ValueError if the template does not compile.
    """

    is_isolated = False

    def __init__(self, source: str) -> None:
        environment = _Environment()
        try:
            tree = environment.parse(source)
            _mask_operands(tree, environment)
            code = environment.compile(tree)
        except Exception as error:  # deeply nested templates cause exceptions of other types
            raise ValueError(f"its chat template is not valid: {reason_of(error)}") from error
        self._template = environment.template_class.from_code(
            environment, code, environment.make_globals(None)
        )

    def render(self, conversation: Conversation) -> str:
        variables = {k: v for k, v in conversation.variables.items() if k != "tools"}
        tools = {} if conversation.tools is None else {"tools": conversation.tools}
        pieces = self._template.generate(
            variables
            | tools
            | {
                "messages": conversation.messages,
                "add_generation_prompt": True,
                "bos_token": conversation.bos_token,
                "eos_token": conversation.eos_token,
                _MASKED: str.maketrans(conversation.masked),
            }
        )
        try:
            text = joined(pieces, conversation.max_characters)
        except MemoryError as error:
            raise LimitExceeded("its chat template took too much memory") from error
        except Exception as error:  # a template is a program and can raise any error
            raise TemplateError(reason_of(error)) from error
        if text is None:
            limit = conversation.max_characters
            raise LimitExceeded(f"its chat template writes more than {limit} characters")
        return text

    def close(self) -> None:
        pass


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the options, filters and functions of transformers.

    In messages, special tokens are masked: other characters replace their first and last
    characters. So a template that searches a message for a special token, for example with `find`,
    would not find the token. Therefore a search that fails is repeated for the masked token.
    """

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        self.filters |= {"tojson": _to_json, "replace": _replace, _MASK: _mask}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str) and args and __obj.__name__ in _SEARCHES:
            argument, *others = args
            if not (isinstance(argument, str) and argument in text):
                args = (_mask(__context, argument), *others)
        return super().call(__context, __obj, *args, **kwargs)


class _GenerationTag(Extension):
    """Accepts the block `{% generation %}`, and renders its content like other text.

    Templates use this block to mark the assistant's text for training.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _mask_operands(tree: nodes.Template, environment: _Environment) -> None:
    """Changes a template so that it masks both operands of every comparison.

    A template may compare a message with a text such as `</s>`. The message is already masked:
    other characters replace the first and last characters of special tokens. So the text must be
    masked too. Either operand may be the message, so both operands are masked. Masking the message
    again does not change it.
    """
    for comparison in list(tree.find_all(nodes.Compare)):
        parents: list[Any] = [comparison, *comparison.ops]
        for parent in parents:
            line = parent.expr.lineno
            parent.expr = nodes.Filter(parent.expr, _MASK, [], [], None, None, lineno=line)
    tree.set_environment(environment)


@pass_context
def _mask(context: Context, value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(context[_MASKED])
    if isinstance(value, list):
        return [_mask(context, item) for item in value]
    if isinstance(value, tuple):
        return tuple(_mask(context, item) for item in value)
    return value


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int | None = None) -> Any:
    """Implements Jinja's filter `replace` so that it also works on masked messages.

    In masked messages, other characters replace the first and last characters of special tokens. If
    `text` does not contain `old`, the filter masks `old` too, and searches for the masked `old`.
    """
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
    """Implements transformers' filter `tojson`. Unlike Jinja's own filter, escapes no HTML."""
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


def reason_of(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_REASON_LENGTH]
