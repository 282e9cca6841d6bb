"""Reads and checks environment variables for connections, such as HTTPS_PROXY and HF_ENDPOINT."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies
from urllib.request import proxy_bypass_environment as is_bypassed  # type: ignore[attr-defined]

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.urls import has_at_sign_after_host, shown_url

# The name of a certificate file, such as `9d66eef0.0`, in a folder that `openssl rehash` prepared.
HASHED_NAME = re.compile(r"[0-9a-f]{8}\.\d+")


def is_loopback(host: str) -> bool:
    """Returns whether a host name or IP address, such as `localhost`, refers to this machine.

    Returns True for the addresses 0.0.0.0 and `::`, too.
    """
    if is_localhost(host):
        return True
    address = address_of(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_localhost(host: str) -> bool:
    """Returns whether a host name is `localhost` or ends with `.localhost`.

    Such a name always refers to the machine that resolves it [RFC 6761].
    """
    return host == "localhost" or host.endswith(".localhost")


@lru_cache(maxsize=1024)  # most requests have the same few hosts
def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns the IP address `host`, or None if `host` is a name.

    For an IPv6 address that contains an IPv4 address, returns the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def proxy_for(url: str) -> str | None:
    """Returns the URL of the user's proxy for requests to `url`.

    Returns None if the user has set no proxy, if NO_PROXY excludes the host of `url`, or if the
    host is this machine. Raises SettingInvalid if the variable that names the proxy is invalid.
    """
    found = _proxy_setting(url)
    return None if found is None else _checked_proxy(*found)


def described_proxy(url: str) -> str | None:
    """Returns the user's proxy for requests to `url` and its variable, for error messages.

    For example `http://proxy.example:3128 (HTTPS_PROXY)`, without the proxy's user name and
    password. Returns None in the cases in which `proxy_for` returns None.
    """
    found = _proxy_setting(url)
    if found is None:
        return None
    scheme, value = found
    return f"{shown_url(value)} ({_variable(scheme)})"


def _proxy_setting(url: str) -> tuple[str, str] | None:
    """Returns the first part of the name, and the value, of the variable with the proxy for `url`.

    Returns None in the cases in which `proxy_for` returns None.
    """
    proxies, parts = getproxies(), urlsplit(url)
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    host, authority = parts.hostname or "", parts.netloc.rpartition("@")[2]
    if not proxies.get(scheme) or is_loopback(host):
        return None
    if is_in_no_proxy(host, authority, proxies.get("no", "")):
        return None
    return scheme, proxies[scheme]


def check_proxies() -> None:
    """Checks the variables HTTP_PROXY, HTTPS_PROXY and ALL_PROXY.

    Raises SettingInvalid if one of them is not the URL of a supported proxy. Checks nothing if
    NO_PROXY contains `*`, because requests then use no proxy.
    """
    proxies = getproxies()
    if "*" not in no_proxy_entries(proxies.get("no", "")):
        for scheme in ("http", "https", "all"):
            if proxies.get(scheme):
                _checked_proxy(scheme, proxies[scheme])


def no_proxy_entries(no_proxy: str) -> list[str]:
    """Returns the entries of a value of NO_PROXY, which are separated by commas or white space."""
    return [entry for entry in re.split(r"[,\s]+", no_proxy) if entry]


def is_in_no_proxy(host: str, authority: str, no_proxy: str) -> bool:
    """Returns whether a value of NO_PROXY excludes a host.

    That is, whether the value contains the host, its domain, its network, such as `10.0.0.0/8`, or
    `*`. `authority`: the host in a URL, with its port if the URL has one.
    """
    entries, address = no_proxy_entries(no_proxy), address_of(host)
    if "*" in entries:  # urllib reads `*` only if it is the whole value
        return True
    for entry in entries if address else ():
        with suppress(ValueError):
            if address in ipaddress.ip_network(entry, strict=False):
                return True
    return bool(is_bypassed(authority, {"no": ",".join(entries)}))


def check_certificates() -> None:
    """Checks the variables SSL_CERT_FILE (a file) and SSL_CERT_DIR (a list of folders).

    Raises SettingInvalid if the file contains no certificates or cannot be read, or if none of the
    folders can be used.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        _check_file(Path(file))
    # At least one folder in SSL_CERT_DIR must be readable. If SSL_CERT_FILE is not set, this folder
    # must also contain certificates.
    if folders:
        _check_folders(folders, needs_certificates=not file)


