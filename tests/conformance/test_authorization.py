"""Tokens: ignored by default, asked for with `--api-token`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import ServerProcess, server_process

BODY = {"prompt": "Hi", "max_tokens": 1}
REFUSED = (
    401,
    '{"result":null,"success":false,"errors":[{"code":10000,"message":"Authentication error"}],'
    '"messages":[]}',
)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    file: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text("from-file\n\n")
    flags = ["--api-token", "first", "--api-token", "second", "--api-token-file", str(file)]
    with server_process(*flags, "--parallel", "1", "--context-length", "512") as server:
        yield server


def ask(server: ServerProcess, **headers: str) -> tuple[int, str]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.post(server.run_url(), json=BODY, headers=names, timeout=60)
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
@pytest.mark.parametrize("headers", [{}, {"x_auth_key": "first"}], ids=str)
def test_no_credentials_are_9106(strict: ServerProcess, headers: dict[str, str]) -> None:
    assert ask(strict, **headers) == (
        400,
        '{"success":false,"errors":[{"code":9106,"message":"Missing X-Auth-Key, X-Auth-Email or '
        'Authorization headers"}],"messages":[],"result":null}',
    )


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("headers", "code", "name"),
    [
        ({"authorization": "first"}, 6111, "Authorization"),
        ({"authorization": "Basic Zmlyc3Q="}, 6111, "Authorization"),
        ({"x_auth_email": "a@example.com", "x_auth_key": "a b"}, 6103, "X-Auth-Key"),
    ],
    ids=str,
)
def test_a_malformed_header_is_6003(
    strict: ServerProcess, headers: dict[str, str], code: int, name: str
) -> None:
    assert ask(strict, **headers) == (
        400,
        '{"success":false,"errors":[{"code":6003,"message":"Invalid request headers",'
        f'"error_chain":[{{"code":{code},"message":"Invalid format for {name} header"}}]}}],'
        '"messages":[],"result":null}',
    )


@pytest.mark.recorded
def test_the_account_s_form_is_checked_before_the_token(strict: ServerProcess) -> None:
    url = f"{strict.base_url}/accounts/anonymous/ai/run/@cf/meta/llama-2-7b-chat-int8"
    assert httpx.post(url, json=BODY).json()["errors"][0]["code"] == 7003


@pytest.mark.inferred
def test_our_own_endpoints_ask_for_no_token(strict: ServerProcess) -> None:
    assert httpx.get(f"{strict.root}/_emulator/readyz").status_code == 200
