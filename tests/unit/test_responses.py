"""Tests OpenAI's Responses API: its requests, its items and its events."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from workers_ai_emulator.engine.types import Chunk, FinishReason, ToolCallDelta
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import ToolChoice
from workers_ai_emulator.tasks.response_formats.choice import responses_format
from workers_ai_emulator.tasks.responses_request import chat_request, is_responses_request, parse
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import WireError

from tests.generations import FakeGeneration, request, whole
from tests.server import INT8

GPT_OSS = CATALOG["@cf/openai/gpt-oss-20b"]
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
CALLED = Chunk(finish_reason=FinishReason.TOOL_CALLS)
STOP = Chunk(finish_reason=FinishReason.STOP)


def call(index: int, arguments: str = "", name: str | None = None) -> Chunk:
    return Chunk(tool_call=ToolCallDelta(index, arguments, name))


# ── requests ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        ({"input": "x"}, True),
        ({"input": [], "reasoning": {}}, True),
        ({"input": "x", "messages": []}, False),
        ({"input": "x", "prompt": "x"}, False),
        ({"prompt": "x"}, False),
        (["input"], False),
    ],
)
def test_a_body_with_input_and_no_prompt_is_a_responses_request(body: Any, is_one: bool) -> None:
    assert is_responses_request(body) is is_one


def messages(*items: Any, **body: Any) -> list[Any]:
    converted: list[Any] = chat_request({"input": [*items], **body})["messages"]
    return converted


def test_a_text_is_a_message_of_the_user_and_instructions_come_first() -> None:
    assert chat_request({"input": "Hi", "instructions": "Be brief.", "text": None}) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ]
    }


def test_parts_that_are_texts_become_one_text() -> None:
    user = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assistant = [{"type": "output_text", "text": "c"}, {"type": "refusal", "refusal": "d"}]
    assert messages(
        {"role": "user", "content": user},
        {"type": "message", "role": "assistant", "content": assistant},
    ) == [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c\nd"}]


def test_an_image_becomes_a_part_in_the_form_of_a_chat_request() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
    ((part,),) = [m["content"] for m in messages({"role": "user", "content": [image]})]
    assert part == {"type": "image_url", "image_url": {"url": image["image_url"]}}


def test_calls_and_their_outputs_become_messages_and_reasoning_is_ignored() -> None:
    items = messages(
        {"role": "user", "content": "1+1, 2+2?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"x":1}'},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": '{"x":2}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "4"}],
        },
    )
    calls = [
        {
            "id": f"c{n}",
            "type": "function",
            "function": {"name": "add", "arguments": f'{{"x":{n}}}'},
        }
        for n in (1, 2)
    ]
    assert items[1:] == [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "4"},
    ]


def test_options_are_renamed() -> None:
    schema = {"type": "object"}
    chat = chat_request(
        {
            "input": "x",
            "max_output_tokens": 9,
            "temperature": 0.5,
            "stream": True,
            "reasoning": {"effort": "low"},
            "tools": [TOOL],
            "tool_choice": {"type": "function", "name": "add"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
            "store": False,
        }
    )
    function = {"name": "add", "description": "", "parameters": {"type": "object"}}
    del chat["messages"]
    assert chat == {
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"input": 5}, "input is not a list"),
        ({}, "required properties at '/' are 'input'"),
        ({"input": None}, "required properties at '/' are 'input'"),
        ({"messages": []}, "required properties at '/' are 'input'"),
        ({"input": ["x"]}, "an item of input is not supported: str"),
        ({"input": [{"type": "item_reference"}]}, "responses are not stored: send the item itself"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "not supported: function_call"),
        ({"input": [{"role": "user", "content": 5}]}, "a text is expected, not int"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input_file"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "a tool is not supported: web_search"),
        ({"input": "x", "tools": 5}, "tools is not a list"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id is not supported"),
        ({"input": "x", "instructions": ["x"]}, "content is not supported: str"),
        ({"input": [{"type": "y" * 5000}]}, "not supported: y{100}$"),
        ({"input": [{"type": ["y"]}]}, "not supported: dict$"),
        ({"input": "x", "metadata": json.loads("[" * 200 + "]" * 200)}, "nested too deeply"),
    ],
)
def test_what_cannot_be_converted_is_refused(body: Any, text: str) -> None:
    with pytest.raises(WireError, match=text) as caught:
        chat_request(body)
    assert caught.value.type.code == 5006


def test_a_model_without_input_in_its_schema_is_refused_with_the_schemas_error() -> None:
    with pytest.raises(WireError, match="required properties at '/' are 'prompt'"):
        parse({"input": "x"}, CATALOG[INT8])
    with pytest.raises(WireError, match="oneOf at '/' not met"):
        parse({"input": 5}, GPT_OSS)


@pytest.mark.parametrize("name", [GPT_OSS.name, INT8])
def test_a_chat_request_that_the_schema_accepts_is_refused(name: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(WireError, match="required properties at '/' are 'input'"):
        parse(body, CATALOG[name])


def test_without_max_output_tokens_the_completion_may_fill_the_context() -> None:
    parsed = parse({"input": "x"}, GPT_OSS, seed=5)
    assert parsed.messages == [Message("user", "x")]
    assert (parsed.params.max_tokens, parsed.params.seed) == (None, 5)
    assert parse({"input": "x", "max_output_tokens": 3}, GPT_OSS).params.max_tokens == 3


def test_the_default_format_is_accepted() -> None:
    parsed = parse({"input": "x", "text": {"format": {"type": "text"}}}, GPT_OSS)
    assert parsed.json_mode is None


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_removes_the_other_tools(mode: Any) -> None:
    allowed = [{"type": "function", "name": "add"}]
    choice = {"type": "allowed_tools", "mode": mode, "tools": allowed}
    tools = [TOOL, TOOL | {"name": "other"}]
    parsed = parse({"input": "x", "tools": tools, "tool_choice": choice}, GPT_OSS)
    assert [tool.name for tool in parsed.tools] == ["add"]
    assert parsed.tool_choice == ToolChoice(mode)


# ── responses ─────────────────────────────────────────────────────────────────────────────────


CHUNKS = [
    Chunk(reasoning="Hm", num_tokens=2),
    Chunk(reasoning="."),
    Chunk("It is"),
    Chunk(" 2."),
    call(0, name="add"),
    call(0, '{"x"'),
    call(0, ":1}"),
    call(1, "{}", "stop"),
    CALLED,
]


def body_of(chunks: list[Chunk], **body: Any) -> Any:
    choose = responses_format({"input": "x", **body}, to_json)
    return json.loads(whole(choose, GPT_OSS, FakeGeneration(chunks)))


def stream_of(chunks: list[Chunk]) -> list[Any]:
    """Returns the JSON of all events, and checks their names and numbers."""
    generation = FakeGeneration(chunks)
    response_format = responses_format({"input": "x"}, to_json)(GPT_OSS, request())

    async def read() -> str:
        stream = response_format.events(aiter(generation), generation)
        return b"".join([event async for event in stream]).decode()

    *events, done, end = asyncio.run(read()).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    pairs = [re.fullmatch(r"event: (.+)\ndata: (.+)", event) for event in events]
    values = [json.loads(pair[2]) for pair in pairs if pair]
    assert [value["type"] for value in values] == [pair[1] for pair in pairs if pair]
    assert [value["sequence_number"] for value in values] == [*range(len(events))]
    return values


def test_a_response_has_an_item_for_reasoning_text_and_each_call() -> None:
    reasoning, message, add, stop = body_of(CHUNKS)["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"] == [{"type": "output_text", "text": "It is 2.", "annotations": []}]
    assert (add["name"], add["arguments"], stop["name"]) == ("add", '{"x":1}', "stop")
    assert re.fullmatch("call_[0-9a-f]{24}", add["call_id"]) and add["call_id"] != stop["call_id"]
    assert [item["id"].split("_")[0] for item in (reasoning, message, add)] == ["rs", "msg", "fc"]


def test_a_response_has_token_counts_and_repeats_options_of_the_request() -> None:
    body = body_of(CHUNKS, temperature=0.5, tools=[TOOL], instructions=None)
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 17,
    }
    assert (body["temperature"], body["tools"], body["tool_choice"]) == (0.5, [TOOL], "auto")
    assert (body["status"], body["incomplete_details"]) == ("completed", None)


def test_a_response_that_is_cut_off_is_incomplete() -> None:
    cut = [Chunk("It", FinishReason.LENGTH)]
    assert body_of(cut)["status"] == "incomplete"
    assert body_of(cut)["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stream_of(cut)[-1]["type"] == "response.incomplete"


# Parts of calls alternate, and the arguments of calls without arguments are sent at the end.
ALTERNATING = [
    call(0, '{"a"', "add"),
    call(1, "", "stop"),
    call(0, ":"),
    call(2, "", "go"),
    Chunk("Calling."),
    call(0, "1}"),
    call(1, "{}"),
    call(2, "{}"),
    CALLED,
]
INTERLEAVED = [Chunk("a"), Chunk(reasoning="b"), Chunk("c"), Chunk("d"), STOP]


@pytest.mark.parametrize(
    "chunks",
    [
        CHUNKS,
        [STOP],
        [Chunk("a"), STOP],
        [call(0, "", "f"), CALLED],
        ALTERNATING,
        INTERLEAVED,
    ],
)
def test_the_last_event_has_the_response_that_is_not_streamed(chunks: list[Chunk]) -> None:
    last, body = stream_of(chunks)[-1]["response"], body_of(chunks)
    assert last | {"created_at": 0} == body | {"created_at": 0}


def test_a_call_whose_parts_alternate_with_other_items_is_one_item() -> None:
    events = stream_of(ALTERNATING)
    items = events[-1]["response"]["output"]
    calls = [item for item in items if item["type"] == "function_call"]
    assert [item["type"] for item in items] == ["function_call"] * 3 + ["message"]
    assert [(item["name"], item["arguments"]) for item in calls] == [
        ("add", '{"a":1}'),
        ("stop", "{}"),
        ("go", "{}"),
    ]
    assert len({item["call_id"] for item in calls}) == 3
    for event in events:
        if "item_id" in event:
            assert items[event["output_index"]]["id"] == event["item_id"]


def test_the_texts_of_a_response_keep_their_order() -> None:
    items = body_of(INTERLEAVED)["output"]
    assert [item["content"][0]["text"] for item in items] == ["a", "b", "cd"]


def test_the_items_of_the_events_are_those_of_the_response() -> None:
    events = stream_of(CHUNKS)
    response = events[-1]["response"]
    added = [e for e in events if e["type"] == "response.output_item.added"]
    done = [e for e in events if e["type"] == "response.output_item.done"]
    assert [e["item"] for e in done] == response["output"]
    assert [e["item"]["id"] for e in added] == [item["id"] for item in response["output"]]
    assert [e["output_index"] for e in added] == [e["output_index"] for e in done] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "key", "texts"),
    [
        ("response.reasoning_text", "text", ["Hm."]),
        ("response.output_text", "text", ["It is 2."]),
        ("response.function_call_arguments", "arguments", ['{"x":1}', "{}"]),
    ],
)
def test_the_deltas_of_an_item_form_its_text(kind: str, key: str, texts: list[str]) -> None:
    events = stream_of(CHUNKS)
    done = [e for e in events if e["type"] == f"{kind}.done"]
    assert [e[key] for e in done] == texts
    for end in done:
        deltas = [
            e["delta"]
            for e in events
            if e["type"] == f"{kind}.delta" and e["item_id"] == end["item_id"]
        ]
        assert "".join(deltas) == end[key]


def test_a_cancelled_stream_ends_without_done() -> None:
    generation = FakeGeneration([Chunk("a"), Chunk(finish_reason=FinishReason.CANCELLED)])
    response_format = responses_format({}, to_json)(GPT_OSS, request())

    async def read() -> list[bytes]:
        return [event async for event in response_format.events(aiter(generation), generation)]

    assert b"completed" not in b"".join(asyncio.run(read()))
