"""Computes embeddings with Cloudflare's client `cloudflare` for Python.

    python cloudflare_embeddings_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# Each tested version of the client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from typing import Any

from cloudflare import Cloudflare
from outcomes import print_outcomes
from passages import PASSAGES, QUESTIONS, TOO_LONG, found


def search(client: Cloudflare, account_id: str, model: str) -> object:
    passages, questions = (
        embed(client, account_id, model, texts)["data"] for texts in (PASSAGES, QUESTIONS)
    )
    return found(passages, questions)


def unknown_model(client: Cloudflare, account_id: str) -> object:
    return embed(client, account_id, "@cf/baai/bge-9", QUESTIONS)


def too_long(client: Cloudflare, account_id: str, model: str) -> object:
    return embed(client, account_id, model, TOO_LONG)


def models(client: Cloudflare, account_id: str) -> object:
    listed = client.ai.models.list(account_id=account_id, task="Text Embeddings")
    return [model["name"] for model in listed]


def embed(client: Cloudflare, account_id: str, model: str, text: str | list[str]) -> Any:
    return client.ai.run(model, account_id=account_id, text=text)


CASES = (search, unknown_model, too_long, models)


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    client = Cloudflare(base_url=base_url, api_token=api_token)
    print_outcomes(CASES, names, client, account_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
