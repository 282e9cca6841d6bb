"""Tests the rules of the backend `scripted`: which rule applies, and errors in rules."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.backends import scripted
from workers_ai_emulator.backends.rules import Rule, parse_rules
from workers_ai_emulator.backends.script_file import read_rules
from workers_ai_emulator.backends.scripted import ScriptedBackend
from workers_ai_emulator.engine.errors import Interrupted, RequestRejected
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    Generation,
    SamplingParams,
    ToolCallDelta,
)
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import Tool, ToolCall, ToolChoice
from workers_ai_emulator.tasks.completion import Completion, collect
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.errors import NOT_SCRIPTED, WireError
from workers_ai_emulator.wire.faults import Fault

from tests import irregular_files
from tests.server import FP16, INT8

LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"  # a model with tools
CALL = {"name": "weather", "arguments": {"city": "Paris", "days": 2}}


async def start(
    script: ScriptedBackend,
    *messages: str | Message,
    model: str = LLAMA,
    prompt: str | None = None,
    max_tokens: int | None = 256,
    is_large: bool = False,
    context: CallContext | None = None,
    **options: Any,
) -> Generation:
    turns = [Message("user", turn) if isinstance(turn, str) else turn for turn in messages]
    params = SamplingParams(max_tokens=max_tokens)
    request = TextGenerationRequest(prompt, turns, raw=False, stream=False, params=params)
    request = replace(request, **options)
    context = context or CallContext(is_large=is_large)
    return (await script.generate(request, CATALOG[model], context)).generation


def chunks(script: ScriptedBackend, *messages: str | Message, **options: Any) -> list[Chunk]:
    async def read() -> list[Chunk]:
        return [chunk async for chunk in await start(script, *messages, **options)]

    return asyncio.run(read())


def completion(script: ScriptedBackend, *messages: str | Message, **options: Any) -> str:
    return "".join(chunk.text for chunk in chunks(script, *messages, **options))


def collected(script: ScriptedBackend, *messages: str | Message, **options: Any) -> Completion:
    async def read() -> Completion:
        return await collect(aiter(await start(script, *messages, **options)))

    return asyncio.run(read())


def script(*rules: dict[str, Any]) -> ScriptedBackend:
    return ScriptedBackend(parse_rules([*rules]))


# ── the choice of a rule ──────────────────────────────────────────────────────────────────────


def test_the_first_rule_that_applies_is_used() -> None:
    rules = [{"contains": "x", "answer": "1"}, {"contains": "xy", "answer": "2"}, {"answer": "3"}]
    assert [completion(script(*rules), text) for text in ("xy", "z")] == ["1", "3"]


@pytest.mark.parametrize(("pattern", "applies"), [(INT8, True), ("*int8", True), ("@cf/m", False)])
def test_a_model_is_a_name_or_a_pattern_for_the_whole_name(pattern: str, applies: bool) -> None:
    rules = script({"model": pattern, "answer": "1"}, {"answer": "2"})
    assert completion(rules, "x", model=INT8) == ("1" if applies else "2")
    assert completion(rules, "x", model=FP16) == "2"


def test_conditions_are_compared_with_the_last_message_or_the_prompt() -> None:
    rules = script({"contains": "x", "answer": "1"}, {"answer": "2"})
    assert completion(rules, "x", "y") == "2"
    assert completion(rules, "y", "x") == "1"
    assert completion(rules, prompt="x") == "1"
    assert completion(rules) == "2"  # a request without messages


def test_a_regular_expression_may_match_anywhere() -> None:
    rules = script({"matches": r"(?i)\bweather in (Paris|Rome)\b", "answer": "1"}, {"answer": "2"})
    assert completion(rules, "What is the WEATHER in rome?") == "1"
    assert completion(rules, "weather in Romeo") == "2"


def test_all_conditions_of_a_rule_must_hold() -> None:
    rules = script({"contains": "x", "matches": "y", "answer": "1"}, {"answer": "2"})
    assert [completion(rules, text) for text in ("xy", "x", "y")] == ["1", "2", "2"]


def test_a_rule_for_a_role_applies_only_after_a_message_of_this_role() -> None:
    rules = script(
        {"last_role": "tool", "contains": "sun", "answer": "It is sunny."},
        {"tool_calls": [{"name": "weather"}]},
    )
    question = Message("user", "Is there sun?")
    assert collected(rules, question).tool_calls == (ToolCall("weather", "{}"),)
    call = Message("assistant", "", tool_calls=(ToolCall("weather", "{}"),))
    assert completion(rules, question, call, Message("tool", "sun")) == "It is sunny."
    assert completion(rules, prompt="sun") == ""


def test_a_rule_with_times_applies_that_often() -> None:
    rules = script({"answer": "1", "times": 2}, {"answer": "2"})
    assert [completion(rules, "x") for _ in range(4)] == ["1", "1", "2", "2"]
    rules.reset()
    assert completion(rules, "x") == "1"


def test_rules_can_be_replaced_and_restored() -> None:
    rules = script({"answer": "1"})
    rules.replace([Rule(answer="2")])
    assert completion(rules, "x") == "2"
    rules.reset()
    assert completion(rules, "x") == "1"


def test_without_a_matching_rule_the_completion_quotes_the_text() -> None:
    assert completion(script({"contains": "y", "answer": "1"}), "x") == (
        "This is a scripted answer to: x"
    )


TOOLS = [
    Tool("time", "", {}),
    Tool("weather", "", {"properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}),
]


@pytest.mark.parametrize(
    ("choice", "call"),
    [
        (ToolChoice("required"), ToolCall("time", "{}")),
        (ToolChoice("required", "weather"), ToolCall("weather", '{"city": "Rome"}')),
    ],
)
def test_without_a_matching_rule_a_required_tool_is_called(
    choice: ToolChoice, call: ToolCall
) -> None:
    assert collected(script(), "x", tools=TOOLS, tool_choice=choice) == Completion("", "", (call,))
    rules = script({"answer": "1"})
    assert collected(rules, "x", tools=TOOLS, tool_choice=choice) == Completion("1")


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_without_a_matching_rule_an_optional_tool_is_not_called(mode: Any) -> None:
    found = collected(script(), "x", tools=TOOLS, tool_choice=ToolChoice(mode))
    assert found == Completion("This is a scripted answer to: x")


@pytest.mark.parametrize(
    ("schema", "text"), [(None, "{}"), ({"type": "array", "minItems": 1}, '[""]'), ({}, "{}")]
)
@pytest.mark.parametrize("is_large", [False, True])
def test_without_a_matching_rule_json_mode_gets_a_valid_value(
    schema: Any, text: str, is_large: bool
) -> None:
    json_mode = JsonMode(schema)
    assert completion(script(), "x", json_mode=json_mode, is_large=is_large) == text
    rules = script({"answer": "no JSON"})
    assert completion(rules, "x", json_mode=json_mode) == "no JSON"


def test_a_schema_without_a_small_value_fails_the_request() -> None:
    with pytest.raises(RequestRejected, match="add a rule"):
        completion(script(), "x", json_mode=JsonMode({"minItems": 10**9}))


@pytest.mark.parametrize(
    ("rule", "text"),
    [({"matches": "(a+)+$"}, "a" * 38 + "!"), ({"model": "*a" * 60 + "*b"}, "x")],
)
def test_a_condition_never_takes_exponential_time(rule: dict[str, str], text: str) -> None:
    assert completion(script({**rule, "answer": "1"}, {"answer": "2"}), text) == "2"


def test_a_search_that_could_take_minutes_fails_the_request() -> None:
    with pytest.raises(WireError, match="rule 1 is too complex for a text of 1000000 characters"):
        completion(script({"matches": "(a?){1000}b", "answer": "1"}), "a" * 1_000_000)


@pytest.mark.parametrize("condition", ["system_contains", "any_contains"])
@pytest.mark.parametrize(("length", "uses_thread"), [(10, False), (1_000_000, True)])
def test_a_long_conversation_is_searched_in_a_thread(
    condition: str, length: int, uses_thread: bool, match_threads: list[int]
) -> None:
    rules = script({condition: "end", "answer": "1"}, {"answer": "2"})
    assert completion(rules, Message("system", "x" * length + "end"), "Hi") == "1"
    assert (match_threads != [threading.get_ident()]) is uses_thread


def test_requests_with_long_texts_use_a_rule_as_often_as_it_applies() -> None:
    async def texts() -> list[str]:
        rules = script({"answer": "1", "times": 2}, {"answer": "2"})
        started = await asyncio.gather(*(start(rules, "x" * 20_000) for _ in range(5)))
        return sorted([(await anext(aiter(generation))).text for generation in started])

    assert asyncio.run(texts()) == ["1", "1", "2", "2", "2"]


# ── conditions that count, and sequences ──────────────────────────────────────────────────────


def test_a_rule_with_nth_applies_to_the_call_with_this_number() -> None:
    rules = script({"nth": 2, "answer": "1"}, {"nth": [3, 5], "answer": "2"}, {"answer": "3"})
    assert [completion(rules, "x") for _ in range(6)] == ["3", "1", "2", "3", "2", "3"]


def test_a_rule_with_nth_counts_only_the_calls_that_meet_its_conditions() -> None:
    rules = script({"contains": "x", "nth": 2, "answer": "1"}, {"answer": "2"})
    assert [completion(rules, text) for text in ("x", "y", "x", "x")] == ["2", "2", "1", "2"]


def test_calls_with_long_texts_are_counted_once_each() -> None:
    async def texts() -> list[str]:
        rules = script({"nth": [2, 4], "answer": "1"}, {"answer": "2"})
        started = await asyncio.gather(*(start(rules, "x" * 600_000) for _ in range(5)))
        return sorted([(await anext(aiter(generation))).text for generation in started])

    assert asyncio.run(texts()) == ["1", "1", "2", "2", "2"]


@pytest.mark.parametrize(
    ("more", "texts"),
    [({}, ["1", "2", "3", "3", "3"]), ({"cycle": True}, ["1", "2", "3", "1", "2"])],
)
def test_a_rule_may_have_an_answer_for_each_call(more: dict[str, Any], texts: list[str]) -> None:
    rules = script({"answers": ["1", {"answer": "2"}, {"json": 3}], **more})
    assert [completion(rules, "x") for _ in range(5)] == texts


def test_an_answer_of_a_sequence_may_be_a_tool_call_or_a_fault() -> None:
    rules = script({"answers": [{"tool_calls": [CALL]}, {"fault": "capacity"}, "Sunny."]})
    assert collected(rules, "x").tool_calls[0].name == "weather"
    with pytest.raises(WireError, match="Capacity"):
        completion(rules, "x")
    assert completion(rules, "x") == "Sunny."


def test_times_limits_a_sequence() -> None:
    rules = script({"answers": ["1", "2"], "times": 3}, {"answer": "4"})
    assert [completion(rules, "x") for _ in range(4)] == ["1", "2", "2", "4"]


def test_the_items_of_a_sequence_have_the_delays_of_the_rule_unless_they_have_their_own() -> None:
    (rule,) = parse_rules(
        [
            {
                "delay": 1,
                "finish": "length",
                "answers": ["1", {"answer": "2", "delay": 0, "finish": "stop"}],
            }
        ]
    )
    assert [(each.delay_s, each.finish) for each in rule.responses] == [(1, "length"), (0, "stop")]


def test_the_counts_of_a_rule_are_shown() -> None:
    rules = script(
        {"contains": "x", "nth": [2, 9], "answer": "1"},
        {"contains": "x", "times": 2, "answer": "2"},
        {"answers": ["3"]},
    )
    for text in ("x", "x", "x", "y"):
        completion(rules, text)
    counts = [(row["times_left"], row["used"]) for row in (r.to_json() for r in rules.rules())]
    assert counts == [(1, 1), (0, 2), (None, 1)]
    assert [json.loads(json.dumps(rule.to_json()["rule"])) for rule in rules.rules()] == [
        {"contains": "x", "nth": [2, 9], "answer": "1"},
        {"contains": "x", "times": 2, "answer": "2"},
        {"answers": [{"answer": "3"}]},
    ]


def test_a_rule_may_check_headers_parameters_and_the_stream() -> None:
    rules = script(
        {"headers": {"x-test": "a*"}, "answer": "1"},
        {"parameters": {"seed": 7}, "answer": "2"},
        {"stream": True, "answer": "3"},
        {"answer": "4"},
    )
    assert completion(rules, "x", context=CallContext(headers={"x-test": "abc"})) == "1"
    assert completion(rules, "x", context=CallContext(inputs={"seed": 7})) == "2"
    assert completion(rules, "x", stream=True) == "3"
    assert completion(rules, "x", context=CallContext(inputs=["seed"])) == "4"


# ── faults ────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_with_an_error_fails_the_call() -> None:
    rule = {"fault": "error", "status": 503, "code": 7, "message": "Later.", "times": 1}
    context = CallContext()
    rules = script(rule, {"answer": "1"})
    with pytest.raises(WireError, match=r"Later\.") as caught:
        completion(rules, "x", context=context)
    assert (caught.value.type.status, caught.value.type.code) == (503, 7)
    assert context.rule == 1
    assert context.scripted_fault is not None and context.scripted_fault.status == 503
    assert completion(rules, "x") == "1"


def test_an_error_can_have_a_delay_and_is_cancelled_with_its_call() -> None:
    async def last() -> tuple[int, Chunk]:
        rules = script({"fault": "capacity", "delay": 3600})
        generation = await start(rules, "x")
        num_tasks = len(asyncio.all_tasks()) - 1
        rules.cancel_all()
        return num_tasks, [chunk async for chunk in generation][-1]

    num_tasks, chunk = asyncio.run(last())
    assert (num_tasks, chunk.finish_reason) == (1, FinishReason.CANCELLED)


def test_a_delayed_error_reaches_the_client() -> None:
    with pytest.raises(WireError, match="Capacity"):
        completion(script({"fault": "capacity", "delay": 0.01}), "x")


def test_a_fault_of_a_response_is_left_to_the_middleware() -> None:
    context = CallContext()
    rules = script({"fault": "cut-mid-event", "after_events": 3, "delay": 0.01, "answer": "1"})
    assert completion(rules, "x", stream=True, context=context) == "1"
    assert context.scripted_fault == Fault(fault="cut-mid-event", after_events=3)


def test_a_fault_without_a_completion_has_the_default_one() -> None:
    context = CallContext()
    rules = script({"fault": "broken-json"})
    assert completion(rules, "x", context=context) == "This is a scripted answer to: x"
    assert context.scripted_fault == Fault(fault="broken-json")
    assert not context.is_unmatched


def test_a_fault_of_streams_is_not_applied_to_other_calls() -> None:
    context = CallContext()
    rules = script({"fault": "no-done", "answer": "1"})
    assert completion(rules, "x", context=context) == "1"
    assert context.scripted_fault is None


def test_whether_a_script_has_faults_is_known() -> None:
    rules = script({"answer": "1"})
    assert not rules.has_faults
    rules.replace(parse_rules([{"answers": ["1", {"fault": "stall"}]}]), "a" * 32)
    assert rules.has_faults
    rules.reset("a" * 32)
    assert not rules.has_faults


# ── templates ─────────────────────────────────────────────────────────────────────────────────


def test_a_template_uses_the_groups_and_the_values_of_the_call() -> None:
    rules = script(
        {
            "matches": r"weather in (\w+)(?: on (?P<day>\w+))?",
            "template": True,
            "reasoning": "{{ call }}. {{ model }}",
            "answer": "{{ groups[0] | upper }}{{ groups.day }}: {{ text }} {{ account }}\n",
            "tool_calls": [
                {
                    "name": "weather",
                    "arguments": {"city": "{{ groups[0] }}", "days": [1, "{{call}}"]},
                }
            ],
        }
    )
    context = CallContext(account="a" * 32)
    found = collected(rules, "The weather in Zürich?", context=context)
    assert found.text == f"ZÜRICH: The weather in Zürich? {'a' * 32}\n"
    assert found.reasoning == f"1. {LLAMA}"
    assert found.tool_calls[0].arguments == '{"city": "Zürich", "days": [1, "1"]}'
    found = collected(rules, "The weather in Zürich on Monday?")
    assert found.text.startswith("ZÜRICHMonday: ")
    assert found.reasoning == f"2. {LLAMA}"


def test_strings_in_json_are_templates_and_stay_valid_json() -> None:
    rule = {
        "template": True,
        "json": {"said": ["{{ text }}", 1, "{% if call > 1 %}again{% endif %}"]},
    }
    rules = script(rule)
    assert completion(rules, '"quoted"\n') == '{"said": ["\\"quoted\\"\\n", 1, ""]}'
    assert completion(rules, "x") == '{"said": ["x", 1, "again"]}'


def test_braces_are_ordinary_text_without_template() -> None:
    assert completion(script({"answer": "{{ text }} {% x"}), "x") == "{{ text }} {% x"


def test_a_template_of_a_rule_applies_to_the_items_of_its_sequence() -> None:
    rules = script(
        {"template": True, "answers": ["{{ call }}", {"answer": "{{", "template": False}]}
    )
    assert [completion(rules, "x") for _ in range(2)] == ["1", "{{"]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({"answer": "{{ txt }}"}, "unknown name `txt`; did you mean `text`?"),
        ({"answer": "{{ user }}"}, "unknown name `user`; it has groups,"),
        ({"answer": "{{ text"}, "`answer`: no valid template: "),
        ({"reasoning": "{{ text | uper }}"}, "`reasoning`: no valid template: No"),
        ({"json": ["{{ x }}"]}, "`json`: no valid template: unknown name `x`"),
        (
            {"tool_calls": [{"name": "a", "arguments": {"b": "{{ x }}"}}]},
            "`arguments`: no valid template: unknown name `x`",
        ),
        ({"answer": "{{ groups[0] }}"}, "`answer`: no valid template: `groups` needs a rule with"),
        (
            {"answer": "{{ groups[1] }}", "matches": "(a)"},
            "`answer`: no valid template: `matches` has no group 1; its groups are 0",
        ),
        (
            {"answer": "{{ groups.x }}", "matches": "(?P<y>a)"},
            "`answer`: no valid template: `matches` has no group x; its groups are 0, y",
        ),
        ({"answer": "{% for x in text %}{% endfor %}"}, "`answer`: no valid template: for is not"),
        ({"answer": "{{ text * 10 }}"}, "`answer`: no valid template: mul is not supported"),
        ({"answer": "{{ 9 ** 9 }}"}, "`answer`: no valid template: pow is not supported"),
        ({"answer": "{{ '%9d' % 1 }}"}, "`answer`: no valid template: mod is not supported"),
        ({"answer": "{{ text.__class__ }}"}, "`answer`: no valid template: an attribute is not"),
        ({"answer": "{{ text.format(1) }}"}, "`answer`: no valid template: call is not supported"),
        ({"answer": "{% include 'x' %}"}, "`answer`: no valid template: include is not supported"),
        ({"answer": "{{ text }}" * 1001}, "`answer`: a template has at most 10000 characters"),
        ({"answer": f"{{{{ {'(' * 2000}1{')' * 2000} }}}}"}, "`answer`: no valid template: it"),
    ],
)  # fmt: skip
def test_an_invalid_template_is_a_mistake_in_the_rule(rule: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules([{"template": True, **rule}])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_templates_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 1000 texts that are templates"):
        parse_rules([{"template": True, "answer": "{{ text }}"}] * 1001)


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        ("{{ text }}{{ text }}{{ text }}", "x" * 500_000, "has more than 1048576 characters"),
        ("{{ text }}" * 900, "x" * 10_000, "the values of the call are too long"),
        ("{{ text | tojson | tojson | tojson }}", '"' * 500_000, "has more than 1048576"),
        ("{{ text | replace('x', text) }}", "x" * 10_000, "`replace` needs a text"),
        ("{{ text + 1 }}", "x", "can only concatenate str"),
        ("{{ text[0] }}", "", "has no element 0"),
    ],
)
def test_a_template_that_fails_is_an_error_that_names_the_rule(
    answer: str, text: str, reason: str
) -> None:
    rules = script({"answer": "1", "contains": "?"}, {"answer": answer, "template": True})
    with pytest.raises(WireError, match=f"the template of the script's rule 2 failed: .*{reason}"):
        completion(rules, text)


# ── requests without a rule ───────────────────────────────────────────────────────────────────


def strict_reason(rules: list[dict[str, Any]], *texts: str) -> str:
    """Returns the error of the last text's request, with the setting `strict`."""
    backend = ScriptedBackend(parse_rules(rules), is_strict=True)
    for text in texts[:-1]:
        completion(backend, text)
    context = CallContext()
    with pytest.raises(WireError) as caught:
        completion(backend, texts[-1], context=context)
    assert caught.value.type is NOT_SCRIPTED and context.is_unmatched
    return str(caught.value)


