"""Tests which GGUF files are accepted as models for embeddings or for ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from workers_ai_emulator.engine.embedding_runner import EmbeddingRunner
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Weights
from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader, OpenEmbedder
from workers_ai_emulator.settings import Settings

from tests.gguf_files import embedding_model

RERANKER = CATALOG["@cf/baai/bge-reranker-base"]
M3 = CATALOG["@cf/baai/bge-m3"]


@pytest.fixture
def loader(tmp_path: Path) -> EmbedderLoader:
    return EmbedderLoader(Settings(models_dir=tmp_path, threads=2))


def opened(loader: EmbedderLoader, path: Path, data: bytes, spec: str) -> OpenEmbedder:
    path.write_bytes(data)
    return loader.open(CATALOG[spec], Weights(path))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("architecture", "model"),
    [
        ("bert", M3.name),
        ("qwen3", "@cf/qwen/qwen3-embedding-0.6b"),
        ("gemma-embedding", "@cf/google/embeddinggemma-300m"),
    ],
)
def test_embedding_models_are_accepted(
    loader: EmbedderLoader, path: Path, architecture: str, model: str
) -> None:
    embedder = opened(loader, path, embedding_model(architecture, context_length=1024), model)
    assert embedder.context_length == 1024
    tokens = embedder.tokenize(["Hello", ""], 512)
    assert [ids[0] for ids in tokens] == [1, 1] and [ids[-1] for ids in tokens] == [2, 2]
    runner = EmbeddingRunner(embedder.model, embedder.context_length)
    (vector,) = runner.embed(tokens[:1], Pooling.LAST, 1)
    assert len(vector) == 64
    runner.close()
    embedder.close()


def test_the_context_length_is_that_of_the_file(loader: EmbedderLoader, path: Path) -> None:
    """The file may also be loaded for a model with a higher limit than the first one's."""
    data = embedding_model("bert", context_length=1024)
    embedder = opened(loader, path, data, "@cf/baai/bge-base-en-v1.5")
    assert embedder.context_length == 1024
    embedder.close()


@pytest.mark.parametrize("model", [M3.name, RERANKER.name])
def test_short_texts_share_calls_whichever_model_loads_the_file(model: str) -> None:
    """Models that share a file share its runners, so the first of them must not matter."""
    loader = EmbedderLoader(Settings(threads=2))
    embedder = loader.open(CATALOG[model], loader.weights(CATALOG[model]))
    assert embedder.shares_calls
    embedder.close()


def test_a_file_is_test_loaded_once(
    loader: EmbedderLoader, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(loader, path, embedding_model("bert"), M3.name).close()
    monkeypatch.setattr("workers_ai_emulator.runtime.embedder_loader.probe", None)
    loader.open(M3, Weights(path)).close()


def test_a_reranker_needs_a_classification_head(loader: EmbedderLoader, path: Path) -> None:
    with pytest.raises(WeightsUnusable, match=r"model\.gguf cannot be loaded: it "):
        opened(loader, path, embedding_model("bert"), RERANKER.name)


def test_a_reranker_needs_a_classification_head_also_in_a_file_of_another_model(
    loader: EmbedderLoader, path: Path
) -> None:
    embedder = opened(loader, path, embedding_model("bert"), M3.name)
    embedder.check_task(M3)
    with pytest.raises(WeightsUnusable, match=r"model\.gguf cannot be used: it computes embedd"):
        embedder.check_task(RERANKER)
    embedder.close()


def test_a_reranker_is_accepted(loader: EmbedderLoader, path: Path) -> None:
    embedder = opened(loader, path, embedding_model("bert", has_classifier=True), RERANKER.name)
    assert embedder.num_separators == 2
    embedder.close()


@pytest.mark.parametrize("size", [0, 100, 600_000])
def test_a_cut_file_is_an_error(loader: EmbedderLoader, path: Path, size: int) -> None:
    data = embedding_model("bert")[:size]
    with pytest.raises(WeightsUnusable, match=r"model\.gguf cannot be loaded: it "):
        opened(loader, path, data, M3.name)


def test_weights_that_are_no_numbers_are_an_error(loader: EmbedderLoader, path: Path) -> None:
    data = bytearray(embedding_model("bert"))
    data[-40_000:] = b"\xff" * 40_000  # NaN
    with pytest.raises(WeightsUnusable, match="its results are not numbers"):
        opened(loader, path, bytes(data), M3.name)


def test_an_embedding_model_does_not_generate_text(path: Path) -> None:
    path.write_bytes(embedding_model("bert"))
    with pytest.raises(GgufInvalid, match="its architecture, bert, does not generate text"):
        read_header(path)


def test_the_number_of_runners_depends_on_the_free_memory(
    loader: EmbedderLoader, path: Path
) -> None:
    embedder = opened(loader, path, embedding_model("bert"), M3.name)
    counts = [embedder.num_runners(embedder.memory(count)) for count in (0, 1, 2, 3)]
    assert counts == [0, 1, 2, 2]  # there are two threads
    assert embedder.num_runners(embedder.memory(1) - 1) == 0
    assert embedder.num_runners(-1) == 0
    embedder.close()


def test_a_very_long_text_is_cut_before_it_is_tokenised(loader: EmbedderLoader, path: Path) -> None:
    embedder = opened(loader, path, embedding_model("bert"), M3.name)
    (tokens,) = embedder.tokenize(["x " * 10**6], 512)
    assert 512 < len(tokens) <= 512 * 32 + 2
    embedder.close()


def test_all_tokens_of_a_very_long_text_are_counted_if_it_must_not_be_cut(
    loader: EmbedderLoader, path: Path
) -> None:
    embedder = opened(loader, path, embedding_model("bert"), M3.name)
    texts = ["x " * 40_000, "", "x"]
    long, *short = embedder.tokenize(texts, 512, are_whole=True)
    expected, *others = embedder.tokenize(texts, 8192)  # the long text is short enough for 8192
    assert short == others
    assert len(long) == pytest.approx(len(expected), abs=10)  # it is split in five
    embedder.close()


def test_an_embedding_model_without_weights_runs_on_the_stand_in_model(tmp_path: Path) -> None:
    loader = EmbedderLoader(Settings())
    spec = replace(M3, weights_file=tmp_path / "missing.gguf")
    weights = loader.weights(spec)
    assert weights.is_trusted and weights.name == "all-MiniLM-L6-v2.F16"
    embedder = loader.open(spec, weights)
    embedder.check_task(RERANKER)  # the stand-in model ranks texts by their similarity
    assert (embedder.context_length, embedder.num_separators) == (512, 1)
    assert embedder.tokenize(["Hello!"], 512) == [[101, 7592, 999, 102]]
    embedder.close()
