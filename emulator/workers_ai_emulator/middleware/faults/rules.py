"""Chooses the fault of a call: the fault that the call requests, or else that of the first rule.

    x-emulator-fault: NAME                    a header of the call
    Authorization: Bearer fault:NAME          the call's token or key
    {"fault": "NAME", "times": 2}             a rule, added beforehand

Header and token accept options as well: `cut-mid-event;after_events=3`.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError
from workers_ai_emulator.wire.validation import error_lines, parse_rules_of

FAULT_HEADER = "x-emulator-fault"

_MAX_RULES = 1000
_TOKEN_HEADERS = (
    "cf-aig-authorization",
    "authorization",
    "x-auth-key",
    "x-auth-user-service-key",
)
_TOKEN = re.compile(r"(bearer +)?fault:(?P<fault>.*)", re.IGNORECASE)

ErrorName = Literal[
    "capacity",
    "rate-limit",
    "daily-limit",
    "account-limited",
    "timeout",
    "aborted",
    "retired",
    "auth",
    "internal",
]
BreakName = Literal["cut-mid-event", "cut-mid-utf8", "stall"]
StreamName = Literal[BreakName, "no-done", "double-done", "json-instead-of-stream"]
FaultName = Literal[ErrorName, StreamName, "slow-first-token"]

ERRORS = frozenset(get_args(ErrorName))
BREAKS = frozenset(get_args(BreakName))
_OF_STREAMS = frozenset(get_args(StreamName))


@dataclass(frozen=True, slots=True)
class Subject:
    """The properties of a call that rules match. None: the call does not have the property."""

    account_id: str | None
    model: str | None
    is_stream: bool


class Fault(BaseModel):
    """A fault.

    `after_events`: events that are sent before a stream breaks. `seconds`: delay of the first
    token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: FaultName
    after_events: int = Field(default=1, ge=0)
    seconds: float = Field(default=2.0, gt=0, le=3600)

    @field_validator("after_events")
    @classmethod
    def _breaks(cls, value: int, info: ValidationInfo) -> int:
        if "fault" in info.data and info.data["fault"] not in BREAKS:
            raise ValueError(f"this is for {', '.join(get_args(BreakName))}")
        return value

    @field_validator("seconds")
    @classmethod
    def _waits(cls, value: float, info: ValidationInfo) -> float:
        if "fault" in info.data and info.data["fault"] != "slow-first-token":
            raise ValueError("this is for slow-first-token")
        return value

    def applies(self, subject: Subject) -> bool:
        """Whether the fault can occur: faults of streams need a call that streams."""
        return subject.is_stream or self.fault not in _OF_STREAMS


class FaultRule(Fault):
    """A fault and the calls that get it. Unset conditions match every call.

    `times`: the rule is removed after so many calls; None: it stays until the reset.
    `probability`: of each call, drawn independently; the same `seed` draws the same calls.
    `model`: a model's name, in which `*` matches any text.
    """

    times: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None
    model: str = Field(default="*", max_length=200)
    account: str | None = Field(default=None, max_length=200)

    def applies(self, subject: Subject) -> bool:
        return (
            super().applies(subject)
            and self.account in (None, subject.account_id)
            and fnmatchcase(subject.model or "", self.model)
        )


@dataclass(slots=True)
class _ActiveRule:
    """A rule with the number of calls that it still applies to."""

    rule: FaultRule
    times: int | None
    random: random.Random

    def draws(self, subject: Subject) -> bool:
        return self.rule.applies(subject) and self.random.random() < self.rule.probability


class FaultRules:
    """The active rules, in order. `released` is set when delayed responses must stop waiting."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self._rules: list[_ActiveRule] = []

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, rules: list[FaultRule]) -> None:
        """Adds rules after the active ones. Raises ValueError if that makes too many."""
        if len(self) + len(rules) > _MAX_RULES:
            raise ValueError(f"{_MAX_RULES} rules are the most, and {len(self)} are set")
        self._rules += [_ActiveRule(rule, rule.times, random.Random(rule.seed)) for rule in rules]

    def choose(self, subject: Subject) -> Fault | None:
        """Returns the fault of the first rule that applies, and counts the call for that rule."""
        for number, each in enumerate(self._rules):
            if each.draws(subject):
                if each.times is not None:
                    each.times -= 1
                if each.times == 0:
                    del self._rules[number]
                return each.rule
        return None

    def reset(self) -> None:
        """Removes all rules, and ends all waiting of delayed responses."""
        self._rules.clear()
        self.released.set()
        self.released = asyncio.Event()

    @property
    def active(self) -> list[dict[str, Any]]:
        """The active rules as they were added, with the current value of `times`."""
        return [
            each.rule.model_dump(exclude_unset=True)
            | ({} if each.times is None else {"times": each.times})
            for each in self._rules
        ]


def parse_fault_rules(value: Any) -> list[FaultRule]:
    """Returns the rules in a JSON value, one rule or a list.

    Raises ValueError with a line for each mistake.
    """
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_RULES:
        raise ValueError(f"{_MAX_RULES} rules are the most, not {len(items)}")
    return parse_rules_of(FaultRule, items, strict=True)


def requested_fault(headers: Mapping[str, str]) -> str | None:
    """Returns the fault that a call requests by header or token, as written there, or None."""
    if (text := headers.get(FAULT_HEADER)) is not None:
        return text
    tokens = (_TOKEN.fullmatch(headers.get(name, "")) for name in _TOKEN_HEADERS)
    return next((token["fault"] for token in tokens if token), None)


def parse_fault(text: str) -> Fault:
    """Returns the fault in `NAME;option=value`. Raises WireError with all mistakes."""
    name, *options = (part.strip() for part in text.split(";"))
    pairs = (option.partition("=") for option in options)
    try:
        return Fault.model_validate({key: value for key, _, value in pairs} | {"fault": name})
    except ValidationError as error:
        raise WireError(INCOMPLETE_REQUEST, "; ".join(error_lines(error))) from error