@pytest.mark.parametrize(
    ("rules", "texts", "reason"),
    [
        ([], ["x"], 'no rule of the script applies to "x": the script has no rules'),
        (
            [
                {"contains": "y", "last_role": "tool", "answer": "1"},
                {"contains": "z", "last_role": "user", "answer": "2"},
                {"contains": "z", "answer": "3"},
            ],
            ["x"],
            'no rule of the script applies to "x"; the nearest is rule 2: `contains: "z"` does not '
            'hold, because the last message is "x"',
        ),
        (
            [{"answer": "1", "times": 1}],
            ["x", "x"],
            'no rule of the script applies to "x"; the nearest is rule 1: it has been used 1 '
            "times, and `times` is 1",
        ),
        (
            [{"answer": "1", "nth": [1, 4]}],
            ["x", "x"],
            'no rule of the script applies to "x"; the nearest is rule 1: `nth` is 1, 4, and 2 '
            "calls have met its conditions",
        ),
    ],
)
def test_the_error_of_a_strict_server_names_the_nearest_rule(
    rules: list[dict[str, Any]], texts: list[str], reason: str
) -> None:
    assert strict_reason(rules, *texts) == reason


def test_a_completion_that_is_cut_by_default_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = script({"answer": "a " * 300})
    completion(rules, "x", context=CallContext(inputs={"max_tokens": 256}))
    assert not caplog.messages
    for _ in range(2):
        completion(rules, "x", context=CallContext(inputs={"messages": []}))
    (message,) = caplog.messages
    assert message.startswith("a scripted completion was cut after 256 tokens (words)")
    assert "send `max_tokens`" in message


