"""Tests that texts for models that users imported cannot crash or block the server.

A subprocess tokenises the texts, because the vocabulary of an imported file can make llama.cpp
crash.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psutil
import pytest
from workers_ai_emulator.engine.errors import EngineError, RequestRejected
from workers_ai_emulator.engine.llama import LlamaModel, LlamaVocabulary
from workers_ai_emulator.engine.tokenizer_process import MODULE, IsolatedTokenizer, is_safe
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

from tests.gguf_files import DATA
from tests.server import INT8, server_process

NAME = "@cf/someone/hostile"
SIZE = 49_152  # the size of the stand-in model's vocabulary
LONG = "a" * 500_000  # needs some tenths of a second


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in model with another pre-tokenizer, which overflows the stack of a thread."""
    weights = Store(Settings().models_dir, num_threads=2).weights(CATALOG[INT8])
    data = bytearray(weights.path.read_bytes())
    start = data.index(b"smollm", data.index(b"tokenizer.ggml.pre"))
    data[start : start + 6] = b"gpt-4o"
    path = tmp_path_factory.mktemp("models") / "hostile.gguf"
    path.write_bytes(data)
    (path.parent / "models.toml").write_text(f'["{NAME}"]\nfile = "{path.name}"\n')
    return path


@pytest.fixture
def tokenizer(hostile: Path) -> Iterator[IsolatedTokenizer]:
    with closing(IsolatedTokenizer(hostile, SIZE, limit_s=60)) as tokenizer:
        yield tokenizer


def children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [child for child in found if MODULE in child.cmdline()]


def test_the_tokens_are_those_of_this_process(hostile: Path, tokenizer: IsolatedTokenizer) -> None:
    model = LlamaModel(hostile, vocabulary_only=True)
    texts = ["Hello, world", "", "<|im_start|>", "é猫\0\ud800"]
    for parse_special in (False, True):
        expected = [model.vocabulary.tokenize(text, parse_special=parse_special) for text in texts]
        assert tokenizer.tokenize(texts, parse_special=parse_special) == expected
    assert tokenizer.tokenize([]) == []
    model.close()


@pytest.mark.parametrize("text", ["a" * 31_000, "Z" * 100_000, "猫" * 60_000, "'s" * 30_000])
def test_a_long_run_of_one_kind_of_characters_is_tokenised(
    tokenizer: IsolatedTokenizer, text: str
) -> None:
    (tokens,) = tokenizer.tokenize([text])
    assert len(tokens) > 1000


@pytest.mark.skipif(os.name == "nt", reason="Windows has other stacks")
def test_a_text_that_crashes_the_tokenizer_is_rejected_and_later_texts_are_not(
    tokenizer: IsolatedTokenizer,
) -> None:
    with pytest.raises(RequestRejected, match="crashed on the prompt"):
        tokenizer.tokenize(["a" * 4_000_000])
    assert len(tokenizer.tokenize(["Hello"])) == 1


def test_a_text_that_takes_too_long_is_rejected_and_later_texts_are_not(hostile: Path) -> None:
    with closing(IsolatedTokenizer(hostile, SIZE, limit_s=0.001)) as tokenizer:
        with pytest.raises(RequestRejected, match=r"did not process the prompt within 0\.001 s"):
            tokenizer.tokenize([LONG])
        tokenizer._limit_s = 60
        assert len(tokenizer.tokenize(["Hello"])) == 1


def test_tokens_that_the_model_lacks_are_an_error(hostile: Path) -> None:
    with (
        closing(IsolatedTokenizer(hostile, 10, limit_s=60)) as tokenizer,
        pytest.raises(EngineError, match="replaced by a file with other tokens"),
    ):
        tokenizer.tokenize(["Hello"])


def test_a_killed_process_is_replaced(tokenizer: IsolatedTokenizer) -> None:
    (child,) = children()
    child.kill()
    child.wait(timeout=60)
    assert len(tokenizer.tokenize(["Hello"])) == 1


def test_a_process_that_cannot_be_started_again_is_no_error_of_the_prompt(
    tokenizer: IsolatedTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (child,) = children()
    child.kill()
    child.wait(timeout=60)
    for executable in ("no such file", "true"):
        monkeypatch.setattr(sys, "executable", shutil.which(executable) or executable)
        with pytest.raises(EngineError, match="no process can be started") as caught:
            tokenizer.tokenize(["Hello"])
        assert not isinstance(caught.value, RequestRejected)


def test_closing_ends_the_process_and_may_be_repeated(tokenizer: IsolatedTokenizer) -> None:
    assert len(children()) == 1
    tokenizer.close()
    tokenizer.close()
    assert not children()
    with pytest.raises(EngineError, match="unloaded"):
        tokenizer.tokenize(["Hello"])


def test_the_process_has_no_secrets_in_its_environment(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with closing(IsolatedTokenizer(hostile, SIZE)):
        (child,) = children()
        assert "secret" not in child.environ().values()


def test_llama_2s_own_vocabulary_needs_no_process() -> None:
    model = LlamaModel(DATA / "llama2-vocab.gguf", vocabulary_only=True)
    assert is_safe(model.vocabulary)
    model.close()


@pytest.mark.parametrize(
    ("is_sentencepiece", "num_searched_tokens"), [(False, 3), (True, 30_000), (False, 30_000)]
)
def test_other_vocabularies_need_a_process(
    is_sentencepiece: bool, num_searched_tokens: int
) -> None:
    vocabulary: Any = SimpleNamespace(
        is_sentencepiece=is_sentencepiece, num_searched_tokens=num_searched_tokens
    )
    assert not is_safe(cast(LlamaVocabulary, vocabulary))


def test_hostile_texts_delay_no_other_request(hostile: Path) -> None:
    flags = ("--models-dir", str(hostile.parent), "--preload", NAME, "--parallel", "1")
    texts = ["a" * 31_000, "b" * 130_000, "Ab" * 60_000]
    with server_process(*flags) as server, ThreadPoolExecutor() as pool:
        bodies: list[object] = [{"messages": [{"role": "user", "content": t}]} for t in texts]
        bodies += [{"prompt": text, "raw": True} for text in texts]
        refused = [pool.submit(server.run, body, model=NAME) for body in bodies]
        while not all(future.done() for future in refused):
            assert httpx.get(f"{server.root}/_emulator/healthz", timeout=30).status_code == 200
        assert [future.result().status_code // 100 for future in refused] == [4] * 6
        answer = server.run({"prompt": "Hi", "max_tokens": 2}, model=NAME)
        assert answer.status_code == 200
        assert server.metric("workers_ai_emulator_running") == 0