def check_hub_endpoint() -> None:
    """Checks the variable HF_ENDPOINT, the base URL of a Hugging Face hub.

    Raises SettingInvalid if the variable is set, but is no http or https URL, or has `@` after the
    host. Must be called before huggingface-hub is imported, because some values make the import
    fail.
    """
    url = os.environ.get("HF_ENDPOINT")
    if url is None:
        return
    parts = _split(url)
    is_url = parts is not None and parts.scheme in ("http", "https") and parts.hostname
    if not is_url or has_at_sign_after_host(url):
        raise SettingInvalid(
            "HF_ENDPOINT is not the URL of a hub, such as https://huggingface.co; correct it (`/` "
            "in a password is %2F, `?` %3F, `#` %23, and `@` in a path %40) or unset it"
        )


def _checked_proxy(scheme: str, value: str) -> str:
    """Checks `value`, the value of a proxy variable, and returns it as a URL.

    Adds `http://` if the value has no scheme. `scheme` is the first part of the variable's name:
    `http`, `https` or `all`. Raises SettingInvalid if the value is not the URL of a supported
    proxy. The error message does not contain the value, because it may contain a password.
    """
    url = value if "://" in value else f"http://{value}"
    variable = _variable(scheme)
    parts = _split(url)
    if parts is None or not parts.hostname or has_at_sign_after_host(url):
        raise SettingInvalid(
            f"{variable} is not the URL of a proxy, such as http://proxy.example:3128; "
            "correct it (`/` in a password is %2F, `?` %3F, `#` %23) or unset it"
        )
    can_use_socks = parts.scheme in ("socks5", "socks5h") and find_spec("socksio") is not None
    if parts.scheme not in ("http", "https") and not can_use_socks:
        raise SettingInvalid(
            f"{variable} names a {parts.scheme}:// proxy, which is not supported; set it to the "
            "http:// URL of a proxy, unset it, or name the host in NO_PROXY"
        )
    return url


def _split(url: str) -> SplitResult | None:
    """Returns the parts of a URL, or None if the URL is invalid."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_valid = parts.port != 0 and (":" in host or not re.search(r"[^\w.-]", host))
        if ":" not in host:
            host.encode("idna")
    except ValueError:  # includes UnicodeError, which `encode` raises for an invalid host name
        return None
    return parts if is_valid and url.isprintable() and " " not in url else None


def _variable(scheme: str) -> str:
    """Returns the name of the environment variable that sets the proxy for `scheme`.

    For `http`, the name is `http_proxy`, or `HTTP_PROXY` if `http_proxy` is not set.
    """
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), names[1])


def _check_file(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        reason = "has no certificates in the PEM format"
        raise SettingInvalid(_certificate_error("SSL_CERT_FILE", path, reason)) from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise SettingInvalid(_certificate_error("SSL_CERT_FILE", path, reason)) from error


def _check_folders(paths: str, *, needs_certificates: bool) -> None:
    for path in paths.split(os.pathsep):
        with suppress(OSError):
            has_any = any(HASHED_NAME.fullmatch(name) for name in os.listdir(path or "."))
            if has_any or not needs_certificates:
                return
    reason = "is no folder with certificates as `openssl rehash` prepares it"
    raise SettingInvalid(_certificate_error("SSL_CERT_DIR", paths, reason))


def _certificate_error(variable: str, path: object, reason: str) -> str:
    return f"{variable}: {str(path)!r} {reason}; correct the variable or unset it"
