"""Searches passages with LangChain's embeddings of the package `langchain-cloudflare`.

    python langchain_cloudflare_embeddings_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

from langchain_cloudflare import CloudflareWorkersAIEmbeddings
from langchain_core.vectorstores import InMemoryVectorStore
from outcomes import print_outcomes
from passages import PASSAGES, QUESTIONS, TOO_LONG


def search(embeddings: Any, model: str) -> object:  # `Any`, because mypy does not find the client
    store = InMemoryVectorStore.from_texts(PASSAGES, embeddings(model_name=model))
    hits = [store.similarity_search(question, k=1)[0] for question in QUESTIONS]
    return {"found": [hit.page_content for hit in hits], "dimensions": dimensions(store)}


def search_async(embeddings: Any, model: str) -> object:
    return asyncio.run(_search_async(embeddings(model_name=model)))


async def _search_async(embeddings: Any) -> object:
    store = await InMemoryVectorStore.afrom_texts(PASSAGES, embeddings)
    hits = [(await store.asimilarity_search(question, k=1))[0] for question in QUESTIONS]
    return {"found": [hit.page_content for hit in hits], "dimensions": dimensions(store)}


def unknown_model(embeddings: Any) -> object:
    return embeddings(model_name="@cf/baai/bge-9").embed_query(QUESTIONS[0])


def too_long(embeddings: Any, model: str) -> object:
    return embeddings(model_name=model).embed_query(TOO_LONG)


def dimensions(store: Any) -> int:
    (length,) = {len(entry["vector"]) for entry in store.store.values()}
    return length


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    embeddings = partial(
        CloudflareWorkersAIEmbeddings,
        api_base_url=f"{base_url}/accounts",
        account_id=account_id,
        api_token=api_token,
    )
    print_outcomes((search, search_async, unknown_model, too_long), names, embeddings)


if __name__ == "__main__":
    main(*sys.argv[1:])
