"""Computes embeddings with OpenAI's client `openai` for Python.

    python openai_embeddings_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

A case is a name and a model. Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# The client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from typing import Any

from openai import OpenAI
from outcomes import print_outcomes
from passages import PASSAGES, QUESTIONS, TOO_LONG, found


def search(client: OpenAI, model: str) -> object:
    passages, questions = (vectors(create(client, model, t)) for t in (PASSAGES, QUESTIONS))
    return found(passages, questions)


def one_text(client: OpenAI, model: str) -> object:
    """Returns the whole response. Raises if a type differs from the client's declaration.

    The declaration of the response has `usage`, which Workers AI does not send.
    """
    response = create(client, model, QUESTIONS[0], encoding_format="float")
    for item in response.data:
        type(item).model_validate_json(item.to_json(), strict=True)
    return response.to_dict()


def formats(client: OpenAI, model: str) -> object:
    """Returns the embeddings as numbers, and as the client decodes them if it requests base64."""
    numbers, decoded = (
        vectors(create(client, model, QUESTIONS[:2], **options))
        for options in ({"encoding_format": "float"}, {})
    )
    return [numbers, decoded]


def unknown_model(client: OpenAI) -> object:
    return create(client, "@cf/baai/bge-9", QUESTIONS)


def too_long(client: OpenAI, model: str) -> object:
    return create(client, model, TOO_LONG)


def create(client: OpenAI, model: str, texts: str | list[str], **options: Any) -> Any:
    """Requests embeddings. Without options, the client requests base64, and decodes it."""
    return client.embeddings.create(model=model, input=texts, **options)


def vectors(response: Any) -> list[list[float]]:
    assert [each.index for each in response.data] == [*range(len(response.data))]
    return [each.embedding for each in response.data]


CASES = (search, one_text, formats, unknown_model, too_long)


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    client = OpenAI(base_url=f"{base_url}/accounts/{account_id}/ai/v1", api_key=api_token)
    print_outcomes(CASES, names, client)


if __name__ == "__main__":
    main(*sys.argv[1:])
