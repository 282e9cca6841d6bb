"""Which fault a call gets: the one that it asks for itself, or that of the first rule that applies.

    x-emulator-fault: NAME                    a header of the call
    Authorization: Bearer fault:NAME          its token, or key
    {"fault": "NAME", "times": 2}             a rule, set beforehand

Header and token take options too: `cut-mid-event;after_events=3`.
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

from workers_ai_emulator.errors import IncompleteRequest
from workers_ai_emulator.wire.validation_messages import mistakes

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
    """What of a call decides about its fault. None is what it does not say."""

    account_id: str | None
    model: str | None
    is_stream: bool


class Fault(BaseModel):
    """What goes wrong.

    After so many whole events a stream breaks; so many seconds the first token is late.
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

    def can_befall(self, subject: Subject) -> bool:
        """A stream's faults leave calls alone that ask for none."""
        return subject.is_stream or self.fault not in _OF_STREAMS


class FaultRule(Fault):
    """Which calls get a fault. Where nothing is said, all do, until the reset.

    `times`: after so many the rule is gone; `probability` is that of each call by itself, and a
    `seed` gives the same calls each time; `model` is a name, with `*` for any part of one.
    """

    times: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None
    model: str = Field(default="*", max_length=200)
    account: str | None = Field(default=None, max_length=200)

    def applies(self, subject: Subject) -> bool:
        return (
            self.can_befall(subject)
            and self.account in (None, subject.account_id)
            and fnmatchcase(subject.model or "", self.model)
        )


@dataclass(slots=True)
class _SetRule:
    """A rule with what is left of it."""

    rule: FaultRule
    times: int | None
    random: random.Random

    def strikes(self, subject: Subject) -> bool:
        return self.rule.applies(subject) and self.random.random() < self.rule.probability


class FaultRules:
    """The rules that are set, in order. `released` is set when held answers are to be let go."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self._rules: list[_SetRule] = []

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, rules: list[FaultRule]) -> None:
        """Set these after those that are there. Raises ValueError if that makes too many."""
        if len(self) + len(rules) > _MAX_RULES:
            raise ValueError(f"{_MAX_RULES} rules are the most, and {len(self)} are set")
        self._rules += [_SetRule(rule, rule.times, random.Random(rule.seed)) for rule in rules]

    def choose(self, subject: Subject) -> Fault | None:
        """The fault of the first rule that applies, which then has one less to give."""
        for number, each in enumerate(self._rules):
            if each.strikes(subject):
                if each.times is not None:
                    each.times -= 1
                if each.times == 0:
                    del self._rules[number]
                return each.rule
        return None

    def reset(self) -> None:
        """Forget all rules, and let go what is held."""
        self._rules.clear()
        self.released.set()
        self.released = asyncio.Event()

    @property
    def left(self) -> list[dict[str, Any]]:
        """The rules as they were set, `times` as it is now."""
        return [
            each.rule.model_dump(exclude_unset=True)
            | ({} if each.times is None else {"times": each.times})
            for each in self._rules
        ]


def parse_fault_rules(value: Any) -> list[FaultRule]:
    """One rule, or a list. Raises ValueError, with a line for each mistake."""
    rules, lines = [], []
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        try:
            rules.append(FaultRule.model_validate(item, strict=True))
        except ValidationError as error:
            lines += [f"rule {number}: {line}" for line in mistakes(error)]
    if lines:
        raise ValueError("\n".join(lines))
    return rules


def wish(headers: Mapping[str, str]) -> str | None:
    """What a call asks for itself, by header or by token, as it is written there."""
    if (text := headers.get(FAULT_HEADER)) is not None:
        return text
    tokens = (_TOKEN.fullmatch(headers.get(name, "")) for name in _TOKEN_HEADERS)
    return next((token["fault"] for token in tokens if token), None)


def parse_wish(text: str) -> Fault:
    """The fault in `NAME;option=value`. Raises IncompleteRequest with all mistakes."""
    name, *options = (part.strip() for part in text.split(";"))
    pairs = (option.partition("=") for option in options)
    try:
        return Fault.model_validate({key: value for key, _, value in pairs} | {"fault": name})
    except ValidationError as error:
        raise IncompleteRequest("; ".join(mistakes(error))) from error
