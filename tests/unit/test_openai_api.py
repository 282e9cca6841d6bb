"""Tests requests to an upstream server's OpenAI API, and reading its events and errors."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from workers_ai_emulator.backends.openai_api import (
    UpstreamFailed,
    embeddings,
    error_from,
    model_names,
)
from workers_ai_emulator.backends.openai_events import EventDecoder
from workers_ai_emulator.backends.openai_request import streaming_request
from workers_ai_emulator.engine.errors import CapacityExceeded, ContextTooLong, RequestRejected
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    SamplingParams,
    ToolCallDelta,
    Usage,
)
from workers_ai_emulator.errors import EmulatorError
from workers_ai_emulator.prompts.messages import DEFAULT_SYSTEM_TEXT, Message
from workers_ai_emulator.prompts.tools import Tool, ToolCall, ToolChoice
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest


def built(
    prompt: str | None = None,
    *messages: Message,
    raw: bool = False,
    is_flattened: bool = False,
    **params: Any,
) -> tuple[str, dict[str, Any]]:
    request = TextGenerationRequest(
        prompt, [*messages], raw, False, SamplingParams(**params), is_flattened
    )
    return path_and_body(request)


def path_and_body(request: TextGenerationRequest) -> tuple[str, dict[str, Any]]:
    sent = streaming_request(request, "m")
    json.dumps(sent.body)
    return sent.path, sent.body


def body_of(*messages: Message, **fields: Any) -> dict[str, Any]:
    request = TextGenerationRequest(None, [*messages], False, False, SamplingParams())
    return path_and_body(replace(request, **fields))[1]


# ── requests ──────────────────────────────────────────────────────────────────────────────────


def test_messages_are_sent_unchanged_and_defaults_are_left_out() -> None:
    path, body = built(None, Message("odd", "x"), max_tokens=7, temperature=0.5)
    assert path == "/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "odd", "content": "x"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_all_options_are_sent_and_the_repetition_penalty_under_both_names() -> None:
    options: dict[str, Any] = {"top_p": 0.9, "top_k": 5, "seed": 0, "frequency_penalty": 1.0}
    _, body = built("x", repetition_penalty=1.1, **options)
    assert options.items() <= body.items()
    assert body["repetition_penalty"] == body["repeat_penalty"] == 1.1


@pytest.mark.parametrize(
    ("prompt", "flags", "roles"),
    [
        ("hi", {}, ["system", "user"]),
        ("<s>[INST] hi [/INST]", {}, ["user"]),
        ("<s>[INST] hi [/INST]", {"raw": True, "is_flattened": True}, ["user"]),
        ("User: hi\nAssistant: ", {"raw": True, "is_flattened": True}, ["user"]),
        ("hi", {"raw": True, "is_flattened": True}, ["user"]),
    ],
)
def test_a_prompt_becomes_messages(prompt: str, flags: dict[str, bool], roles: list[str]) -> None:
    path, body = built(prompt, **flags)
    assert path == "/chat/completions"
    assert [message["role"] for message in body["messages"]] == roles
    assert body["messages"][-1]["content"] == "hi"
    assert roles != ["system", "user"] or body["messages"][0]["content"] == DEFAULT_SYSTEM_TEXT


def test_a_raw_prompt_is_sent_as_text() -> None:
    path, body = built("[INST] hi [/INST]", raw=True)
    assert (path, body["prompt"]) == ("/completions", "[INST] hi [/INST]")
    assert "messages" not in body


def test_stop_strings_and_json_mode_are_sent_for_messages_and_raw_prompts() -> None:
    for raw in (False, True):
        request = TextGenerationRequest("x", [], raw, False, SamplingParams(stop=("a", "b")))
        _, body = path_and_body(replace(request, json_mode=JsonMode({"type": "object"})))
        assert body["stop"] == ["a", "b"]
        assert body["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": {"type": "object"}},
        }
    assert body_of(json_mode=JsonMode(None))["response_format"] == {"type": "json_object"}


TIME = Tool("time", "", {})
WEATHER = Tool("weather", "Returns the weather.", {"properties": {"city": {"type": "string"}}})
SENT_TIME = {"type": "function", "function": {"name": "time", "parameters": {}}}


@pytest.mark.parametrize(
    ("choice", "names", "sent"),
    [
        (ToolChoice(), ["time", "weather"], None),
        (ToolChoice("none"), ["time", "weather"], "none"),
        (ToolChoice("required"), ["time", "weather"], "required"),
        (ToolChoice("required", "weather"), ["weather"], "required"),
    ],
)
def test_tools_and_their_choice_are_sent(
    choice: ToolChoice, names: list[str], sent: str | None
) -> None:
    body = body_of(tools=(TIME, WEATHER), tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert body["tools"][-1]["function"] == {
        "name": "weather",
        "parameters": {"properties": {"city": {"type": "string"}}},
        "description": "Returns the weather.",
    }
    assert body.get("tool_choice") == sent


@pytest.mark.parametrize("strict", [True, False])
def test_strict_is_sent_if_the_client_sent_it(strict: bool) -> None:
    (tool,) = body_of(tools=(replace(TIME, strict=strict),))["tools"]
    assert tool["function"]["strict"] is strict
    assert "strict" not in body_of(tools=(TIME,))["tools"][0]["function"]


@pytest.mark.parametrize("raw", [True, False])
def test_only_a_chat_may_be_sent_without_max_tokens(raw: bool) -> None:
    params = SamplingParams(max_tokens=2000, seed=1, may_shorten=True)
    sent = streaming_request(TextGenerationRequest("x", [], raw, False, params), "m")
    assert sent.may_shorten is not raw
    retry = sent.without_max_tokens()
    assert retry.body == {key: value for key, value in sent.body.items() if key != "max_tokens"}
    assert (retry.path, retry.may_shorten) == (sent.path, False)


def test_without_tools_neither_tools_nor_a_choice_are_sent() -> None:
    assert not {"tools", "tool_choice"} & body_of(tool_choice=ToolChoice("none")).keys()
    assert body_of(tools=(TIME,))["tools"] == [SENT_TIME]


def test_a_request_for_single_tool_calls_is_sent() -> None:
    body = body_of(tools=(TIME,), tool_choice=ToolChoice(is_parallel=False))
    assert body["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in body_of(tools=(TIME,))


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {}),
        ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            {"reasoning_effort": "low", "x": 1},
            {"reasoning_effort": "low", "chat_template_kwargs": {"x": 1}},
        ),
    ],
)
def test_template_variables_are_sent(variables: dict[str, Any], options: dict[str, Any]) -> None:
    keys = {"chat_template_kwargs", "reasoning_effort"}
    body = body_of(template_variables=variables)
    assert {key: body[key] for key in keys & body.keys()} == options


def called(name: str, call_id: str | None = None) -> Message:
    return Message("assistant", "", (ToolCall(name, '{"x": 1}', call_id),))


def test_tool_calls_and_results_are_sent_with_their_ids() -> None:
    call, result = body_of(called("time", "c1"), Message("tool", "9", (), "c1", "time"))["messages"]
    function = {"name": "time", "arguments": '{"x": 1}'}
    entry = {"id": "c1", "type": "function", "function": function}
    assert call == {"role": "assistant", "content": "", "tool_calls": [entry]}
    assert result == {"role": "tool", "content": "9", "tool_call_id": "c1", "name": "time"}


@pytest.mark.parametrize(
    ("messages", "ids"),
    [
        ([called("a"), Message("tool", "1")], ["call00001", "call00001"]),
        ([called("a"), Message("function", "1", name="a")], ["call00001", "call00001"]),
        (
            [called("a"), called("b"), Message("tool", "2", name="b"), Message("tool", "1")],
            ["call00001", "call00002", "call00002", "call00001"],
        ),
        (
            [called("a", "c1"), called("a"), Message("tool", "1", (), "c1"), Message("tool", "2")],
            ["c1", "call00001", "c1", "call00001"],
        ),
        ([Message("tool", "1"), Message("tool", "2")], ["call00001", "call00002"]),
        (
            [
                called("a", "x"),
                called("b", "x"),
                called("a", "y"),
                *(Message("tool", "", name=name) for name in "bba"),
            ],
            ["x", "x", "y", "x", "y", "call00001"],
        ),
    ],
)
def test_a_missing_id_is_that_of_the_call_without_a_result(
    messages: list[Message], ids: list[str]
) -> None:
    sent = body_of(*messages)["messages"]
    assert ids == [
        message["tool_call_id"] if message["role"] == "tool" else message["tool_calls"][0]["id"]
        for message in sent
    ]


def test_the_ids_of_many_calls_and_results_are_found_in_linear_time() -> None:
    calls = tuple(ToolCall("f", "{}") for _ in range(20_000))
    results = [Message("tool", "") for _ in calls]
    started = time.process_time()
    assistant, *tools = body_of(Message("assistant", "", calls), *results)["messages"]
    assert time.process_time() - started < 3
    assert [m["tool_call_id"] for m in tools] == [call["id"] for call in assistant["tool_calls"]]


def test_the_prompt_for_the_journal_is_the_conversation() -> None:
    turns = [called("time"), Message("tool", "9")]
    request = TextGenerationRequest(None, turns, False, False, SamplingParams())
    assert streaming_request(request, "m").prompt == 'assistant calls time {"x": 1}\ntool: 9'


# ── events ────────────────────────────────────────────────────────────────────────────────────


def delta(text: str | None, reason: str | None = None, **others: Any) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice], **others})


def decode(*events: str) -> list[Chunk | Usage]:
    decoder = EventDecoder(max_tokens=16)
    chunks: list[Chunk | Usage] = [chunk for event in events for chunk in decoder.feed(event)]
    return chunks + decoder.flush()


def test_events_with_text_become_chunks() -> None:
    role = json.dumps({"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]})
    events = [role, delta(""), delta("a"), delta("b"), delta(None, "stop"), "[DONE]"]
    assert decode(*events) == [Chunk("a"), Chunk("b"), Chunk("", FinishReason.STOP)]


def test_events_of_the_completions_endpoint_become_chunks() -> None:
    events = [json.dumps({"choices": [{"text": "a", "finish_reason": "length"}]}), "[DONE]"]
    assert decode(*events) == [Chunk("a"), Chunk("", FinishReason.LENGTH, num_tokens=0)]


def test_the_servers_usage_is_used_wherever_it_is_sent() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}}
    usage = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
    last = json.dumps({"choices": [], "usage": usage | details})
    assert Usage(9, 8, 4) in decode(delta("a", "stop", usage=None), last, "[DONE]")
    assert Usage(9, 8) in decode(delta("a", "stop", usage=usage), "[DONE]")


def test_a_stream_must_end_with_a_finish_reason_or_done() -> None:
    assert decode(delta("a", "stop"))[-1] == Chunk("", FinishReason.STOP)
    assert decode(delta("a"), "[DONE]")[-1] == Chunk("", FinishReason.STOP)
    with pytest.raises(UpstreamFailed, match="without a finish reason"):
        decode(delta("a"))


@pytest.mark.parametrize("data", ["{", "[1]", "null", "1"])
def test_an_event_that_is_not_an_object_is_an_error(data: str) -> None:
    with pytest.raises(UpstreamFailed, match="not a JSON object"):
        decode(data)


@pytest.mark.parametrize("event", [{}, {"choices": None}, {"choices": ["x"]}, {"usage": "x"}])
def test_an_event_without_choices_is_ignored(event: dict[str, Any]) -> None:
    assert decode(json.dumps(event), "[DONE]") == [Chunk("", FinishReason.STOP)]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (4, "4"),
        (0, "0"),
        (-1.5, "-1.5"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": 5}, "b"], "a5b"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a"),
        ([], ""),
    ],
)
def test_content_that_is_a_number_or_a_list_of_parts_is_text(content: Any, text: str) -> None:
    chunks = [*([Chunk(text)] if text else []), Chunk("", FinishReason.STOP)]
    assert decode(delta(content), "[DONE]") == chunks
    completion = json.dumps({"choices": [{"text": content}]})
    assert decode(completion, "[DONE]") == chunks


@pytest.mark.parametrize("content", [True, {"text": "a"}, [{"text": "a"}], [["a", {}]]])
def test_content_that_is_no_text_is_an_error_because_it_would_be_lost(content: Any) -> None:
    with pytest.raises(UpstreamFailed, match="sent content that is not text: "):
        decode(delta(content))


def choice(delta: dict[str, Any], reason: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_is_separate_from_the_text(key: str) -> None:
    events = [choice({key: "Hm"}), choice({"content": None, key: "."}), choice({"content": "a"})]
    assert decode(*events, choice({key: None, "content": ""}, "stop")) == [
        Chunk(reasoning="Hm"),
        Chunk(reasoning="."),
        Chunk("a"),
        Chunk("", FinishReason.STOP),
    ]


def test_reasoning_becomes_text_if_the_model_has_it_there() -> None:
    decoder = EventDecoder(9, separates_reasoning=False)
    events = [
        choice({"reasoning": "Hm", "content": ""}),
        choice({"reasoning": ".", "content": "a"}),
    ]
    chunks = [chunk for event in events for chunk in decoder.feed(event)]
    decoder.feed(choice({}, "stop"))
    chunks += [item for item in decoder.flush() if isinstance(item, Chunk)]
    assert "".join(chunk.text for chunk in chunks) == "<think>\nHm.\n</think>\n\na"
    assert not any(chunk.reasoning for chunk in chunks)


def calling(*entries: Any, reason: str | None = None) -> str:
    return choice({"tool_calls": [*entries]}, reason)


def entry(index: int | None, arguments: Any = None, name: Any = None, call_id: Any = None) -> Any:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def deltas(*events: str) -> list[ToolCallDelta]:
    items = decode(*events, choice({}, "tool_calls"))
    assert isinstance(last := items.pop(), Chunk) and last.finish_reason is FinishReason.TOOL_CALLS
    return [item.tool_call for item in items if isinstance(item, Chunk) and item.tool_call]


def test_tool_calls_in_pieces_become_deltas() -> None:
    events = [
        calling(entry(0, "", "weather", "c1")),
        calling(entry(0, '{"city":')),
        calling(entry(0, ' "Rome"}')),
        calling(entry(1, "{}", "time", "c2")),
    ]
    assert deltas(*events) == [
        ToolCallDelta(0, "", "weather", "c1"),
        ToolCallDelta(0, '{"city":'),
        ToolCallDelta(0, ' "Rome"}'),
        ToolCallDelta(1, "{}", "time", "c2"),
    ]


@pytest.mark.parametrize(
    "entries",
    [
        [entry(0, "{}", "a", "c1"), entry(0, "{}", "b", "c2")],  # one index for all calls
        [entry(None, "{}", "a", "c1"), entry(None, "{}", "b", "c2")],
        [entry(None, "{}", "a"), entry(None, "{}", "b")],
        [entry(3, "{}", "a", ""), entry(5, "{}", "b", "")],
    ],
)
@pytest.mark.parametrize("in_one_event", [True, False])
def test_calls_are_numbered_even_if_their_indices_are_unusual(
    entries: list[Any], in_one_event: bool
) -> None:
    events = [calling(*entries)] if in_one_event else [calling(item) for item in entries]
    assert [(d.index, d.name, d.arguments) for d in deltas(*events)] == [
        (0, "a", "{}"),
        (1, "b", "{}"),
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        [entry(0, "{", "a", "c1"), entry(0, "}", "a", "c1")],  # llama_cpp.server repeats both
        [entry(None, "{", "a", "c1"), entry(None, "}")],
        [entry(None, "{", "a", "c1"), entry(None, "}", "a", "c1")],
        [entry(0, "{", "a"), entry(0, "}", "", "")],
    ],
)
def test_only_the_first_piece_of_a_call_has_its_name(pieces: list[Any]) -> None:
    found = deltas(*map(calling, pieces))
    assert [(d.index, d.name, d.arguments) for d in found] == [(0, "a", "{"), (0, None, "}")]


def test_arguments_may_be_an_object_or_missing() -> None:
    events = [calling(entry(0, {"x": "é"}, "a")), calling(entry(1, None, "b"), entry(2, " ", "c"))]
    assert [(d.index, d.arguments) for d in deltas(*events)] == [
        (0, '{"x": "é"}'),
        (1, ""),
        (2, " "),
        (1, "{}"),
        (2, "{}"),
    ]


def test_the_parts_of_one_event_count_as_one_token() -> None:
    event = choice({"reasoning": "a", "content": "b", "tool_calls": [entry(0, None, "c")]})
    items = decode(event, choice({}, "stop"))
    assert [item.num_tokens for item in items if isinstance(item, Chunk)] == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call"])
def test_the_finish_reason_depends_on_the_tool_calls(reason: str) -> None:
    with_calls = decode(calling(entry(0, "{}", "a"), reason=reason))
    assert with_calls[-1] == Chunk("", FinishReason.TOOL_CALLS)
    assert decode(delta("a", reason))[-1] == Chunk("", FinishReason.STOP)


@pytest.mark.parametrize("reason", ["tool_calls", "length"])
def test_a_tool_call_is_left_out_if_the_model_has_no_tools(reason: str) -> None:
    decoder = EventDecoder(9, has_tools=False)
    chunks = decoder.feed(delta("Let me see.")) + decoder.feed(calling(entry(0, None, "a")))
    decoder.feed(choice({}, reason))
    (last,) = decoder.flush()
    assert chunks == [Chunk("Let me see.")]
    assert isinstance(last, Chunk) and last.finish_reason is not None and not last.tool_call
    assert last.finish_reason.value == ("length" if reason == "length" else "stop")
    assert decoder.left_out_tool == "a"


def test_a_tool_call_that_max_tokens_has_cut_stays_incomplete() -> None:
    items = decode(calling(entry(0, "", "a"), reason="length"))
    assert items[1:] == [Chunk("", FinishReason.LENGTH, num_tokens=0)]


@pytest.mark.parametrize(
    "tool_calls",
    [
        {"name": "a"},
        "a",
        ["a"],
        [{"index": 0}],
        [{"type": "custom", "custom": {"name": "a"}}],
        [entry(0, "{}")],  # a call without a name
        [entry(0, "{}", 5)],
        [entry(0, [1], "a")],
        [entry(0, "{}", "a", 5)],
        [{"index": "0", "function": {"name": "a"}}],
    ],
)
def test_a_tool_call_in_an_unknown_form_is_an_error(tool_calls: Any) -> None:
    with pytest.raises(UpstreamFailed, match="sent a tool call in an unknown form: "):
        decode(choice({"tool_calls": tool_calls}))


@pytest.mark.parametrize("data", ["", " ", "\n"])
def test_an_event_without_data_has_no_text(data: str) -> None:
    assert decode(delta("a"), data, delta("b", "stop"))[:2] == [Chunk("a"), Chunk("b")]


def test_events_of_another_kind_are_read_if_they_are_json() -> None:
    decoder = EventDecoder(9)
    assert decoder.feed("ping", "ping") == []
    assert decoder.feed(delta("a"), "completion") == [Chunk("a")]
    with pytest.raises(UpstreamFailed, match="out of memory"):
        decoder.feed(json.dumps({"message": "out of memory"}), "error")
    with pytest.raises(UpstreamFailed, match="answers 500: overloaded"):
        decoder.feed("overloaded", "error")


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ((4.0, "5"), Usage(4, 5)),
        ((True, 5), None),
        ((4, -1), None),
        ((4.5, 1), None),
        ((10**15 - 1, 999999999999999.0), Usage(10**15 - 1, 10**15 - 1)),
        ((10**15, 1), None),
        ((1, 1e15), None),
        ((1, "1" * 16), None),
        ((10**400, 1), None),
        ((1, float("inf")), None),
        ((float("nan"), 1), None),
    ],
)
def test_counts_in_the_usage_may_be_written_in_several_ways(
    counts: tuple[Any, Any], usage: Usage | None
) -> None:
    sent = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    assert decode(delta("a", "stop", usage=sent))[1:-1] == ([usage] if usage else [])


def test_a_number_of_cached_tokens_with_too_many_digits_is_ignored() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 10**400}}
    sent = {"prompt_tokens": 4, "completion_tokens": 5} | details
    assert decode(delta("a", "stop", usage=sent))[1:-1] == [Usage(4, 5)]


@pytest.mark.parametrize(
    ("code", "error_class"),
    [(429, CapacityExceeded), ("429", CapacityExceeded), (True, UpstreamFailed)],
)
def test_the_status_of_an_error_event_is_its_code(
    code: Any, error_class: type[EmulatorError]
) -> None:
    with pytest.raises(error_class):
        decode(json.dumps({"error": {"message": "busy", "code": code}}))


def test_an_error_event_is_raised() -> None:
    with pytest.raises(RequestRejected, match="no such role"):
        decode(json.dumps({"error": {"message": "no such role", "code": 400}}))
    with pytest.raises(UpstreamFailed, match="out of memory"):
        decode(json.dumps({"error": {"message": "out of memory", "code": "internal"}}))


# ── errors ────────────────────────────────────────────────────────────────────────────────────

CONTEXT_TEXTS = [
    (  # from OpenAI, vLLM up to 0.10, llama_cpp.server
        "This model's maximum context length is 512 tokens. However, you requested 616 tokens "
        "(600 in the messages, 16 in the completion). Please reduce the length of the messages.",
        616,
    ),
    (  # from vLLM 0.11 and newer
        "This model's maximum context length is 512 tokens and your request has 600 input tokens.",
        616,
    ),
    (
        "This model's maximum context length is 512 tokens. However, you requested 16 output "
        "tokens and your prompt contains at least 600 input tokens, for a total of at least 616.",
        616,
    ),
    (  # from SGLang
        "Requested token count exceeds the model's maximum context length of 512 tokens. You "
        "requested a total of 616 tokens: 600 tokens from the input messages and 16 tokens for the "
        "completion. Please reduce the number of tokens in the input messages or the completion.",
        616,
    ),
    (  # from SGLang
        "max_completion_tokens is too large: 616. This model supports at most 512 completion "
        "tokens.",
        616,
    ),
    (  # from llama-server
        "request (600 tokens) exceeds the available context size (512 tokens), try increasing it",
        616,
    ),
]


@pytest.mark.parametrize(("message", "num_tokens"), CONTEXT_TEXTS)
def test_an_error_about_the_context_length_becomes_context_too_long(
    message: str, num_tokens: int
) -> None:
    error = error_from(400, json.dumps({"error": {"message": message}}), max_tokens=16)
    assert isinstance(error, ContextTooLong)
    assert str(error) == str(ContextTooLong(num_tokens, 512))
    assert error.max_tokens == 16


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (400, RequestRejected),
        (401, UpstreamFailed),
        (403, UpstreamFailed),
        (404, UpstreamFailed),
        (413, RequestRejected),
        (422, RequestRejected),
        (429, CapacityExceeded),
        (302, UpstreamFailed),
        (500, UpstreamFailed),
        (503, CapacityExceeded),
    ],
)
def test_each_status_has_an_error_class(status: int, error_class: type[EmulatorError]) -> None:
    assert type(error_from(status, "{}", max_tokens=1)) is error_class


@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"message": "the reason"}}',
        '{"error": "the reason"}',
        '{"object": "error", "message": "the reason"}',
        '{"detail": "the reason"}',
        "the\n reason",
    ],
)
def test_the_error_text_is_found_under_every_key(body: str) -> None:
    assert str(error_from(400, body, max_tokens=1)) == "the reason"


def test_an_error_text_is_one_printable_line() -> None:
    assert len(str(error_from(500, "x" * 100_000, max_tokens=1))) < 1100
    assert str(error_from(500, "a\n\x1b[2Jb\0", max_tokens=1)) == "answers 500: a [2Jb"


def test_model_names_are_the_ids_in_the_list() -> None:
    assert model_names('{"data": [{"id": "a"}, {}, 1, {"id": 2}, {"id": "b"}]}') == ["a", "b"]
    with pytest.raises(UpstreamFailed, match="no list of models"):
        model_names("<html>")


# ── embeddings ────────────────────────────────────────────────────────────────────────────────


def item(index: int, *numbers: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": [*numbers]}


def test_embeddings_have_the_order_of_their_indexes() -> None:
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    body = {"object": "list", "data": [item(1, 3, 4), item(0, 1.5, 2)], "usage": usage}
    assert embeddings(json.dumps(body), 2) == ([[1.5, 2.0], [3.0, 4.0]], 7)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": -1}])
def test_embeddings_may_have_no_number_of_tokens(usage: Any) -> None:
    body = {"data": [item(0, 1.0), {"embedding": [2.0]}], "usage": usage}
    assert embeddings(json.dumps(body), 2) == ([[1.0], [2.0]], None)


@pytest.mark.parametrize(
    "body",
    [
        "not JSON",
        "[]",
        "{}",
        '{"data": null}',
        '{"data": [null, null]}',
        json.dumps({"data": [item(0, 1.0)]}),
        json.dumps({"data": [item(0, 1.0), item(1)]}),
        json.dumps({"data": [item(0, 1.0), item(1, "2")]}),
        json.dumps({"data": [item(0, 1.0), item(1, 2.0, 3.0)]}),
        json.dumps({"data": [item(0, 1.0), {"index": 1, "embedding": "AAAA"}]}),
        json.dumps({"data": [item(0, 1.0), item(1, float("nan"))]}),
        json.dumps({"data": [item(0, 1.0), item(1, 10**400)]}),
        json.dumps({"data": [item(0, 1.0), item(1, 2.0), item(2, 3.0)]}),
    ],
)
def test_a_response_without_an_embedding_for_each_text_is_an_error(body: str) -> None:
    with pytest.raises(UpstreamFailed, match=r"^sent no embedding for each of 2 texts: "):
        embeddings(body, 2)
