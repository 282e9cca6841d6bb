"""Tests the rules of the backend `scripted`: which rule applies, and errors in rules."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.backends.rules import Rule, parse_rules
from workers_ai_emulator.backends.script_file import read_rules
from workers_ai_emulator.backends.scripted import ScriptedBackend
from workers_ai_emulator.engine.errors import RequestRejected
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
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.errors import WireError

from tests.pages import blocks
from tests.server import FP16, INT8

LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"  # a model with tools


async def start(
    script: ScriptedBackend,
    *messages: str | Message,
    model: str = LLAMA,
    prompt: str | None = None,
    max_tokens: int | None = 256,
    is_large: bool = False,
    **options: Any,
) -> Generation:
    turns = [Message("user", turn) if isinstance(turn, str) else turn for turn in messages]
    params = SamplingParams(max_tokens=max_tokens)
    request = TextGenerationRequest(prompt, turns, raw=False, stream=False, params=params)
    request = replace(request, **options)
    return (
        await script.generate(request, CATALOG[model], CallContext(is_large=is_large))
    ).generation


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


def test_requests_with_long_texts_use_a_rule_as_often_as_it_applies() -> None:
    async def texts() -> list[str]:
        rules = script({"answer": "1", "times": 2}, {"answer": "2"})
        started = await asyncio.gather(*(start(rules, "x" * 20_000) for _ in range(5)))
        return sorted([(await anext(aiter(generation))).text for generation in started])

    assert asyncio.run(texts()) == ["1", "1", "2", "2", "2"]


def test_the_examples_in_the_docs_work(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    texts, tools = blocks("scripts.md", "yaml")
    file.write_text(texts)
    rules = ScriptedBackend(read_rules(file))
    assert completion(rules, "The capital of France?") == "The capital of France is Paris."
    assert completion(rules, "Translate: Hello") == "Bonjour."
    file.write_text(tools)
    rules = ScriptedBackend(read_rules(file))
    called = collected(rules, "How is the weather?")
    assert called.reasoning == "I need the weather of today."
    assert called.tool_calls == (ToolCall("get_weather", '{"city": "Paris"}'),)
    result = Message("tool", "21 degrees, clear sky")
    assert completion(rules, "How is the weather?", result) == "It is sunny in Paris."
    assert completion(rules, "Write it as JSON.") == '{"city": "Paris", "degrees": 21}'


# ── the completion ────────────────────────────────────────────────────────────────────────────


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


CALL = {"name": "weather", "arguments": {"city": "Paris", "days": 2}}


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


@pytest.mark.parametrize("value", [[{"answer": "a"}], {"rules": [{"answer": "a"}]}])
def test_rules_are_a_list_with_or_without_a_key(value: Any) -> None:
    assert parse_rules(value) == [Rule(answer="a")]


@pytest.mark.parametrize("value", [None, "x", {}, {"rules": []} | {"more": 1}, {"answer": "a"}])
def test_any_other_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="list of rules"):
        parse_rules(value)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ({}, "rule 2: it needs `answer`, `json`, `tool_calls` or `reasoning`"),
        ({"tool_calls": []}, "rule 2: it needs `answer`, `json`, `tool_calls` or `reasoning`"),
        ({"answer": "a", "json": {}}, "rule 2: it has both `answer` and `json`"),
        ({"json": {"on": date(2026, 1, 2)}}, "rule 2: json: no JSON value: Object of type date"),
        ({"json": float("nan")}, "rule 2: json: Out of range float values"),
        ({"tool_calls": {"name": "a"}}, "rule 2: tool_calls: Input should be a valid tuple"),
        ({"tool_calls": [{"name": ""}]}, "rule 2: tool_calls.0.name: String should have at least"),
        ({"tool_calls": [{"arguments": {}}]}, "rule 2: tool_calls.0.name: Field required"),
        (
            {"tool_calls": [{"name": "a", "arguments": "{}"}]},
            "rule 2: tool_calls.0.arguments: Input should be an object with the arguments by name",
        ),
        (
            {"tool_calls": [{"name": "a"}] * 101},
            "rule 2: tool_calls: Tuple should have at most 100",
        ),
        ({"answer": "a", "last_role": "bot"}, "rule 2: last_role: Input should be 'system', "),
        ("a", "rule 2: Input should be a valid dictionary"),
        ({"answer": 42}, "rule 2: answer: Input should be a valid string, not 42"),
        ({"answer": "a", "contain": "x"}, "rule 2: contain: Extra inputs are not permitted"),
        ({"answer": "a", "matches": "("}, "rule 2: matches: no regular expression"),
        ({"answer": "a", "matches": 5}, "rule 2: matches: Input should be a valid string, not 5"),
        ({"answer": "a", "matches": "(?=b)"}, "rule 2: matches: look-around such as (?=...)"),
        ({"answer": "a", "model": "*" * 201}, "rule 2: model: String should have at most 200"),
        ({"answer": "a", "times": 0}, "rule 2: times: Input should be greater than or equal to 1"),
        ({"answer": "a", "tokens_per_second": 0}, "rule 2: tokens_per_second: Input should be"),
        ({"answer": "a", "first_token_after": -1}, "rule 2: first_token_after: Input should be"),
        ({"answer": "a", "first_token_after": float("inf")}, "rule 2: first_token_after: Input"),
        ({"answer": "a", "finish": "error"}, "rule 2: finish: Input should be 'stop' or 'length'"),
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
    with pytest.raises(ValueError, match="10000 are the most"):
        parse_rules([{"answer": "a"}] * 10_001)


def test_every_mistake_in_a_file_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- {answer: a, times: 0, speed: 1}\n- {answer: b}\n- {contains: x}\n")
    with pytest.raises(SettingInvalid) as caught:
        read_rules(file)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[2:4] for line in lines] == [
        ["rule 1", "times"],
        ["rule 1", "speed"],
        ["rule 3", "it needs `answer`, `json`, `tool_calls` or `reasoning`"],
    ]
    assert all(line.startswith(f"--script: {file}: ") for line in lines)


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb("[{}]"), "it takes a list of rules"),
        (
            f"- answer: a\n  unknown:\n    {bomb('[{}]').replace(chr(10), chr(10) + '    ')}",
            "unknown",
        ),
        (f"- {bomb('{{<<: [{}]}}').replace(chr(10), chr(10) + '  ')}", "rule 1: a0: Extra"),
        (
            f"- json:\n    {bomb('[{}]').replace(chr(10), chr(10) + '    ')}",
            "JSON values are too large together",
        ),
        ("- json: &a [*a]", "rule 1: json: it has more than 100 levels"),
        (chain(5000), "rule 1: json: it has more than 100 levels"),
        ("[" * 20_000 + "]" * 20_000, "nest"),
        ("- " * 5_000 + "a", "it is nested too deep"),
        ("{a: " * 500_000, "it is nested too deep"),
        (f"{bomb('[{}]')}? [*a29]\n: x\n", "unhashable key"),
        (f"{bomb('[{}]')}? {{*a29 : x}}\n: x\n", "unhashable key"),
        ("[" + "a," * 500_000 + "]", "it has too many values"),
        ("- &a [*a]", "rule 1: Input should be a valid dictionary"),
        (f"- {{answer: a, times: {'9' * 5000}}}", "Exceeds the limit"),
        ("x" * (4 * 2**20 + 1), "is longer than"),
        ('- {answer: a, "\\x1b[31m\\n": 1}', r"rule 1: \x1b[31m\n: Extra inputs"),
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


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_script_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rules.yaml"
    match kind:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
    with pytest.raises(SettingInvalid, match=r"^--script: cannot read .*rules.yaml: is a "):
        read_rules(file)
