"""Tests the inputs of text generation for current models: tools, JSON mode and reasoning."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import Tool, ToolCall, ToolChoice
from workers_ai_emulator.tasks.json_mode import JsonMode, parse_json_mode
from workers_ai_emulator.tasks.messages import parse_messages
from workers_ai_emulator.tasks.sampling import parse_sampling_params
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest, parse
from workers_ai_emulator.tasks.tools import parse_tools
from workers_ai_emulator.wire.errors import (
    JSON_MODE_UNSUPPORTED,
    REFUSED_BY_ENGINE,
    WireError,
)

PLACE = {"type": "object", "properties": {"city": {"type": "string", "description": "city"}}}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": PLACE}
OPENAI = {"type": "function", "function": FUNCTION}
WEATHER = Tool("get_weather", "The weather", PLACE)
OTHER = {"type": "function", "function": {"name": "other"}}
# A schema like those of current models, with all parameters of OpenAI's API that we know.
NAMES = ("stop", "n", "logprobs", "top_logprobs", "max_completion_tokens")
OPENAI_SCHEMA = {"oneOf": [{"anyOf": [{"properties": dict.fromkeys(NAMES)}]}]}
USER = {"role": "user", "content": "Hi"}
CURRENT = Traits(has_tools=True, json_mode="text", guided_json=True, thinking="on")


def spec(**traits: Any) -> ModelSpec:
    """Returns a model with Llama 2's schema, which accepts unknown keys, and with other traits."""
    return replace(CATALOG["@cf/meta/llama-2-7b-chat-int8"], traits=replace(CURRENT, **traits))


def parsed(body: dict[str, Any], **traits: Any) -> TextGenerationRequest:
    return parse({"messages": [USER]} | body, spec(**traits))


def tools_of(**body: Any) -> tuple[list[str], ToolChoice]:
    tools, choice = parse_tools(body)
    return [tool.name for tool in tools], choice


@pytest.mark.parametrize("tool", [FUNCTION, OPENAI, {"function": FUNCTION}])
def test_a_tool_has_the_services_form_or_openais(tool: dict[str, Any]) -> None:
    assert parse_tools({"tools": [tool]}) == ((WEATHER,), ToolChoice())


def test_a_tool_needs_only_a_name() -> None:
    ((tool,), _) = parse_tools({"tools": [OTHER]})
    assert tool == Tool("other", "", {"type": "object", "properties": {}})


def test_old_functions_are_tools_unless_they_have_code() -> None:
    functions = [FUNCTION, {"name": "run", "code": "return 1"}]
    assert tools_of(functions=functions, function_call="auto") == (["get_weather"], ToolChoice())
    choice = ToolChoice("required", "get_weather")
    assert tools_of(functions=functions, function_call={"name": "get_weather"})[1] == choice
    assert tools_of(functions=functions, tools=[OTHER])[0] == ["other"]


@pytest.mark.parametrize(
    ("sent", "strict"), [(True, True), (False, False), (None, None), ("yes", None)]
)
def test_a_tool_keeps_the_key_strict_of_openais_api(sent: Any, strict: bool | None) -> None:
    function = {"type": "function", "function": {"name": "a", "strict": sent}}
    ((tool,), _) = parse_tools({"tools": [function]})
    assert tool.strict is strict


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        (
            {"type": "function", "function": {"name": "other"}},
            ToolChoice("required", "other"),
        ),
        ({"type": "function", "name": "other"}, ToolChoice("required", "other")),
    ],
)
def test_the_choice_of_a_tool(choice: Any, expected: ToolChoice) -> None:
    names, found = tools_of(tools=[OPENAI, OTHER], tool_choice=choice)
    assert names == ["get_weather", "other"]
    assert found == expected


def test_tools_that_must_not_be_called_are_left_out() -> None:
    assert tools_of(tools=[OPENAI], tool_choice="none") == ([], ToolChoice("none"))
    assert tools_of(functions=[FUNCTION], function_call="none") == ([], ToolChoice("none"))


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_removes_the_others(mode: Any) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "other"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert tools_of(tools=[OPENAI, OTHER], tool_choice=choice) == (["other"], ToolChoice(mode))


