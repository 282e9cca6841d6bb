"""Tests the conditions of rules: which calls meet them, how calls are counted, and mistakes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import Headers
from workers_ai_emulator.backends.budget import Budget
from workers_ai_emulator.backends.conditions import Conditions, Cost, Counter, Subject, subject_of
from workers_ai_emulator.backends.patterns import PatternTooCostly
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.validation import parse_rules_of

MODEL, ACCOUNT = "@cf/meta/llama-2-7b-chat-int8", "a" * 32
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": "Where?"},
    {"role": "user", "content": "In Paris."},
]


def subject(inputs: Any, headers: dict[str, str] | None = None) -> Subject:
    context = CallContext(account=ACCOUNT, headers=Headers(headers or {}))
    return subject_of(inputs, model=MODEL, context=context)


CHAT = subject(
    {"messages": TURNS, "stream": True, "seed": 7, "tools": [{"name": "x"}], "raw": False},
    {"X-Test": "case [1]?"},
)


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({}, True),
        ({"model": "@cf/meta/*"}, True),
        ({"model": "@cf/qwen/*"}, False),
        ({"account": ACCOUNT}, True),
        ({"account": "b" * 32}, False),
        ({"contains": "Paris"}, True),
        ({"contains": "weather"}, False),
        ({"matches": r"\bparis\b"}, False),
        ({"matches": r"(?i)\bparis\b"}, True),
        ({"last_role": "user"}, True),
        ({"last_role": "tool"}, False),
        ({"system_contains": "brief"}, True),
        ({"system_contains": "Paris"}, False),
        ({"any_contains": "weather"}, True),
        ({"any_contains": "brief"}, True),
        ({"any_contains": "Rome"}, False),
        ({"turn": 2}, True),
        ({"turn": 1}, False),
        ({"headers": {"x-test": "case *"}}, True),
        ({"headers": {"X-TEST": "case [1]?"}}, True),
        ({"headers": {"x-test": "case [1]!"}}, False),
        ({"headers": {"x-other": "*"}}, False),
        ({"headers": {"x-test": "*"}}, True),
        ({"headers": {"x-test": "c*a*s*1*"}}, True),
        ({"headers": {"x-test": "**[1]?"}}, True),
        ({"headers": {"x-test": "case *case [1]?"}}, False),
        ({"headers": {"x-test": "*[1]*[1]?"}}, False),
        ({"headers": {"x-test": "*[2]*"}}, False),
        ({"parameters": {"seed": 7}}, True),
        ({"parameters": {"seed": 7.0, "tools": [{"name": "x"}]}}, True),
        ({"parameters": {"seed": 8}}, False),
        ({"parameters": {"raw": False}}, True),
        ({"parameters": {"raw": 0}}, False),
        ({"parameters": {"tools": [{"name": "x", "y": 1}]}}, False),
        ({"parameters": {"max_tokens": None}}, False),
        ({"stream": True}, True),
        ({"stream": False}, False),
        ({"contains": "Paris", "turn": 1}, False),
    ],
)
def test_a_call_meets_conditions_or_not(conditions: dict[str, Any], holds: bool) -> None:
    checked = Conditions.model_validate(conditions)
    assert (checked.match(CHAT) is not None) is holds
    assert (checked.mismatches(CHAT) == []) is holds


@pytest.mark.parametrize(
    "inputs",
    [
        {"text": "The weather"},
        {"text": ["A text", "the weather"]},
        {"input": ["A text", "the weather"], "model": "@cf/baai/bge-m3"},
        {"query": "the weather", "contexts": [{"text": "sun"}]},
        {"query": "the sun", "contexts": [{"text": "weather"}]},
        {"queries": ["the weather"], "documents": "sun"},
        {"requests": [{"query": "sun", "contexts": [{"text": "weather"}]}]},
        {"inputs": {"text": ["the weather"]}},
        {"state": {"topic": "weather"}, "questions": {}},
    ],
)
def test_the_texts_of_embeddings_rankings_and_decisions_are_searched(inputs: Any) -> None:
    for name in ("contains", "any_contains", "matches"):
        assert Conditions.model_validate({name: "weather"}).match(subject(inputs)) is not None
        assert Conditions.model_validate({name: "storm"}).match(subject(inputs)) is None


@pytest.mark.parametrize("called", ["@cf/moonshotai/kimi-k2.5", "@cf/moonshotai/kimi-k2.6"])
def test_a_condition_and_a_call_may_have_the_old_name_of_a_model(called: str) -> None:
    call = subject_of({"prompt": "Hi"}, model=called, context=CallContext())
    for name in ("@cf/moonshotai/kimi-k2.5", "@cf/moonshotai/kimi-k2.6", "@cf/moonshotai/*"):
        assert Conditions.model_validate({"model": name}).match(call) is not None
    other = Conditions.model_validate({"model": "@cf/moonshotai/kimi-k2.7-code"})
    assert other.match(call) is None


def test_a_long_pattern_for_a_header_is_compared_at_once() -> None:
    conditions = [{"headers": {"x-test": f"{'?[*' * 33_000}{number}"}} for number in range(20)]
    checked = [Conditions.model_validate(each) for each in conditions]
    long = subject({}, {"x-test": "?[" * 33_000})
    start = time.process_time()
    assert not any(each.match(long) for each in checked)
    assert time.process_time() - start < 1  # fnmatch takes minutes


@pytest.mark.parametrize(
    ("inputs", "text", "last_role", "num_messages"),
    [
        ({"prompt": "Hi"}, "Hi", None, 0),
        ({"prompt": "Hi", "messages": TURNS}, "Hi", None, 0),
        ({"messages": TURNS}, "In Paris.", "user", 4),
        ({"messages": {"0": TURNS[0], "1": TURNS[1]}}, "How is the weather?", "user", 2),
        ({"messages": [{"role": "developer", "content": "x"}]}, "x", "system", 1),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]},
            "a\nb",
            "user",
            1,
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                            {"type": "text", "text": "What is it?"},
                        ],
                    }
                ]
            },
            "What is it?",
            "user",
            1,
        ),
        ({"input": "Hi", "instructions": "Be brief."}, "Hi", "user", 2),
        ({"input": [{"role": "user", "content": [{"text": "Hi"}]}]}, "Hi", "user", 1),
        ({"input": [{"type": "function_call_output", "output": "sunny"}]}, "sunny", "tool", 1),
        ([{"query": {"prompt": "Hi"}}, {"query": {"prompt": "No"}}], "Hi", None, 0),
        ({"requests": [{"prompt": "Hi"}, {"prompt": "No"}]}, "Hi", None, 0),
        ({"inputs": {"prompt": "Hi"}, "options": {}}, "Hi", None, 0),
        ({"inputs": {"requests": [{"prompt": "Hi"}]}}, "Hi", None, 0),
        (None, "", None, 0),
        ("x", "", None, 0),
        ([], "", None, 0),
        ({"messages": 5, "prompt": 7}, "", None, 0),
        ({"messages": [5, {"role": 1}], "input": [None]}, "", None, 0),
        ({"query": {"query": {"query": {"query": {"query": {}}}}}}, "", None, 0),
    ],
)
def test_every_form_of_a_body_has_a_text(
    inputs: Any, text: str, last_role: str | None, num_messages: int
) -> None:
    found = subject(inputs)
    assert (found.text, found.last_role, len(found.messages)) == (text, last_role, num_messages)


def test_a_prompt_is_the_first_turn() -> None:
    assert Conditions(turn=1, any_contains="Hi").match(subject({"prompt": "Hi"}))
    assert not Conditions(system_contains="Hi").match(subject({"prompt": "Hi"}))


@pytest.mark.parametrize(
    ("condition", "is_high"),
    [
        ({"any_contains": "x"}, True),
        ({"system_contains": "x"}, True),
        ({"contains": "x"}, False),
        ({"turn": 2}, False),
    ],
)
@pytest.mark.parametrize("messages", [["x" * 10_000, "Hi"], ["x"] * 300])
def test_the_cost_of_conditions_for_all_messages_grows_with_all_messages(
    condition: dict[str, Any], is_high: bool, messages: list[str]
) -> None:
    call = subject({"messages": [{"role": "user", "content": text} for text in messages]})
    rules = [Conditions.model_validate(condition)] * 1000
    assert Cost.total(rules).is_high(call) is is_high
    assert not Cost.total(rules).is_high(CHAT)


def test_the_cost_of_a_search_in_a_prompt_grows_with_the_prompt() -> None:
    cost = Cost.total([Conditions(any_contains="x")] * 10)
    assert cost.is_high(subject({"prompt": "a" * 100_000}))
    assert not cost.is_high(subject({"prompt": "a" * 10_000}))


class CountedMessages(list[Message]):
    """Messages that count how often they are iterated over."""

    num_iterations = 0

    def __iter__(self) -> Iterator[Message]:
        self.num_iterations += 1
        return super().__iter__()


@pytest.mark.parametrize("condition", [{"system_contains": "long"}, {"turn": 7}])
def test_many_rules_read_the_roles_of_the_messages_once(condition: dict[str, Any]) -> None:
    messages = CountedMessages([Message("system", "Be brief."), Message("user", "Hi")])
    call = Subject(MODEL, "Hi", "user", messages)
    rules = [Conditions.model_validate(condition) for _ in range(10)]
    assert not any(rule.match(call) for rule in rules)
    assert messages.num_iterations == 1


def test_each_mismatch_names_the_condition_and_the_value_of_the_call() -> None:
    conditions = Conditions.model_validate(
        {
            "model": "@cf/qwen/*",
            "account": "b" * 32,
            "contains": "weather",
            "last_role": "tool",
            "system_contains": "long",
            "any_contains": "Rome",
            "turn": 1,
            "headers": {"authorization": "x"},
            "parameters": {"seed": 8},
            "stream": False,
        }
    )
    assert conditions.mismatches(CHAT) == [
        "`stream: false` does not hold, because the call requests a stream",
        '`last_role: "tool"` does not hold, because the role of the last message is "user"',
        f'`account: "{"b" * 32}"` does not hold, because the account is "{ACCOUNT}"',
        f'`model: "@cf/qwen/*"` does not hold, because the model is "{MODEL}"',
        '`headers: {"authorization": "x"}` does not hold, because there is no header '
        "`authorization`",
        "`turn: 1` does not hold, because the turn of the call is 2",
        '`parameters: {"seed": 8}` does not hold, because the parameter "seed" is 7',
        '`contains: "weather"` does not hold, because the last message is "In Paris."',
        '`system_contains: "long"` does not hold, because the system message is "Be brief."',
        '`any_contains: "Rome"` does not hold, because no message contains it',
    ]


def test_a_mismatch_never_shows_the_value_of_a_header() -> None:
    call = subject({"prompt": "x"}, {"authorization": "Bearer secret"})
    (line,) = Conditions(headers={"authorization": "y"}).mismatches(call)
    assert "secret" not in line


def test_groups_of_a_match_have_numbers_and_names() -> None:
    conditions = Conditions.model_validate({"matches": r"in (?P<city>\w+)|(at) (sea)"})
    match = conditions.match(subject({"prompt": "weather in Zürich"}))
    assert match is not None
    assert match.groups == {0: "Zürich", 1: None, 2: None, "city": "Zürich"}
    plain = Conditions(contains="x").match(subject({"prompt": "x"}))
    assert plain is not None and plain.groups == {}


def test_a_search_that_could_take_minutes_raises() -> None:
    conditions = Conditions.model_validate({"matches": "(a?){1000}b"})
    with pytest.raises(PatternTooCostly):
        conditions.match(subject({"prompt": "a" * 1_000_000}))
    assert len(conditions.mismatches(subject({"prompt": "a" * 1_000_000}))) == 1


# ── counting ──────────────────────────────────────────────────────────────────────────────────


def uses(conditions: dict[str, Any], num_calls: int) -> list[tuple[bool, int | None]]:
    """Returns for each call whether the rule applies, and how often it can apply afterwards."""
    counter = Counter(Conditions.model_validate(conditions))
    found = []
    for _ in range(num_calls):
        is_due = counter.is_due
        counter.count(is_used=is_due)
        found.append((is_due, counter.times_left))
    assert counter.num_matches == num_calls
    assert counter.num_uses == sum(is_due for is_due, _ in found)
    return found


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [(True, None)] * 4),
        ({"times": 2}, [(True, 1), (True, 0), (False, 0), (False, 0)]),
        ({"nth": 3}, [(False, 1), (False, 1), (True, 0), (False, 0)]),
        ({"nth": [1, 3]}, [(True, 1), (False, 1), (True, 0), (False, 0)]),
    ],
)
def test_a_rule_applies_to_the_calls_that_it_counts(
    conditions: dict[str, Any], expected: list[tuple[bool, int | None]]
) -> None:
    assert uses(conditions, 4) == expected


# ── mistakes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("conditions", "line"),
    [
        ({"nth": 0}, "`nth` takes a whole number from 1, or a list of such numbers, not 0"),
        ({"nth": [2, "x"]}, "`nth` takes a whole number from 1, or a list of such numbers, not ["),
        ({"nth": []}, "`nth` takes a whole number from 1, or a list of such numbers, not []"),
        ({"nth": True}, "`nth` takes a whole number from 1, or a list of such numbers, not true"),
        ({"nth": [1] * 1001}, "`nth` takes at most 1000 values"),
        ({"nth": 2, "times": 1}, "it has both `nth` and `times`: write a list, such as"),
        ({"matches": 5}, "`matches` takes a regular expression, as a text, not 5"),
        ({"matches": "("}, "`matches`: no regular expression: missing )"),
        ({"matches": "a" * 10_001}, "`matches`: no regular expression: it is longer than 10000"),
        ({"contains": "a" * 100_001}, "`contains` takes a text of at most 100000 characters"),
        ({"headers": {"a": 1}}, "`headers.a` takes a text, not 1"),
        ({"headers": {str(n): "" for n in range(51)}}, "`headers` takes at most 50 values"),
        ({"parameters": 1}, "`parameters` takes an object with keys and values, not 1"),
        ({"parameters": {"a": {1}}}, "`parameters`: no JSON value"),
        ({"turn": 0}, "`turn` takes a whole number from 1, not 0"),
        ({"header": {}}, "unknown key `header`; did you mean `headers`?"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_mistake_is_one_line(conditions: Any, line: str, strict: bool) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules_of(Conditions, [conditions], strict=strict, context=Budget())
    assert str(caught.value).startswith(f"rule 1: {line}")
    assert "\n" not in str(caught.value)


def test_conditions_are_written_as_the_user_wrote_them() -> None:
    written = {
        "matches": "x+",
        "nth": 3,
        "headers": {"x-a": "*"},
        "parameters": {"seed": 1},
        "stream": True,
    }
    assert Conditions.model_validate(written).model_dump(exclude_unset=True) == written
    assert Conditions.model_validate({"nth": [1, 2]}).model_dump(exclude_unset=True) == {
        "nth": [1, 2]
    }
