"""The rules of a script: which completion a request gets. Users write them in YAML or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from workers_ai_emulator.backends.patterns import SIZE_OF_LARGE, Pattern, PatternTooLarge
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.wire.validation import parse_rules_of

_MAX_WAIT_S = 86400
_MAX_RULES = 10_000
_MAX_PATTERN = 10_000  # the maximum number of characters of a regular expression
# The maximum total size of a script's regular expressions, in RE2 instructions.
_MAX_PATTERNS_SIZE = 5_000_000
# The maximum total size of a script's JSON values (`json` and `arguments`), in characters. A YAML
# file can have values that are much larger than the file, because an alias repeats a value.
_MAX_JSON_SIZE = 2**23
_MAX_JSON_DEPTH = 100
_MAX_TOOL_CALLS = 100  # the maximum number of tool calls of one rule
_MAX_NAME_LENGTH = 200

# `tasks/messages.py` converts the roles `developer` and `function` of OpenAI's API to these roles.
Role = Literal["system", "user", "assistant", "tool"]


def parse_rules(value: Any) -> list[Rule]:
    """Converts parsed YAML or JSON to rules.

    `value`: a list of rules, or an object whose only key `rules` has this list. Raises ValueError,
    with one line per mistake, if the value has another form or a rule is invalid.
    """
    if isinstance(value, dict) and set(value) == {"rules"}:
        value = value["rules"]
    if not isinstance(value, list):
        raise ValueError(
            "it takes a list of rules, each with an `answer`, `json`, `tool_calls` or `reasoning`"
        )
    if len(value) > _MAX_RULES:
        raise ValueError(f"it has {len(value)} rules; {_MAX_RULES} are the most")
    return parse_rules_of(Rule, value, context=_Budget())


@dataclass(frozen=True, slots=True)
class Subject:
    """The part of a request that is compared with the conditions of rules.

    `model`: the name of the requested model. `text`: the prompt, or the text of the last message.
    `last_role`: the role of the last message; None for a prompt.
    """

    model: str
    text: str
    last_role: str | None


class RuleToolCall(BaseModel):
    """A tool call in a rule's completion.

    `arguments`: the arguments as a JSON text, which is made from the object in the script. `id`:
    the id of the call; None: the emulator chooses one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=_MAX_NAME_LENGTH)
    arguments: str = "{}"
    id: str | None = Field(default=None, min_length=1, max_length=_MAX_NAME_LENGTH)

    @field_validator("arguments", mode="before")
    @classmethod
    def _to_json(cls, value: Any, info: ValidationInfo) -> str:
        if not isinstance(value, dict):
            raise ValueError("Input should be an object with the arguments by name")
        return _budget(info).json_text(value)

    @field_serializer("arguments")
    def _arguments_value(self, text: str) -> Any:
        return json.loads(text)


