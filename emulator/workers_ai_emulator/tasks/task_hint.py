"""A hint for the log if an input has the keys of a model with another task."""

from __future__ import annotations

from typing import Any

from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.spec import ModelSpec

_TEXT_KEYS = {"prompt", "messages"}
_EMBEDDING_KEYS = {"text", "query", "contexts", "queries", "documents"}


def task_hint(spec: ModelSpec, body: Any) -> str:
    """Returns the hint for an input that the model's schema refuses; empty if there is none."""
    keys = set(body) if isinstance(body, dict) else set()
    if spec.embedding is None:
        # The Responses API, whose input has the key `input`, has a key `text`, too.
        if keys & _EMBEDDING_KEYS and not keys & {*_TEXT_KEYS, "input"}:
            return f"{spec.name} generates text: request an embedding model or a reranker"
        return ""
    if keys & _TEXT_KEYS:
        return f"{spec.name} does not generate text: request a text-generation model"
    if spec.embedding.pooling is Pooling.RANK:
        is_embedding = keys & {"text", "input"}
        return f"{spec.name} ranks texts: request an embedding model" if is_embedding else ""
    if "input" in keys:
        return "the key `input` is that of OpenAI's API (ai/v1/embeddings); here, the key is `text`"
    return ""