def test_many_allowed_tools_are_chosen_in_linear_time() -> None:
    tools = [{"name": f"f{i}"} for i in range(20_000)]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}
    started = time.process_time()
    assert len(tools_of(tools=tools, tool_choice=choice)[0]) == len(tools)
    assert time.process_time() - started < 2


def test_allowed_tools_must_be_tools_of_the_request() -> None:
    allowed = {"mode": "auto", "tools": [{"name": "rm"}]}
    with pytest.raises(WireError, match="'rm', which is not in tools"):
        tools_of(tools=[OPENAI], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})


def test_parallel_tool_calls_can_be_switched_off() -> None:
    choice = ToolChoice(is_parallel=False)
    assert tools_of(tools=[OPENAI], parallel_tool_calls=False)[1] == choice


def test_a_default_of_the_schema_does_not_allow_several_required_calls() -> None:
    gemma = CATALOG["@cf/google/gemma-4-26b-a4b-it"]
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [OPENAI]}
    assert not parse(body | {"tool_choice": "required"}, gemma).tool_choice.allows_several
    assert parse(body, gemma).tool_choice.allows_several


def test_the_arguments_of_a_tool_are_an_object_even_if_its_schema_does_not_say_it() -> None:
    for own in ({"required": ["city"]}, {"type": ["object", "null"]}):
        (tool,), _ = parse_tools({"tools": [{"name": "f", "parameters": own}]})
        assert tool.parameters == {"properties": {}} | own | {"type": "object"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tools": [OPENAI, OPENAI]}, "Two tools have the name 'get_weather'"),
        ({"tools": [None]}, r"tools\[0\]: a tool needs a name"),
        ({"tools": [OPENAI, {"name": " "}]}, r"tools\[1\]: a tool needs a name"),
        ({"tools": [{"type": "function", "function": 5}]}, "needs a name"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "type 'function'"),
        ({"tools": [OPENAI], "tool_choice": "maybe"}, "tool_choice must be"),
        ({"tools": [OPENAI], "tool_choice": {"type": "custom"}}, "tool_choice must be"),
        ({"tools": [OPENAI], "tool_choice": {"name": "rm"}}, "'rm', which is not in tools"),
        ({"tools": [], "tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": {"name": "rm"}}, "'rm', which is not in tools"),
    ],
)
def test_invalid_tools_are_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(WireError, match=message) as raised:
        parse_tools(body)
    assert raised.value.type is REFUSED_BY_ENGINE


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"items": [value]}
    return value


def test_values_that_are_nested_too_deeply_are_refused() -> None:
    for depth, is_accepted in {45: True, 60: False, 400: False}.items():
        schema = nested(depth)
        for body in (
            {"tools": [{"name": "f", "parameters": schema}]},
            {"guided_json": schema},
            {"chat_template_kwargs": {"x": schema}},
        ):
            if is_accepted:
                parsed(body)
                continue
            with pytest.raises(WireError, match="nested too deeply"):
                parsed(body)


