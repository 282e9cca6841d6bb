"""Tests which credentials are removed from texts, and which texts remain unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers
from workers_ai_emulator.wire.redaction import CREDENTIAL_HEADERS, Redaction

SECRET = "sk-0123456789"


def redaction(*others: str, **headers: str) -> Redaction:
    return Redaction(Headers({k.replace("_", "-"): v for k, v in headers.items()}), *others)


BEARER = redaction(authorization=f"Bearer {SECRET}")


@pytest.mark.parametrize("name", CREDENTIAL_HEADERS)
def test_the_value_of_every_header_with_credentials_is_a_secret(name: str) -> None:
    assert Redaction(Headers({name: SECRET})).text(f"a {SECRET} b") == "a [redacted] b"


def test_a_token_is_redacted_with_and_without_its_scheme() -> None:
    assert BEARER.text(f"Bearer {SECRET}, {SECRET}") == "[redacted], [redacted]"


def test_every_value_of_a_cookie_is_a_secret() -> None:
    cookies = redaction(cookie=f"theme=dark; session={SECRET}; other=abcdefgh")
    assert cookies.text(f"{SECRET} abcdefgh dark") == "[redacted] [redacted] dark"


def test_of_overlapping_secrets_the_longest_is_redacted() -> None:
    assert redaction("secret", "secret-and-more").text("secret-and-more") == "[redacted]"


def test_a_short_secret_is_redacted_in_its_header_only() -> None:
    local = redaction("word", authorization="Bearer local")
    assert local.text("a local word") == "a local word"
    assert local.headers([("authorization", "Bearer local")]) == {"authorization": "[redacted]"}


def test_a_secret_is_redacted_as_escaped_in_json_and_urls() -> None:
    secret = 'a"b\\c/d é'
    found = redaction(secret)
    assert found.text(json.dumps([secret])) == '["[redacted]"]'
    assert found.text("key=a%22b%5Cc%2Fd%20%C3%A9") == "key=[redacted]"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("it is sk-0123456", "it is "),
        ("it is sk-0", "it is "),
        ("it is sk-", "it is sk-"),
        ("sk-0123 is it", "sk-0123 is it"),
        (f"it is {SECRET}", "it is [redacted]"),
    ],
)
def test_the_start_of_a_secret_at_the_end_of_a_cut_text_is_removed(
    text: str, redacted: str
) -> None:
    assert BEARER.text(text, is_cut=True) == redacted


def test_whether_a_text_has_a_secret_is_known() -> None:
    assert BEARER.is_needed(f"a{SECRET}b")
    assert not BEARER.is_needed(SECRET[:-1])


def test_headers_are_joined_and_those_with_credentials_are_hidden() -> None:
    pairs = [("set-cookie", "a=1"), ("x-a", "1"), ("x-a", f"2 {SECRET}"), ("x-b", "3")]
    assert BEARER.headers(pairs) == {
        "set-cookie": "[redacted]",
        "x-a": "1, 2 [redacted]",
        "x-b": "3",
    }


def test_json_is_redacted_in_keys_and_values_at_any_depth() -> None:
    body = {"a": [{SECRET: f"x{SECRET}"}, 1.5, None, True], "Authorization": ["Bearer other"]}
    assert BEARER.json(json.dumps(body)) == {
        "a": [{"[redacted]": "x[redacted]"}, 1.5, None, True],
        "Authorization": "[redacted]",
    }


def test_a_credential_in_json_is_redacted_in_all_texts_of_the_request() -> None:
    body = {"prompt": f"a {SECRET}", "api_key": SECRET}
    redacted = {"prompt": "a [redacted]", "api_key": "[redacted]"}
    parsed, unparsed = redaction(), redaction()
    assert parsed.value(body) == unparsed.json(json.dumps(body)) == redacted
    assert parsed.text(SECRET) == unparsed.text(SECRET) == "[redacted]"


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_credential_in_json_with_an_invalid_number_is_redacted(number: str) -> None:
    found = redaction()
    assert found.json(f'{{"prompt": "a {SECRET}", "api_key": "{SECRET}", "top_p": {number}}}') == (
        f'{{"prompt": "a [redacted]", "api_key": "[redacted]", "top_p": {number}}}'
    )
    assert found.text(SECRET) == "[redacted]"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"no JSON {SECRET}", "no JSON [redacted]"),
        ('[{"Authorization": "Bearer x\\"y"', '[{"Authorization": "[redacted]"'),
        ('{"x-api-key" : "short', '{"x-api-key" : "[redacted]'),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1e999}', '{"a": 1e999}'),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=["text", "cut JSON", "cut value", "NaN", "infinity", "depth"],
)
def test_a_text_that_is_not_json_stays_a_redacted_text(text: str, redacted: str) -> None:
    assert BEARER.json(text) == redacted


@pytest.mark.parametrize("value", [float("inf"), float("nan"), [{"a": float("-inf")}]])
def test_a_number_that_json_cannot_express_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        BEARER.value(value)
