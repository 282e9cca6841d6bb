"""Computes embeddings with LiteLLM's provider for OpenAI-compatible servers.

    python litellm_embeddings_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import litellm
from outcomes import print_outcomes
from passages import PASSAGES, QUESTIONS, TOO_LONG, found


def search(embed: Any, model: str) -> object:  # `Any`, because mypy does not find the client
    passages, questions = (
        [each["embedding"] for each in embed(model=f"openai/{model}", input=texts).data]
        for texts in (PASSAGES, QUESTIONS)
    )
    return found(passages, questions)


def unknown_model(embed: Any) -> object:
    return embed(model="openai/@cf/baai/bge-9", input=QUESTIONS)


def too_long(embed: Any, model: str) -> object:
    return embed(model=f"openai/{model}", input=TOO_LONG)


def main(base_url: str, account_id: str, api_key: str, *names: str) -> None:
    litellm.suppress_debug_info = True  # keeps LiteLLM's texts out of the output
    embed = partial(
        litellm.embedding, api_base=f"{base_url}/accounts/{account_id}/ai/v1", api_key=api_key
    )
    print_outcomes((search, unknown_model, too_long), names, embed)


if __name__ == "__main__":
    main(*sys.argv[1:])
