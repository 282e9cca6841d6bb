"""Tests which files count as Llama 2, and in which the epsilon is corrected."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.engine.gguf_header import GgufArray, GgufHeader
from workers_ai_emulator.models.store import Weights
from workers_ai_emulator.runtime.loader import corrected_epsilon, is_llama_2

from tests.fakes import FakeVocabulary

WEIGHTS = Weights(Path("some.gguf"))
LLAMA_2_7B = {
    "general.architecture": "llama",
    "llama.embedding_length": 4096,
    "llama.block_count": 32,
    "llama.context_length": 4096,
    "llama.attention.layer_norm_rms_epsilon": 9.999999974752427e-07,  # 1e-6 as a 32-bit float
    "tokenizer.ggml.tokens": GgufArray("string", 32_000, 0),
}


def header(**changes: Any) -> GgufHeader:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return GgufHeader(2, LLAMA_2_7B | changed, (), 0, 0)


def test_the_epsilon_of_the_well_known_file_is_corrected(caplog: pytest.LogCaptureFixture) -> None:
    assert corrected_epsilon(header(), WEIGHTS) == 1e-5
    assert "1e-5 is right" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"llama__attention__layer_norm_rms_epsilon": 1e-5},
        {"llama__context_length": 2048},  # the context length of Llama 1
        {"llama__embedding_length": 5120},
        {"llama__block_count": 22},
        {"general__architecture": "qwen2"},
        {"tokenizer__ggml__tokens": GgufArray("string", 32_016, 0)},
    ],
)
def test_no_other_file_is_corrected(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert corrected_epsilon(header(**changes), WEIGHTS) is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("size", "is_sentencepiece", "template", "expected"),
    [
        (32_000, True, None, True),
        (32_000, True, "{{ '<<SYS>>' }}", True),
        (32_000, True, "<|user|>", False),  # the template of TinyLlama
        (32_000, False, None, False),
        (32_064, True, None, False),
    ],
)
def test_llama_2_is_recognised_by_its_vocabulary_and_its_template(
    size: int, is_sentencepiece: bool, template: str | None, expected: bool
) -> None:
    vocabulary = FakeVocabulary(is_sentencepiece=is_sentencepiece)
    vocabulary.size = size
    assert is_llama_2(vocabulary, template) is expected
