"""Calls Workers AI with Cloudflare's client `cloudflare` for Python, with a changed base URL.

    python cloudflare_python.py BASE_URL ACCOUNT_ID TOKEN CASE...

Prints one JSON line for each case: its value or its error.
"""

# mypy: disable-error-code="import-not-found"
# Each tested version of the client is in its own folder, where mypy does not find it.

from __future__ import annotations

import sys
from typing import Any

from cloudflare import Cloudflare
from outcomes import print_outcomes

MODEL = "@cf/meta/llama-2-7b-chat-int8"


def chat(client: Cloudflare, account_id: str) -> object:
    return client.ai.run(
        MODEL,
        account_id=account_id,
        messages=[{"role": "user", "content": "Name a fruit."}],
        max_tokens=6,
        temperature=0,
    )


def chat_without_retries(client: Cloudflare, account_id: str) -> object:
    return chat(client.with_options(max_retries=0), account_id)


def prompt(client: Cloudflare, account_id: str) -> object:
    return client.ai.run(
        MODEL, account_id=account_id, prompt="Name a fruit.", max_tokens=6, temperature=0
    )


def stream(client: Cloudflare, account_id: str) -> object:
    with client.ai.with_streaming_response.run(
        MODEL,
        account_id=account_id,
        messages=[{"role": "user", "content": "Name a fruit."}],
        max_tokens=6,
        temperature=0,
        stream=True,
    ) as response:
        return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def unknown_model(client: Cloudflare, account_id: str) -> object:
    return client.ai.run("@cf/meta/llama-9", account_id=account_id, prompt="Hi")


def bad_input(client: Cloudflare, account_id: str) -> object:
    return client.ai.run(MODEL, account_id=account_id, prompt="Hi", temperature=9)


def models(client: Cloudflare, account_id: str) -> object:
    return [model["name"] for model in client.ai.models.list(account_id=account_id)]


def models_one_per_page(client: Cloudflare, account_id: str) -> object:
    pages = client.ai.models.list(account_id=account_id, per_page=1).iter_pages()
    return [[model["name"] for model in page.result] for page in pages]


def models_found(client: Cloudflare, account_id: str) -> object:
    found = client.ai.models.list(account_id=account_id, search="fp16", task="Text Generation")
    return [model["name"] for model in found]


def schema(client: Cloudflare, account_id: str) -> object:
    found = client.ai.models.schema.get(account_id=account_id, model=MODEL)
    # Version 4 returns a dictionary, version 5 an object.
    return found if isinstance(found, dict) else found.to_dict()


def tasks(client: Cloudflare, account_id: str) -> object:
    return list(client.ai.tasks.list(account_id=account_id))


def accounts(client: Cloudflare, account_id: str) -> object:
    return [checked(account) for account in client.accounts.list()]


def account(client: Cloudflare, account_id: str) -> object:
    return checked(client.accounts.get(account_id=account_id))


def token(client: Cloudflare, account_id: str) -> object:
    return checked(client.user.tokens.verify())


def account_token(client: Cloudflare, account_id: str) -> object:
    return checked(client.accounts.tokens.verify(account_id=account_id))


def checked(result: Any) -> object:  # `Any`, because the client's models have no common type
    """Returns the result's fields. Raises if a type differs from the client's declaration."""
    type(result).model_validate_json(result.to_json(), strict=True)
    fields: object = result.to_dict(mode="json")
    return fields


CASES = (
    *(chat, chat_without_retries, prompt, stream, unknown_model, bad_input),
    *(models, models_one_per_page, models_found, schema, tasks),
    *(accounts, account, token, account_token),
)


def main(base_url: str, account_id: str, api_token: str, *names: str) -> None:
    client = Cloudflare(base_url=base_url, api_token=api_token)
    print_outcomes(CASES, names, client, account_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
