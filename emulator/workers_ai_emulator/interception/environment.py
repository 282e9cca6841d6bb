"""Builds the environment variables that make programs call the emulator instead of Cloudflare.

curl and most Python clients read HTTPS_PROXY and the variables that name trusted certificates.
NODE_OPTIONS, PYTHONPATH and RUBYOPT make node, Python and Ruby load a file of the folder `hooks`,
which redirects clients that ignore HTTPS_PROXY, such as node's `fetch`. wrangler reads its own
variables, such as CLOUDFLARE_API_BASE_URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers_ai_emulator.interception.certificates import HOSTS, file_content
from workers_ai_emulator.interception.proxy import LOOPBACK_NAMES, Address
from workers_ai_emulator.network import no_proxy_entries
from workers_ai_emulator.wire.accounts import DEFAULT_ACCOUNT

_HOOKS = Path(__file__).parent / "hooks"
# The name with which Ruby requires a file of `hooks`. RUBYOPT cannot have the file's path, because
# Ruby would split a path that contains spaces.
_RUBY_HOOK = "workers_ai_emulator_redirection"

# Lines of the configuration files of wget and curl. wget ignores case, `-` and `_` in names.
_WGETS_EXCEPTIONS = re.compile(rb"^[ \t]*no[-_]?proxy[ \t]*=(.*)$", re.IGNORECASE | re.MULTILINE)
_CURLS_PROXY = re.compile(rb"^\s*(-x|-{0,2}(pre|no)?proxy|-{0,2}socks)", re.MULTILINE)

# The account id and the token for users who have set none: wrangler and the SDKs refuse to run
# without credentials. An emulator with `--api-token` or `--api-token-file` refuses this token.
_CREDENTIALS = {
    "CLOUDFLARE_API_TOKEN": "local",
    "CLOUDFLARE_ACCOUNT_ID": DEFAULT_ACCOUNT,
}


@dataclass(frozen=True, slots=True)
class Interception:
    """The values that the function `environment` puts into environment variables.

    `proxy` and `tls` are the addresses of the two ports of the proxy of `exec`. `proxy` receives
    HTTP proxy requests; `tls` receives TLS connections that a hook redirects. `credentials` has the
    form `user:password`; it is empty if the proxy requires none. `bundle` is a PEM file of all
    certificates that programs trust. `node_bundle` is a PEM file of certificates that node trusts
    in addition to its built-in ones. `authority` is a PEM file with only the certificate of the
    authority of `exec`. `wgetrc` is a configuration file for wget.
    `curl_home` is a folder with a configuration file for curl; None if curl reads the user's.
    `account` is the account of all redirected calls; if it is None, the path of each call names the
    call's account. `is_strict`: whether the fixtures for pytest fail tests with unmatched calls.
    """

    emulator: Address
    proxy: Address
    tls: Address
    bundle: Path
    node_bundle: Path
    credentials: str = ""
    authority: Path | None = None
    wgetrc: Path | None = None
    curl_home: Path | None = None
    account: str | None = None
    is_strict: bool = False

    @property
    def emulator_url(self) -> str:
        """The emulator's URL, with the prefix that names the account."""
        prefix = f"/_emulator/accounts/{self.account}" if self.account else ""
        return f"http://{self.emulator}{prefix}"

    @property
    def proxy_url(self) -> str:
        """The URL of the proxy of `exec`, with its credentials."""
        at = f"{self.credentials}@" if self.credentials else ""
        return f"http://{at}{self.proxy}"


