"""Replaces a request's credentials in the texts of the journal and of recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

from starlette.datastructures import Headers
from starlette.types import Scope

from workers_ai_emulator.wire.credentials import (
    CREDENTIAL_HEADERS,
    MARK,
    Finder,
    is_credential_name,
)

__all__ = ["CREDENTIAL_HEADERS", "Redaction"]

# Shorter secrets are not removed: they are words such as `x` or `local`, which occur in any text.
_MIN_LENGTH = 6
_MIN_START = 4  # of a secret that is cut off at the end of a text
_MAX_SECRETS = 256  # of one request; more are redacted only where their names are


class Redaction:
    """Replaces the credentials of one request, and `others`, in texts.

    The request's headers have credentials; `of`, `learn` and `learn_text` find further ones by
    their names. A secret is also found as it is escaped in JSON and in URLs.
    """

    def __init__(self, headers: Headers, *others: str) -> None:
        finder = Finder()
        for name, value in headers.items():
            finder.header(name, value)
        self._secrets: set[str] = set()
        self._forms: list[str] = []
        self._add({*finder.found, *others})

    @classmethod
    def of(cls, scope: Scope, *others: str) -> Redaction:
        """Returns the redaction for the credentials in a request's headers, path and query."""
        redaction = cls(Headers(scope=scope), *others)
        redaction.path(scope["path"])
        redaction.query(scope["query_string"].decode("latin-1"))
        return redaction

    def learn(self, value: Any) -> None:
        """Adds the credentials in a JSON body to those of the request."""
        finder = Finder()
        finder.value(value)
        self._add(finder.found)

    def learn_text(self, text: str) -> None:
        """Adds the credentials in a body that may be JSON to those of the request."""
        try:
            self.learn(json.loads(text))
        except (ValueError, RecursionError):
            finder = Finder()
            finder.cut_json(text)
            self._add(finder.found)

    def path(self, path: str) -> str:
        """Returns the path of a URL without secrets."""
        finder = Finder()
        path = finder.path(path)
        self._add(finder.found)
        return self.text(path)

    def query(self, query: str) -> str:
        """Returns the query of a URL without secrets."""
        finder = Finder()
        query = finder.text(query)
        self._add(finder.found)
        return self.text(query)

    def parameter(self, name: str, value: str) -> tuple[str, str]:
        """Returns a decoded parameter of a query without secrets."""
        if value and is_credential_name(name):
            value = MARK
        return self.text(name), self.text(value)

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """Returns the text with `[redacted]` in place of each secret.

        `is_cut`: whether the text is truncated. If it then ends with the first characters of a
        secret, these characters are removed.
        """
        for form in self._forms:
            text = text.replace(form, MARK)
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
            value = self.text(Finder().header(name, value))
            redacted[name] = f"{redacted[name]}, {value}" if name in redacted else value
        return redacted

    def json(self, text: str, *, is_cut: bool = False) -> Any:
        """Parses the text as JSON, and returns its value with `[redacted]` in place of secrets.

        The values of members that have the name of a credential are removed too.
        """
        self.learn_text(text)
        try:
            return self.value(json.loads(text, parse_constant=float))
        except (ValueError, RecursionError):
            return self.text(Finder().cut_json(text), is_cut=is_cut)

    def value(self, value: Any) -> Any:
        """Returns a parsed JSON value with `[redacted]` in place of each secret.

        Raises ValueError if the value contains infinity or NaN: Python parses `1e999` as infinity,
        which JSON cannot represent.
        """
        return self._replaced(Finder().value(value))

    def _replaced(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._replaced(item) for item in value]
            case dict():
                return {self.text(key): self._replaced(item) for key, item in value.items()}
            case float() if not math.isfinite(value):
                raise ValueError(f"{value} is not JSON")
        return value

    def _add(self, secrets: set[str]) -> None:
        secrets = {secret for secret in secrets if len(secret) >= _MIN_LENGTH} - self._secrets
        if secrets:
            self._secrets.update(sorted(secrets)[: max(0, _MAX_SECRETS - len(self._secrets))])
            forms = {form for secret in self._secrets for form in _forms(secret)}
            self._forms = sorted(forms, key=len, reverse=True)


def _forms(secret: str) -> set[str]:
    """Returns the secret itself, and as it is escaped in JSON and in URLs."""
    in_json = {json.dumps(secret, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    return {secret, *in_json, quote(secret, safe=""), quote_plus(secret)}


def _without_start(text: str, form: str) -> str:
    for length in range(len(form) - 1, _MIN_START - 1, -1):
        if text.endswith(form[:length]):
            return text[:-length]
    return text
