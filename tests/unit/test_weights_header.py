"""Tests that a GGUF file is refused as the weights of a model with another task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf_header import GgufHeader, GgufTensor
from workers_ai_emulator.models import weights_header
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.weights_header import read_weights_header

BGE = "@cf/baai/bge-small-en-v1.5"
QWEN_3 = "@cf/qwen/qwen3-embedding-0.6b"
RERANKER = "@cf/baai/bge-reranker-base"
CLEF = "@cf/cloudflare/clef"
LLAMA = "@cf/meta/llama-3.2-1b-instruct"
SCORING = "cls.weight"


def header_of(architecture: str, pooling_type: int | None, *tensors: str) -> GgufHeader:
    metadata: dict[str, Any] = {"general.architecture": architecture}
    if pooling_type is not None:
        metadata[f"{architecture}.pooling_type"] = pooling_type
    names = ("token_embd.weight", *tensors)
    return GgufHeader(3, metadata, tuple(GgufTensor(n, (1,), "F32", 0, 4) for n in names), 0, 0)


def read(header: GgufHeader, model: str, monkeypatch: pytest.MonkeyPatch) -> GgufHeader:
    def read_header(path: Path, *, generates_text: bool = True) -> GgufHeader:
        return header

    monkeypatch.setattr(weights_header, "read_header", read_header)
    return read_weights_header(Path("a.gguf"), CATALOG[model])


@pytest.mark.parametrize(
    ("header", "model"),
    [
        (header_of("llama", None), LLAMA),
        (header_of("llama", 0), LLAMA),
        (header_of("qwen3", None), LLAMA),
        (header_of("bert", 1), BGE),
        (header_of("bert", None), BGE),
        (header_of("nomic-bert", None), BGE),
        (header_of("gemma-embedding", None), BGE),
        (header_of("qwen3", 3), QWEN_3),
        (header_of("qwen3", None), QWEN_3),
        (header_of("llama", 3), BGE),
        (header_of("bert", None, SCORING), RERANKER),
        (header_of("bert", 1), CLEF),
    ],
)
def test_a_file_with_the_task_of_the_model_is_accepted(
    header: GgufHeader, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(header, model, monkeypatch) is header


@pytest.mark.parametrize(
    ("header", "model", "reason"),
    [
        (header_of("bert", 2), LLAMA, f"it computes embeddings, and {LLAMA} generates text: "),
        (header_of("qwen3", 3), LLAMA, f"it computes embeddings, and {LLAMA} generates text: "),
        (header_of("llama", None), BGE, f"it generates text, and {BGE} does not: "),
        (header_of("llama", 0), CLEF, f"it generates text, and {CLEF} does not: "),
        (header_of("llama", 0), RERANKER, f"it generates text, and {RERANKER} does not: "),
        (header_of("bert", 2), RERANKER, f"it computes embeddings, and {RERANKER} ranks texts: "),
    ],
)
def test_a_file_with_another_task_is_refused_with_the_next_step(
    header: GgufHeader, model: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GgufInvalid, match=f"^{reason}choose the name of "):
        read(header, model, monkeypatch)
