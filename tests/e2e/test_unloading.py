"""Tests unloading a model while another thread uses the model's vocabulary."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.grammar import eog_tokens
from workers_ai_emulator.engine.llama import LlamaModel

from tests.server import wait_until

VOCABULARY = Path(__file__).parents[1] / "data" / "llama2-vocab.gguf"


def test_the_vocabulary_of_an_unloaded_model_is_an_error() -> None:
    model = LlamaModel(VOCABULARY, vocabulary_only=True)
    vocabulary = model.vocabulary
    assert vocabulary.piece(29871)
    model.close()
    model.close()
    for use in (
        lambda: vocabulary.tokenize("x"),
        lambda: vocabulary.piece(1),
        lambda: vocabulary.is_eog(1),
    ):
        with pytest.raises(EngineError, match="unloaded"):
            use()
    with pytest.raises(EngineError, match="unloaded"):
        vocabulary.special_tokens  # noqa: B018  # the property is computed now


def test_the_eog_tokens_of_an_unloaded_model_are_still_known() -> None:
    model = LlamaModel(VOCABULARY, vocabulary_only=True)
    eog = eog_tokens(model.vocabulary)
    assert eog == [model.vocabulary.eos]
    model.close()
    assert eog_tokens(model.vocabulary) == eog


def test_unloading_waits_until_no_thread_uses_the_model() -> None:
    model = LlamaModel(VOCABULARY, vocabulary_only=True)
    closing = threading.Thread(target=model.close)
    with model.in_use():
        closing.start()
        wait_until(lambda: model.pointer is None)
        assert closing.is_alive()
    closing.join(10)
    assert not closing.is_alive()
