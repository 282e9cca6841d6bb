"""Replaces a request's credentials with `[redacted]`, in the journal and in recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import suppress
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

# A secret with fewer characters than this is replaced only where a name, such as the header
# `x-api-key`, marks it as a credential. Elsewhere, a short text such as `x` may be ordinary text.
_MIN_LENGTH = 6
# A truncated text can end with the beginning of a secret. This beginning is removed if it has at
# least this many characters.
_MIN_START = 4
# The maximum number of secrets per request that are replaced wherever they occur. Further secrets
# are replaced only where a name, such as the header `x-api-key`, marks them as credentials.
_MAX_SECRETS = 256


class Redaction:
    """Replaces the secrets of one request with `[redacted]`, in texts, headers and JSON values.

    The secrets are the credentials in the request's headers, and the texts in `others`. The methods
    `learn_text`, `path`, `query`, `json` and `value` add the credentials in their argument to the
    secrets. A secret is also replaced where it is escaped for JSON or for a URL.
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
        """Returns a Redaction for the request in an ASGI scope.

        The secrets are the credentials in the request's headers, path and query, and the texts in
        `others`.
        """
        redaction = cls(Headers(scope=scope), *others)
        redaction.path(scope["path"])
        redaction.query(scope["query_string"].decode("latin-1"))
        return redaction

    def learn_text(self, text: str) -> None:
        """Adds the credentials in a body to the secrets. The body may be JSON or any other text."""
        with suppress(ValueError, RecursionError):
            self._learn_json(text)

    def path(self, path: str) -> str:
        """Adds the credentials in the path of a URL to the secrets. Returns the redacted path."""
        finder = Finder()
        path = finder.path(path)
        self._add(finder.found)
        return self.text(path)

    def query(self, query: str) -> str:
        """Adds the credentials in the query of a URL to the secrets. Returns the redacted query."""
        finder = Finder()
        query = finder.text(query)
        self._add(finder.found)
        return self.text(query)

    def parameter(self, name: str, value: str) -> tuple[str, str]:
        """Returns the name and the value of a decoded query parameter, with all secrets replaced.

        If the name is that of a credential, such as `api_key`, replaces the whole value.
        """
        if value and is_credential_name(name):
            value = MARK
        return self.text(name), self.text(value)

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """Returns the text with `[redacted]` in place of each secret.

        `is_cut`: whether the text is truncated. If a truncated text ends with the first characters
        of a secret, these characters are removed.
        """
        for form in self._forms:
            text = text.replace(form, MARK)
        if is_cut:
            for form in self._forms:
                text = _without_start(text, form)
        return text

    def is_needed(self, text: str) -> bool:
        """Returns whether the text contains a secret."""
        return any(form in text for form in self._forms)

    def headers(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Returns the headers with `[redacted]` in place of secrets.

        If a header has the name of a credential, such as `authorization` or `set-cookie`, replaces
        its whole value. Joins the values of a repeated header with commas.
        """
        finder, redacted = Finder(), dict[str, str]()
        for name, value in headers:
            value = self.text(finder.header(name, value))
            redacted[name] = f"{redacted[name]}, {value}" if name in redacted else value
        return redacted

    def json(self, text: str, *, is_cut: bool = False) -> Any:
        """Parses the text as JSON, and returns its value with `[redacted]` in place of secrets.

        If a key is the name of a credential, replaces its value, and adds the value to the secrets.
        If the text is not valid JSON, returns the redacted text.
        `is_cut`: whether the text is truncated.
        """
        try:
            return self._replaced(self._learn_json(text))
        except (ValueError, RecursionError):
            return self.text(Finder().cut_json(text), is_cut=is_cut)

    def value(self, value: Any) -> Any:
        """Adds the credentials in a parsed JSON value to the secrets. Returns the redacted value.

        Raises ValueError if the value contains infinity or NaN, because JSON cannot represent them.
        Python parses `1e999` as infinity.
        """
        return self._replaced(self._learn(value))

    def _learn_json(self, text: str) -> Any:
        """Parses the text as JSON, and adds the credentials in it to the secrets.

        Returns the parsed value with `[redacted]` in place of these credentials. Raises ValueError
        if the text is not valid JSON, and RecursionError if the JSON is nested too deeply. Before
        raising one of these errors, adds the credentials in the unparsed text to the secrets.
        """
        try:
            return self._learn(json.loads(text))
        except (ValueError, RecursionError):
            finder = Finder()
            finder.cut_json(text)
            self._add(finder.found)
            raise

    def _learn(self, value: Any) -> Any:
        finder = Finder()
        value = finder.value(value)
        self._add(finder.found)
        return value

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
    """Returns the forms of a secret in texts: unchanged, escaped for JSON, escaped for a URL."""
    in_json = {json.dumps(secret, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    return {secret, *in_json, quote(secret, safe=""), quote_plus(secret)}


def _without_start(text: str, form: str) -> str:
    for length in range(len(form) - 1, _MIN_START - 1, -1):
        if text.endswith(form[:length]):
            return text[:-length]
    return text
