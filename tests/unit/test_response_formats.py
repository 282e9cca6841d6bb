"""Tests the response formats where no recording shows them, and the choice of the format."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
from workers_ai_emulator.engine.types import Chunk, FinishReason, ToolCallDelta, Usage
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.prompts.tools import Tool
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.response_formats.choice import (
    FormatChoice,
    chat_format,
    gzipped,
    run_format,
    text_format,
)
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import WireError

from tests.generations import FakeGeneration, events, request, spec, whole

BARE, CHAT = run_format(to_json), chat_format(include_usage=False)
STOP = Chunk(finish_reason=FinishReason.STOP)
CALLED = Chunk(finish_reason=FinishReason.TOOL_CALLS)
CUT = Chunk(finish_reason=FinishReason.LENGTH)
LLAMA = spec(has_tools=True, json_mode="object")
SCOUT = spec(has_tools=True, json_mode="text")
QWEN3 = spec(form="choices", server="vllm", has_tools=True)
GLM = spec(form="choices", server="sglang", has_tools=True)
IN_JSON = request(json_mode=JsonMode(None))
DEEP = "[" * 200 + "]" * 200
LLAMA_3_3 = CATALOG["@cf/meta/llama-3.3-70b-instruct-fp8-fast"]
LLAMA_4 = CATALOG["@cf/meta/llama-4-scout-17b-16e-instruct"]
MODELS = pytest.mark.parametrize(
    "model", [LLAMA, QWEN3, GLM, LLAMA_3_3], ids=["llama", "vllm", "sglang", "both"]
)


def call(index: int, arguments: str = "", name: str | None = None, **others: Any) -> Chunk:
    return Chunk(tool_call=ToolCallDelta(index, arguments, name), **others)


TWO_CALLS = FakeGeneration(
    [
        call(0, name="add"),
        call(0, '{"x":'),
        call(0, "1}"),
        call(1, name="stop"),
        call(1, "{}"),
        CALLED,
    ]
)


def sent(choose: FormatChoice, model: ModelSpec, *chunks: Chunk, **options: Any) -> list[Any]:
    """Returns the JSON values of all events but `[DONE]`, without padding."""
    lines = events(choose, model, FakeGeneration(chunks), **options)
    assert lines.pop() == "[DONE]"
    values = [json.loads(line) for line in lines]
    for value in values:
        value.pop("p", None)
    return values


def result(model: ModelSpec, *chunks: Chunk, choose: FormatChoice = BARE, **options: Any) -> Any:
    return json.loads(whole(choose, model, FakeGeneration(chunks), **options))


# ── JSON mode ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text", ['{"a": [1', "", "[" * 100_000, "[1e999]", "[NaN]", "9" * 5000, DEEP]
)
def test_a_completion_that_is_not_json_is_an_error_in_json_mode(text: str) -> None:
    cut = Chunk(text, FinishReason.LENGTH)
    with pytest.raises(WireError, match=r"^JSON Model couldn't be met$") as caught:
        result(LLAMA, cut, task_request=IN_JSON)
    assert (caught.value.type.status, caught.value.type.code) == (403, 5024)


def test_a_model_whose_json_mode_sends_a_text_sends_it_unchanged() -> None:
    cut = Chunk('{"a": [1', FinishReason.LENGTH)
    assert result(SCOUT, cut, task_request=IN_JSON)["response"] == '{"a": [1'


def test_without_json_mode_json_stays_a_text() -> None:
    assert result(LLAMA, Chunk('{"a":1}'), STOP)["response"] == '{"a":1}'


# ── tool calls ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a', '{"a'),
        ("[" * 99999, ...),
        ("[1e999]", "[1e999]"),
        (DEEP, DEEP),
    ],
)
def test_native_arguments_are_an_object_if_they_are_json(arguments: str, value: Any) -> None:
    body = result(LLAMA, call(0, arguments, "f"), CALLED)
    (sent_call,) = body["tool_calls"]
    assert sent_call == {"name": "f", "arguments": arguments if value is ... else value}


def test_a_native_result_keeps_the_text_before_a_tool_call() -> None:
    assert result(LLAMA, Chunk("Let me see."), call(0, "{}", "f"), CALLED)["response"] == (
        "Let me see."
    )


def test_a_native_stream_sends_each_call_whole_and_then_the_finish_reason() -> None:
    first, text, add, stop, end, usage = sent(BARE, LLAMA, *TWO_CALLS.chunks)
    assert first == text == {"response": "", "tool_calls": []}
    (entry,) = add["tool_calls"]
    assert re.fullmatch("chatcmpl-tool-[0-9a-f]{32}", entry.pop("id"))
    function = {"name": "add", "arguments": '{"x":1}'}
    assert entry == {"type": "function", "index": 0, "function": function}
    assert stop["tool_calls"][0]["function"] == {"name": "stop", "arguments": "{}"}
    assert end == {"finish_reason": "tool_calls"}
    assert usage["usage"]["completion_tokens"] == 6


def streamed_calls(stream: list[Any]) -> list[dict[str, str]]:
    """Returns the functions in the tool calls of a native stream."""
    return [call["function"] for event in stream for call in event.get("tool_calls", [])]


def test_a_native_stream_sends_a_call_that_is_in_the_last_chunk() -> None:
    last = call(1, "{}", "stop", finish_reason=FinishReason.TOOL_CALLS)
    calls = streamed_calls(sent(BARE, LLAMA, call(0, "{}", "add"), last))
    assert [function["name"] for function in calls] == ["add", "stop"]


def test_a_native_stream_sends_each_call_once_although_their_parts_alternate() -> None:
    parts = [
        call(0, '{"a"', "first"),
        call(1, '{"b"', "second"),
        Chunk("Let me see."),
        call(0, ":1}"),
        call(1, ":2}"),
    ]
    stream = sent(BARE, LLAMA, *parts, CALLED)
    assert streamed_calls(stream) == [
        {"name": "first", "arguments": '{"a":1}'},
        {"name": "second", "arguments": '{"b":2}'},
    ]
    assert [event.get("finish_reason") for event in stream][-2:] == ["tool_calls", None]


@pytest.mark.parametrize("arguments", ["", '{"city": "Paris'])
@pytest.mark.parametrize("text", ["", "Let me see."])
def test_a_native_call_that_max_tokens_has_cut_is_left_out(arguments: str, text: str) -> None:
    chunks = [Chunk(text), call(0, "{}", "add"), call(1, arguments, "weather"), CUT]
    assert result(LLAMA, *chunks)["tool_calls"] == [{"name": "add", "arguments": {}}]
    stream = sent(BARE, LLAMA, *chunks)
    assert streamed_calls(stream) == [{"name": "add", "arguments": "{}"}]
    assert stream[-2] == {"finish_reason": "length"}
    only_cut = [Chunk(text), call(0, arguments, "weather"), CUT]
    body = result(LLAMA, *only_cut)
    assert (body["response"], list(body)) == (text, ["response", "usage"])
    stream = sent(BARE, LLAMA, *only_cut)
    assert (streamed_calls(stream), stream[-2]) == ([], {"finish_reason": "length"})


def test_a_native_model_without_tools_sends_no_tool_calls() -> None:
    chunks = [Chunk("Let me see."), *TWO_CALLS.chunks]
    body = result(spec(), *chunks)
    stream = sent(BARE, spec(), *chunks)
    assert list(body) == ["response", "usage"]
    assert {key for event in stream for key in event} == {"response", "usage"}
    assert body["response"] == "".join(event["response"] for event in stream) == "Let me see."


def joined(stream: list[Any]) -> list[dict[str, str]]:
    """Joins the parts of the tool calls of a stream with the key `choices`."""
    calls: list[dict[str, str]] = []
    for event in stream:
        for choice in event.get("choices", []):
            for part in choice["delta"].get("tool_calls", []):
                if part["function"].get("name"):
                    calls.append({"id": part["id"], "name": part["function"]["name"], "args": ""})
                calls[part["index"]]["args"] += part["function"].get("arguments", "")
    return calls


@pytest.mark.parametrize(
    ("choose", "model"),
    [
        (BARE, QWEN3),
        (BARE, GLM),
        (BARE, LLAMA_3_3),
        (CHAT, LLAMA),
        (CHAT, QWEN3),
        (CHAT, GLM),
        (CHAT, LLAMA_3_3),
    ],
)
def test_a_whole_body_and_the_parts_of_a_stream_have_the_same_calls(
    choose: FormatChoice, model: ModelSpec
) -> None:
    (choice,) = json.loads(whole(choose, model, TWO_CALLS))["choices"]
    stream = sent(choose, model, *TWO_CALLS.chunks)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [{"id": c["id"], **c["function"]} for c in calls] == [
        {"id": c["id"], "name": c["name"], "arguments": c["args"] or "{}"} for c in joined(stream)
    ]
    assert [c["function"]["name"] for c in calls] == ["add", "stop"]
    assert len({c["id"] for c in calls}) == 2
    finish = [c.get("finish_reason") for e in stream for c in e.get("choices", [])]
    assert {*finish} == {None, "tool_calls"}


@MODELS
def test_the_id_that_a_server_gave_a_call_is_kept(model: ModelSpec) -> None:
    named = Chunk(tool_call=ToolCallDelta(0, "{}", "f", "call_of_server"))
    body = whole(CHAT, model, FakeGeneration([named, CALLED]))
    assert '"id":"call_of_server"' in body
    assert '"id":"call_of_server"' in "".join(events(CHAT, model, FakeGeneration([named, CALLED])))


@MODELS
@pytest.mark.parametrize("choose", [BARE, CHAT], ids=["run", "chat"])
def test_equal_requests_get_equal_ids_and_padding(choose: FormatChoice, model: ModelSpec) -> None:
    def stable(fingerprint: str) -> str:
        stream = events(choose, model, FakeGeneration(TWO_CALLS.chunks, fingerprint=fingerprint))
        return re.sub(r'"created":\d+|"id":"id-\d+"', "", "\n".join(stream))

    assert stable("a") == stable("a") != stable("b")


# ── both forms ────────────────────────────────────────────────────────────────────────────────


def pieces(stream: list[Any]) -> list[Any]:
    """Returns the delta of each event, and its values in the keys of Workers AI."""
    return [
        (event["choices"][0]["delta"], event.get("response"), event["tool_calls"])
        for event in stream
        if event.get("choices")
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 \n", 7),
        (" 50", 50),
        ("-1.5", -1.5),
        ("1e3", 1000),
        ("{}", {}),
        ("007", "007"),
        ("1 a", "1 a"),
        ("-", "-"),
        ("true", "true"),
        ("null", "null"),
        ('"a"', '"a"'),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        (DEEP, DEEP),
    ],
)
def test_a_text_that_is_a_number_or_an_object_is_this_value_in_the_key_response(
    text: str, value: Any
) -> None:
    stream = sent(BARE, LLAMA_3_3, Chunk(text), STOP)
    assert pieces(stream)[1:] == [({"content": text}, value, []), ({"content": ""}, "", [])]
    body = result(LLAMA_3_3, Chunk(text), STOP)
    assert (body["choices"][0]["message"]["content"], body["response"]) == (text, value)
    assert type(body["response"]) is type(value)


@pytest.mark.parametrize(
    ("text", "value"), [("6", 6), (" 50", 50), ("0", 0), ("{}", "{}"), ("a", "a")]
)
def test_a_piece_that_is_a_number_is_this_number_in_openai_s_streams(text: str, value: Any) -> None:
    stream = sent(chat_format(include_usage=False), LLAMA_3_3, Chunk(text), STOP)
    assert stream[0]["choices"][0]["delta"] == {"content": value}
    stream = sent(chat_format(include_usage=False), LLAMA_4, Chunk(text), STOP)
    assert stream[0]["choices"][0]["delta"] == {"content": text}


def test_a_text_stays_a_text_if_the_model_sends_json_as_text() -> None:
    assert result(LLAMA_4, Chunk("7"), STOP)["response"] == "7"
    assert pieces(sent(BARE, LLAMA_4, Chunk("7"), STOP))[1] == ({"content": "7"}, "7", [])


@pytest.mark.recorded
def test_the_end_of_tool_calls_has_the_id_of_the_last_token() -> None:
    for chunks, expected in (([call(0, "{}", "f"), CALLED], 128008), ([STOP], None)):
        assert result(LLAMA_3_3, *chunks)["choices"][0]["stop_reason"] == expected
        last = sent(BARE, LLAMA_3_3, *chunks)[-3]["choices"][0]
        assert last["stop_reason"] == expected
    assert result(LLAMA_4, call(0, "{}", "f"), CALLED)["choices"][0]["stop_reason"] is None


@pytest.mark.recorded
def test_the_running_model_depends_on_tools_and_json_mode() -> None:
    with_tools = replace(request(), tools=(Tool("f", "", {}),))
    for task_request, name in (
        (request(), "@cf/meta/llama-3.3-70b-instruct-sd"),
        (with_tools, "@cf/meta/llama-3.3-70b-json"),
        (IN_JSON, "@cf/meta/llama-3.3-70b-json"),
    ):
        chunks = [Chunk("{}"), STOP]
        assert result(LLAMA_3_3, *chunks, task_request=task_request)["model"] == name
        stream = sent(BARE, LLAMA_3_3, *chunks, task_request=task_request)
        assert {event["model"] for event in stream if "model" in event} == {name}


def test_json_mode_sends_an_object_and_its_text() -> None:
    body = result(LLAMA_3_3, Chunk('{"a": 1}'), STOP, task_request=IN_JSON)
    assert body["response"] == {"a": 1}
    assert body["choices"][0]["message"]["content"] == '{"a": 1}'
    with pytest.raises(WireError, match=r"^JSON Model couldn't be met$"):
        result(LLAMA_3_3, Chunk('{"a": [1', FinishReason.LENGTH), task_request=IN_JSON)


def test_both_forms_of_a_stream_have_the_same_parts_of_calls() -> None:
    parts = [Chunk("Hm."), call(0, '{"a"', "first"), call(1, '{"b"', "second"), call(0, ":1}")]
    last = call(1, ":2}", finish_reason=FinishReason.STOP)
    stream = sent(BARE, LLAMA_3_3, *parts, last)
    first, text, *calls = pieces(stream)
    assert first == ({"content": "", "role": "assistant"}, "", [])
    assert text == ({"content": "Hm."}, "Hm.", [])
    functions = []
    for delta, response, native in calls:
        (part,) = delta["tool_calls"]
        functions.append((part["index"], part["function"]))
        assert (response, native) == (None, [part["function"]])
    assert functions == [
        (0, {"name": "first"}),
        (0, {"arguments": '{"a"'}),
        (1, {"name": "second"}),
        (1, {"arguments": '{"b"'}),
        (0, {"arguments": ":1}"}),
        (1, {"arguments": ":2}"}),
    ]
    assert all("response" not in event for event in stream[2:-2])
    reasons = [event["choices"][0]["finish_reason"] for event in stream[:-2]]
    assert reasons == [*[None] * 7, "tool_calls"]


@pytest.mark.parametrize(("arguments", "native"), [("", []), ("{", [{"arguments": "{"}])])
def test_a_call_that_max_tokens_has_cut_ends_the_stream_with_what_was_generated(
    arguments: str, native: list[Any]
) -> None:
    stream = sent(BARE, LLAMA_3_3, call(0, arguments, "f"), CUT)
    assert stream[-3]["tool_calls"] == native
    assert stream[-3]["choices"][0]["finish_reason"] == "length"
    body = result(LLAMA_3_3, call(0, arguments, "f"), CUT)
    assert (body["tool_calls"], body["response"]) == ([], "")
    assert "tool_calls" not in body["choices"][0]["message"]


def test_both_forms_keep_the_text_before_a_call() -> None:
    body = result(LLAMA_3_3, Chunk("Let me see."), call(0, '{"a": 1}', "f"), CALLED)
    assert body["response"] == body["choices"][0]["message"]["content"] == "Let me see."
    assert body["tool_calls"] == [{"arguments": {"a": 1}, "name": "f"}]


# ── finish reasons, texts and ids ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", [QWEN3, GLM, LLAMA_3_3], ids=["vllm", "sglang", "both"])
def test_a_text_in_the_last_chunk_is_not_lost(model: ModelSpec) -> None:
    for choose in (BARE, CHAT):
        stream = sent(choose, model, Chunk("Hel"), Chunk("lo", FinishReason.LENGTH))
        choices = [c for e in stream for c in e.get("choices", [])]
        assert "".join(c["delta"].get("content") or "" for c in choices) == "Hello"
        assert {c.get("finish_reason") for c in choices} == {None, "length"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (QWEN3, [0, 1, 4, 5, 5]),
        (GLM, [0, 1, 3, 0, 1, 5]),
        (LLAMA_3_3, [0, 1, 3, 1, 0, 5]),
    ],
    ids=["vllm", "sglang", "both"],
)
def test_the_counts_of_chunks_without_content_are_in_the_next_event(
    model: ModelSpec, expected: list[int]
) -> None:
    stream = sent(BARE, model, Chunk("a"), Chunk(), Chunk(), Chunk("b"), STOP)
    counts = [event["usage"]["completion_tokens"] for event in stream]
    assert counts == expected


@pytest.mark.parametrize("choose", [BARE, CHAT, text_format(include_usage=True)])
@MODELS
def test_a_cancelled_stream_ends_without_done(choose: FormatChoice, model: ModelSpec) -> None:
    cancelled = Chunk(finish_reason=FinishReason.CANCELLED)
    stream = events(choose, model, FakeGeneration([Chunk("a"), cancelled]))
    assert "[DONE]" not in stream
    assert "cancelled" not in "".join(stream)


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (QWEN3, "chatcmpl-[0-9a-f]{32}"),
        (GLM, "[0-9a-f]{32}"),
        (LLAMA_3_3, "chatcmpl-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    ],
)
def test_the_id_of_a_response_has_the_form_of_the_server(model: ModelSpec, pattern: str) -> None:
    assert re.fullmatch(pattern, result(model, STOP)["id"])
    (body_id,) = {event["id"] for event in sent(BARE, model, STOP) if "id" in event}
    assert body_id == result(model, STOP)["id"]


@pytest.mark.parametrize("model", [QWEN3, GLM], ids=["vllm", "sglang"])
def test_a_prompt_gets_a_text_completion(model: ModelSpec) -> None:
    body = result(model, Chunk("yes"), STOP, task_request=request("x"))
    assert list(body)[:2] == ["id", "object"] and body["object"] == "text_completion"
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "text": "yes",
        "finish_reason": "stop",
        "stop_reason": None,
        "logprobs": None,
        "prompt_logprobs": None,
    }
    stream = sent(BARE, model, Chunk("yes"), STOP, task_request=request("x"))
    texts = [choice["text"] for event in stream for choice in event["choices"]]
    assert texts == ["yes", ""]


def test_reasoning_is_beside_the_content_below_ai_v1_for_every_model() -> None:
    chunks = [Chunk(reasoning="Hm."), Chunk("yes"), STOP]
    for model in (LLAMA, QWEN3, GLM):
        (choice,) = result(model, *chunks, choose=CHAT)["choices"]
        assert choice["message"]["reasoning_content"] == "Hm."
        deltas = [c["delta"] for e in sent(CHAT, model, *chunks) for c in e["choices"]]
        assert [d["reasoning_content"] for d in deltas if d.get("reasoning_content")] == ["Hm."]


@pytest.mark.recorded
def test_messages_of_models_on_vllm_have_the_reasoning_twice_below_ai_v1() -> None:
    """Measured for gpt-oss-120b and glm-4.7-flash on AI Gateway's `compat`, 2026-09-09."""
    message = result(QWEN3, Chunk(reasoning="Hm."), STOP, choose=CHAT)["choices"][0]["message"]
    assert list(message)[-3:] == ["tool_calls", "reasoning", "reasoning_content"]
    assert message["reasoning"] == message["reasoning_content"] == "Hm."


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("@cf/meta/llama-3.3-70b-instruct-fp8-fast", {"reasoning": None}),
        ("@cf/qwen/qwq-32b", {}),
        ("@cf/meta/llama-2-7b-chat-int8", {}),
        ("@cf/openai/gpt-oss-120b", {"reasoning": None, "reasoning_content": None}),
        ("@cf/zai-org/glm-4.7-flash", {"reasoning": None, "reasoning_content": None}),
        ("@cf/zai-org/glm-5.2", {}),
    ],
)
def test_a_message_without_reasoning_has_the_keys_of_its_model_below_ai_v1(
    model: str, keys: dict[str, None]
) -> None:
    (choice,) = result(CATALOG[model], Chunk("yes"), STOP, choose=CHAT)["choices"]
    message = choice["message"]
    assert {key: message[key] for key in message if key.startswith("reasoning")} == keys


