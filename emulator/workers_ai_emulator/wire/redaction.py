"""Removes a request's credentials from texts that the journal shows or recordings store."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers

CREDENTIAL_HEADERS = (
    "authorization",
    "cf-aig-authorization",
    "x-auth-key",
    "x-auth-user-service-key",
    "x-auth-email",
    "cf-access-client-secret",
    "cf-access-jwt-assertion",
    "proxy-authorization",
    "api-key",
    "x-api-key",
    "cookie",
)
_MARK = "[redacted]"
_HIDDEN_HEADERS = frozenset({*CREDENTIAL_HEADERS, "set-cookie"})
# Credentials below this length are not removed: a word like `x` or `local` is also ordinary text.
_MIN_LENGTH = 6
# A cut text may end with a part of a secret. The part is removed if it has at least this many
# characters.
_MIN_START = 4
# Matches credential headers inside a JSON body, as AI Gateway's universal endpoint accepts them.
_NAMED = re.compile(
    rf'("(?:{"|".join(map(re.escape, CREDENTIAL_HEADERS))})"\s*:\s*")(?:[^"\\]|\\.)*',
    re.IGNORECASE,
)


class Redaction:
    """Replaces the secrets of one request by `[redacted]` in texts, headers and JSON values.

    The secrets are the credentials in the request's headers, and `others`. A secret is also
    replaced where it is escaped for JSON or for a URL.
    """

    def __init__(self, headers: Headers, *others: str) -> None:
        given = [(name, value) for name in CREDENTIAL_HEADERS for value in headers.getlist(name)]
        secrets = {secret for name, value in given for secret in _secrets(name, value)}
        secrets |= {other for other in others if len(other) >= _MIN_LENGTH}
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """Returns the text with `[redacted]` in place of each secret.

        `is_cut`: the text was cut and may end inside a secret. The beginning of a secret at the end
        is then removed too.
        """
        for form in self._forms:
            text = text.replace(form, _MARK)
        if is_cut:
            for form in self._forms:
                text = _without_start(text, form)
        return text

    def is_needed(self, text: str) -> bool:
        """Returns whether the text contains a secret."""
        return any(form in text for form in self._forms)

    def headers(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Returns the headers without secrets. Joins the values of a repeated header by commas."""
        redacted: dict[str, str] = {}
        for name, value in headers:
            value = _MARK if name in _HIDDEN_HEADERS else self.text(value)
            redacted[name] = f"{redacted[name]}, {value}" if name in redacted else value
        return redacted

    def json(self, text: str, *, is_cut: bool = False) -> Any:
        """Parses the text, and returns its JSON value without secrets.

        Returns the text without secrets if it is not JSON. Also removes the value of each JSON key
        that is the name of a credential header. `is_cut`: the text may end inside a secret.
        """
        try:
            return self.value(json.loads(text, parse_constant=float))
        except (ValueError, RecursionError):
            return self.text(_NAMED.sub(rf"\1{_MARK}", text), is_cut=is_cut)

    def value(self, value: Any) -> Any:
        """Returns a parsed JSON value with `[redacted]` in place of each secret.

        Raises ValueError for a number that JSON cannot express: Python parses `1e999` as infinity.
        """
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(item) for item in value]
            case dict():
                return {self.text(key): self._member(key, item) for key, item in value.items()}
            case float() if not math.isfinite(value):
                raise ValueError(f"{value} is not JSON")
        return value

    def _member(self, key: str, value: Any) -> Any:
        return _MARK if key.lower() in _HIDDEN_HEADERS else self.value(value)


def _secrets(name: str, value: str) -> list[str]:
    """Returns the secrets in a credential header: the whole value, and its token or cookies."""
    if name == "cookie":
        candidates = [value, *(pair.partition("=")[2].strip() for pair in value.split(";"))]
    else:
        candidates = [value, value.partition(" ")[2].strip()]  # the token after `Bearer`
    return [secret for secret in candidates if len(secret) >= _MIN_LENGTH]


def _forms(secret: str) -> set[str]:
    """Returns the secret in three forms: unchanged, escaped for JSON, and escaped for URLs."""
    return {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}


def _without_start(text: str, form: str) -> str:
    for length in range(len(form) - 1, _MIN_START - 1, -1):
        if text.endswith(form[:length]):
            return text[:-length]
    return text