def environment(interception: Interception, variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables to set for a program that `exec` runs.

    The result replaces variables of the same name in the user's environment (`variables`). It
    contains CLOUDFLARE_API_TOKEN and CLOUDFLARE_ACCOUNT_ID only if the user has not set them.
    """
    proxy = interception.proxy_url
    entries = _exceptions(variables)
    no_proxy = _no_proxy(interception, entries)
    bundle = str(interception.bundle)
    account = {"CLOUDFLARE_ACCOUNT_ID": interception.account} if interception.account else {}
    credentials = _CREDENTIALS | account
    strict = {"WORKERS_AI_EMULATOR_STRICT": "true"} if interception.is_strict else {}
    curl_home = {"CURL_HOME": str(interception.curl_home)} if interception.curl_home else {}
    return (
        strict
        | curl_home
        | {
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "SSL_CERT_FILE": bundle,
            "REQUESTS_CA_BUNDLE": bundle,
            "CURL_CA_BUNDLE": bundle,
            "DENO_CERT": bundle,
            "WGETRC": str(interception.wgetrc or ""),
            "NODE_EXTRA_CA_CERTS": str(interception.node_bundle),
            "NODE_OPTIONS": _node_options(variables.get("NODE_OPTIONS", "")),
            "PYTHONPATH": _hooks_and(variables.get("PYTHONPATH", "")),
            "RUBYLIB": _hooks_and(variables.get("RUBYLIB", "")),
            "RUBYOPT": f"{variables.get('RUBYOPT', '')} -r{_RUBY_HOOK}".lstrip(),
            "WORKERS_AI_EMULATOR_ACCOUNT": interception.account or "",
            "WORKERS_AI_EMULATOR_ADDRESS": str(interception.emulator),
            "WORKERS_AI_EMULATOR_AUTHORITY": str(interception.authority or ""),
            "WORKERS_AI_EMULATOR_TLS_ADDRESS": str(interception.tls),
            "WORKERS_AI_EMULATOR_URL": interception.emulator_url,
            "CLOUDFLARE_API_BASE_URL": f"{interception.emulator_url}/client/v4",
            # With these two values, wrangler skips its check whether Cloudflare Access protects the
            # API host.
            "CLOUDFLARE_ACCESS_CLIENT_ID": "local",
            "CLOUDFLARE_ACCESS_CLIENT_SECRET": "local",
            "CLOUDFLARE_CF_FETCH_ENABLED": "false",
            "WRANGLER_SEND_METRICS": "false",
        }
        | {name: value for name, value in credentials.items() if not variables.get(name)}
        | (dict.fromkeys(_other_proxies(variables), "") if "*" in entries else {})
    )


def wgetrc(interception: Interception, variables: Mapping[str, str], home: Path) -> bytes:
    """Returns the content of a wget configuration file that makes wget call the emulator.

    The content is the user's own configuration, and lines that replace its trusted certificates
    and its proxy for https. The lines are needed because wget prefers a proxy in its configuration
    to HTTPS_PROXY and, if built with GnuTLS, reads no environment variable with the path of trusted
    certificates. `variables` and `home` are the user's environment and home folder.
    """
    users = file_content(Path(variables.get("WGETRC") or home / ".wgetrc"))
    values = _WGETS_EXCEPTIONS.findall(users)
    of_wget = no_proxy_entries(",".join(value.decode("utf-8", "replace") for value in values))
    no_proxy = _no_proxy(interception, [*_exceptions(variables), *of_wget])
    lines = (
        f"ca_certificate = {interception.bundle}",
        "use_proxy = on",
        f"https_proxy = {interception.proxy_url}",
        "no_proxy =",  # without this line, the next one would add to the user's entries
        f"no_proxy = {no_proxy}",
    )
    return users + "\n".join(["", *lines, ""]).encode()


def curlrc(interception: Interception, variables: Mapping[str, str], home: Path) -> bytes | None:
    """Returns the content of a curl configuration file that makes curl use the proxy of `exec`.

    The content is the user's own configuration, and lines that replace its proxy, which curl
    prefers to HTTPS_PROXY. Returns None if the user's configuration does not mention a proxy.
    `variables` and `home` are the user's environment and home folder.
    """
    folders = [variables.get("CURL_HOME"), variables.get("XDG_CONFIG_HOME"), str(home)]
    paths = [Path(folder, name) for folder in folders if folder for name in (".curlrc", "curlrc")]
    paths.append(home / ".config" / "curlrc")
    users = next((content for path in paths if (content := file_content(path))), b"")
    if not _CURLS_PROXY.search(users):
        return None
    lines = (
        f'proxy = "{interception.proxy_url}"',
        f'noproxy = "{_no_proxy(interception, _exceptions(variables))}"',
    )
    return users + "\n".join(["", *lines, ""]).encode()


def _exceptions(variables: Mapping[str, str]) -> list[str]:
    """Returns the entries of the user's NO_PROXY, in both spellings of the variable."""
    return no_proxy_entries(f"{variables.get('NO_PROXY', '')},{variables.get('no_proxy', '')}")


def _other_proxies(variables: Mapping[str, str]) -> list[str]:
    """Returns the names of the user's variables for proxies of other protocols than https.

    If the user's NO_PROXY contains `*`, programs must not use these proxies. `exec` sets the
    variables to an empty text, because it removes the `*` from NO_PROXY.
    """
    names = [name for name in variables if name.upper() in ("HTTP_PROXY", "ALL_PROXY", "FTP_PROXY")]
    return [name for name in names if variables[name]]


def _no_proxy(interception: Interception, entries: Sequence[str]) -> str:
    """Returns the value of NO_PROXY for a program that `exec` runs.

    The value contains `entries`, those of the user's NO_PROXY. Entries that match Cloudflare's API
    hosts, such as `*`, are left out, because requests for these hosts must use the proxy of `exec`.
    For other hosts, that proxy itself follows the user's NO_PROXY.

    The value also contains the loopback names and the emulator's host, except IPv6 addresses:
    httpx 0.24.0 cannot parse an IPv6 address in NO_PROXY.
    """
    ours = (*LOOPBACK_NAMES, interception.emulator.host)
    kept = [entry for entry in entries if not _excepts_our_host(entry)]
    return ",".join(dict.fromkeys([*kept, *(host for host in ours if ":" not in host)]))


def _excepts_our_host(entry: str) -> bool:
    """Returns whether an entry of NO_PROXY may match one of Cloudflare's API hosts.

    Clients interpret leading dots, `*` and parent domains differently. Returns True if the entry
    matches in at least one of the interpretations.
    """
    name = entry.lower().partition(":")[0]
    domain = name.lstrip("*.")
    if not domain:  # for example `*` or `*:443`; an IPv6 address such as `::1` has no name
        return bool(name)
    return any(f".{host}".endswith(f".{domain}") for host in HOSTS)


def _hooks_and(folders: str) -> str:
    """Returns the folder `hooks` and the folders of the user's variable, as one search path."""
    return os.pathsep.join(filter(None, [str(_HOOKS), folders]))


def _node_options(options: str) -> str:
    """Returns the user's NODE_OPTIONS (`options`) and an option that loads `hooks/node.cjs`.

    The path of `node.cjs` is in double quotes, so quotes and backslashes in the path are escaped.
    """
    path = re.sub(r'(["\\])', r"\\\1", str(_HOOKS / "node.cjs"))
    return f'{options} --require "{path}"'.lstrip()
