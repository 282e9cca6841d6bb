"""Tests which messages the inference servers of the service refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.tasks.text_generation import parse
from workers_ai_emulator.wire.errors import REFUSED_BY_ENGINE, WireError

pytestmark = pytest.mark.recorded

GLM = "@cf/zai-org/glm-5.3-flash"
QWEN = "@cf/qwen/qwen3.8-27b"
GPT_OSS = "@cf/openai/gpt-oss-120b"
LLAMA = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
VALID_JSON = "Assistant tool call function.arguments must be valid JSON."
OBJECT = "Assistant tool call function.arguments must be a JSON object."


def refusal(model: str, *messages: dict[str, Any]) -> str | None:
    """Returns the reason in the error of the inference server, or None if there is no error."""
    try:
        parse({"messages": [*messages]}, CATALOG[model])
    except WireError as error:
        assert error.type is REFUSED_BY_ENGINE
        reason = json.loads(str(error))["message"]
        assert isinstance(reason, str)
        return reason
    return None


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    tool_call = {"id": "1", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [tool_call]}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"a": 1}', None),
        ("{}", None),
        ("", VALID_JSON),
        ('{"a": ', VALID_JSON),
        ("[" * 100_000, VALID_JSON),
        ("7", OBJECT),
        ('["a"]', OBJECT),
        ("null", OBJECT),
    ],
)
def test_models_on_sglang_refuse_arguments_that_are_no_object(
    arguments: str, reason: str | None
) -> None:
    assert refusal(GLM, USER, call(arguments)) == reason


@pytest.mark.parametrize("model", [GPT_OSS, LLAMA])
def test_other_models_accept_a_call_with_an_empty_text_as_arguments(model: str) -> None:
    assert refusal(model, USER, call("")) is None


def test_qwen_accepts_a_system_message_only_at_the_beginning() -> None:
    assert refusal(QWEN, SYSTEM, USER) is None
    assert refusal(QWEN, USER, SYSTEM) == "System message must be at the beginning."
    assert refusal(QWEN, SYSTEM, SYSTEM, USER) == "System message must be at the beginning."
    assert refusal(GLM, USER, SYSTEM) is None
