"""Keeps a call's credentials out of whatever is told about it."""

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
# A shorter one is a word such as `x` or `local`, which texts have for other reasons.
_MIN_LENGTH = 6
_MIN_REST = 3  # of one that is cut off
# AI Gateway's universal body has headers inside it.
_NAMED = re.compile(
    rf'("(?:{"|".join(map(re.escape, CREDENTIAL_HEADERS))})"\s*:\s*")(?:[^"\\]|\\.)*',
    re.IGNORECASE,
)


class Redaction:
    """Takes the values of one request's credentials out of texts, in any form that JSON has.

    `others` are further secrets.
    """

    def __init__(self, headers: Headers, *others: str) -> None:
        given = [(name, value) for name in CREDENTIAL_HEADERS for value in headers.getlist(name)]
        secrets = {secret for name, value in given for secret in _secrets(name, value)}
        secrets |= {other for other in others if len(other) >= _MIN_LENGTH}
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """The text without them; one that `is_cut` may end with the first half of one."""
        for form in self._forms:
            text = text.replace(form, _MARK)
        if is_cut:
            for form in self._forms:
                text = _without_start(text, form)
        return text

    def is_needed(self, text: str) -> bool:
        """Whether one of them is in the text."""
        return any(form in text for form in self._forms)

    def headers(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Headers by name; those that carry credentials without their values."""
        found: dict[str, str] = {}
        for name, value in headers:
            value = _MARK if name in _HIDDEN_HEADERS else self.text(value)
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    def json(self, text: str, *, is_cut: bool = False) -> Any:
        """What JSON the text is, or else the text. Headers inside it count as headers."""
        try:
            return self.value(json.loads(text, parse_constant=float))
        except (ValueError, RecursionError):
            return self.text(_NAMED.sub(rf"\1{_MARK}", text), is_cut=is_cut)

    def value(self, value: Any) -> Any:
        """The same of JSON that is parsed already.

        Raises ValueError for a number that JSON cannot express, such as 1e999.
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
    """A header's value, and what of it is the secret itself."""
    if name == "cookie":
        found = [value, *(pair.partition("=")[2].strip() for pair in value.split(";"))]
    else:
        found = [value, value.partition(" ")[2].strip()]  # behind `Bearer`
    return [secret for secret in found if len(secret) >= _MIN_LENGTH]


def _forms(secret: str) -> set[str]:
    return {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}


def _without_start(text: str, form: str) -> str:
    for length in range(len(form) - 1, _MIN_REST, -1):
        if text.endswith(form[:length]):
            return text[:-length]
    return text
