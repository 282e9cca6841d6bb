"""Tests the models whose results on `ai/run` have both forms, with the stand-in model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server import ServerProcess

LLAMA_3_3 = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
LLAMA_4 = "@cf/meta/llama-4-scout-17b-16e-instruct"
BODY = {
    "messages": [{"role": "user", "content": "Count from one to five."}],
    "max_tokens": 40,
    "temperature": 0,
}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "weather", "description": "The weather of a city", "parameters": CITY}
CALLING = BODY | {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}


def streamed(server: ServerProcess, body: dict[str, Any], model: str) -> list[Any]:
    response = server.run(body | {"stream": True}, model)
    *lines, end = response.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("model", [LLAMA_3_3, LLAMA_4])
def test_both_forms_of_a_stream_have_the_text_of_the_whole_result(
    server: ServerProcess, model: str
) -> None:
    result = server.run(BODY, model).json()["result"]
    *events, end, counts = streamed(server, BODY, model)
    texts = [event["choices"][0]["delta"]["content"] for event in events]
    assert "".join(texts) == result["choices"][0]["message"]["content"] == result["response"]
    assert [str(event["response"]) for event in events] == [
        text.strip() if isinstance(event["response"], int) else text
        for text, event in zip(texts, events, strict=True)
    ]
    assert (end["choices"], end["tool_calls"], "response" in end) == ([], [], False)
    assert len({event["id"] for event in [*events, end]} | {result["id"]}) == 1
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        total = sum(event["usage"][name] for event in events)
        assert total == counts["usage"][name] == result["usage"][name]


@pytest.mark.parametrize("model", [LLAMA_3_3, LLAMA_4])
def test_both_forms_of_a_stream_have_the_call_of_the_whole_result(
    server: ServerProcess, model: str
) -> None:
    result = server.run(CALLING, model).json()["result"]
    (call,) = result["choices"][0]["message"]["tool_calls"]
    assert result["tool_calls"] == [{"arguments": {"city": "Rome"}, "name": "weather"}]
    assert (json.loads(call["function"]["arguments"]), result["response"]) == (
        {"city": "Rome"},
        None,
    )
    _, *events, _, _ = streamed(server, CALLING, model)
    parts = [event["choices"][0]["delta"]["tool_calls"][0] for event in events]
    assert [event["tool_calls"][0] for event in events] == [part["function"] for part in parts]
    name, *arguments = parts
    assert (name["id"], name["function"]) == (call["id"], {"name": "weather"})
    joined = "".join(part["function"]["arguments"] for part in arguments)
    assert joined == call["function"]["arguments"]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_long_prompt_is_refused_by_the_estimate_or_by_the_server(server: ServerProcess) -> None:
    """A token for every four characters is estimated; each of these words is a token."""
    for num_words, expected in ((3000, (400, 8007)), (5000, (413, 5021))):
        response = server.run({"prompt": "a " * num_words}, LLAMA_3_3)
        assert (response.status_code, response.json()["errors"][0]["code"]) == expected
