"""Tests that each thread gets those error lines of llama.cpp that its own calls caused."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.llama import LlamaModel
from workers_ai_emulator.engine.llama_log import attach, collected_errors, reason

from tests.gguf_files import DATA

TIMEOUT_S = 10


@pytest.fixture(autouse=True)
def attached() -> None:
    attach()


def fail_to_load(path: Path) -> None:
    """Calls llama.cpp so that it writes error lines with this path."""
    params = llama.llama_model_default_params()
    assert not llama.llama_model_load_from_file(str(path).encode(), params)


def test_errors_of_two_threads_at_once_are_kept_apart(tmp_path: Path) -> None:
    barrier = threading.Barrier(2, timeout=TIMEOUT_S)

    def errors_of(name: str) -> str:
        with collected_errors() as errors:
            barrier.wait()  # from here on, both threads collect errors
            fail_to_load(tmp_path / name)
            barrier.wait()
        return "\n".join(errors)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(errors_of, ("first.gguf", "second.gguf"))
    assert "first.gguf" in first and "second.gguf" not in first
    assert "second.gguf" in second and "first.gguf" not in second


def test_loading_a_model_does_not_clear_the_errors_of_another_thread(tmp_path: Path) -> None:
    def load() -> None:
        LlamaModel(DATA / "llama2-vocab.gguf", vocabulary_only=True).close()

    with collected_errors() as errors:
        fail_to_load(tmp_path / "missing.gguf")
        loading = threading.Thread(target=load)
        loading.start()
        loading.join(TIMEOUT_S)
    assert not loading.is_alive()
    assert any("missing.gguf" in line for line in errors)


def test_a_second_block_does_not_see_the_errors_of_the_first(tmp_path: Path) -> None:
    with collected_errors() as first:
        fail_to_load(tmp_path / "missing.gguf")
    with collected_errors() as second:
        pass
    assert first and not second


def test_errors_outside_of_a_block_are_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fail_to_load(tmp_path / "missing.gguf")
    assert "missing.gguf" in caplog.text


def test_the_reason_is_the_first_error_without_the_function_name(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        LlamaModel(tmp_path / "missing.gguf")
    assert "missing.gguf" in str(raised.value)
    assert not str(raised.value).startswith("gguf_init_from_file")


def test_the_reason_of_a_call_without_errors_is_the_default() -> None:
    assert reason([], "it failed") == "it failed"
    assert reason(["llama_decode: no space", "second"], "it failed") == "no space"