# ── the completion ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("I have 3 cats", ["I", " have", " ", "3", " cats"]),
        ("1.50 and 12345,\n", ["1", ".", "50", " and", " ", "123", "45", ",", "\n"]),
        ("a5b  6", ["a", "5", "b", "  ", "6"]),
    ],
)
def test_a_number_is_a_token_of_its_own_if_it_is_sent_as_a_number(
    text: str, pieces: list[str]
) -> None:
    script = ScriptedBackend(parse_rules([{"answer": text}]))
    assert [chunk.text for chunk in chunks(script, "Hi", model=LLAMA)] == [*pieces, ""]
    words = [chunk.text for chunk in chunks(script, "Hi", model=INT8)]
    assert words != [*pieces, ""]
    assert "".join(words) == text


def test_each_chunk_is_a_word_with_its_space_and_the_last_one_is_empty() -> None:
    texts = ["One", " two", "\n\n three", "  ", ""]
    assert [c.text for c in chunks(script({"answer": "One two\n\n three  "}), "x")] == texts


@pytest.mark.parametrize(
    ("rule", "max_tokens", "text", "reason"),
    [
        ({"answer": "a b c"}, 4, "a b c", FinishReason.STOP),
        ({"answer": "a b c"}, 3, "a b c", FinishReason.LENGTH),
        ({"answer": "a b c"}, 2, "a b", FinishReason.LENGTH),
        ({"answer": "a b c", "finish": "length"}, 256, "a b c", FinishReason.LENGTH),
        ({"answer": ""}, 256, "", FinishReason.STOP),
        ({"answer": "", "finish": "length"}, 256, "", FinishReason.LENGTH),
    ],
)
def test_a_completion_ends_with_its_finish_reason_or_at_max_tokens(
    rule: dict[str, Any], max_tokens: int, text: str, reason: FinishReason
) -> None:
    found = chunks(script(rule), "x", max_tokens=max_tokens)
    assert "".join(chunk.text for chunk in found) == text
    assert [chunk.finish_reason for chunk in found] == [None] * (len(found) - 1) + [reason]
    assert len(found) <= max_tokens


