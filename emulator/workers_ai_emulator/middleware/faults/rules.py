"""Defines faults, and chooses the fault for an inference call.

A user requests a fault in one of three ways:

    x-emulator-fault: NAME                    a header of the call
    Authorization: Bearer fault:NAME          the call's token or key
    {"fault": "NAME", "times": 2}             a fault rule, sent to /_emulator/faults

In the header or the token, options follow the name: `cut-mid-event;after_events=3`.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field, ValidationError

from workers_ai_emulator.wire.accounts import AccountStates
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError
from workers_ai_emulator.wire.faults import Fault
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


@dataclass(frozen=True, slots=True)
class Subject:
    """The properties of an inference call that fault rules check.

    `account_id` and `model` are None if the call does not contain them.
    """

    account_id: str | None
    model: str | None
    is_stream: bool


class FaultRule(Fault):
    """A fault, and conditions for the calls that get it.

    A condition that is not set matches all calls. `times`: the number of calls that get the fault,
    after which the rule is removed. If `times` is None, all matching calls get the fault until the
    next reset. `probability`: the probability that a matching call gets the fault. `seed`: the seed
    of the random choice; with a seed, the choices are the same in every run. `model`: a model's
    name, in which `*` matches any text.
    """

    times: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None
    model: str = Field(default="*", max_length=200)
    account: str | None = Field(default=None, max_length=200)

    def applies(self, subject: Subject) -> bool:
        return (
            self.fits(is_stream=subject.is_stream)
            and self.account in (None, subject.account_id)
            and fnmatchcase(subject.model or "", self.model)
        )


@dataclass(slots=True)
class _ActiveRule:
    """An active fault rule. `times`: how many more calls get the fault, None for no limit."""

    rule: FaultRule
    times: int | None
    random: random.Random

    def draws(self, subject: Subject) -> bool:
        return self.rule.applies(subject) and self.random.random() < self.rule.probability


class _RuleList:
    """The active fault rules of one account, or those that apply to all accounts."""

    def __init__(self) -> None:
        self.rules: list[_ActiveRule] = []

    def choose(self, subject: Subject) -> Fault | None:
        """Returns the fault of the first rule that applies to the call, or None.

        Decrements the rule's `times`, and removes the rule when its `times` is zero.
        """
        for number, each in enumerate(self.rules):
            if each.draws(subject):
                if each.times is not None:
                    each.times -= 1
                if each.times == 0:
                    del self.rules[number]
                return each.rule
        return None


class FaultRules:
    """The active fault rules, in the order in which they were added.

    The rules of an account apply only to the calls of this account. Other rules apply to the calls
    of all accounts.
    """

    def __init__(self) -> None:
        self._lists = AccountStates(_RuleList)
        # The account of each response that a fault is delaying. The event ends the delay.
        self._delayed: dict[asyncio.Event, str | None] = {}

    def __len__(self) -> int:
        return sum(len(each.rules) for each in self._lists)

    def add(self, rules: list[FaultRule], account: str | None = None) -> None:
        """Appends `rules` to the active fault rules of an account, or of all accounts.

        Raises ValueError if the total number of active fault rules would exceed 1000.
        """
        if len(self) + len(rules) > _MAX_RULES:
            raise ValueError(f"{_MAX_RULES} rules are the most, and {len(self)} are set")
        self._lists.own(account).rules += [
            _ActiveRule(rule, rule.times, random.Random(rule.seed)) for rule in rules
        ]

    def replace(self, rules: list[FaultRule], account: str | None = None) -> None:
        """Replaces the active fault rules of an account, or those that apply to all accounts."""
        num_others = len(self) - len(self._lists.own(account).rules)
        if num_others + len(rules) > _MAX_RULES:
            raise ValueError(f"{_MAX_RULES} rules are the most, and {num_others} others are set")
        self._lists.own(account).rules.clear()
        self.add(rules, account)

    def choose(self, subject: Subject, account: str | None = None) -> Fault | None:
        """Returns the fault of the first fault rule that applies to a call, or None.

        The rules of the call's account come before the rules that apply to all accounts.
        """
        own = self._lists.find(account)
        return (own and own.choose(subject)) or self._lists.shared.choose(subject)

    async def wait_for_reset(self, account: str | None = None) -> None:
        """Waits until the fault rules of an account, or all fault rules, are reset."""
        reset = asyncio.Event()
        self._delayed[reset] = account
        try:
            await reset.wait()
        finally:
            del self._delayed[reset]

    def reset(self, account: str | None = None) -> None:
        """Removes the fault rules of an account, and releases the responses that they delay.

        If `account` is None, removes all fault rules, and releases all delayed responses.
        """
        if account is None:
            self._lists.clear()
        else:
            self._lists.discard(account)
        for reset, delayed_account in self._delayed.items():
            if account in (None, delayed_account):
                reset.set()

    def active(self, account: str | None = None) -> list[dict[str, Any]]:
        """Returns the active fault rules as JSON objects, with the keys and values in the requests.

        Only `times` differs: it is the number of further calls that get the fault. If `account` is
        None, returns the rules that apply to all accounts, otherwise those of the account.
        """
        rules = self._lists.shared if account is None else self._lists.find(account)
        return [
            each.rule.model_dump(exclude_unset=True)
            | ({} if each.times is None else {"times": each.times})
            for each in (rules.rules if rules else ())
        ]


def parse_fault_rules(value: Any) -> list[FaultRule]:
    """Returns the fault rules in a JSON value, which is one rule or a list of rules.

    If the value has mistakes, raises ValueError with one line for each mistake.
    """
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_RULES:
        raise ValueError(f"{_MAX_RULES} rules are the most, not {len(items)}")
    return parse_rules_of(FaultRule, items, strict=True)


def requested_fault(headers: Mapping[str, str]) -> str | None:
    """Returns the fault that a call's headers request, as `NAME;option=value`, or None."""
    if (text := headers.get(FAULT_HEADER)) is not None:
        return text
    values = (headers[name] for name in _TOKEN_HEADERS if name in headers)
    tokens = map(_TOKEN.fullmatch, values)
    return next((token["fault"] for token in tokens if token), None)


def parse_fault(text: str) -> Fault:
    """Parses a fault `NAME;option=value`. Raises WireError if the text has mistakes."""
    name, *options = (part.strip() for part in text.split(";"))
    pairs = (option.partition("=") for option in options)
    try:
        return Fault.model_validate({key: value for key, _, value in pairs} | {"fault": name})
    except ValidationError as error:
        raise WireError(INCOMPLETE_REQUEST, "; ".join(error_lines(error))) from error
