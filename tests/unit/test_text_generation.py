"""Tests the inputs of text generation: messages, sampling parameters and refused inputs."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
import pytest
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.tasks.sampling import parse_sampling_params
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest, parse
from workers_ai_emulator.wire.errors import (
    BAD_INPUT,
    INVALID_DATA,
    JSON_MODE_UNSUPPORTED,
    LORA_UNSUPPORTED,
    REFUSED_BY_ENGINE,
    ErrorType,
    WireError,
)

from tests.conformance.test_validator_differential import INHERITED_KEYS, KEYS, BodyWriter

LLAMA_2 = ("@cf/meta/llama-2-7b-chat-int8", "@cf/meta/llama-2-7b-chat-fp16")
INT8 = CATALOG["@cf/meta/llama-2-7b-chat-int8"]
USER = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


def parsed(**body: Any) -> TextGenerationRequest:
    return parse(body, INT8)


@pytest.mark.parametrize("name", LLAMA_2)
def test_defaults_come_from_the_published_schema(name: str) -> None:
    request = parse({"prompt": "Hi"}, CATALOG[name])
    assert request == TextGenerationRequest(
        prompt="Hi",
        messages=[],
        raw=False,
        stream=False,
        params=SamplingParams(max_tokens=256, temperature=0.6),
    )


def test_every_parameter_is_converted() -> None:
    params = parsed(
        prompt="Hi",
        max_tokens=5.0,
        temperature=0,
        top_k=3,
        top_p=0.5,
        seed=9999999999,
        repetition_penalty=1.5,
        frequency_penalty=-1,
        presence_penalty=2,
    ).params
    assert params == SamplingParams(5, 0.0, 3, 0.5, 9999999999, 1.5, -1.0, 2.0)


def test_messages_keep_their_order() -> None:
    request = parsed(messages=[{"role": "system", "content": "Be terse."}, USER])
    assert request.prompt is None
    assert request.messages == [Message("system", "Be terse."), Message("user", "Hi")]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        (["hi"], []),
        ([None], []),
        ({"a": USER}, [Message("user", "Hi")]),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], [Message("user", "Hi")]),
        ([{"role": "user", "content": []}], [Message("user", "")]),
        ([USER | {"name": "x"}], [Message("user", "Hi", name="x")]),
    ],
)
def test_unusual_messages_that_the_schema_accepts(messages: Any, expected: list[Message]) -> None:
    assert parsed(messages=messages).messages == expected


def test_a_prompt_is_used_if_messages_is_not_a_list() -> None:
    assert parsed(prompt="Hi", messages=5).prompt == "Hi"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"prompt": "Hi", "lora": "x"}, LORA_UNSUPPORTED),
        ({"prompt": "Hi", "response_format": {"type": "json_object"}}, JSON_MODE_UNSUPPORTED),
        ({"messages": [USER | {"content": [IMAGE]}]}, INVALID_DATA),
        ({"messages": [USER | {"content": [AUDIO]}]}, INVALID_DATA),
        ({"prompt": "Hi", "max_tokens": 0}, REFUSED_BY_ENGINE),
        ({"prompt": "Hi", "max_tokens": -1}, REFUSED_BY_ENGINE),
        ({"prompt": "Hi", "temperature": 6}, BAD_INPUT),
        ({}, BAD_INPUT),
        ([], BAD_INPUT),
        (None, BAD_INPUT),
        ("x", BAD_INPUT),
    ],
)
def test_an_input_that_the_service_refuses_is_refused(body: Any, error: ErrorType) -> None:
    with pytest.raises(WireError) as raised:
        parse(body, INT8)
    assert raised.value.type is error


@pytest.mark.parametrize("image", [[137, 80, 78, 71], "iVBORw0KGgo="])
def test_only_a_model_for_images_refuses_the_key_image(image: object) -> None:
    body = {"prompt": "Hi", "image": image}
    with pytest.raises(WireError) as raised:
        parse(body, CATALOG["@cf/meta/llama-3.2-11b-vision-instruct"])
    assert raised.value.type is INVALID_DATA
    assert parse(body, CATALOG["@cf/meta/llama-3.1-8b-instruct-fast"]).prompt == "Hi"


@pytest.mark.parametrize("name", LLAMA_2)
def test_random_bodies_are_parsed_or_refused(name: str) -> None:
    spec = CATALOG[name]
    writer = BodyWriter(Random(name), KEYS + INHERITED_KEYS)
    num_parsed = 0
    for _ in range(5000):
        try:
            parse(json.loads(writer.write(spec.schema["input"])), spec)
            num_parsed += 1
        except WireError:
            pass
    assert num_parsed


@pytest.mark.parametrize("response_format", [{}, [None], "json_object", True, 5])
def test_a_response_format_without_a_type_is_ignored(response_format: Any) -> None:
    assert parsed(prompt="Hi", response_format=response_format).prompt == "Hi"


def test_raw_concerns_only_a_prompt() -> None:
    assert parsed(prompt="Hi", raw=True).raw
    assert not parsed(messages=[USER], raw=True).raw


def test_all_texts_that_a_template_can_render_are_counted() -> None:
    call = {"id": "i" * 10**4, "function": {"name": "f", "arguments": "{}"}}
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "r" * 10**5},
    ]
    variables = {"reasoning_effort": "x" * 10**6}
    request = parsed(messages=messages, chat_template_kwargs=variables)
    assert request.num_characters // 10**4 == 111


NUMBERS = ("temperature", "repetition_penalty", "frequency_penalty", "presence_penalty", "top_p")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("sent", [1e-40, 1e39, 10**300, -1e300, 5e-324])
def test_parameters_keep_logits_finite(name: str, sent: float) -> None:
    if sent < 0 and name in ("temperature", "repetition_penalty"):
        return
    number = getattr(parse_sampling_params({name: sent}, {}), name)
    assert 0 < abs(number) <= 1e10
    if name in ("temperature", "repetition_penalty"):
        logits = np.array([-1e3, 1e3], np.float32)
        with np.errstate(all="raise"):
            assert np.isfinite(logits / np.float32(number) * np.float32(1e10)).all()


def test_usual_parameters_are_not_changed() -> None:
    for number in (0.0, 0.001, 0.6, 1.0, 5.0):
        params = parse_sampling_params(dict.fromkeys(NUMBERS, number), {})
        assert [getattr(params, name) for name in NUMBERS] == [number] * 5


def test_only_the_default_of_max_tokens_may_be_reduced() -> None:
    qwen3 = CATALOG["@cf/qwen/qwen3-30b-a3b-fp8"]
    params = parse({"prompt": "Hi"}, qwen3).params
    assert (params.max_tokens, params.may_shorten) == (2000, True)
    assert not parse({"prompt": "Hi", "max_tokens": 2000}, qwen3).params.may_shorten
    assert not parse({"prompt": "Hi"}, INT8).params.may_shorten
