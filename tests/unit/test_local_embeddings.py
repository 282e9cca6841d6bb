"""Tests embeddings and rankings of the backend `llama`, with a fake model."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from workers_ai_emulator.backends import local_embeddings
from workers_ai_emulator.backends.local_embeddings import LocalEmbeddings
from workers_ai_emulator.backends.similarity import divisor_of, similarities_of_units
from workers_ai_emulator.engine.errors import EngineError, TextsTooLong, TextTooLong
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.vector_cache import Vector
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.store import Weights
from workers_ai_emulator.runtime.embedders import Embedders
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.wire.context import CallContext

BASE = CATALOG["@cf/baai/bge-base-en-v1.5"]
M3 = CATALOG["@cf/baai/bge-m3"]
RERANKER = CATALOG["@cf/baai/bge-reranker-base"]
START, END = 1, 2


@dataclass
class FakeModel:
    """A fake of a loaded model: one token per word; an embedding counts the letters `a` and `b`.

    `calls`: the tokens and the pooling of each call. `limits`: the limits given to `tokenize`, and
    whether the texts must not be cut. `is_isolated`: whether the tokenizer runs in a subprocess.
    `tokenizing`: the threads that called `tokenize`.
    """

    is_trusted: bool = True
    context_length: int = 512
    num_separators: int = 2
    is_isolated: bool = False
    tokenizing: set[threading.Thread] = field(default_factory=set)
    calls: list[tuple[list[list[int]], Pooling]] = field(default_factory=list)
    limits: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def weights(self) -> Weights:
        return Weights(Path("fake.gguf"), is_trusted=self.is_trusted)

    @property
    def opened(self) -> Any:
        return SimpleNamespace(
            context_length=self.context_length,
            num_separators=self.num_separators,
            tokenizer=SimpleNamespace(is_isolated=self.is_isolated),
        )

    @property
    def embedder(self) -> Any:
        return SimpleNamespace(embed=self._embed)

    def tokenize(self, texts: Sequence[str], limit: int, *, are_whole: bool) -> list[list[int]]:
        self.limits.append((limit, are_whole))
        self.tokenizing.add(threading.current_thread())
        return [[START, *(ord(word[0]) for word in text.split()), END] for text in texts]

    async def _embed(self, texts: list[list[int]], pooling: Pooling) -> list[Vector]:
        self.calls.append((texts, pooling))
        if pooling is Pooling.RANK:
            return [np.array([len(tokens)], np.float32) for tokens in texts]
        counts = [[tokens.count(ord("a")), tokens.count(ord("b"))] for tokens in texts]
        return [np.array(count, np.float32) for count in counts]

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[FakeModel]:
        yield self


def backend(model: FakeModel) -> LocalEmbeddings:
    return LocalEmbeddings(cast(Embedders, model))


def embed(
    model: FakeModel,
    spec: ModelSpec,
    *texts: str,
    truncates: bool = True,
    context: CallContext | None = None,
) -> tuple[Embeddings, str]:
    assert spec.embedding
    request = EmbeddingRequest(texts, spec.embedding.pooling, truncates)
    return asyncio.run(backend(model).embed(request, spec, context or CallContext()))


def rank(model: FakeModel, spec: ModelSpec, query: str, *texts: str) -> tuple[Scores, str]:
    assert spec.embedding
    request = EmbeddingRequest(texts, spec.embedding.pooling, truncates=True, query=query)
    return asyncio.run(backend(model).rank(request, spec, CallContext()))


def test_embeddings_of_the_stand_in_model_have_the_dimensions_of_the_requested_model() -> None:
    result, name = embed(FakeModel(), BASE, "a a a b b b b")
    assert list(result.vectors[0]) == [0.6, 0.8] + [0.0] * 766
    assert (result.num_tokens, name) == (9, "fake")


def test_embeddings_of_own_weights_are_not_padded() -> None:
    result, _ = embed(FakeModel(is_trusted=False), BASE, "a a a b b b b")
    assert list(result.vectors[0]) == [0.6, 0.8]


def test_an_embedding_of_zeros_stays_as_it_is() -> None:
    result, _ = embed(FakeModel(is_trusted=False), BASE, "x")
    assert list(result.vectors[0]) == [0.0, 0.0]


@pytest.mark.parametrize(("is_trusted", "pooling"), [(True, Pooling.MEAN), (False, Pooling.CLS)])
def test_only_the_stand_in_model_ignores_the_requested_pooling(
    is_trusted: bool, pooling: Pooling
) -> None:
    model = FakeModel(is_trusted=is_trusted)
    embed(model, M3, "a")
    assert model.calls[0][1] is pooling


def test_a_long_text_is_cut_but_keeps_its_end() -> None:
    model = FakeModel()
    result, _ = embed(model, BASE, "a " * 1000, "b")
    first, second = model.calls[0][0]
    assert (len(first), first[-1], second) == (512, END, [START, ord("b"), END])
    assert result.num_tokens == 512 + 3
    assert model.limits == [(512, False)]


def test_tokens_that_only_the_stand_in_model_cuts_are_counted() -> None:
    model = FakeModel()
    result, _ = embed(model, M3, "a " * 1000, truncates=False)
    assert (len(model.calls[0][0][0]), result.num_tokens) == (512, 1002)


def test_a_long_text_is_refused_if_it_must_not_be_cut() -> None:
    with pytest.raises(TextTooLong) as caught:
        embed(FakeModel(), M3, "b", "a " * 8200, truncates=False)
    assert (caught.value.num_tokens, caught.value.limit) == (8202, 8192)


def test_too_many_tokens_together_are_refused() -> None:
    with pytest.raises(TextsTooLong) as caught:
        embed(FakeModel(), M3, *["a " * 7999] * 8)
    assert (caught.value.num_tokens, caught.value.limit) == (8 * 8001, 60_000)


def test_as_many_tokens_as_the_limits_allow_are_accepted() -> None:
    texts = ["a " * 8190] * 7 + ["a " * (60_000 - 7 * 8192 - 2)]
    result, _ = embed(FakeModel(), M3, *texts, truncates=False)
    assert result.num_tokens == 60_000
    with pytest.raises(TextsTooLong):
        embed(FakeModel(), M3, *texts, "", truncates=False)


@pytest.mark.parametrize("truncates", [False, True])
def test_all_tokens_are_counted_for_a_model_with_a_limit_of_all_texts(truncates: bool) -> None:
    model = FakeModel()
    embed(model, M3, "a", truncates=truncates)
    assert model.limits == [(8192, True)]


def test_the_stand_in_model_ranks_by_similarity() -> None:
    model = FakeModel()
    result, _ = rank(model, RERANKER, "a", "b b", "a a", "a b")
    assert result.values == [0.0, 1.0, pytest.approx(math.sqrt(0.5), abs=1e-6)]
    assert result.num_tokens == 3 + 3 * 4
    assert model.calls[0][1] is Pooling.MEAN


def test_bge_m3_ranks_by_similarity_also_with_own_weights() -> None:
    model = FakeModel(is_trusted=False)
    assert rank(model, M3, "a", "b b", "a a")[0].values == [0.0, 1.0]
    assert model.calls[0][1] is Pooling.CLS


@pytest.mark.parametrize(("num_separators", "ends"), [(1, [END]), (2, [END, END])])
def test_a_reranker_gets_pairs_of_query_and_text(num_separators: int, ends: list[int]) -> None:
    model = FakeModel(is_trusted=False, num_separators=num_separators)
    result, _ = rank(model, RERANKER, "q", "a b", "c")
    pairs = [[START, ord("q"), *ends, ord("a"), ord("b"), END], [START, ord("q"), *ends, 99, END]]
    assert model.calls == [(pairs, Pooling.RANK)]
    scores = [1 / (1 + math.exp(-len(pair))) for pair in pairs]
    assert result.values == pytest.approx(scores)
    assert result.num_tokens == sum(map(len, pairs))


@pytest.mark.parametrize("num_separators", [1, 2])
@pytest.mark.parametrize(("query", "text"), [(600, 600), (600, 3), (3, 600), (250, 300)])
def test_a_pair_fits_the_reranker_and_keeps_its_ends(
    num_separators: int, query: int, text: int
) -> None:
    model = FakeModel(is_trusted=False, num_separators=num_separators)
    rank(model, RERANKER, "q " * query, "a " * text)
    (pair,) = model.calls[0][0]
    assert len(pair) <= 512 and pair[-1] == END
    assert pair.count(END) == num_separators + 1
    assert pair.count(ord("a")) >= min(text, 200)


@pytest.mark.parametrize(
    ("output", "score"), [(-math.inf, 0), (-1000, 0), (0, 0.5), (1000, 1), (math.inf, 1)]
)
def test_every_output_of_a_reranker_is_a_score_from_zero_to_one(
    output: float, score: float
) -> None:
    class Extreme(FakeModel):
        async def _embed(self, texts: list[list[int]], pooling: Pooling) -> list[Vector]:
            return [np.array([output], np.float32) for _ in texts]

    assert rank(Extreme(is_trusted=False), RERANKER, "q", "a")[0].values == [score]


@pytest.mark.parametrize("truncates", [False, True])
def test_no_texts_have_no_embeddings(truncates: bool) -> None:
    result, _ = embed(FakeModel(), M3, truncates=truncates)
    assert (result.vectors, result.num_tokens) == ([], 0)


def test_no_texts_have_no_scores() -> None:
    assert rank(FakeModel(is_trusted=False), RERANKER, "q")[0].values == []
    assert rank(FakeModel(), RERANKER, "q")[0].values == []


def test_models_with_the_same_weights_each_cut_texts_at_their_own_limit() -> None:
    model = FakeModel(is_trusted=False, context_length=8192)
    for spec, num_tokens in ((BASE, 512), (M3, 1002)):
        result, _ = embed(model, spec, "a " * 1000)
        assert len(model.calls[-1][0][0]) == result.num_tokens == num_tokens
    rank(model, RERANKER, "q", "a " * 1000)
    assert len(model.calls[-1][0][0]) == 512


def test_a_model_with_a_shorter_context_cuts_texts() -> None:
    spec = replace(BASE, name="@cf/a/short")
    model = FakeModel(is_trusted=False, context_length=64)
    embed(model, spec, "a " * 100)
    assert len(model.calls[0][0][0]) == 64


@pytest.mark.parametrize(("is_trusted", "pooling"), [(True, Pooling.MEAN), (False, Pooling.RANK)])
def test_not_a_number_is_an_error(is_trusted: bool, pooling: Pooling) -> None:
    class Broken(FakeModel):
        async def _embed(self, texts: list[list[int]], pooling: Pooling) -> list[Vector]:
            return [np.array([np.nan, 1], np.float32) for _ in texts]

    model = Broken(is_trusted=is_trusted)
    with pytest.raises(EngineError, match="not a"):
        embed(model, BASE, "a")
    with pytest.raises(EngineError, match="not a"):
        rank(model, RERANKER, "q", "a")


def test_vectors_are_compared_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def recorded(vectors: Iterable[Sequence[float]]) -> list[float]:
        threads.append(threading.current_thread())
        return similarities_of_units(vectors)

    monkeypatch.setattr(local_embeddings, "similarities_of_units", recorded)
    assert rank(FakeModel(), RERANKER, "a", "a")[0].values == [1.0]
    assert threads and threading.main_thread() not in threads


@pytest.mark.parametrize(("num_texts", "in_thread"), [(10, False), (11, True)])
def test_many_vectors_are_normalised_in_a_thread(
    num_texts: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()

    def recorded(length: float) -> float:
        threads.add(threading.current_thread())
        return divisor_of(length)

    monkeypatch.setattr(local_embeddings, "divisor_of", recorded)
    result, name = embed(FakeModel(), BASE, *["a a a b b b b"] * num_texts)
    assert list(result.vectors) == [[0.6, 0.8] + [0.0] * 766] * num_texts
    assert (result.num_tokens, name) == (9 * num_texts, "fake")
    assert (threading.main_thread() not in threads) is in_thread


@pytest.mark.parametrize(
    ("is_large", "is_isolated", "in_thread"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_texts_that_may_take_long_are_tokenised_in_a_thread(
    is_large: bool, is_isolated: bool, in_thread: bool
) -> None:
    model = FakeModel(is_isolated=is_isolated)
    embed(model, BASE, "a", context=CallContext(is_large=is_large))
    assert (threading.main_thread() not in model.tokenizing) is in_thread