def test_without_max_tokens_a_completion_is_not_cut() -> None:
    assert completion(script({"answer": "a " * 2000}), "x", max_tokens=None) == "a " * 2000


@pytest.mark.parametrize(
    ("stop", "text"), [((), "One two three."), (("four",), "One two three."), ((" tw", "e"), "On")]
)
def test_a_completion_ends_before_the_first_stop_string(stop: tuple[str, ...], text: str) -> None:
    params = SamplingParams(stop=stop)
    found = collected(script({"answer": "One two three."}), "x", params=params)
    assert found == Completion(text)


def test_a_long_stop_string_and_a_large_max_tokens_are_no_problem() -> None:
    params = SamplingParams(stop=("a" * 10**6,), max_tokens=10**308)
    found = collected(script({"answer": "b" * 10**6}), "x", params=params)
    assert found == Completion("b" * 10**6)


def test_tool_calls_after_a_stop_string_are_not_sent() -> None:
    rules = script({"answer": "I ask.", "reasoning": "I ask", "tool_calls": [{"name": "weather"}]})
    params = SamplingParams(stop=("ask",))
    assert collected(rules, "x", params=params) == Completion("I ", "I ask", num_reasoning_tokens=2)


def test_a_rule_cannot_call_tools_of_a_model_without_tools() -> None:
    with pytest.raises(WireError, match=f"{INT8} has no tools"):
        chunks(script({"tool_calls": [CALL]}), "x", model=INT8)


