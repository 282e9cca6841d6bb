"""The rules of a script, which users write in YAML or JSON: conditions for calls, and responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from workers_ai_emulator.backends.budget import Budget, budget_of, num_marks
from workers_ai_emulator.backends.conditions import Conditions
from workers_ai_emulator.prompts.tools import ToolCall
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.wire.faults import Fault, FaultName
from workers_ai_emulator.wire.validation import BoundedModel, parse_rules_of

if TYPE_CHECKING:
    from workers_ai_emulator.backends.patterns import Pattern

_MAX_WAIT_S = 86400
_MAX_RULES = 10_000
_MAX_TOOL_CALLS = 100  # the maximum number of tool calls of one completion
_MAX_ANSWERS = 1000  # the maximum number of responses of one rule
_MAX_NAME_LENGTH = 200

# A rule with `answers` has none of these keys: they belong to the items of `answers`.
_OF_ITEMS = ("answer", "json", "tool_calls", "reasoning", "fault")
_ONE_OF = "`answer`, `json`, `tool_calls`, `reasoning`{} or `fault`"
_TAKES = f"it takes a list of rules, each with {_ONE_OF.format(', `answers`')}"


def parse_rules(value: Any) -> list[Rule]:
    """Converts parsed YAML or JSON to rules.

    `value`: a list of rules; one rule; a text, which is the answer of one rule; or an object whose
    only key `rules` has a list. Items of a list may be texts, too. Raises ValueError, with one line
    per mistake, if the value has another form or a rule is invalid.
    """
    if isinstance(value, dict):
        value = value["rules"] if set(value) == {"rules"} else [value]
    elif isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(_TAKES)
    if len(value) > _MAX_RULES:
        raise ValueError(f"it has {len(value)} rules, but at most {_MAX_RULES} are allowed")
    return parse_rules_of(Rule, map(_with_key, value), context=Budget())


def _with_key(item: Any) -> Any:
    """Returns a text as a rule, or as an item of `answers`, with this answer."""
    return {"answer": item} if isinstance(item, str) else item


class RuleToolCall(BoundedModel):
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
            raise ValueError("takes an object with the arguments by name")
        return budget_of(info).json_text(value)

    @field_serializer("arguments")
    def _arguments_value(self, text: str) -> Any:
        return json.loads(text)


class ScriptedResponse(Fault):
    """The response to a call: a completion, or a fault, or both.

    The completion has these parts, in this order: `reasoning`; the text, which is either `answer`
    or the JSON text of the value that the script has under the key `json`; and `tool_calls`.

    `template`: whether the texts of the completion are templates.
    `finish`: the finish reason; `stop` becomes `tool_calls` if the completion has tool calls.
    `delay`: the delay of the first token or of the fault, in seconds. `first_token_after`: an older
    name of `delay`. `tokens_per_second`: the rate of all later tokens; None: no delay.
    `fault` and its options are those of Fault.
    """

    # In a script, the fault is optional.
    fault: FaultName | None = None  # type: ignore[assignment]
    reasoning: str = ""
    answer: str | None = None
    json_text: str | None = Field(default=None, alias="json")
    # Of the items of a list, `fail_fast` reports only the first one with mistakes: the others could
    # have a million mistakes, which would take gigabytes of memory.
    tool_calls: tuple[RuleToolCall, ...] = Field(
        default=(), max_length=_MAX_TOOL_CALLS, fail_fast=True
    )
    template: StrictBool = False
    tokens_per_second: float | None = Field(default=None, ge=1 / _MAX_WAIT_S)
    first_token_after: float = Field(default=0.0, ge=0, le=_MAX_WAIT_S)
    finish: Literal["stop", "length"] = "stop"

    @field_validator("tool_calls", mode="before")
    @classmethod
    def _count_tool_calls(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list):
            budget_of(info).count_items(len(value))
        return value

    @field_validator("json_text", mode="before")
    @classmethod
    def _to_json(cls, value: Any, info: ValidationInfo) -> str:
        return budget_of(info).json_text(value)

    @model_validator(mode="after")
    def _check_response(self) -> Self:
        self._check_texts()
        if not self._has_response:
            more = ", `answers`" if isinstance(self, Rule) else ""
            raise ValueError(f"it needs {_ONE_OF.format(more)}")
        return self

    @field_serializer("json_text")
    def _json_value(self, text: str | None) -> Any:
        return text and json.loads(text)

    @property
    def completion(self) -> Completion:
        calls = (ToolCall(call.name, call.arguments, call.id) for call in self.tool_calls)
        return Completion(self.json_text or self.answer or "", self.reasoning, tuple(calls))

    @property
    def has_completion(self) -> bool:
        """Whether the script has a completion, apart from a fault."""
        has_text = self.answer is not None or self.json_text is not None
        return has_text or bool(self.tool_calls or self.reasoning)

    def count_templates(self, budget: Budget) -> None:
        """Counts the texts as templates, those in JSON once for each expression or statement.

        Raises ValueError if the list of rules has too many templates.
        """
        for text in (self.answer or "", self.reasoning):
            if num_marks(text):
                budget.count_templates(1, len(text))
        for text in (self.json_text or "", *(call.arguments for call in self.tool_calls)):
            if number := num_marks(text):
                budget.count_templates(number, len(text))

    @property
    def own_fault(self) -> Fault | None:
        """The fault, without its delay: the backend delays the response itself."""
        if self.fault is None:
            return None
        options = self.model_fields_set & (Fault.model_fields.keys() - {"delay"})
        return Fault.model_validate({name: getattr(self, name) for name in options})

    @property
    def delay_s(self) -> float:
        return self.delay or self.first_token_after

    @property
    def has_own_delay(self) -> bool:
        return bool(self.model_fields_set & {"delay", "first_token_after"})

    @property
    def _has_response(self) -> bool:
        return self.has_completion or self.fault is not None

    def _check_texts(self) -> None:
        if self.answer is not None and self.json_text is not None:
            raise ValueError("it has both `answer` and `json`, but a completion has only one text")
        if self.delay and self.first_token_after:
            raise ValueError("it has both `delay` and `first_token_after`, which mean the same")


class Rule(Conditions, ScriptedResponse):
    """The response to calls that meet the conditions, or a list of responses.

    `answers`: the response to the first call, to the second call, and so on. After the last
    response, the calls get the last response again, or all responses from the first one on if
    `cycle` is True. The rule's delays, finish reason and `template` apply to the items that have
    none of their own.
    """

    answers: tuple[ScriptedResponse, ...] = Field(
        default=(), max_length=_MAX_ANSWERS, fail_fast=True
    )
    cycle: StrictBool = False

    @field_validator("answers", mode="before")
    @classmethod
    def _to_responses(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list) or not value:
            raise ValueError("takes a list of answers that is not empty")
        budget_of(info).count_items(len(value))
        return tuple(map(_with_key, value))

    @model_validator(mode="after")
    def _check_rule(self, info: ValidationInfo) -> Self:
        if self.answers and (key := next((key for key in _OF_ITEMS if self._has(key)), None)):
            raise ValueError(f"it has both `answers` and `{key}`: write it as an item of `answers`")
        if self.cycle and not self.answers:
            raise ValueError("`cycle` needs `answers`")
        for response in self.answers or (self,):
            if response.template or self.template:
                response.count_templates(budget_of(info))
        assert self.responses  # compiles the templates
        return self

    @property
    def source(self) -> dict[str, Any]:
        """The rule as a JSON object, with the keys and values that the user wrote."""
        return self.model_dump(exclude_unset=True, by_alias=True)

    @property
    def has_faults(self) -> bool:
        return any(response.fault is not None for response in self.responses)

    def response(self, number: int) -> ReadyResponse:
        """Returns the response to a call. `number`: how many calls have used the rule before."""
        last = len(self.responses) - 1
        return self.responses[number % (last + 1) if self.cycle else min(number, last)]

    @cached_property
    def responses(self) -> tuple[ReadyResponse, ...]:
        """The responses of the rule, with their templates compiled."""
        return tuple(self._ready(response) for response in self.answers or (self,))

    @property
    def _has_response(self) -> bool:
        return super()._has_response or bool(self.answers)

    def _has(self, key: str) -> bool:
        return ("json_text" if key == "json" else key) in self.model_fields_set

    def _ready(self, response: ScriptedResponse) -> ReadyResponse:
        def own(key: str) -> Any:
            """Returns the response's value of a key, or the rule's value if it has none."""
            return getattr(response if key in response.model_fields_set else self, key)

        return ReadyResponse(
            completion=response.completion if response.has_completion else None,
            fault=response.own_fault,
            finish=own("finish"),
            delay_s=(response if response.has_own_delay else self).delay_s,
            tokens_per_second=own("tokens_per_second"),
            render=_renderer(response.completion, response, self.matches)
            if own("template")
            else None,
        )


@dataclass(frozen=True, slots=True)
class ReadyResponse:
    """A response of a rule, in the form in which the backend uses it.

    `completion`: None for the completion that the backend makes for a request without a rule.
    `fault`: a fault that the backend or `middleware/faults/` applies. `delay_s`: the delay of the
    first token or of the fault. `tokens_per_second`: the rate of all later tokens; None: no delay.
    `render`: makes the completion from the values of a call; None if the completion is no template.
    It raises TemplateFailed.
    """

    completion: Completion | None = None
    fault: Fault | None = None
    finish: Literal["stop", "length"] = "stop"
    delay_s: float = 0.0
    tokens_per_second: float | None = None
    render: Callable[[Mapping[str, Any]], Completion] | None = None

    @property
    def has_delays(self) -> bool:
        return self.delay_s > 0 or self.tokens_per_second is not None


def _renderer(
    completion: Completion, response: ScriptedResponse, pattern: Pattern | None
) -> Callable[[Mapping[str, Any]], Completion]:
    """Returns a function that renders the texts of a completion.

    Raises ValueError if one of the texts is no valid template.
    """
    # This import is slow, because the module imports Jinja, and only templates need it.
    from workers_ai_emulator.backends.answer_template import compiled

    text = compiled(completion.text, pattern, key="answer", is_json=response.json_text is not None)
    reasoning = compiled(completion.reasoning, pattern, key="reasoning")
    arguments = [
        compiled(call.arguments, pattern, key="arguments", is_json=True)
        for call in completion.tool_calls
    ]

    def render(values: Mapping[str, Any]) -> Completion:
        calls = zip(completion.tool_calls, arguments, strict=True)
        return Completion(
            text(values),
            reasoning(values),
            tuple(replace(call, arguments=each(values)) for call, each in calls),
        )

    return render