class Rule(BaseModel):
    """A completion, and the conditions under which a request gets it.

    A rule applies to a request if all its conditions hold:
    `model`: the name of the requested model; `*` matches any text;
    `contains`: a text that occurs in the prompt or in the last message;
    `matches`: a regular expression that has a match in the prompt or the last message;
    `last_role`: the role of the last message;
    `times`: the rule has applied to fewer requests than this number; None: no limit.

    The completion has at least one of these parts, in this order: `reasoning`; the text, which is
    either `answer` or the JSON text of the value that the script has under the key `json`; and
    `tool_calls`.

    `finish`: the finish reason; `stop` becomes `tool_calls` if the completion has tool calls.
    `first_token_after`: the delay of the first token, in seconds. `tokens_per_second`: the rate of
    all later tokens; None: no delay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    reasoning: str = ""
    answer: str | None = None
    json_text: str | None = Field(default=None, alias="json")
    tool_calls: tuple[RuleToolCall, ...] = Field(default=(), max_length=_MAX_TOOL_CALLS)
    model: str = Field(default="*", max_length=_MAX_NAME_LENGTH)
    contains: str = ""
    matches: Pattern | None = None
    last_role: Role | None = None
    tokens_per_second: float | None = Field(default=None, ge=1 / _MAX_WAIT_S)
    first_token_after: float = Field(default=0.0, ge=0, le=_MAX_WAIT_S)
    finish: Literal["stop", "length"] = "stop"
    times: int | None = Field(default=None, ge=1)

    @field_validator("matches", mode="before")
    @classmethod
    def _to_pattern(cls, value: Any, info: ValidationInfo) -> Pattern:
        if not isinstance(value, str):
            raise ValueError("Input should be a valid string")
        if len(value) > _MAX_PATTERN:
            raise ValueError(f"no regular expression: it is longer than {_MAX_PATTERN} characters")
        return _budget(info).compile(value)

    @field_validator("json_text", mode="before")
    @classmethod
    def _to_json(cls, value: Any, info: ValidationInfo) -> str:
        return _budget(info).json_text(value)

    @model_validator(mode="after")
    def _check_completion(self) -> Self:
        if self.answer is not None and self.json_text is not None:
            raise ValueError("it has both `answer` and `json`, but a completion has only one text")
        has_text = self.answer is not None or self.json_text is not None
        if not (has_text or self.tool_calls or self.reasoning):
            raise ValueError("it needs `answer`, `json`, `tool_calls` or `reasoning`")
        return self

    @field_serializer("matches")
    def _pattern_source(self, pattern: Pattern | None) -> str | None:
        return pattern.source if pattern else None

    @field_serializer("json_text")
    def _json_value(self, text: str | None) -> Any:
        return text and json.loads(text)

    @property
    def source(self) -> dict[str, Any]:
        """The rule as a JSON object, with the keys and values that the user wrote."""
        return self.model_dump(exclude_unset=True, by_alias=True)

    @property
    def completion(self) -> Completion:
        calls = (ToolCall(call.name, call.arguments, call.id) for call in self.tool_calls)
        return Completion(self.json_text or self.answer or "", self.reasoning, tuple(calls))

    @property
    def cost(self) -> int:
        """An estimate of the time to compare this rule with a text, per character of the text.

        The estimate is 1, plus the number of RE2 instructions if the rule has a condition
        `matches`.
        """
        return 1 if self.matches is None else 1 + self.matches.size

    @property
    def has_delays(self) -> bool:
        return self.first_token_after > 0 or self.tokens_per_second is not None

    def applies(self, subject: Subject) -> bool:
        """Returns whether all conditions of the rule hold, apart from `times`.

        Raises PatternTooCostly if searching the text for `matches` could take minutes.
        """
        return (
            fnmatchcase(subject.model, self.model)
            and self.last_role in (None, subject.last_role)
            and self.contains in subject.text
            and (self.matches is None or self.matches.found_in(subject.text))
        )


class _Budget:
    """Converts the regular expressions and JSON values of one script, and limits their total size.

    The limits keep the conversion to a few seconds and little memory.
    """

    def __init__(self) -> None:
        self._pattern_size_left = _MAX_PATTERNS_SIZE
        self._json_size_left = _MAX_JSON_SIZE

    def compile(self, source: str) -> Pattern:
        """Compiles a regular expression.

        Raises ValueError if the expression is invalid, or if the script's earlier expressions have
        reached the limit of the total size.
        """
        if self._pattern_size_left <= 0:
            raise ValueError("the script's regular expressions are too large together")
        try:
            pattern = Pattern(source)
        except PatternTooLarge:
            self._pattern_size_left -= SIZE_OF_LARGE
            raise
        self._pattern_size_left -= pattern.size
        return pattern

    def json_text(self, value: Any) -> str:
        """Returns the value as a JSON text.

        Raises ValueError if JSON cannot represent the value, if it is nested too deep, or if the
        script's JSON values exceed the limit of the total size.
        """
        self._count_json(value)
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except TypeError as error:  # for example a date, which YAML has and JSON has not
            raise ValueError(f"no JSON value: {error}") from error

    def _count_json(self, value: Any) -> None:
        """Subtracts the size of a JSON value. Raises ValueError if it is too large or too deep."""
        level = [value]
        for _ in range(_MAX_JSON_DEPTH):
            self._json_size_left -= sum(map(_size, level))
            if self._json_size_left < 0:
                raise ValueError("the script's JSON values are too large together")
            level = [child for parent in level for child in _children(parent)]
            if not level:
                return
        raise ValueError(f"it has more than {_MAX_JSON_DEPTH} levels")


def _size(value: Any) -> int:
    """Returns about the number of characters of a value's JSON text, without its children."""
    match value:
        case dict():
            return 2 + sum(3 + _size(key) for key in value)
        case list():
            return 2 + len(value)
        case str():
            return 2 + len(value)
        case int():
            return 1 + value.bit_length() // 3
    return 10


def _children(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
    return ()


def _budget(info: ValidationInfo) -> _Budget:
    """Returns the budget of the script; for a rule that belongs to no script, a new budget."""
    return info.context or _Budget()