def test_a_model_without_tools_ignores_them() -> None:
    body = {"tools": [OPENAI], "tool_choice": {"name": "rm"}}
    assert parsed(body, has_tools=False).tools == ()
    assert parsed({"tools": [OPENAI]}).tools == (WEATHER,)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"role": "developer", "content": "x"}, Message("system", "x")),
        ({"role": "assistant", "content": None}, Message("assistant", "")),
        ({"role": "assistant"}, Message("assistant", "")),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, Message("user", "x")),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
            Message("assistant", "No"),
        ),
        (
            {"role": "tool", "content": "x", "tool_call_id": "c1", "name": "f"},
            Message("tool", "x", (), "c1", "f"),
        ),
        ({"role": "function", "content": "x", "name": "f"}, Message("tool", "x", name="f")),
        (
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"name": "g", "arguments": {"a": "é"}},
                    {"name": "h"},
                    {"id": "c2"},
                    None,
                ],
            },
            Message(
                "assistant",
                "",
                (ToolCall("f", "{}", "c1"), ToolCall("g", '{"a": "é"}'), ToolCall("h", "{}")),
            ),
        ),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            Message("assistant", "", (ToolCall("f", "{}"),)),
        ),
    ],
)
def test_the_forms_of_a_message(item: dict[str, Any], expected: Message) -> None:
    assert parse_messages([item]) == [expected]


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonMode(None)),
        ({"response_format": {"type": "json_schema"}}, JsonMode(None)),
        ({"response_format": {"type": "json_schema", "json_schema": SCHEMA}}, JsonMode(SCHEMA)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            JsonMode(SCHEMA),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            JsonMode(SCHEMA),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            JsonMode(None),
        ),
        ({"guided_json": SCHEMA}, JsonMode(SCHEMA)),
        ({"guided_json": None}, None),
    ],
)
def test_json_mode(body: dict[str, Any], expected: JsonMode | None) -> None:
    assert parse_json_mode(body, CURRENT) == expected


def test_a_schema_may_have_a_property_schema_itself() -> None:
    schema = {"type": "object", "properties": {"schema": {}}, "schema": {}}
    body = {"response_format": {"type": "json_schema", "json_schema": schema}}
    assert parse_json_mode(body, CURRENT) == JsonMode(schema)


@pytest.mark.parametrize(
    ("response_format", "traits"),
    [
        ({"type": "json_schema", "json_schema": 5}, CURRENT),
        ({"type": "xml"}, CURRENT),
    ],
)
def test_an_invalid_json_mode_is_refused(response_format: Any, traits: Traits) -> None:
    with pytest.raises(WireError, match="response_format") as raised:
        parse_json_mode({"response_format": response_format}, traits)
    assert raised.value.type is REFUSED_BY_ENGINE


def test_a_model_without_json_mode_refuses_it_and_ignores_guided_json() -> None:
    with pytest.raises(WireError) as raised:
        parse_json_mode({"response_format": {"type": "json_object"}}, Traits())
    assert raised.value.type is JSON_MODE_UNSUPPORTED
    assert str(raised.value) == "This model doesn't support JSON Schema."
    assert parse_json_mode({"guided_json": SCHEMA}, Traits()) is None


@pytest.mark.parametrize(
    ("thinking", "body", "expected"),
    [
        ("none", {}, {}),
        ("on", {}, {"enable_thinking": True}),
        ("off", {}, {"enable_thinking": False}),
        ("always", {"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": True}),
        ("in_text", {}, {"enable_thinking": True}),
        ("on", {"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ("none", {"chat_template_kwargs": {"x": [1]}}, {"x": [1]}),
        ("none", {"chat_template_kwargs": 5}, {}),
        ("none", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ("none", {"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ("none", {"reasoning": {"effort": "none"}, "reasoning_effort": 5}, {}),
    ],
)
def test_variables_of_the_chat_template(
    thinking: Any, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert parsed(body, thinking=thinking).template_variables == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"reasoning_effort": None}, {"enable_thinking": True}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"reasoning_effort": "max"}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ({"reasoning": {"effort": "none"}}, {"enable_thinking": True}),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True},
        ),
    ],
)
def test_variables_of_the_chat_template_on_sglang(
    body: dict[str, Any], expected: dict[str, Any]
) -> None:
    variables = parsed(body, form="choices", server="sglang", thinking="on").template_variables
    assert variables == expected


