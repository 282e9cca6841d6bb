"""Tests requests of the SDK `@cloudflare/ai` 1.0, which contain the inputs as tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workers_ai_emulator.tasks import tensors
from workers_ai_emulator.tasks.response_formats.tensors import embeddings_tensor
from workers_ai_emulator.tasks.tensors import TensorCall
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError


def tensor(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1], "type": "str", "value": [value]}


PROMPT = tensor("INPUT_0", "[INST] Hi [/INST]")
LIMIT = tensor("INPUT_1", 8)
TEXT_INPUT = tensor("text_input", "[INST] Hi [/INST]")


def test_the_prompt_and_the_limit_are_two_tensors() -> None:
    call = tensors.parse({"input": [PROMPT, LIMIT], "stream": False})
    assert call == TensorCall("[INST] Hi [/INST]", 8, stream=False, has_echo=False)


def test_models_on_vllm_get_sampling_parameters_as_json_and_repeat_the_prompt() -> None:
    parameters = tensor("sampling_parameters", '{"max_tokens": 8, "temperature": 0.6}')
    call = tensors.parse({"input": [TEXT_INPUT, parameters], "stream": True})
    assert call == TensorCall("[INST] Hi [/INST]", 8, stream=True, has_echo=True)


def test_a_value_may_be_outside_of_a_list_and_unknown_tensors_are_ignored() -> None:
    plain = [PROMPT | {"value": "Hi"}, LIMIT | {"value": 8}]
    unknown = [tensor("INPUT_2", 1), {"value": ["x"]}, None, "x"]
    assert tensors.parse({"input": [*unknown, *plain]}) == TensorCall("Hi", 8, False, False)


@pytest.mark.parametrize("stream", [None, "true", 1, {}])
def test_only_true_makes_a_stream(stream: Any) -> None:
    assert not tensors.parse({"input": [PROMPT, LIMIT], "stream": stream}).stream


def test_the_texts_of_an_embedding_model_are_in_one_tensor() -> None:
    texts = {"name": "input_text", "shape": [2], "type": "str", "value": ["a", "b"]}
    assert tensors.parse_texts({"input": [None, PROMPT, texts]}) == {"text": ["a", "b"]}


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (None, "input"),
        ({"input": tensor("input_text", "a")}, "input"),
        ({"input": [PROMPT, LIMIT]}, "the tensor input_text"),
        ({"input": [{"name": "input_text", "value": "a"}]}, "the tensor input_text"),
    ],
)
def test_a_body_without_texts_is_an_error(body: Any, missing: str) -> None:
    with pytest.raises(WireError, match=missing) as caught:
        tensors.parse_texts(body)
    assert caught.value.type is INCOMPLETE_REQUEST


def test_embeddings_are_one_tensor_with_their_shape() -> None:
    body = json.loads(embeddings_tensor({"shape": [2, 1], "data": [[1.0], [0.5]], "usage": {}}))
    assert body == {
        "result": [
            {"type": "float32", "shape": [2, 1], "name": "embeddings", "value": [[1.0], [0.5]]}
        ]
    }


def test_the_models_input_is_raw() -> None:
    call = TensorCall("[INST] Hi [/INST]", 8, stream=True, has_echo=True)
    assert call.inputs == {
        "prompt": "[INST] Hi [/INST]",
        "raw": True,
        "max_tokens": 8,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (None, "input"),
        ([PROMPT, LIMIT], "input"),
        ({"input": PROMPT}, "input"),
        ({"input": []}, "tensors of a text generation"),
        ({"input": [PROMPT]}, "tensors of a text generation"),
        ({"input": [PROMPT | {"value": [1]}, LIMIT]}, "tensors of a text generation"),
        ({"input": [PROMPT, LIMIT | {"value": ["8"]}]}, "tensors of a text generation"),
        ({"input": [TEXT_INPUT]}, "max_tokens in sampling_parameters"),
        ({"input": [TEXT_INPUT, tensor("sampling_parameters", "{")]}, "max_tokens in "),
        ({"input": [TEXT_INPUT, tensor("sampling_parameters", "[]")]}, "max_tokens in "),
        ({"input": [TEXT_INPUT, tensor("sampling_parameters", 8)]}, "max_tokens in "),
        ({"input": [TEXT_INPUT, tensor("sampling_parameters", "[" * 10_000)]}, "max_tokens in "),
    ],
)
def test_an_invalid_body_is_an_error_with_the_missing_part(body: Any, missing: str) -> None:
    with pytest.raises(WireError, match=missing) as caught:
        tensors.parse(body)
    assert caught.value.type is INCOMPLETE_REQUEST
