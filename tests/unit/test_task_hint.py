"""Tests the hints for inputs that have the keys of a model with another task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.tasks import embeddings, text_generation
from workers_ai_emulator.wire.errors import BAD_INPUT, WireError

LLAMA = "@cf/meta/llama-3.2-3b-instruct"
BGE = "@cf/baai/bge-small-en-v1.5"
QWEN = "@cf/qwen/qwen3-embedding-0.6b"
RERANKER = "@cf/baai/bge-reranker-base"
PROMPT = {"prompt": "Hi"}
TEXT = {"text": "Hi"}

Parse = Callable[[Any, ModelSpec], object]


@pytest.mark.parametrize(
    ("parse", "name", "body", "hint"),
    [
        (text_generation.parse, LLAMA, TEXT, "generates text: request an embedding model or a rer"),
        (embeddings.parse, LLAMA, TEXT, "generates text: request an embedding model or a reranker"),
        (text_generation.parse, BGE, PROMPT, "does not generate text: request a text-generation "),
        (text_generation.parse, QWEN, PROMPT, "does not generate text: request a text-generation "),
        (embeddings.parse, BGE, PROMPT, "does not generate text: request a text-generation model"),
        (embeddings.parse, QWEN, PROMPT, "does not generate text: request a text-generation model"),
        (embeddings.parse, QWEN, {"input": "Hi"}, "here, the key is `text`"),
        (embeddings.parse, RERANKER, TEXT, "ranks texts: request an embedding model"),
        (embeddings.parse, RERANKER, {"input": "Hi"}, "ranks texts: request an embedding model"),
        (embeddings.parse, BGE, {"input": "Hi"}, "here, the key is `text`"),
    ],
)
def test_an_input_for_another_task_gets_a_hint(
    parse: Parse, name: str, body: dict[str, Any], hint: str
) -> None:
    with pytest.raises(WireError) as failure:
        parse(body, CATALOG[name])
    assert failure.value.type is BAD_INPUT and hint in failure.value.hint
    assert hint not in str(failure.value)


@pytest.mark.parametrize(
    ("parse", "name", "body"),
    [
        (text_generation.parse, LLAMA, {"prompt": 1, "text": "Hi"}),
        (text_generation.parse, LLAMA, {}),
        (text_generation.parse, LLAMA, {"input": "Hi", "text": {"format": {"type": "text"}}}),
        (embeddings.parse, BGE, {"text": 1}),
        (embeddings.parse, BGE, ["Hi"]),
        (embeddings.parse, RERANKER, {"query": "Hi"}),
    ],
)
def test_other_inputs_get_no_hint(parse: Parse, name: str, body: Any) -> None:
    with pytest.raises(WireError) as failure:
        parse(body, CATALOG[name])
    assert not failure.value.hint