def test_a_completion_without_text_has_an_empty_content() -> None:
    for model in (LLAMA, QWEN3, GLM):
        (choice,) = result(model, Chunk("", FinishReason.LENGTH), choose=CHAT)["choices"]
        assert choice["message"]["content"] == ""


@pytest.mark.recorded
@pytest.mark.parametrize("choose", [BARE, CHAT], ids=["ai/run", "ai/v1"])
@pytest.mark.parametrize(("model", "content"), [(QWEN3, None), (GLM, "")], ids=["vllm", "sglang"])
def test_a_completion_of_only_reasoning_has_null_as_content_on_vllm(
    model: ModelSpec, content: str | None, choose: FormatChoice
) -> None:
    (choice,) = result(model, Chunk(reasoning="Hm."), CUT, choose=choose)["choices"]
    assert choice["message"]["content"] == content
    assert choice["finish_reason"] == "length"


# ── token counts ──────────────────────────────────────────────────────────────────────────────


def test_only_a_model_that_is_not_retired_sends_neurons() -> None:
    price = Price(0, 1e6)
    assert '"neurons":1}' in whole(BARE, spec(price=price), FakeGeneration([STOP]))
    assert "neurons" not in result(spec(price=price, is_retired=True), STOP)["usage"]


@pytest.mark.parametrize("model", [spec(is_retired=True), LLAMA], ids=["plain", "details"])
def test_include_usage_adds_an_event_with_the_counts(model: ModelSpec) -> None:
    stream = sent(chat_format(include_usage=True), model, Chunk("a"), STOP)
    assert ["usage" in event for event in stream] == [False, True, True]
    has_details = "prompt_tokens_details" in stream[-1]["usage"]
    assert has_details == (model is LLAMA)
    assert bool(stream[-1]["choices"]) == has_details


@dataclass
class ReportedGeneration(FakeGeneration):
    """A generation whose token counts the upstream server reports after the last chunk."""

    @property
    def usage(self) -> Usage:
        return Usage(40, 200)


def test_the_neurons_at_the_end_of_a_stream_are_those_of_the_reported_counts() -> None:
    model = spec(price=Price(1e6, 1e6), form="choices", server="sglang")
    for generation, neurons in ((FakeGeneration, 9), (ReportedGeneration, 240)):
        last = events(BARE, model, generation([Chunk("a"), STOP]))[-2]
        assert json.loads(last)["usage"]["neurons"] == neurons
        body = json.loads(whole(BARE, model, generation([Chunk("a"), STOP])))
        assert body["usage"] == json.loads(last)["usage"]


def test_gzipped_results_are_json_without_an_envelope() -> None:
    response_format = run_format(gzipped)(spec(), request())
    body = response_format.whole(Completion("yes"), FakeGeneration([STOP]))
    assert json.loads(gzip.decompress(body))["response"] == "yes"
