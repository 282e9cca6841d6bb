"""Conditions for calls, which rules of scripts and fault rules have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from workers_ai_emulator.backends.budget import budget_of
from workers_ai_emulator.backends.patterns import Pattern, PatternTooCostly
from workers_ai_emulator.models.other_models import current_name
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.tasks.messages import parse_messages
from workers_ai_emulator.wildcards import is_like
from workers_ai_emulator.wire.accounts import is_account_id
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.envelope import text_of
from workers_ai_emulator.wire.errors import WireError
from workers_ai_emulator.wire.validation import BoundedModel, shown

_MAX_NAME_LENGTH = 200
_MAX_TEXT_LENGTH = 100_000
_MAX_HEADERS = 50
_MAX_PARAMETERS = 100
_MAX_NTH = 1000
_MAX_COUNT = 2**53
# A comparison of a call with rules runs in a thread if its estimated cost is higher than this.
_MAX_IMMEDIATE_COST = 1_000_000
# Searching a short message takes as long as searching this many characters of a long one.
_MIN_MESSAGE_LENGTH = 50

# `tasks/messages.py` converts the roles `developer` and `function` of OpenAI's API to these roles.
Role = Literal["system", "user", "assistant", "tool"]
_Text = Annotated[str, StringConstraints(max_length=_MAX_TEXT_LENGTH)]
_Count = Annotated[int, Field(ge=1, le=_MAX_COUNT, strict=True)]


@dataclass(frozen=True)  # without slots, because of the cached properties
class Subject:
    """The part of a call that is compared with the conditions of rules.

    `model`: the name of the requested model. `text`: the prompt, the text of the last message, the
    state of a decision, or all texts of embeddings or a ranking, one in each line. `last_role`: the
    role of the last message; None for others. `messages`: all messages; empty if there are none.
    `account`: the account of the call, if it has one. `headers`: the headers, with lower-case
    names. `inputs`: the JSON object of the model's input. `is_stream`: whether the call requests a
    stream.
    """

    model: str
    text: str
    last_role: str | None = None
    messages: Sequence[Message] = ()
    account: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    is_stream: bool = False

    @cached_property
    def num_user_messages(self) -> int:
        """The number of messages with the role `user`. A prompt counts as one."""
        if self.last_role is None:
            return 1
        return sum(message.role == "user" for message in self.messages)

    @cached_property
    def system_text(self) -> str:
        """The texts of the messages with the role `system`, joined by line breaks."""
        return "\n".join(each.content for each in self.messages if each.role == "system")

    @cached_property
    def length(self) -> int:
        """The number of characters of the prompt or of all messages, for `Cost`.

        A short message counts as `_MIN_MESSAGE_LENGTH` characters.
        """
        lengths = (max(len(each.content), _MIN_MESSAGE_LENGTH) for each in self.messages)
        return sum(lengths) if self.messages else len(self.text)


def subject_of(inputs: Any, *, model: str, context: CallContext) -> Subject:
    """Returns the subject of a call, from the JSON value of its body or of the model's input.

    The value need not be valid. Of a list of requests, such as a batch, only the first one counts.
    """
    first = _first_request(inputs)
    messages = _messages(first)
    prompt = first.get("prompt")
    if prompt is None and not messages:
        prompt = _other_text(first)
    is_prompt = isinstance(prompt, str) or not messages
    return Subject(
        model=model,
        text=(prompt if isinstance(prompt, str) else "") if is_prompt else messages[-1].content,
        last_role=None if is_prompt else messages[-1].role,
        messages=() if is_prompt else messages,
        account=context.account,
        headers=context.headers,
        inputs=first,
        is_stream=first.get("stream") is True,
    )


@dataclass(frozen=True, slots=True)
class Match:
    """A call that meets the conditions of a rule.

    `pattern`: the regular expression of the condition `matches`; None if the rule has no such
    condition. `text`: the text in which the expression has a match.
    """

    pattern: Pattern | None
    text: str

    @property
    def groups(self) -> dict[int | str, str | None]:
        """The groups of `matches`, by their number from 0 on, and also by their name.

        The value of a group that has matched nothing is None. Searches the text again. Raises
        PatternTooCostly if this could take minutes.
        """
        return {} if self.pattern is None else self.pattern.groups_in(self.text)


class Cost(NamedTuple):
    """An estimate of the time to compare a call with the conditions of one or several rules.

    `text`: the cost per character of the prompt or the last message: 1 for each rule, plus the
    number of RE2 instructions of its condition `matches`. `messages`: the cost per character of all
    messages: the number of conditions that search all of them.
    """

    text: int
    messages: int

    @classmethod
    def total(cls, rules: Iterable[Conditions]) -> Cost:
        """Returns the cost of several rules together."""
        costs = [rule.cost for rule in rules]
        return cls(sum(cost.text for cost in costs), sum(cost.messages for cost in costs))

    def is_high(self, subject: Subject) -> bool:
        """Returns whether comparing a call takes so long that it must be done in a thread."""
        cost = self.text * len(subject.text)
        if self.messages:
            cost += self.messages * subject.length
        return cost > _MAX_IMMEDIATE_COST


class Conditions(BoundedModel):
    """The conditions of a rule. A rule applies to a call if all its conditions hold.

    `model`: the name of the requested model; `*` matches any text;
    `account`: the account id of the call;
    `contains`: a text that occurs in the prompt or in the last message;
    `matches`: a regular expression that has a match in the prompt or the last message;
    `last_role`: the role of the last message;
    `system_contains`: a text that occurs in a message with the role `system`;
    `any_contains`: a text that occurs in the prompt or in any message;
    `turn`: the number of messages with the role `user`; a prompt counts as one;
    `headers`: values of headers, in which `*` matches any text;
    `parameters`: parameters that the model's input has with these JSON values;
    `stream`: whether the call requests a stream.

    Two more conditions count calls. `Counter` stores the counts:
    `nth`: of the calls that meet the other conditions, only those with these numbers, from 1 on;
    `times`: the maximum number of calls; None: no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: str = Field(default="*", max_length=_MAX_NAME_LENGTH)
    account: str | None = None
    contains: _Text = ""
    matches: Pattern | None = None
    last_role: Role | None = None
    system_contains: _Text = ""
    any_contains: _Text = ""
    turn: _Count | None = None
    headers: dict[str, _Text] = Field(default_factory=dict, max_length=_MAX_HEADERS)
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=_MAX_PARAMETERS)
    stream: StrictBool | None = None
    nth: tuple[int, ...] = Field(default=(), max_length=_MAX_NTH)
    times: _Count | None = None

    @field_validator("matches", mode="before")
    @classmethod
    def _to_pattern(cls, value: Any, info: ValidationInfo) -> Pattern:
        if not isinstance(value, str):
            raise ValueError("takes a regular expression, as a text")
        return budget_of(info).compile(value)

    @field_validator("account")
    @classmethod
    def _check_account(cls, value: str | None) -> str | None:
        if value is not None and not is_account_id(value):
            raise ValueError("takes 32 hexadecimal digits (0-9, a-f)")
        return value

    @field_validator("headers")
    @classmethod
    def _to_lower_case(cls, value: dict[str, str]) -> dict[str, str]:
        return {name.lower(): text for name, text in value.items()}

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        budget_of(info).json_text(value)
        return value

    @field_validator("nth", mode="before")
    @classmethod
    def _to_tuple(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(
            type(each) is int and 1 <= each <= _MAX_COUNT for each in numbers
        ):
            raise ValueError("takes a whole number from 1, or a list of such numbers")
        return tuple(numbers)

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.nth and self.times is not None:
            raise ValueError("it has both `nth` and `times`: write a list, such as `nth: [2, 3]`")
        return self

    @field_serializer("matches")
    def _pattern_source(self, pattern: Pattern | None) -> str | None:
        return pattern.source if pattern else None

    @field_serializer("nth")
    def _one_or_all(self, nth: tuple[int, ...]) -> Any:
        return nth[0] if len(nth) == 1 else list(nth)

    @cached_property
    def cost(self) -> Cost:
        num_instructions = 0 if self.matches is None else self.matches.size
        return Cost(1 + num_instructions, bool(self.system_contains) + bool(self.any_contains))

    def match(self, subject: Subject) -> Match | None:
        """Returns a match if all conditions hold, apart from `nth` and `times`, otherwise None.

        Raises PatternTooCostly if searching the text for `matches` could take minutes.
        """
        for check in self._checks:
            if not check.test(check.value, subject):
                return None
        return Match(self.matches, subject.text)

    @property
    def num_checks(self) -> int:
        """The number of conditions that the rule has, apart from `nth` and `times`."""
        return len(self._checks)

    def mismatches(self, subject: Subject) -> list[str]:
        """Describes each condition that does not hold, apart from `nth` and `times`."""
        return [check.mismatch(subject) for check in self._checks if not check.can_hold(subject)]

    @cached_property
    def _checks(self) -> tuple[_Check, ...]:
        """The conditions that the rule has, those that are cheap to check first."""
        values = ((name, getattr(self, name)) for name in _TESTS)
        return tuple(
            _Check(name, value, *_TESTS[name])
            for name, value in values
            if value not in (None, "", {}) and (name, value) != ("model", "*")
        )


@dataclass(slots=True)
class Counter:
    """Counts the calls of one rule, for its conditions `nth` and `times`.

    `num_matches`: the number of calls that met the rule's other conditions. `num_uses`: the number
    of calls that the rule was applied to. Not thread-safe.
    """

    conditions: Conditions
    num_matches: int = 0
    num_uses: int = 0

    @property
    def times_left(self) -> int | None:
        """The number of further calls that the rule can be applied to; None: no limit."""
        if self.conditions.nth:
            return sum(number > self.num_matches for number in self.conditions.nth)
        times = self.conditions.times
        return None if times is None else max(0, times - self.num_uses)

    @property
    def is_due(self) -> bool:
        """Whether the rule applies to the next call that meets its other conditions."""
        if self.conditions.nth:
            return self.num_matches + 1 in self.conditions.nth
        return self.times_left != 0

    def count(self, *, is_used: bool) -> None:
        """Counts a call that meets the other conditions. `is_used`: whether the rule is applied."""
        self.num_matches += 1
        self.num_uses += is_used


@dataclass(frozen=True, slots=True)
class _Check:
    """One condition of a rule: its name, its value, and the functions in `_TESTS`."""

    name: str
    value: Any
    test: Callable[[Any, Subject], bool]
    actual: Callable[[Any, Subject], str]

    def holds(self, subject: Subject) -> bool:
        return self.test(self.value, subject)

    def can_hold(self, subject: Subject) -> bool:
        """Returns whether the condition holds; False if checking it could take minutes."""
        try:
            return self.holds(subject)
        except PatternTooCostly:
            return False

    def mismatch(self, subject: Subject) -> str:
        value = self.value.source if isinstance(self.value, Pattern) else self.value
        return f"`{self.name}: {shown(value)}` does not hold, {self.actual(self.value, subject)}"


def _any_contains(text: str, subject: Subject) -> bool:
    return text in subject.text or any(text in message.content for message in subject.messages)


def _is_model(pattern: str, model: str) -> bool:
    """Returns whether the pattern matches a model's name. It may be the model's old name.

    The model of a call may have its old name, too: faults apply before the model is found.
    """
    return is_like(model, pattern) or is_like(current_name(model), current_name(pattern))


def _has_header(name: str, pattern: str, subject: Subject) -> bool:
    value = subject.headers.get(name)
    return value is not None and is_like(value, pattern)


def _has_parameter(name: str, value: Any, subject: Subject) -> bool:
    return name in subject.inputs and _is_equal(subject.inputs[name], value)


def _actual_header(patterns: dict[str, str], subject: Subject) -> str:
    name = next(name for name in patterns if not _has_header(name, patterns[name], subject))
    value = subject.headers.get(name)
    if value is None:
        return f"because there is no header `{name}`"
    return f"because the header `{name}` has another value"  # it may be a credential


def _actual_parameter(values: dict[str, Any], subject: Subject) -> str:
    name = next(name for name in values if not _has_parameter(name, values[name], subject))
    if name not in subject.inputs:
        return f"because the input has no parameter {shown(name)}"
    return f"because the parameter {shown(name)} is {shown(subject.inputs[name])}"


def _actual_text(_: Any, subject: Subject) -> str:
    where = "the prompt" if subject.last_role is None else "the last message"
    return f"because {where} is {shown(subject.text)}"


# For each condition: a function that checks it, and a function that describes the call's value. The
# conditions are checked in this order.
_TESTS: dict[str, tuple[Callable[[Any, Subject], bool], Callable[[Any, Subject], str]]] = {
    "stream": (
        lambda value, subject: subject.is_stream is value,
        lambda value, _: f"because the call requests {'no' if value else 'a'} stream",
    ),
    "last_role": (
        lambda role, subject: subject.last_role == role,
        lambda _, subject: (
            "because the call has a prompt and no messages"
            if subject.last_role is None
            else f"because the role of the last message is {shown(subject.last_role)}"
        ),
    ),
    "account": (
        lambda account, subject: subject.account == account,
        lambda _, subject: f"because the account is {shown(subject.account)}",
    ),
    "model": (
        lambda pattern, subject: _is_model(pattern, subject.model),
        lambda _, subject: f"because the model is {shown(subject.model)}",
    ),
    "headers": (
        lambda patterns, subject: all(
            _has_header(name, pattern, subject) for name, pattern in patterns.items()
        ),
        _actual_header,
    ),
    "turn": (
        lambda number, subject: subject.num_user_messages == number,
        lambda _, subject: f"because the turn of the call is {subject.num_user_messages}",
    ),
    "parameters": (
        lambda values, subject: all(
            _has_parameter(name, value, subject) for name, value in values.items()
        ),
        _actual_parameter,
    ),
    "contains": (lambda text, subject: text in subject.text, _actual_text),
    "system_contains": (
        lambda text, subject: text in subject.system_text,
        lambda _, subject: f"because the system message is {shown(subject.system_text)}",
    ),
    "any_contains": (_any_contains, lambda _, __: "because no message contains it"),
    "matches": (lambda pattern, subject: pattern.found_in(subject.text), _actual_text),
}


def _is_equal(one: Any, other: Any) -> bool:
    """Returns whether two JSON values are equal. Unlike in Python, true and 1 differ in JSON."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _other_text(inputs: Mapping[str, Any]) -> str:
    """Returns the text of an input that has neither a prompt nor messages.

    That is the state of a decision, or all texts of embeddings or of a ranking, one in each line.
    """
    if "state" in inputs:
        return text_of(inputs["state"])
    keys = ("text", "input", "query", "queries", "contexts", "documents")
    return "\n".join(text for key in keys for text in _texts(inputs.get(key)))


def _texts(value: Any) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        text = item.get("text") if isinstance(item, dict) else item
        if isinstance(text, str):
            yield text


def _first_request(value: Any) -> Mapping[str, Any]:
    """Returns the first request in the JSON value of a body, or an empty mapping.

    A body may be a list of AI Gateway's requests, whose key `query` has the model's input; a batch,
    whose key `requests` has a list of inputs; or a binding's request, with the key `inputs`.
    """
    for _ in range(4):  # at most: list, request of AI Gateway, binding, batch
        if isinstance(value, list):
            value = value[0] if value else None
        elif isinstance(value, dict) and not value.keys() & {"prompt", "messages", "input"}:
            nested = (value.get(key) for key in ("query", "inputs", "requests"))
            inner = next((each for each in nested if isinstance(each, dict | list)), None)
            if inner is None:
                break
            value = inner
    return value if isinstance(value, dict) else {}


def _messages(inputs: Mapping[str, Any]) -> list[Message]:
    """Returns the messages of a model's input, which may be invalid.

    The keys are `messages`, or `instructions` and `input` of OpenAI's Responses API. Parts of
    messages that are not text are left out.
    """
    if "messages" in inputs:
        return _tolerant(inputs["messages"])
    if (value := inputs.get("input")) is None:
        return []
    items = value if isinstance(value, list) else [{"role": "user", "content": value}]
    if "instructions" in inputs:
        items = [{"role": "system", "content": inputs["instructions"]}, *items]
    return _tolerant([*map(_chat_message, items)])


def _chat_message(item: Any) -> Any:
    """Returns an item of the Responses API as a chat message. A tool's result has no role there."""
    if isinstance(item, dict) and item.get("type") == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    return item


def _tolerant(value: Any) -> list[Message]:
    try:
        return parse_messages(value)
    except WireError:  # a message has an image or audio, which the service refuses
        items = list(value.values()) if isinstance(value, dict) else value
        return parse_messages([_without_data(item) for item in items])


def _without_data(item: Any) -> Any:
    """Returns a message without the parts of its content that are not text."""
    if not (isinstance(item, dict) and isinstance(item.get("content"), list | dict)):
        return item
    content = item["content"]
    parts = content if isinstance(content, list) else [content]
    texts = [part for part in parts if not isinstance(part, dict) or "text" in part]
    return {**item, "content": [_text_only(part) for part in texts]}


def _text_only(part: Any) -> Any:
    return {"text": part["text"]} if isinstance(part, dict) else part
