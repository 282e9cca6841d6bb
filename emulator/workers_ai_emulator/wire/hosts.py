"""Checks host names of the headers `Host` and `Origin`, and detects forwarded requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

# Cloudflare's host names, which bindings and programs under `exec` send in the header `Host`.
SERVICE_HOSTS = frozenset(
    {"api.cloudflare.com", "gateway.ai.cloudflare.com", "workers-binding.ai", "ai.cloudflare.com"}
)
# Headers that reverse proxies, tunnels and content delivery networks add to requests.
_FORWARDING_HEADER = re.compile(
    r"forwarded|via|cdn-loop|x-forwarded-.+|x-original-.+|x-envoy-.+|x-(real|client)-ip"
    r"|x-cluster-client-ip|true-client-ip|fastly-client-ip|fly-client-ip|x-appengine-.+|x-azure-.+"
    r"|cf-(connecting-ip.*|connecting-o2o|ipcountry|ray|visitor|warp-tag-id|access-.+)"
    r"|tailscale-.+|ngrok-.+"
)


def host_of(url: str) -> str:
    """Returns the lower-case host name of a URL.

    Returns an empty string if the URL is invalid or has no host name.
    """
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def is_forwarded(names: Iterable[str]) -> bool:
    """Returns whether the header names show that a proxy or a tunnel has forwarded the request.

    `names`: the names of the request's headers, in lower case.
    """
    return any(_FORWARDING_HEADER.fullmatch(name) for name in names)
