"""Defines faults, and chooses the fault for an inference call.

A user requests a fault in one of these ways, or in a rule of a script (`backends/rules.py`):

    x-emulator-fault: NAME                    a header of the call
    Authorization: Bearer fault:NAME          the call's token or key
    {"fault": "NAME", "times": 2}             a fault rule, sent to /_emulator/faults

In the header or the token, options follow the name: `cut-mid-event;after_events=3`.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from workers_ai_emulator.backends.budget import Budget
from workers_ai_emulator.backends.conditions import Conditions, Cost, Counter, Subject
from workers_ai_emulator.backends.patterns import PatternTooCostly
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


class FaultRule(Conditions, Fault):
    """A fault, and conditions for the calls that get it.

    `backends/conditions.py` describes the conditions. A call that the fault cannot be applied to
    does not meet them. After the number of calls in `times`, or after the last of the calls in
    `nth`, the rule is removed. Without these conditions, all matching calls get the fault until the
    next reset. `probability`: the probability that a matching call gets the fault. `seed`: the seed
    of the random choice; with a seed, the choices are the same in every run.
    """

    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None


class _ActiveRule:
    """An active fault rule, and how many calls it has matched."""

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.counter = Counter(rule)
        self._random = random.Random(rule.seed)

    def matches(self, subject: Subject, *, is_stream: bool) -> bool:
        """Returns whether a call meets the conditions of the rule, apart from `nth` and `times`.

        Raises PatternTooCostly if searching the call's text for `matches` could take minutes.
        """
        return self.rule.fits(is_stream=is_stream) and self.rule.match(subject) is not None

    def draws(self) -> bool:
        """Decides whether a matching call gets the fault: by `nth`, `times` and `probability`."""
        return self.counter.is_due and self._random.random() < self.rule.probability

    def to_json(self) -> dict[str, Any]:
        """Returns the rule as in the request. Its `times` is the number of further calls."""
        value = self.rule.model_dump(exclude_unset=True)
        return value | ({} if self.rule.times is None else {"times": self.counter.times_left})


class _RuleList:
    """The active fault rules of one account, or those that apply to all accounts."""

    def __init__(self) -> None:
        self.rules: list[_ActiveRule] = []

    def remove_used(self) -> None:
        """Removes the rules that apply to no further calls."""
        self.rules = [each for each in self.rules if each.counter.times_left != 0]


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

    @property
    def num_delayed(self) -> int:
        """The number of responses that a fault is delaying."""
        return len(self._delayed)

    def add(self, rules: list[FaultRule], account: str | None = None) -> None:
        """Appends `rules` to the active fault rules of an account, or of all accounts.

        Raises ValueError if the total number of active fault rules would exceed 1000.
        """
        if len(self) + len(rules) > _MAX_RULES:
            raise ValueError(
                f"at most {_MAX_RULES} fault rules are allowed, and {len(self)} are set"
            )
        self._lists.own(account).rules += map(_ActiveRule, rules)

    def replace(self, rules: list[FaultRule], account: str | None = None) -> None:
        """Replaces the active fault rules of an account, or those that apply to all accounts."""
        num_others = len(self) - len(self._lists.own(account).rules)
        if num_others + len(rules) > _MAX_RULES:
            raise ValueError(
                f"at most {_MAX_RULES} fault rules are allowed, and {num_others} others are set"
            )
        self._lists.own(account).rules.clear()
        self.add(rules, account)

    async def choose(self, subject: Subject, *, is_stream: bool) -> Fault | None:
        """Returns the fault of the first fault rule that applies to a call, or None.

        The rules of the call's account come before the rules that apply to all accounts.
        `is_stream`: whether faults of streams can be applied to the call. Raises WireError if
        searching the call's text for the condition `matches` could take minutes.
        """
        own = self._lists.find(subject.account)
        lists = [self._lists.shared] if own is None else [own, self._lists.shared]
        rules = [each for rule_list in lists for each in rule_list.rules]
        # Only the search is done in a thread, because rules may not be counted in two threads.
        if Cost.total(each.rule for each in rules).is_high(subject):
            matching = await asyncio.to_thread(_matching, rules, subject, is_stream=is_stream)
        else:
            matching = _matching(rules, subject, is_stream=is_stream)
        used = next((each for each in matching if each.draws()), None)
        # A rule with `nth` also counts the calls that get the fault of another rule.
        for each in matching:
            if each is used or each.rule.nth:
                each.counter.count(is_used=each is used)
        for rule_list in lists:
            rule_list.remove_used()
        return used.rule if used else None

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
        return [each.to_json() for each in (rules.rules if rules else ())]


def parse_fault_rules(value: Any) -> list[FaultRule]:
    """Returns the fault rules in a JSON value, which is one rule or a list of rules.

    A rule is an object, or only the name of a fault. If the value has mistakes, raises ValueError
    with one line for each mistake.
    """
    items = value if isinstance(value, list) else [value]
    if len(items) > _MAX_RULES:
        raise ValueError(f"at most {_MAX_RULES} fault rules are allowed, not {len(items)}")
    items = [{"fault": item} if isinstance(item, str) else item for item in items]
    return parse_rules_of(FaultRule, items, strict=True, context=Budget())


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
        raise WireError(INCOMPLETE_REQUEST, "; ".join(error_lines(error, Fault))) from error


def _matching(
    rules: Sequence[_ActiveRule], subject: Subject, *, is_stream: bool
) -> list[_ActiveRule]:
    """Returns the rules whose conditions a call meets, apart from `nth` and `times`.

    Raises WireError if searching the call's text for the condition `matches` could take minutes.
    """
    try:
        return [each for each in rules if each.matches(subject, is_stream=is_stream)]
    except PatternTooCostly as error:
        reason = (
            "`matches` of a fault rule is too complex for a text of "
            f"{len(subject.text)} characters: simplify it, or use `contains`"
        )
        raise WireError(INCOMPLETE_REQUEST, reason) from error
