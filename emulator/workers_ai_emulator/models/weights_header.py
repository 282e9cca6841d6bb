"""Checks that a GGUF file can be the weights of a model: that it has the model's task."""

from __future__ import annotations

import re
from pathlib import Path

from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_header import GgufHeader
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.spec import ModelSpec

# Architectures that compute embeddings, and generate no text.
_ENCODERS = re.compile(".*bert.*|gemma-embedding|llama-embed")
# The names of the tensors with which a reranker computes a score begin with this text.
_SCORING_TENSORS = "cls"


def read_weights_header(path: Path, spec: ModelSpec) -> GgufHeader:
    """Reads and checks the header of the GGUF file `path`, and returns it.

    Raises GgufInvalid if the file is not usable, or if its model does not do what the model `spec`
    does: generate text, compute embeddings or rank texts.
    """
    header = read_header(path, generates_text=False)
    if spec.embedding is None:
        if _computes_embeddings(header):
            raise GgufInvalid(
                f"it computes embeddings, and {spec.name} generates text: choose the name of an "
                "embedding model, or add it to models.toml with `like`"
            )
        return read_header(path)  # refuses other models that generate no text
    check_embedding_task(header, spec)
    return header


def check_embedding_task(header: GgufHeader, spec: ModelSpec) -> None:
    """Raises GgufInvalid if a file does not compute what the model `spec` computes.

    `spec`: a model for embeddings or for ranking.
    """
    assert spec.embedding is not None
    if not (_computes_embeddings(header) or _is_qwen3(header)):
        raise GgufInvalid(
            f"it generates text, and {spec.name} does not: choose the name of a text-generation "
            "model"
        )
    if spec.embedding.pooling is Pooling.RANK and not _ranks(header):
        raise GgufInvalid(
            f"it computes embeddings, and {spec.name} ranks texts: choose the name of an embedding "
            "model, or convert a reranker"
        )


def _computes_embeddings(header: GgufHeader) -> bool:
    """Returns whether the model computes embeddings: an encoder, or a model with a pooling type."""
    has_pooling = bool(header.metadata.get(f"{header.architecture}.pooling_type"))
    return has_pooling or bool(_ENCODERS.fullmatch(header.architecture))


def _is_qwen3(header: GgufHeader) -> bool:
    """Returns whether the model may be Qwen3-Embedding. Some of its files have no pooling type."""
    return header.architecture == "qwen3"


def _ranks(header: GgufHeader) -> bool:
    return any(tensor.name.startswith(_SCORING_TENSORS) for tensor in header.tensors)
