"""Describes how the service treats a model that computes embeddings, ranks texts or decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workers_ai_emulator.engine.pooling import Pooling


@dataclass(frozen=True, slots=True)
class EmbeddingTraits:
    """How the service treats a model that computes embeddings, ranks texts or decides.

    `form`: the model's input and the keys of its response, named after its models. `dimensions`:
    the length of an embedding; 0 for a reranker or a decision model. `pooling`: the default
    pooling. `max_tokens`: the maximum number of tokens of a text. `max_request_tokens`: that of all
    texts of a request; None: no limit. `truncates`: whether longer texts are cut; otherwise they
    are refused.
    """

    form: Literal["bge-en", "bge-m3", "gemma", "qwen3", "reranker", "decisions"]
    dimensions: int
    pooling: Pooling
    max_tokens: int
    max_request_tokens: int | None = None
    truncates: bool = True