@pytest.mark.recorded
def test_sglang_refuses_an_invalid_reasoning_effort() -> None:
    with pytest.raises(WireError) as raised:
        parsed({"reasoning_effort": "xhigh"}, form="choices", server="sglang", thinking="on")
    assert raised.value.type is REFUSED_BY_ENGINE
    mistake = (
        "{'type': 'literal_error', 'loc': ('body', 'reasoning_effort'), 'msg': \\\"Input should be "
        "'none', 'low', 'medium', 'high' or 'max'\\\", 'input': 'xhigh', 'ctx': {'expected': "
        "\\\"'none', 'low', 'medium', 'high' or 'max'\\\"}}"
    )
    assert raised.value.message == (
        'AiError: AiError: {"object":"error","message":"1 validation error:\\n  '
        f'{mistake}\\n\\n  File \\"/sgl-workspace/sglang/python/sglang/srt/entrypoints/'
        'http_server.py\\", line 1592, in openai_v1_chat_completions\\n    POST '
        f'/v1/chat/completions [{mistake}]","type":"Bad Request","param":null,"code":400}}'
    )


@pytest.mark.parametrize("effort", ["minimal", "", True, 5, 1.5, ["low"], {"a": None}])
def test_sglang_refuses_every_other_reasoning_effort(effort: Any) -> None:
    body = {"reasoning_effort": effort}
    with pytest.raises(WireError, match=re.escape(f"'input': {effort!r}, 'ctx'")):
        parsed(body, form="choices", server="sglang", thinking="on")
    on_vllm = parsed(body, form="choices")
    prompt = parse({"prompt": "a"} | body, spec(form="choices", server="sglang"))
    assert on_vllm.template_variables == prompt.template_variables == {"enable_thinking": True}


def test_reasoning_stays_in_the_text_of_some_models() -> None:
    assert parsed({}, thinking="on").separates_reasoning
    assert not parsed({}, thinking="in_text").separates_reasoning


def test_null_is_the_same_as_absent() -> None:
    names = ("tools", "tool_choice", "stop", "response_format", "n", "logprobs", "stop")
    assert parsed(dict.fromkeys(names)) == parsed({})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, SamplingParams(max_tokens=None, temperature=1.0)),
        (
            {"max_tokens": 5, "max_completion_tokens": 7, "n": 1, "logprobs": False},
            SamplingParams(max_tokens=7, temperature=1.0),
        ),
        ({"stop": "a"}, SamplingParams(max_tokens=None, temperature=1.0, stop=("a",))),
        (
            {"stop": ["a", "b"], "temperature": 2, "top_k": 10**20},
            SamplingParams(None, 2.0, 2**31 - 1, stop=("a", "b")),
        ),
    ],
)
def test_sampling_params(values: dict[str, Any], expected: SamplingParams) -> None:
    assert parse_sampling_params(values, OPENAI_SCHEMA) == expected


def test_parameters_that_the_model_does_not_have_are_ignored() -> None:
    values = {"n": 2, "stop": "a", "logprobs": True, "max_completion_tokens": 0}
    expected = SamplingParams(max_tokens=None, temperature=1.0)
    assert parse_sampling_params(values, {"properties": {}}) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 2}, "n must be 1 in the emulator, got 2"),
        ({"logprobs": True}, "logprobs are not supported"),
        ({"top_logprobs": 1}, "logprobs are not supported"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": -1}, "temperature must not be negative"),
        ({"temperature": 10**400}, "temperature must be a number"),
        ({"top_p": float("inf")}, "top_p must be a number"),
        ({"max_tokens": "5"}, "max_tokens must be an integer"),
        ({"max_completion_tokens": 0}, "max_completion_tokens must be at least 1, got 0"),
        ({"max_tokens": 1.5}, "max_tokens must be an integer"),
        ({"seed": []}, "seed must be an integer"),
        ({"stop": 5}, "stop must be a text or a list"),
        ({"stop": ["a", ""]}, "stop must be a text or a list"),
        ({"stop": list("abcde")}, "at most 4 texts, got 5"),
    ],
)
def test_values_that_the_engine_cannot_use_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(WireError, match=message) as raised:
        parse_sampling_params(values, OPENAI_SCHEMA)
    assert raised.value.type is REFUSED_BY_ENGINE