@pytest.mark.parametrize(("is_on", "reasoning"), [(True, "Let me"), (False, "")])
def test_a_request_can_switch_the_reasoning_of_a_rule_off(is_on: bool, reasoning: str) -> None:
    rules = script({"answer": "Yes.", "reasoning": "Let me"})
    found = collected(rules, "x", template_variables={"enable_thinking": is_on})
    assert (found.text, found.reasoning) == ("Yes.", reasoning)


def test_reasoning_text_and_tool_calls_follow_each_other_word_by_word() -> None:
    rule = {"tool_calls": [CALL | {"id": "c1"}], "answer": "I ask.", "reasoning": "Let me"}
    assert chunks(script(rule), "x") == [
        Chunk(reasoning="Let"),
        Chunk(reasoning=" me"),
        Chunk("I"),
        Chunk(" ask."),
        Chunk(tool_call=ToolCallDelta(0, "", "weather", "c1")),
        Chunk(tool_call=ToolCallDelta(0, '{"city":')),
        Chunk(tool_call=ToolCallDelta(0, ' "Paris",')),
        Chunk(tool_call=ToolCallDelta(0, ' "days":')),
        Chunk(tool_call=ToolCallDelta(0, " 2}")),
        Chunk("", FinishReason.TOOL_CALLS),
    ]


def test_a_rule_may_have_several_tool_calls() -> None:
    rule = {"tool_calls": [CALL, {"name": "time"}]}
    calls = ToolCall("weather", '{"city": "Paris", "days": 2}'), ToolCall("time", "{}")
    assert collected(script(rule), "x") == Completion("", "", calls)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None], "é": "\u00fc"}, '{"a": [1, 2.5, null], "é": "ü"}'),
        (None, "null"),
        ("x", '"x"'),
        ([], "[]"),
    ],
)
def test_a_json_value_is_written_as_text(value: Any, text: str) -> None:
    assert completion(script({"json": value}), "x") == text


