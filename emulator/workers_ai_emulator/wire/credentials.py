"""Finds credentials by the names of headers, query parameters and JSON keys, and in paths."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from urllib.parse import unquote_plus

MARK = "[redacted]"

# Every value under these names is a credential, even null.
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
_ALWAYS_HIDDEN = frozenset({*CREDENTIAL_HEADERS, "set-cookie"})
# `tokens` and `keys` alone are no credentials, as in `max_tokens`.
_WORDS = re.compile(
    "key|token|secrets?|auth|authorization|authentication|cookies?|credentials?|passwords?|passwd|"
    "passphrase|pwd|signatures?|sig|jwt|bearer|apikeys?|api_keys|apitokens?|api_tokens|authkey|"
    "authtoken|auth_tokens|accesskey|access_keys|accesstoken|access_tokens|refresh_tokens|"
    "private_keys|secretkey|session_tokens"
)
_HINT = re.compile("key|token|secret|auth|cookie|cred|passw|passp|pwd|sig|jwt|bearer", re.I)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_PAIR = re.compile(r'("([^"\\]{1,64})"\s*:\s*")([^"\\]*(?:\\.[^"\\]*)*)')
_PARAMETER = re.compile(r"(?:^|(?<=[?&]))([^\s=&?#\"'/]{1,64})=([^\s&#\"'<>]*)")
# The headers of a step of AI Gateway's universal endpoint, in JSON that is cut off.
_STEP_HEADERS = re.compile(r'"headers"\s*:\s*\{(?:[^{}"]|"(?:[^"\\]|\\.)*+"?)*+')
_STRING_VALUE = re.compile(r'("([^"\\]*(?:\\.[^"\\]*)*)"\s*:\s*")([^"\\]*(?:\\.[^"\\]*)*)')
_MEDIA_TYPE_HEADERS = ("accept", "content-type")
_MEDIA_TYPE = re.compile(r"[\w.+*-]+/[\w.+*-]+(; ?charset=[\w-]+)?")
_LABELS = ("type", "scheme", "kind", "name")  # of a credential that is an object

# Tokens are recognised by their usual beginnings, or because they are long and mixed.
_KNOWN_TOKEN = re.compile(
    r"(?:sk|pk|rk|gsk|hf|cfut|cfat|cfk|gh[opsu]|xox[abp])[-_]\w[\w-]{10,}|eyJ.+"
)
_LONG_TOKEN = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9_-]{32,}")
_AFTER_NAME = re.compile(r"(?=.*[0-9])[\w.~+-]{6,}|[\w.~+-]{20,}")


def is_credential_name(name: str) -> bool:
    """Returns whether a word in the name stands for a credential, as in `x-goog-api-key`."""
    if not _HINT.search(name):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    candidates = [*words, *map("_".join, pairwise(words))]
    return any(map(_WORDS.fullmatch, candidates))


class Finder:
    """Replaces the credentials in the parts of a request by MARK, and collects them in `found`."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._is_credential: dict[str, bool] = {}  # by name; names in a body repeat

    def header(self, name: str, value: str) -> str:
        if name.lower() not in _ALWAYS_HIDDEN and not is_credential_name(name):
            return self.text(value)
        self._add(value)
        if "cookie" in name.lower():
            self._add(*(pair.partition("=")[2].strip() for pair in value.split(";")))
        return MARK

    def text(self, text: str) -> str:
        """Replaces the values of query parameters and of JSON's members in any text."""
        if "=" in text:
            text = _PARAMETER.sub(self._parameter, text)
        return _PAIR.sub(self._pair, text) if '"' in text else text

    def cut_json(self, text: str) -> str:
        """Replaces credentials in a text that begins like JSON."""
        return self.text(_STEP_HEADERS.sub(self._step_headers, text))

    def path(self, path: str) -> str:
        """Replaces parts that follow a part such as `token`, and parts that look like a token."""
        parts = self.text(path).split("/")
        model = next((i for i, part in enumerate(parts) if part.startswith("@")), len(parts))
        for i, part in enumerate(parts):
            is_named = i > 0 and is_credential_name(parts[i - 1]) and _AFTER_NAME.fullmatch(part)
            has_shape = _KNOWN_TOKEN.fullmatch(part) or _LONG_TOKEN.fullmatch(part)
            if part != MARK and (is_named or (has_shape and i < model)):
                self._add(part)
                parts[i] = MARK
            elif "=" in part:
                parts[i] = _PARAMETER.sub(self._parameter, part)
        return "/".join(parts)

    def value(self, value: Any, *, is_step: bool = True) -> Any:
        """Replaces the values of JSON's members with the name of a credential.

        `is_step`: the value may be a step of AI Gateway's universal endpoint, or a list of steps,
        in whose `headers` all values are replaced.
        """
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.value(item, is_step=is_step) for item in value]
            case dict():
                return {key: self._member(key, item, is_step) for key, item in value.items()}
        return value

    def _member(self, key: str, value: Any, is_step: bool) -> Any:
        if is_step and key == "headers" and isinstance(value, dict):
            return {name: self._step_header(name, item) for name, item in value.items()}
        if key == "properties" and isinstance(value, dict):  # a JSON schema, which names parameters
            return {name: self._property(name, item) for name, item in value.items()}
        if key.lower() in _ALWAYS_HIDDEN or (
            is_credential_name(key) and _may_be_secret(key, value)
        ):
            return self._hide(value)
        return self.value(value, is_step=False)

    def _property(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return self.value(value, is_step=False)
        return self._member(name, value, False)

    def _step_header(self, name: str, value: Any) -> Any:
        return value if _is_media_type(name, value) else self._hide(value)

    def _hide(self, value: Any) -> str:
        self._add(*_leaves(value))
        return MARK

    def _parameter(self, match: re.Match[str]) -> str:
        name, value = match.groups()
        if not value or not is_credential_name(unquote_plus(name)):
            return match[0]
        self._add(value, unquote_plus(value))
        return f"{name}={MARK}"

    def _pair(self, match: re.Match[str]) -> str:
        start, name, value = match.groups()
        if name.lower() not in _ALWAYS_HIDDEN and not is_credential_name(name):
            return match[0]
        self._add(value)
        return f"{start}{MARK}"

    def _step_headers(self, match: re.Match[str]) -> str:
        return _STRING_VALUE.sub(self._step_pair, match[0])

    def _step_pair(self, match: re.Match[str]) -> str:
        start, name, value = match.groups()
        if _is_media_type(name, value):
            return match[0]
        self._add(value)
        return f"{start}{MARK}"

    def _add(self, *values: str) -> None:
        """Adds credentials, each with and without a scheme such as `Bearer`."""
        for value in values:
            self.found |= {value.strip(), value.strip().partition(" ")[2].strip()}
        self.found -= {"", MARK}


def _may_be_secret(name: str, value: Any) -> bool:
    """A number under a name such as `token_count` is not a credential, and no boolean is one."""
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return is_credential_name(_WORD.findall(name)[-1])
    return not isinstance(value, list) or any(isinstance(item, str | list | dict) for item in value)


def _leaves(value: Any) -> list[str]:
    """Returns the texts and numbers in a JSON value, without the labels of objects."""
    match value:
        case str():
            return [value]
        case list():
            return [leaf for item in value for leaf in _leaves(item)]
        case dict():
            values = [item for key, item in value.items() if key not in _LABELS]
            return [leaf for item in values for leaf in _leaves(item)]
        case int() | float() if not isinstance(value, bool):
            return [str(value)]
    return []


def _is_media_type(name: str, value: Any) -> bool:
    """Such headers of a step are no credentials, and stay readable."""
    is_named = name.lower() in _MEDIA_TYPE_HEADERS
    return is_named and isinstance(value, str) and bool(_MEDIA_TYPE.fullmatch(value))
