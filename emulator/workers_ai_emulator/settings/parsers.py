"""Parsers for the values of flags and environment variables.

Each parser raises SettingInvalid if the value is invalid.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import TextUnreadable, read_small_text
from workers_ai_emulator.settings.declaration import Declaration

# An API token contains only visible ASCII characters, because clients cannot send a token with
# other characters in an HTTP header.
_TOKEN = re.compile(r"[\x21-\x7e]+")
_NOT_IN_ADDRESS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def number(declaration: Declaration, text: str) -> int:
    """Parses a whole number.

    Raises SettingInvalid if the text is not a whole number within the setting's limits.
    """
    minimum, maximum = declaration.setting.minimum, declaration.setting.maximum
    assert minimum is not None and maximum is not None
    if not re.fullmatch(r"\d{1,9}", text) or not minimum <= int(text) <= maximum:
        raise SettingInvalid(
            f"{declaration} takes `auto` or a number from {minimum} to {maximum}, "
            f"not {_shortened(text)!r}"
        )
    return int(text)


def size(declaration: Declaration, text: str) -> int:
    """Parses a size such as `12GiB` or `500M`, and returns it as a number of bytes.

    `500M` means 500 MiB. Raises SettingInvalid if the text is not a size of at least one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    num_bytes = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not 1 <= num_bytes < math.inf:
        raise SettingInvalid(
            f"{declaration} takes `auto` or a size such as 12GiB, not {_shortened(text)!r}"
        )
    return int(num_bytes)


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def not_blank(declaration: Declaration, text: str) -> str:
    """Returns the text. Raises SettingInvalid if the text is empty or only white space."""
    if not text.strip():
        raise SettingInvalid(f"{declaration} is empty: give a value, or leave it out")
    return text


def address(declaration: Declaration, text: str) -> str:
    """Returns a host name or an IP address without the white space around it.

    Raises SettingInvalid if the text is blank, or contains white space or control characters.
    """
    value = not_blank(declaration, text).strip()
    if _NOT_IN_ADDRESS.search(value):
        raise SettingInvalid(
            f"{declaration} takes a host name or an IP address, such as 127.0.0.1, not {text!r}"
        )
    return value


def token(declaration: Declaration, text: str) -> str:
    """Returns an API token without the white space around it.

    Raises SettingInvalid if the token is empty, or contains spaces or characters that are not
    visible ASCII. The error text does not contain the token, because the token is secret.
    """
    if not _TOKEN.fullmatch(value := not_blank(declaration, text).strip()):
        raise SettingInvalid(
            f"{declaration} takes visible characters of ASCII without spaces: check for a "
            "character that was pasted by accident"
        )
    return value


def tokens_in_file(declaration: Declaration, file: Path) -> frozenset[str]:
    """Returns the API tokens in a text file that contains one token per line.

    Ignores blank lines, and white space around a token. Raises SettingInvalid if the file cannot be
    read, contains no token, or contains a line that is not a valid token.
    """
    try:
        lines = read_small_text(file).splitlines()
    except TextUnreadable as error:
        raise SettingInvalid(f"--{declaration.flag}: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise SettingInvalid(f"--{declaration.flag}: {file} holds no token; write one a line")
    for number, line in numbered:
        if not _TOKEN.fullmatch(line):
            raise SettingInvalid(
                f"--{declaration.flag}: {file}: line {number} is no token: a token has visible "
                "characters of ASCII without spaces"
            )
    return frozenset(line for _, line in numbered)


def origin(declaration: Declaration, text: str) -> str:
    """Returns the origin `text` as browsers send it: in lower case, without a trailing slash.

    Accepts `null` and `*`, too. Raises SettingInvalid for any other text.
    """
    if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+/?", text, re.IGNORECASE):
        raise SettingInvalid(
            f"{declaration} takes an origin such as https://app.example:3000, `null` or `*`, "
            f"not {text!r}"
        )
    return text.lower().removesuffix("/")


def host_name(declaration: Declaration, text: str) -> str:
    """Returns the host name `text` in lower case, without a final dot. Accepts `*`, too.

    Raises SettingInvalid for any other text, such as a name with a port or a URL.
    """
    if not re.fullmatch(r"\*|[\w-]+(\.[\w-]+)*\.?", text, re.ASCII):
        raise SettingInvalid(
            f"{declaration} takes a host name without a port, such as workers-ai, or `*`, "
            f"not {text!r}"
        )
    return text.lower().removesuffix(".")