def test_a_completion_may_have_only_reasoning() -> None:
    rule = {"reasoning": "a b c", "finish": "length"}
    assert chunks(script(rule), "x")[-1] == Chunk("", FinishReason.LENGTH, reasoning=" c")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"answer": "Yes."}, "<think>\nLet me\n</think>\n\nYes."),
        ({"tool_calls": [{"name": "time"}]}, "<think>\nLet me\n</think>\n\n"),
        ({"finish": "stop"}, "<think>\nLet me\n</think>\n\n"),
        ({"finish": "length"}, "<think>\nLet me"),
    ],
)
def test_reasoning_is_in_the_text_if_the_model_has_it_there(
    rule: dict[str, Any], text: str
) -> None:
    found = collected(script({"reasoning": "Let me", **rule}), "x", separates_reasoning=False)
    assert (found.text, found.reasoning) == (text, "")


@pytest.mark.parametrize(
    ("max_tokens", "arguments", "reason"),
    [(3, '{"city": "Paris",', FinishReason.LENGTH), (6, None, FinishReason.TOOL_CALLS)],
)
def test_max_tokens_may_cut_a_tool_call(
    max_tokens: int, arguments: str | None, reason: FinishReason
) -> None:
    async def read() -> tuple[Completion, FinishReason | None, int]:
        generation = await start(script({"tool_calls": [CALL]}), "x", max_tokens=max_tokens)
        found = await collect(aiter(generation))
        return found, generation.finish_reason, generation.usage.num_completion_tokens

    found, finish_reason, num_tokens = asyncio.run(read())
    assert found.tool_calls[0].arguments == (arguments or '{"city": "Paris", "days": 2}')
    assert (finish_reason, num_tokens) == (reason, max_tokens)


def test_usage_counts_the_words_and_the_end_token() -> None:
    async def usage() -> tuple[int, int]:
        generation = await start(script({"answer": "a b"}), "one two")
        assert [chunk async for chunk in generation]
        return generation.usage.num_prompt_tokens, generation.usage.num_completion_tokens

    assert asyncio.run(usage()) == (3, 3)  # the prompt is `user: one two`


@pytest.mark.parametrize(
    ("rule", "num_tasks"),
    [
        ({"answer": "a b"}, 0),
        ({"answer": "a b", "first_token_after": 60}, 1),
        ({"answer": "a b", "tokens_per_second": 0.1}, 1),
        ({"answer": "a " * 2000}, 1),
    ],
    ids=["immediate", "delayed", "slow", "long"],
)
def test_only_a_completion_that_has_delays_or_is_long_needs_a_task_and_can_be_cancelled(
    rule: dict[str, Any], num_tasks: int
) -> None:
    async def last_chunk() -> tuple[int, Chunk]:
        generation = await start(script(rule), "x", max_tokens=5000)
        num_started = len(asyncio.all_tasks()) - 1
        generation.cancel()
        return num_started, [chunk async for chunk in generation][-1]

    num_started, last = asyncio.run(last_chunk())
    assert num_started == num_tasks
    assert last.finish_reason is (FinishReason.CANCELLED if num_tasks else FinishReason.STOP)


def test_the_prompt_is_the_conversation_with_its_tool_calls() -> None:
    turns = [
        Message("user", "How is the weather?"),
        Message("assistant", "", (ToolCall("weather", '{"city": "Paris"}'),)),
        Message("tool", "sunny"),
    ]
    params = SamplingParams()
    request = TextGenerationRequest(None, turns, raw=False, stream=False, params=params)
    started = asyncio.run(script().generate(request, CATALOG[INT8], CallContext()))
    assert started.prompt() == (
        'user: How is the weather?\nassistant calls weather {"city": "Paris"}\ntool: sunny'
    )


def test_equal_requests_have_equal_fingerprints() -> None:
    async def fingerprints() -> list[str]:
        rules = script({"answer": "a"})
        return [(await start(rules, text)).fingerprint for text in ("x", "x", "y")]

    first, second, third = asyncio.run(fingerprints())
    assert first == second != third


def test_chunks_are_not_sent_faster_than_the_rule_allows() -> None:
    async def times() -> list[float]:
        loop = asyncio.get_running_loop()
        start_time = loop.time()
        rule = {"answer": "a b c", "first_token_after": 0.05, "tokens_per_second": 100}
        return [loop.time() - start_time async for _ in await start(script(rule), "x")]

    arrivals = asyncio.run(times())
    assert all(time >= 0.05 + 0.01 * i - 0.002 for i, time in enumerate(arrivals))


# ── invalid rules ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [
        [{"answer": "a"}],
        {"rules": [{"answer": "a"}]},
        {"answer": "a"},
        "a",
        ["a"],
        {"rules": ["a"]},
    ],
)
def test_rules_are_a_list_or_one_rule_or_its_answer(value: Any) -> None:
    assert parse_rules(value) == [Rule(answer="a")]


@pytest.mark.parametrize("value", [None, 5, True, {"rules": {"answer": "a"}}])
def test_any_other_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="it takes a list of rules, each with `answer`, `json`"):
        parse_rules(value)


