"""Searches passages with LlamaIndex. CLASS is `cloudflare` or `openai_like`.

    python llama_index_embeddings_python.py CLASS BASE_URL ACCOUNT_ID TOKEN CASE...

CLASS selects LlamaIndex's class CloudflareEmbedding or OpenAILikeEmbedding. A case is a name and a
model. Prints one JSON line for each case: its value or its error. CloudflareEmbedding ignores
BASE_URL, because it always calls api.cloudflare.com.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.cloudflare_workersai import CloudflareEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from outcomes import print_outcomes
from passages import PASSAGES, QUESTIONS, TOO_LONG


def search(embedding: Any, model: str) -> object:  # `Any`, because mypy does not find the client
    nodes = [TextNode(text=text) for text in PASSAGES]
    index = VectorStoreIndex(nodes, embed_model=embedding(model))
    retriever = index.as_retriever(similarity_top_k=1)
    hits = [retriever.retrieve(question)[0] for question in QUESTIONS]
    vectors = index.vector_store.data.embedding_dict.values()
    (dimensions,) = {len(vector) for vector in vectors}
    return {"found": [hit.node.text for hit in hits], "dimensions": dimensions}


def unknown_model(embedding: Any) -> object:
    return embedding("@cf/baai/bge-9").get_query_embedding(QUESTIONS[0])


def too_long(embedding: Any, model: str) -> object:
    return embedding(model).get_query_embedding(TOO_LONG)


def cloudflare(account_id: str, api_token: str, model: str) -> Any:
    return CloudflareEmbedding(account_id=account_id, auth_token=api_token, model=model)


def openai_like(api_base: str, api_token: str, model: str) -> Any:
    return OpenAILikeEmbedding(model_name=model, api_base=api_base, api_key=api_token)


def main(kind: str, base_url: str, account_id: str, api_token: str, *names: str) -> None:
    embedding = {
        "cloudflare": partial(cloudflare, account_id, api_token),
        "openai_like": partial(openai_like, f"{base_url}/accounts/{account_id}/ai/v1", api_token),
    }[kind]
    print_outcomes((search, unknown_model, too_long), names, embedding)


if __name__ == "__main__":
    main(*sys.argv[1:])
