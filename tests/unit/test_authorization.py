"""Tests which requests are authorized, for every kind of access, with and without tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from workers_ai_emulator.wire.authorization import Authorization, Caller, no_route
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.endpoints import Access
from workers_ai_emulator.wire.errors import (
    AUTHENTICATION_FAILED,
    CREDENTIALS_MISSING,
    GATEWAY_NOT_CONFIGURED,
    GATEWAY_UNAUTHORIZED,
    HEADER_MALFORMED,
    INVALID_ACCOUNT,
    NO_ROUTE,
    TOKEN_INVALID,
    TOKEN_MISSING,
    ErrorType,
    WireError,
)

from tests.asgi import http_scope
from tests.server import ACCOUNT_ID

OPEN = Authorization(frozenset())
STRICT = Authorization(frozenset({"first", "second"}))
FIRST = {"authorization": "Bearer first"}
WRONG = {"authorization": "Bearer wrong"}
BAD_ACCOUNTS = [None, "", "x", ACCOUNT_ID.upper(), ACCOUNT_ID + "0", "0" * 31, f"{ACCOUNT_ID}\n"]


def refusal(
    authorization: Authorization,
    access: Access,
    headers: Mapping[str, str] | None = None,
    *,
    account_id: str | None = ACCOUNT_ID,
    is_local: bool = False,
) -> ErrorType | None:
    """Returns the error that a request gets, or None if the request is authorized."""
    client = ("127.0.0.1", 5000) if is_local else None
    try:
        authorization.check(access, Caller(headers or {}, "/path", account_id, client))
    except WireError as error:
        return error.type
    return None


@pytest.mark.parametrize("headers", [{}, WRONG, {"authorization": "malformed"}])
@pytest.mark.parametrize("access", Access)
def test_without_tokens_every_caller_has_every_access(
    access: Access, headers: dict[str, str]
) -> None:
    assert refusal(OPEN, access, headers) is None


@pytest.mark.parametrize("account_id", BAD_ACCOUNTS)
@pytest.mark.parametrize(
    ("access", "error"),
    [
        (Access.PUBLIC, None),
        (Access.ACCOUNT, INVALID_ACCOUNT),
        (Access.ACCOUNT_ID, INVALID_ACCOUNT),
        (Access.GATEWAY, GATEWAY_NOT_CONFIGURED),
        (Access.BINDING, None),
        (Access.CONTROL, None),
    ],
)
def test_an_account_id_has_32_hexadecimal_digits(
    access: Access, error: ErrorType | None, account_id: str | None
) -> None:
    assert refusal(OPEN, access, account_id=account_id) is error


@pytest.mark.parametrize(
    ("access", "without_token", "with_wrong_token"),
    [
        (Access.PUBLIC, None, None),
        (Access.ACCOUNT, CREDENTIALS_MISSING, AUTHENTICATION_FAILED),
        (Access.ACCOUNT_ID, None, None),
        (Access.GATEWAY, GATEWAY_UNAUTHORIZED, GATEWAY_UNAUTHORIZED),
        (Access.BINDING, CREDENTIALS_MISSING, AUTHENTICATION_FAILED),
        (Access.CONTROL, CREDENTIALS_MISSING, AUTHENTICATION_FAILED),
    ],
)
def test_with_tokens_a_caller_needs_one_of_them(
    access: Access, without_token: ErrorType | None, with_wrong_token: ErrorType | None
) -> None:
    assert refusal(STRICT, access) is without_token
    assert refusal(STRICT, access, WRONG) is with_wrong_token
    assert refusal(STRICT, access, FIRST) is None
    assert refusal(STRICT, access, {"authorization": "Bearer second"}) is None


@pytest.mark.parametrize("access", Access)
def test_only_a_binding_may_be_trusted_without_a_token(access: Access) -> None:
    needs_token = refusal(STRICT, access) is not None
    is_refused = refusal(STRICT, access, is_local=True) is not None
    assert is_refused is (needs_token and access is not Access.BINDING)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "bearer   first"},
        {"x-auth-email": "a@b.example", "x-auth-key": "first"},
        {"x-auth-user-service-key": "first"},
        {"x-auth-user-service-key": "first", "x-auth-email": "a@b.example", "x-auth-key": "x"},
        FIRST | {"x-auth-user-service-key": "wrong"},
    ],
)
def test_a_token_may_be_in_any_header_for_credentials(headers: dict[str, str]) -> None:
    assert refusal(STRICT, Access.ACCOUNT, headers) is None


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"authorization": "first"}, HEADER_MALFORMED),
        ({"authorization": "Bearer"}, HEADER_MALFORMED),
        ({"authorization": "Basic first"}, HEADER_MALFORMED),
        ({"authorization": "Bearer first second"}, HEADER_MALFORMED),
        ({"authorization": "", "x-auth-user-service-key": "first"}, HEADER_MALFORMED),
        ({"x-auth-user-service-key": ""}, HEADER_MALFORMED),
        ({"x-auth-key": "first"}, CREDENTIALS_MISSING),
        ({"x-auth-email": "a@b.example"}, CREDENTIALS_MISSING),
        ({"cf-aig-authorization": "Bearer first"}, CREDENTIALS_MISSING),
    ],
)
def test_unusable_credentials_are_refused(headers: dict[str, str], error: ErrorType) -> None:
    assert refusal(STRICT, Access.ACCOUNT, headers) is error


def test_the_account_is_checked_before_the_token() -> None:
    assert refusal(STRICT, Access.ACCOUNT, account_id="x") is INVALID_ACCOUNT
    assert refusal(STRICT, Access.GATEWAY, account_id="x") is GATEWAY_NOT_CONFIGURED


@pytest.mark.parametrize(
    ("own", "shared", "error"),
    [
        ("Bearer first", "Bearer wrong", None),
        ("Bearer wrong", "Bearer first", GATEWAY_UNAUTHORIZED),
        ("malformed", "Bearer first", GATEWAY_UNAUTHORIZED),
    ],
)
def test_a_gateway_reads_its_own_header_first(
    own: str, shared: str, error: ErrorType | None
) -> None:
    headers = {"cf-aig-authorization": own, "authorization": shared}
    assert refusal(STRICT, Access.GATEWAY, headers) is error


@pytest.mark.parametrize(
    ("client", "needs_token", "is_local"),
    [
        (("127.0.0.1", 5000), False, True),
        (("::1", 5000), False, True),
        (("::ffff:127.0.0.1", 5000), False, True),
        (("127.0.0.1", 5000), True, False),
        (("192.0.2.1", 5000), False, False),
        (("::ffff:192.0.2.1", 5000), False, False),
        (("", 0), False, False),
        (None, False, False),
    ],
)
def test_a_caller_on_this_machine_is_local_unless_it_sends_its_users_token(
    client: Any, needs_token: bool, is_local: bool
) -> None:
    scope = http_scope("/run", headers=FIRST, client=client)
    context_of(scope).needs_token = needs_token
    caller = Caller.of(scope, None)
    assert caller.is_local is is_local
    assert (caller.path, caller.headers["Authorization"]) == ("/run", "Bearer first")


def is_local(headers: dict[str, str]) -> bool:
    return Caller.of(http_scope("/run", headers=headers, client=("127.0.0.1", 5000)), None).is_local


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Real-IP",
        "Via",
        "CF-Connecting-IP",
        "CF-Connecting-IPv6",
        "CF-Ray",
        "CDN-Loop",
        "True-Client-IP",
        "Tailscale-User-Login",
        "X-Original-Host",
        "X-Envoy-External-Address",
    ],
)
def test_a_forwarded_request_is_not_local(name: str) -> None:
    assert not is_local({name.lower(): "203.0.113.7"})  # in ASGI, header names are lower-case


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8790", True),
        ("localhost:8790", True),
        ("[::1]:8790", True),
        ("workers-binding.ai", True),
        ("app.localhost", True),
        ("203.0.113.7", False),
        ("emulator.example", False),
        ("workers-ai:8790", False),
    ],
)
def test_a_request_for_a_host_that_is_not_local_was_forwarded(host: str, expected: bool) -> None:
    assert is_local({"host": host}) is expected


def test_headers_of_bindings_do_not_count_as_forwarding() -> None:
    names = ["content-type", "cf-consn-sdk-version", "cf-consn-model-id", "mf-url", "x-forwarded"]
    assert is_local(dict.fromkeys(names, "x"))


def test_a_setting_makes_local_bindings_need_a_token() -> None:
    strict = Authorization(frozenset({"first"}), trusts_local_bindings=False)
    for authorization, error in ((STRICT, None), (strict, CREDENTIALS_MISSING)):
        assert refusal(authorization, Access.BINDING, is_local=True) is error
    assert refusal(strict, Access.BINDING, FIRST, is_local=True) is None


def test_the_id_of_a_token_depends_on_the_token_only() -> None:
    first, again = (STRICT.token_id(FIRST) for _ in range(2))
    second = STRICT.token_id({"authorization": "Bearer second"})
    assert first == again != second
    assert len(first) == 32 and int(first, 16)
    assert len(OPEN.token_id({})) == 32


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, CREDENTIALS_MISSING),
        (WRONG, TOKEN_INVALID),
        ({"authorization": "malformed"}, HEADER_MALFORMED),
        ({"x-auth-user-service-key": "first"}, TOKEN_MISSING),
    ],
)
def test_only_an_accepted_token_has_an_id(headers: dict[str, str], error: ErrorType) -> None:
    with pytest.raises(WireError) as caught:
        STRICT.token_id(headers)
    assert caught.value.type is error


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        ("/", [7000]),
        ("/client/v4/zones", [7000]),
        (f"/client/v4/accounts/{ACCOUNT_ID}/none", [7000]),
        ("/client/v4/accounts/x/none", [7003, 7000]),
        ("/client/v4/accounts/x", [7003, 7000]),
        ("/client/v4/accounts//none", [7000]),
    ],
)
def test_an_unknown_path_is_an_error_that_depends_on_the_account_id(
    path: str, codes: list[int]
) -> None:
    error = no_route(path)
    assert error.type is NO_ROUTE
    assert [entry["code"] for entry in error.entries] == codes
