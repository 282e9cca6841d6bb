"""Tests how an embedding model tokenises texts and gets its settings, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from workers_ai_emulator.engine.gguf_header import GgufHeader
from workers_ai_emulator.models.store import Weights
from workers_ai_emulator.runtime import embedder_loader
from workers_ai_emulator.runtime.embedder_loader import EmbedderLoader, OpenEmbedder
from workers_ai_emulator.settings import Settings

CHARACTERS_PER_TOKEN = 32  # more are cut or split


@dataclass
class FakeModel:
    """A fake of a model and of its vocabulary."""

    text_start: list[int]
    text_end: list[int]
    eos: int | None = None
    is_closed: bool = False

    @property
    def vocabulary(self) -> FakeModel:
        return self

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeTokenizer:
    """Returns the characters as tokens. `texts`: the texts that it got."""

    texts: list[str] = field(default_factory=list)
    is_closed: bool = False

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        self.texts += texts
        return [[*map(ord, text)] for text in texts]

    def close(self) -> None:
        self.is_closed = True


def opened(model: FakeModel, tokenizer: FakeTokenizer) -> OpenEmbedder:
    header, weights = GgufHeader(3, {}, (), 0, 0), Weights(Path("fake.gguf"))
    fakes = cast(Any, model), cast(Any, tokenizer)
    return OpenEmbedder(
        header, weights, *fakes, 512, runner_size=1, num_threads=1, shares_calls=True
    )


def test_texts_get_the_special_tokens_at_their_start_and_end() -> None:
    embedder = opened(FakeModel([1, 2], [3]), FakeTokenizer())
    assert embedder.tokenize(["a", ""], 9) == [[1, 2, 97, 3], [1, 2, 3]]


@pytest.mark.parametrize(("eos", "token"), [(7, 7), (None, 0)])
def test_an_empty_text_has_a_token_also_without_special_tokens(eos: int | None, token: int) -> None:
    embedder = opened(FakeModel([], [], eos), FakeTokenizer())
    assert embedder.tokenize(["", "a"], 9) == [[token], [97]]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", [""]),
        ("a" * 64, ["a" * 64]),
        ("a" * 130, ["a" * 64, "a" * 64, "aa"]),
        (" " + "a" * 64, [" " + "a" * 63, "a"]),
        ("a" * 64 + " b", ["a" * 64, " b"]),
        ("aa bb " + "c" * 60, ["aa bb", " " + "c" * 60]),
    ],
    ids=["empty", "short", "no space", "a space at the start", "a space at the limit", "spaces"],
)
def test_a_long_text_that_must_not_be_cut_is_split_before_spaces_if_possible(
    text: str, pieces: list[str]
) -> None:
    tokenizer = FakeTokenizer()
    embedder = opened(FakeModel([], []), tokenizer)
    texts = ["x", text, "y"]
    tokens = embedder.tokenize(texts, 64 // CHARACTERS_PER_TOKEN, are_whole=True)
    assert tokenizer.texts == ["x", *pieces, "y"]
    assert tokens == [[*map(ord, each)] or [0] for each in texts]


def test_a_long_text_that_may_be_cut_is_cut_before_it_is_tokenised() -> None:
    tokenizer = FakeTokenizer()
    opened(FakeModel([], []), tokenizer).tokenize(["a" * 65], 64 // CHARACTERS_PER_TOKEN)
    assert tokenizer.texts == ["a" * 64]


def test_the_embedder_gets_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(
        embedder_loader, "Embedder", lambda create, **options: created.append((create, options))
    )
    monkeypatch.setattr(embedder_loader, "EmbeddingRunner", lambda *_, **options: options)
    loader = EmbedderLoader(Settings(threads=3, queue_size=5))
    loader.embedder(opened(FakeModel([], []), FakeTokenizer()), 2, bool)
    ((create_runner, options),) = created
    assert create_runner() == {"shares_calls": True}
    assert options == {
        "num_runners": 2,
        "num_threads": 3,
        "queue_size": 5,
        "is_machine_free": bool,
    }


def test_closing_closes_the_tokenizer_and_the_model() -> None:
    model, tokenizer = FakeModel([], []), FakeTokenizer()
    opened(model, tokenizer).close()
    assert model.is_closed and tokenizer.is_closed
