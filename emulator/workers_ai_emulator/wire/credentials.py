"""Finds the credentials in a request.

In headers, queries and JSON, a value is a credential if its name contains a word such as `key` or
`token`. In paths, a part between two slashes is a credential in two cases:

* It looks like a token, for example `sk-…`.
* It follows a name such as `token`, and is long or contains digits, as in `/token/a1b2c3`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import unquote_plus

MARK = "[redacted]"

# The value of a header or JSON key with one of these names is always a credential.
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
# A name is split into words. It is the name of a credential if one of its words is in this list.
# `max_tokens` is not such a name, because the list contains neither `max` nor `tokens`.
# An entry with `_`, such as `api_tokens`, matches two adjacent words of a name.
_WORDS = re.compile(
    "key|token|secrets?|auth|authorization|authentication|cookies?|credentials?|passwords?|passwd|"
    "passphrase|pwd|signatures?|sig|jwt|bearer|apikeys?|api_keys|apitokens?|api_tokens|authkey|"
    "authtoken|auth_tokens|accesskey|access_keys|accesstoken|access_tokens|refresh_tokens|"
    "private_keys|secretkey|session_tokens"
)
# A quick first check: names that do not match this pattern contain no word of `_WORDS`.
_HINT = re.compile("key|token|secret|auth|cookie|cred|passw|passp|pwd|sig|jwt|bearer", re.I)
_MAX_CACHED_LENGTH = 64
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # splits `accessToken` into two words

_PAIR = re.compile(r'("([^"\\]{1,64})"\s*:\s*")([^"\\]*(?:\\.[^"\\]*)*)')
_PARAMETER = re.compile(r"(?:^|(?<=[?&]))([^\s=&?#\"'/]{1,64})=([^\s&#\"'<>]*)")
# Matches `"headers": {…` in truncated bodies, which cannot be parsed as JSON. A request to AI
# Gateway's universal endpoint has a list of requests (steps) in its body, each with `headers`.
_STEP_HEADERS = re.compile(r'"headers"\s*:\s*\{(?:[^{}"]|"(?:[^"\\]|\\.)*+"?)*+')
# Matches a key with a string as its value, or any other string. No match begins inside a string, so
# the search takes linear time for any text.
_CONTENT = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING_VALUE = re.compile(rf'("({_CONTENT})"\s*+:\s*+")({_CONTENT})("?)|"{_CONTENT}"?', re.DOTALL)
_MEDIA_TYPE_HEADERS = ("accept", "content-type")
_MEDIA_TYPE = re.compile(r"[\w.+*-]+/[\w.+*-]+(; ?charset=[\w-]+)?")
# If a credential is a JSON object, the values of these keys are not secret: they describe the
# credential.
_LABELS = ("type", "scheme", "kind", "name")

# Matches tokens that begin like the tokens of a known service, such as `ghp_…`.
_KNOWN_TOKEN = re.compile(
    r"(?:sk|pk|rk|gsk|hf|cfut|cfat|cfk|gh[opsu]|xox[abp])[-_]\w[\w-]{10,}|eyJ.+"
)
# A quick first check: paths that do not match this pattern contain no credentials. The set of all
# first characters makes the search three times as fast.
_PATH_HINT = re.compile(
    '(?=[A-Z="abcghjkprstx])'
    f'(?:[A-Z="]|(?:sk|pk|rk|hf|cfut|cfat|cfk|gh[opsu]|xox[abp])[-_]|{_HINT.pattern})'
)
# Matches tokens of at least 32 characters that have upper-case letters, lower-case letters and
# digits.
_LONG_TOKEN = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9_-]{32,}")
# Matches a part of a path with at least 20 characters, or with at least 6 characters and a digit.
# The part is a credential if it follows a name such as `token`.
_AFTER_NAME = re.compile(r"(?=.*[0-9])[\w.~+-]{6,}|[\w.~+-]{20,}")


def is_credential_name(name: str) -> bool:
    """Returns whether a header, parameter or JSON key with this name contains a credential.

    Returns True for `x-goog-api-key`, for example, and False for `max_tokens`.
    """
    # Caches the results for short names, because most requests have the same few header names.
    return _has_word_cached(name) if len(name) <= _MAX_CACHED_LENGTH else _has_word(name)


def _has_word(name: str) -> bool:
    if not _HINT.search(name):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    candidates = [*words, *map("_".join, pairwise(words))]
    return any(map(_WORDS.fullmatch, candidates))


_has_word_cached = lru_cache(maxsize=1024)(_has_word)


class Finder:
    """Replaces the credentials in the parts of a request with `[redacted]`.

    `found`: all credentials that were replaced.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()

    def header(self, name: str, value: str) -> str:
        """Returns the value of a header, with `[redacted]` in place of credentials."""
        if name.lower() not in _ALWAYS_HIDDEN and not is_credential_name(name):
            return self.text(value)
        self._add(value)
        if "cookie" in name.lower():
            self._add(*(pair.partition("=")[2].strip() for pair in value.split(";")))
        return MARK

    def text(self, text: str) -> str:
        """Replaces the credentials in a text that may contain URLs and JSON.

        Replaces the values of query parameters and JSON keys that have the name of a credential.
        """
        if "=" in text:
            text = _PARAMETER.sub(self._parameter, text)
        return _PAIR.sub(self._pair, text) if '"' in text else text

    def cut_json(self, text: str) -> str:
        """Replaces the credentials in JSON text that cannot be parsed, such as truncated text.

        If the text contains the requests of AI Gateway's universal endpoint, also replaces all
        values in their `headers`, except media types.
        """
        return self.text(_STEP_HEADERS.sub(self._step_headers, text))

    def path(self, path: str) -> str:
        """Replaces the credentials in the path of a URL.

        Replaces each part that looks like a token, except in a model's name, which begins with `@`.
        Also replaces each part that follows a name such as `token`, if the part is long or contains
        digits.
        """
        if not _PATH_HINT.search(path):
            return path
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
        """Replaces the credentials in a parsed JSON value.

        Replaces the values of keys that have the name of a credential, such as `api_key`. In
        strings, also replaces the values of query parameters that have such a name.
        `is_step`: whether the value may be the body for AI Gateway's universal endpoint: a request,
        or a list of requests. If True, also replaces all values in the `headers` of these requests,
        except media types.
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
        # In a JSON schema, the keys of `properties` are names of parameters, so a key such as
        # `token` does not mean that its value is a credential.
        if key == "properties" and isinstance(value, dict):
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
        start, name, value, end = match.groups()
        if start is None or _is_media_type(name, value):
            return match[0]
        self._add(value)
        return f"{start}{MARK}{end}"

    def _add(self, *values: str) -> None:
        """Adds credentials to `found`, both with and without a scheme such as `Bearer`."""
        for value in values:
            self.found |= {value.strip(), value.strip().partition(" ")[2].strip()}
        self.found -= {"", MARK}


def _may_be_secret(name: str, value: Any) -> bool:
    """Returns whether a JSON value under `name`, a key such as `api_key`, can be a credential.

    Strings and objects can be credentials, and so can lists that contain strings, objects or lists.
    True, false and null cannot. A number can be a credential only if its key ends with a word such
    as `key`: under `api_key` it can, under `token_count` it cannot.
    """
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return is_credential_name(_WORD.findall(name)[-1])
    return not isinstance(value, list) or any(isinstance(item, str | list | dict) for item in value)


def _leaves(value: Any) -> list[str]:
    """Returns all strings and numbers in a JSON value, at any depth. Converts numbers to strings.

    Omits the values of keys such as `type`, because they only describe a credential.
    """
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
    """Returns whether the header is `Accept` or `Content-Type`, and its value is a media type."""
    is_named = name.lower() in _MEDIA_TYPE_HEADERS
    return is_named and isinstance(value, str) and bool(_MEDIA_TYPE.fullmatch(value))
