"""Replaces a request's credentials in the texts of the journal and of recordings."""

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
# A credential with fewer characters than this is not replaced: a short credential, such as `x` or
# `local`, also occurs in ordinary text.
_MIN_LENGTH = 6
# A truncated text may end with the beginning of a secret. Such a beginning is removed if it has at
# least this many characters.
_MIN_START = 4
# Matches JSON members whose key is the name of a credential header: AI Gateway's universal endpoint
# accepts headers inside a JSON body.
_NAMED = re.compile(
    rf'("(?:{"|".join(map(re.escape, CREDENTIAL_HEADERS))})"\s*:\s*")(?:[^"\\]|\\.)*',
    re.IGNORECASE,
)


class Redaction:
    """Replaces the secrets of one request with `[redacted]`, in texts, headers and JSON values.

    The secrets are the credentials in the request's headers, and the texts in `others`. Secrets
    that are escaped for JSON or for a URL are replaced too.
    """

    def __init__(self, headers: Headers, *others: str) -> None:
        given = [(name, value) for name in CREDENTIAL_HEADERS for value in headers.getlist(name)]
        secrets = {secret for name, value in given for secret in _secrets(name, value)}
        secrets |= {other for other in others if len(other) >= _MIN_LENGTH}
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """Returns the text with `[redacted]` in place of each secret.

        `is_cut`: whether the text is truncated. If it then ends with the first characters of a
        secret, these characters are removed.
        """
        for form in self._forms:
            text = text.replace(form, _MARK)
        if is_cut:
            for form in self._forms:
                text = _without_start(text, form)
        return text

    def is_needed(self, text: str) -> bool:
        """Returns whether the text contains a secret, which `text` would replace."""
        return any(form in text for form in self._forms)

    def headers(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Returns the headers with `[redacted]` in place of secrets.

        Values of credential headers and of `set-cookie` are replaced entirely. The values of a
        repeated header are joined with commas.
        """
        redacted: dict[str, str] = {}
        for name, value in headers:
            value = _MARK if name in _HIDDEN_HEADERS else self.text(value)
            redacted[name] = f"{redacted[name]}, {value}" if name in redacted else value
        return redacted

    def json(self, text: str, *, is_cut: bool = False) -> Any:
        """Parses the text as JSON, and returns its value with `[redacted]` in place of secrets.

        Also replaces the value of each key that is the name of a credential header. If the text is
        not valid JSON, returns it as a string with the same replacements. `is_cut`: whether the
        text is truncated.
        """
        try:
            return self.value(json.loads(text, parse_constant=float))
        except (ValueError, RecursionError):
            return self.text(_NAMED.sub(rf"\1{_MARK}", text), is_cut=is_cut)

    def value(self, value: Any) -> Any:
        """Returns a parsed JSON value with `[redacted]` in place of each secret.

        Raises ValueError if the value contains infinity or NaN: Python parses `1e999` as infinity,
        which JSON cannot represent.
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
    """Returns the secrets in the value of a credential header.

    They are the whole value, and the token after `Bearer` or the value of each cookie.
    """
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
