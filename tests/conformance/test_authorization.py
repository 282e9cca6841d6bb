"""Tokens: ignored by default, asked for with `--api-token`."""

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


def ask(server: ServerProcess, path: str | None = None, **headers: str) -> tuple[int, str]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = server.root + path if path else server.run_url()
    answer = httpx.post(url, json=BODY, headers=names, timeout=60)
    return answer.status_code, answer.text


@pytest.mark.inferred
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "nonsense"}, {"x_auth_key": "k"}], ids=str
)
def test_anything_goes_by_default(server: ServerProcess, headers: dict[str, str]) -> None:
    assert ask(server, **headers)[0] == 200


@pytest.mark.documented
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "Bearer second"},
        {"authorization": "Bearer from-file"},
        {"x_auth_email": "a@example.com", "x_auth_key": "first"},
        {"x_auth_user_service_key": "first"},
    ],
    ids=str,
)
def test_a_known_token_passes(strict: ServerProcess, headers: dict[str, str]) -> None:
    assert ask(strict, **headers)[0] == 200


@pytest.mark.recorded
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer third"},
        {"x_auth_email": "a@example.com", "x_auth_key": "third"},
    ],
    ids=str,
)
def test_an_unknown_token_is_10000(strict: ServerProcess, headers: dict[str, str]) -> None:
    assert ask(strict, **headers) == REFUSED


@pytest.mark.inferred
def test_a_key_without_an_address_is_no_credential(strict: ServerProcess) -> None:
    status, body = ask(strict, x_auth_key="first")
    assert (status, '"code":9106' in body) == (400, True)


@pytest.mark.recorded
def test_another_scheme_is_a_malformed_header(strict: ServerProcess) -> None:
    status, body = ask(strict, authorization="Basic Zmlyc3Q=")
    assert (status, '"code":6003' in body) == (400, True)


@pytest.mark.inferred
@pytest.mark.parametrize(
    "headers",
    [
        {"cf_aig_authorization": "Bearer first"},
        {"authorization": "Bearer first"},
        {"authorization": "Bearer of-the-provider", "cf_aig_authorization": "Bearer first"},
    ],
    ids=str,
)
def test_the_gateway_takes_its_own_header_or_the_api_s(
    strict: ServerProcess, headers: dict[str, str]
) -> None:
    assert ask(strict, f"/v1/{ACCOUNT_ID}/default/workers-ai/{INT8}", **headers)[0] == 200


@pytest.mark.recorded
def test_the_account_s_form_is_checked_before_the_token(strict: ServerProcess) -> None:
    url = f"{strict.base_url}/accounts/anonymous/ai/run/@cf/meta/llama-2-7b-chat-int8"
    assert httpx.post(url, json=BODY).json()["errors"][0]["code"] == 7003


@pytest.mark.inferred
def test_our_own_endpoints_ask_for_no_token(strict: ServerProcess) -> None:
    assert httpx.get(f"{strict.root}/_emulator/readyz").status_code == 200