NEEDS = "rule 2: it needs `answer`, `json`, `tool_calls`, `reasoning`, `answers` or `fault`"


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({}, NEEDS),
        ({"tool_calls": []}, NEEDS),
        ({"answer": "a", "json": {}}, "rule 2: it has both `answer` and `json`"),
        ({"json": {"on": date(2026, 1, 2)}}, "rule 2: `json`: no JSON value: Object of type date"),
        ({"json": float("nan")}, "rule 2: `json`: Out of range float values"),
        ({"tool_calls": {"name": "a"}}, "rule 2: `tool_calls` takes a list, not {"),
        (
            {"tool_calls": [{"name": ""}]},
            'rule 2: `tool_calls[0].name` takes a text that is not empty, not ""',
        ),
        ({"tool_calls": [{"arguments": {}}]}, "rule 2: `tool_calls[0].name` is missing"),
        (
            {"tool_calls": [{"name": "a", "arg": {}}]},
            "rule 2: unknown key `tool_calls[0].arg`; the keys are `name`, `arguments`, `id`",
        ),
        (
            {"tool_calls": [{"name": "a", "argumets": {}}]},
            "rule 2: unknown key `tool_calls[0].argumets`; did you mean `arguments`?",
        ),
        (
            {"tool_calls": [{"name": "a", "arguments": "{}"}]},
            "rule 2: `tool_calls[0].arguments` takes an object with the arguments by name, not ",
        ),
        ({"tool_calls": [{"name": "a"}] * 101}, "rule 2: `tool_calls` takes at most 100 values"),
        (
            {"answer": "a", "last_role": "bot"},
            'rule 2: `last_role` takes one of system, user, assistant or tool, not "bot"',
        ),
        (5, "rule 2: it takes an object with keys and values, not 5"),
        ({"answer": 42}, "rule 2: `answer` takes a text, not 42"),
        (
            {"answer": "a", "contain": "x"},
            "rule 2: unknown key `contain`; did you mean `contains`?",
        ),
        ({"answer": "a", "matches": "("}, "rule 2: `matches`: no regular expression"),
        ({"answer": "a", "matches": "(?=b)"}, "rule 2: `matches`: look-around such as (?=...)"),
        ({"answer": "a", "times": 0}, "rule 2: `times` takes a whole number from 1, not 0"),
        ({"answer": "a", "tokens_per_second": 0}, "rule 2: `tokens_per_second` takes a number"),
        (
            {"answer": "a", "first_token_after": -1},
            "rule 2: `first_token_after` takes a number from 0 to 86400, not -1",
        ),
        (
            {"answer": "a", "first_token_after": float("inf")},
            "rule 2: `first_token_after` takes a number from 0 to 86400",
        ),
        ({"answer": "a", "delay": 3601}, "rule 2: `delay` takes a number from 0 to 3600, not 3601"),
        ({"answer": "a", "delay": 1, "first_token_after": 1}, "rule 2: it has both `delay` and"),
        (
            {"answer": "a", "finish": "error"},
            'rule 2: `finish` takes one of stop or length, not "error"',
        ),
        ({"fault": "capasity"}, "rule 2: `fault` takes one of capacity, rate-limit, "),
        ({"answer": "a", "status": 500}, "rule 2: `status`: this is for error, edge-error, not"),
        ({"answers": []}, "rule 2: `answers` takes a list of answers that is not empty, not []"),
        ({"answers": "a"}, "rule 2: `answers` takes a list of answers that is not empty, not"),
        ({"answers": ["a", 5]}, "rule 2: `answers[1]` takes an object with keys and values, not 5"),
        (
            {"answers": ["a", {"finish": "stop"}]},
            "rule 2: `answers[1]`: it needs `answer`, `json`, `tool_calls`, `reasoning` or `fault`",
        ),
        (
            {"answers": [{"answer": "a", "contains": "x"}]},
            "rule 2: unknown key `answers[0].contains`",
        ),
        ({"answers": ["a"] * 1001}, "rule 2: `answers` takes at most 1000 values"),
        (
            {"answers": ["a"], "fault": "capacity"},
            "rule 2: it has both `answers` and `fault`: write it as an item of `answers`",
        ),
        ({"answer": "a", "cycle": True}, "rule 2: `cycle` needs `answers`"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(rule: Any, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules([{"answer": "a"}, rule])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_regular_expressions_that_are_too_large_together_are_refused() -> None:
    rules = [{"answer": "a", "matches": r"\w{400}"}] * 40
    with pytest.raises(ValueError, match="regular expressions are too large together"):
        parse_rules(rules)


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 10000 are allowed"):
        parse_rules([{"answer": "a"}] * 10_001)


def test_every_mistake_in_a_file_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- {answer: a, times: 0, speed: 1}\n- {answer: b}\n- {contains: x}\n")
    with pytest.raises(SettingInvalid) as caught:
        read_rules(file)
    lines = str(caught.value).splitlines()
    assert lines == [
        f"--script: {file}: rule 1: `times` takes a whole number from 1, not 0",
        f"--script: {file}: rule 1: unknown key `speed`",
        f"--script: {file}: {NEEDS.replace('2', '3')}",
    ]


@pytest.mark.parametrize("content", [b"- {answer: [", b"\xff\xfe", b"\x00", b""])
def test_a_file_that_cannot_be_read_is_an_invalid_setting(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(content)
    with pytest.raises(SettingInvalid, match=r"--script: ") as caught:
        read_rules(file)
    assert "\n" not in str(caught.value)


def test_a_file_may_contain_json(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"rules": [{"answer": "\\u00e9", "times": 1}]}')
    assert read_rules(file) == [Rule(answer="é", times=1)]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(b"\xef\xbb\xbf- answer: a\r\n")
    assert read_rules(file) == [Rule(answer="a")]


def test_aliases_and_merged_keys_work(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- &first {answer: a, times: 2}\n- {<<: *first, answer: b}\n- *first\n")
    assert read_rules(file) == [
        Rule(answer="a", times=2),
        Rule(answer="b", times=2),
        Rule(answer="a", times=2),
    ]


def bomb(form: str) -> str:
    levels = ["a0: &a0 {x: y}"]
    for n in range(1, 30):
        aliases = ", ".join([f"*a{n - 1}"] * 9)
        levels.append(f"a{n}: &a{n} " + form.format(aliases))
    return "\n".join(levels) + "\n"


def chain(length: int) -> str:
    """Returns a script in which aliases nest the value of `json` as deep as `length`."""
    links = "".join(f", &a{n} [*a{n - 1}]" for n in range(1, length))
    return f"- json: [&a0 [x]{links}]\n"


def test_a_merged_key_may_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- &a {answer: a, times: 1}\n- {<<: *a, times: 2}\n- {<<: *a, <<: *a}\n")
    assert [rule.times for rule in read_rules(file)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb("[{}]"), "rule 1: unknown key `a0`"),
        (
            f"- answer: a\n  unknown:\n    {bomb('[{}]').replace(chr(10), chr(10) + '    ')}",
            "unknown",
        ),
        (f"- {bomb('{{<<: [{}]}}').replace(chr(10), chr(10) + '  ')}", "rule 1: unknown key `a0`"),
        (
            f"- json:\n    {bomb('[{}]').replace(chr(10), chr(10) + '    ')}",
            "JSON values are too large together",
        ),
        ("- json: &a [*a]", "rule 1: `json`: it has more than 100 levels"),
        (chain(5000), "rule 1: `json`: it has more than 100 levels"),
        ("[" * 20_000 + "]" * 20_000, "nest"),
        ("- " * 5_000 + "a", "it is nested too deep"),
        ("{a: " * 500_000, "it is nested too deep"),
        (f"{bomb('[{}]')}? [*a29]\n: x\n", "unhashable key"),
        (f"{bomb('[{}]')}? {{*a29 : x}}\n: x\n", "unhashable key"),
        ("[" + "a," * 500_000 + "]", "it has too many values"),
        ("- json: !!bool maybe", 'no bool: "maybe" in "<unicode string>", line 1, column 9'),
        ("- json: !!timestamp abc", 'no timestamp: "abc" in'),
        ("- json:\n    - !!int ''", 'no int: "" in "<unicode string>", line 2'),
        ("- json: 2026-13-45", 'no timestamp: "2026-13-45" in'),
        ("- answer: a\n- answer: b\n  'answer': c", 'the key "answer" occurs twice in'),
        ("- answer: a\n- answer: b\n  'answer': c", "line 3, column 3"),
        ("- json: {a: {b: 1, b: 2}}", 'the key "b" occurs twice in'),
        ('[{"answer": "a", "answer": "b"}]', 'the key "answer" occurs twice in'),
        ("- &a [*a]", "rule 1: it takes an object with keys and values"),
        (f"- {{answer: a, times: {'9' * 5000}}}", 'no int: "999'),
        ("x" * (4 * 2**20 + 1), "is longer than"),
        ('- {answer: a, "\\x1b[31m\\n": 1}', r"rule 1: unknown key `\x1b[31m\n`"),
    ],
)
def test_a_hostile_file_is_refused_in_one_or_a_few_short_lines(
    tmp_path: Path, content: str, reason: str
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(content)
    with pytest.raises(SettingInvalid) as caught:
        read_rules(file)
    lines = str(caught.value).splitlines()
    assert reason in lines[0]
    assert len(lines) <= 21 and all(len(line) < 700 and line.isprintable() for line in lines)


def test_the_mistakes_of_many_rules_are_twenty_lines_and_their_number(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- {answer: a, time: 1}\n" * 3000)
    with pytest.raises(SettingInvalid) as caught:
        read_rules(file)
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (21, f"--script: {file}: and 2980 more")


@pytest.mark.parametrize("kind", irregular_files.KINDS)
def test_a_script_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rules.yaml"
    irregular_files.make(file, kind)
    with pytest.raises(SettingInvalid, match=r"^--script: cannot read .*rules.yaml: is a "):
        read_rules(file)


# ── embeddings ────────────────────────────────────────────────────────────────────────────────


EMBEDDING_MODEL = CATALOG["@cf/baai/bge-m3"]


def texts_of(*texts: str, query: str | None = None) -> EmbeddingRequest:
    return EmbeddingRequest(texts, Pooling.CLS, truncates=True, query=query)


@pytest.mark.parametrize("method", ["embed", "rank"])
def test_after_a_cancellation_the_thread_stops(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, stopped = threading.Event(), threading.Event()

    def endless(text: str, dimensions: int, is_cancelled: Callable[[], bool]) -> list[float]:
        began.set()
        while not is_cancelled():
            time.sleep(0.001)
        stopped.set()
        raise Interrupted

    async def cancel() -> None:
        run = getattr(script(), method)
        request = texts_of("a", query="q")
        task = asyncio.create_task(run(request, EMBEDDING_MODEL, CallContext()))
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(stopped.wait, 10)

    monkeypatch.setattr(scripted, "word_vector", endless)
    asyncio.run(cancel())


@pytest.mark.parametrize("method", ["embed", "rank"])
def test_words_and_similarities_are_computed_in_a_thread(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()

    def in_its_thread(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            threads.add(threading.current_thread())
            return function(*arguments)

        return call

    for name in ("num_words", "similarity"):
        monkeypatch.setattr(scripted, name, in_its_thread(getattr(scripted, name)))
    run = getattr(script(), method)
    result, _ = asyncio.run(run(texts_of("a b", query="q"), EMBEDDING_MODEL, CallContext()))
    assert result.num_tokens == (2 if method == "embed" else 3)
    assert threads and threading.main_thread() not in threads
