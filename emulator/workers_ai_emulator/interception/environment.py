"""The variables that make programs call the emulator instead of Cloudflare.

Pure: no client honours them all, and each honours some. HTTPS_PROXY with a bundle of certificates
reaches curl and most of Python; the hooks reach what goes by no proxy, as node does; wrangler has
variables of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers_ai_emulator.interception.certificates import HOSTS
from workers_ai_emulator.interception.proxy import LOOPBACK_NAMES, Address

_HOOKS = Path(__file__).parent / "hooks"

# wrangler does not run without these, and a program without a token may not call. Any will do.
_CREDENTIALS = {
    "CLOUDFLARE_API_TOKEN": "local",
    "CLOUDFLARE_ACCOUNT_ID": "0123456789abcdef0123456789abcdef",
}


@dataclass(frozen=True, slots=True)
class Interception:
    """Where calls go, and what is to be trusted there; `node_bundle` adds to node's own."""

    emulator: Address
    proxy: Address
    tls: Address
    bundle: Path
    node_bundle: Path


def environment(interception: Interception, variables: Mapping[str, str]) -> dict[str, str]:
    """What to set for a program, beside the user's own `variables`."""
    proxy = f"http://{interception.proxy}"
    no_proxy = _no_proxy(interception, variables)
    bundle = str(interception.bundle)
    return {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "SSL_CERT_FILE": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "CURL_CA_BUNDLE": bundle,
        "DENO_CERT": bundle,
        "NODE_EXTRA_CA_CERTS": str(interception.node_bundle),
        "NODE_OPTIONS": _node_options(variables.get("NODE_OPTIONS", "")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_HOOKS), variables.get("PYTHONPATH", "")])),
        "WORKERS_AI_EMULATOR_ADDRESS": str(interception.emulator),
        "WORKERS_AI_EMULATOR_TLS_ADDRESS": str(interception.tls),
        "CLOUDFLARE_API_BASE_URL": f"http://{interception.emulator}/client/v4",
        # With these wrangler does not ask first whether Cloudflare Access guards a host.
        "CLOUDFLARE_ACCESS_CLIENT_ID": "local",
        "CLOUDFLARE_ACCESS_CLIENT_SECRET": "local",
        "CLOUDFLARE_CF_FETCH_ENABLED": "false",
        "WRANGLER_SEND_METRICS": "false",
    } | {name: value for name, value in _CREDENTIALS.items() if not variables.get(name)}


def _no_proxy(interception: Interception, variables: Mapping[str, str]) -> str:
    """The user's exceptions but those for our hosts, and this machine, where the emulator is.

    What is dropped is not lost: the proxy has the user's own exceptions.
    """
    users = re.split(r"[,\s]+", f"{variables.get('NO_PROXY', '')},{variables.get('no_proxy', '')}")
    kept = [entry for entry in users if entry and not _has_our_host(entry)]
    return ",".join(dict.fromkeys([*kept, *LOOPBACK_NAMES, interception.emulator.host]))


def _has_our_host(entry: str) -> bool:
    """Whether an entry of NO_PROXY excepts one of our hosts, by any client's reading."""
    domain = entry.lower().partition(":")[0].lstrip("*.")
    return entry == "*" or any(f".{host}".endswith(f".{domain}") for host in HOSTS if domain)


def _node_options(users: str) -> str:
    """node takes the quotes off, and a backslash before each character that it is to keep."""
    path = re.sub(r'(["\\])', r"\\\1", str(_HOOKS / "node.cjs"))
    return f'{users} --require "{path}"'.lstrip()
