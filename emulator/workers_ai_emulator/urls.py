"""Functions for URLs that a user sets and that can contain a password."""

from __future__ import annotations

import re

_SCHEME = r"(?P<scheme>([a-z][a-z0-9+.-]*://)?+)"
# The parts of a URL that are no secrets, between those that can be secrets. The scheme and the user
# may be missing.
_URL = re.compile(
    rf"{_SCHEME}(?P<user>[^/?#]*@)?"
    r"(?P<host>([^/?#@:\[\]]*|\[[^/?#@\[\]]*\])(:\d*)?)(?P<path>(/[^?#]*)?)([?#].*)?",
    re.IGNORECASE | re.DOTALL,
)
_AT_SIGN_AFTER_HOST = re.compile(rf"{_SCHEME}[^/?#]*[/?#].*@", re.IGNORECASE | re.DOTALL)


def has_at_sign_after_host(url: str) -> bool:
    """Returns whether a URL has `@` after its host and port, as in `http://me:1/2@host`.

    The user then has probably not escaped a `/`, `?` or `#` in the password. For programs, the
    first of these characters ends the host, and the rest of the password is the path.
    """
    return _AT_SIGN_AFTER_HOST.match(url) is not None


def shown_url(url: str) -> str:
    """Returns the URL without user name, password, query and fragment, for messages.

    An invalid URL, and a URL that has `@` after its host, become a text that contains no part of
    them.
    """
    public = _public_parts(url)
    return "(not a valid URL)" if public is None else public


def but_not(url: str) -> str:
    """Returns `, not URL`, the end of the error message about a wrong URL, without its secrets.

    Returns an empty text for a URL of which `shown_url` shows no part.
    """
    public = _public_parts(url)
    return "" if public is None else f", not {public}"


def _public_parts(url: str) -> str | None:
    """Returns the parts of a URL that are no secrets; None if they cannot be told apart."""
    match = _URL.fullmatch(url)
    if match is None or has_at_sign_after_host(url):
        return None
    return "".join(match.group("scheme", "host", "path"))
