"""Tests that the emulator accepts every token by default, and checks tokens with `--api-token`."""

from __future__ import annotations

import httpx
import pytest

from tests.server import ACCOUNT_ID, INT8, ServerProcess

BODY = {"prompt": "Hi", "max_tokens": 1}
REFUSED = (
    401,
    '{"result":null,"success":false,"errors":[{"code":10000,"message":"Authentication error"}],'
    '"messages":[]}',
)


def run(server: ServerProcess, headers: dict[str, str], path: str | None = None) -> tuple[int, str]:
    """Sends a request to `ai/run` or to `path`. Returns the status and the body of the response."""
    url = server.root + path if path else server.run_url()
    response = httpx.post(url, json=BODY, headers=headers, timeout=60)
    return response.status_code, response.text


@pytest.mark.inferred
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "nonsense"}, {"x-auth-key": "k"}], ids=str
)
def test_any_credentials_or_none_pass_by_default(
    server: ServerProcess, headers: dict[str, str]
) -> None:
    assert run(server, headers)[0] == 200


@pytest.mark.documented
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "Bearer second"},
        {"authorization": "Bearer from-file"},
        {"x-auth-email": "a@example.com", "x-auth-key": "first"},
        {"x-auth-user-service-key": "first"},
    ],
    ids=str,
)
def test_an_accepted_token_or_key_passes(strict: ServerProcess, headers: dict[str, str]) -> None:
    assert run(strict, headers)[0] == 200


@pytest.mark.recorded
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer third"},
        {"x-auth-email": "a@example.com", "x-auth-key": "third"},
    ],
    ids=str,
)
def test_another_token_or_key_is_10000(strict: ServerProcess, headers: dict[str, str]) -> None:
    assert run(strict, headers) == REFUSED


@pytest.mark.inferred
def test_a_key_without_an_email_address_is_9106(strict: ServerProcess) -> None:
    status, body = run(strict, {"x-auth-key": "first"})
    assert (status, '"code":9106' in body) == (400, True)


@pytest.mark.recorded
def test_a_scheme_other_than_bearer_is_6003(strict: ServerProcess) -> None:
    status, body = run(strict, {"authorization": "Basic Zmlyc3Q="})
    assert (status, '"code":6003' in body) == (400, True)


@pytest.mark.inferred
@pytest.mark.parametrize(
    "headers",
    [
        {"cf-aig-authorization": "Bearer first"},
        {"authorization": "Bearer first"},
        {"authorization": "Bearer of-the-provider", "cf-aig-authorization": "Bearer first"},
    ],
    ids=str,
)
def test_the_gateway_accepts_a_token_in_its_own_header_or_in_authorization(
    strict: ServerProcess, headers: dict[str, str]
) -> None:
    assert run(strict, headers, f"/v1/{ACCOUNT_ID}/default/workers-ai/{INT8}")[0] == 200


@pytest.mark.recorded
def test_the_account_id_is_checked_before_the_token(strict: ServerProcess) -> None:
    url = f"{strict.base_url}/accounts/anonymous/ai/run/@cf/meta/llama-2-7b-chat-int8"
    assert httpx.post(url, json=BODY).json()["errors"][0]["code"] == 7003


@pytest.mark.inferred
def test_readyz_needs_no_token(strict: ServerProcess) -> None:
    assert httpx.get(f"{strict.root}/_emulator/readyz").status_code == 200
