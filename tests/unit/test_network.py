"""Tests the proxies and certificates that environment variables set: which are used or invalid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import certifi
import pytest
from huggingface_hub import constants
from workers_ai_emulator.backends.upstream import UpstreamBackend
from workers_ai_emulator.errors import CommandError, SettingInvalid
from workers_ai_emulator.middleware.recordings.cloudflare import Cloudflare
from workers_ai_emulator.models import hub
from workers_ai_emulator.network import (
    check_certificates,
    check_hub_endpoint,
    check_proxies,
    proxy_for,
)

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
URL = "https://models.example/v1"


@pytest.fixture(autouse=True)
def set_variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


SetVariables = Callable[..., None]


def open_upstream(url: str = URL) -> None:
    UpstreamBackend(url, api_key=None, model=None, stall_timeout_s=1)


def open_hub(monkeypatch: pytest.MonkeyPatch, url: str = "https://hub.example") -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    hub._client().close()


BAD_PROXIES = [
    {"ALL_PROXY": "socks://127.0.0.1:1080"},
    {"all_proxy": "socks4://me:secret@127.0.0.1:1080"},
    {"HTTPS_PROXY": "http://proxy.example:port"},
    {"https_proxy": "http://"},
    {"HTTPS_PROXY": "ftp://proxy.example:21"},
    {"HTTPS_PROXY": "http://me:secret@a b:1"},
    {"HTTPS_PROXY": "http://[::1:3128"},
    {"HTTPS_PROXY": "http://proxy.example:99999"},
    {"HTTPS_PROXY": "http://me:12/secret@proxy.example:3128"},
    {"HTTPS_PROXY": "http://me:12#secret@proxy.example:3128"},
]


@pytest.mark.parametrize("variables", BAD_PROXIES, ids=str)
def test_a_bad_proxy_is_one_line_that_names_the_variable(
    variables: dict[str, str], set_variables: SetVariables, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(**variables)
    for use in (open_upstream, Cloudflare, lambda: open_hub(monkeypatch), check_proxies):
        with pytest.raises(CommandError) as raised:
            use()
        (name,) = variables
        message = str(raised.value)
        assert message.startswith(f"{name} ") and "\n" not in message and "secret" not in message


# URLs that neither option takes, each with a password.
WRONG_URLS = (
    "http://user:secret/3@host.example",
    "http://user:12/secret@host.example",
    "http://user:12/secret@host.example/v1",
    "http://user:12?secret@host.example/v1",
    "http://user:secret/3@host.example/v1",
    "http://user:secret@host.example:x",
    "http://user:secret@host.example:x/v1",
    "ftp://user:secret@host.example",
    "ftp://user:secret@host.example/v1",
)


@pytest.mark.parametrize(
    ("check", "line", "url"),
    [
        (open_upstream, "--upstream-url takes no user or ", "http://user:secret@host.example/v1"),
        *((open_upstream, "--upstream-url takes no user or ", url) for url in WRONG_URLS),
        *((Cloudflare, "--cloudflare-url takes ", url) for url in WRONG_URLS),
    ],
)
def test_a_password_in_a_url_that_is_refused_is_not_printed(
    check: Callable[[str], object], line: str, url: str
) -> None:
    with pytest.raises(SettingInvalid) as raised:
        check(url)
    assert str(raised.value).startswith(line)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("path", ["users/me@host.example/v1", "@team/v1"])
@pytest.mark.parametrize("host", ["http://localhost:8080", "http://localhost"])
def test_the_error_about_an_at_sign_in_a_path_says_how_to_write_it(host: str, path: str) -> None:
    with pytest.raises(SettingInvalid, match=r"no `@` in the path \(write %40\)$"):
        open_upstream(f"{host}/{path}")
    with pytest.raises(SettingInvalid, match=r"`@` in a path only as %40$"):
        Cloudflare(f"{host}/{path}")
    open_upstream(f"{host}/{path}".replace("@", "%40"))
    Cloudflare(f"{host}/{path}".replace("@", "%40"))


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://localhost:x/v1", "takes a URL: Invalid port: 'x'"),
        ("http://localhost/a b\0", "takes a URL, not http://localhost/a b\0: Invalid "),
        ("http:///v1", "takes a URL such as http://127.0.0.1:8080/v1, not http:///v1"),
        ("localhost:x", "takes a URL such as http://127.0.0.1:8080/v1"),
    ],
)
def test_the_error_about_a_wrong_url_shows_it_if_it_can_be_shown(url: str, line: str) -> None:
    with pytest.raises(SettingInvalid) as raised:
        open_upstream(url)
    assert str(raised.value).startswith(f"--upstream-url {line}")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080", "127.1.2.3"])
@pytest.mark.parametrize("variables", BAD_PROXIES[:3], ids=str)
def test_a_server_on_this_machine_needs_no_proxy(
    host: str,
    variables: dict[str, str],
    set_variables: SetVariables,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(**variables)
    for url in (f"http://{host}", f"https://{host}"):
        assert proxy_for(url) is None
        open_upstream(url)
        Cloudflare(url)
        open_hub(monkeypatch, url)


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({"HTTPS_PROXY": "http://a.example:1"}, "http://a.example:1"),
        ({"ALL_PROXY": "a.example:1"}, "http://a.example:1"),
        ({"https_proxy": "http://b", "HTTPS_PROXY": "http://a"}, "http://b"),
        ({"HTTPS_PROXY": "http://me:p%40ss@[fd00::1]:3128"}, "http://me:p%40ss@[fd00::1]:3128"),
        ({"HTTP_PROXY": "socks://a"}, None),
        ({"HTTPS_PROXY": "http://a", "NO_PROXY": "models.example"}, None),
        ({"HTTPS_PROXY": "socks://a", "NO_PROXY": ".example"}, None),
        ({"HTTPS_PROXY": "socks://a", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "socks://a", "NO_PROXY": "other.example, *"}, None),
        ({"HTTPS_PROXY": "http://a", "NO_PROXY": "other.example models.example"}, None),
        ({"HTTPS_PROXY": "http://a", "NO_PROXY": "other.example"}, "http://a"),
        ({"HTTPS_PROXY": ""}, None),
    ],
)
def test_the_proxy_is_that_of_the_urls_scheme_unless_no_proxy_has_the_host(
    variables: dict[str, str], proxy: str | None, set_variables: SetVariables
) -> None:
    set_variables(**variables)
    assert proxy_for(URL) == proxy
    open_upstream()


def test_no_proxy_may_have_a_network(set_variables: SetVariables) -> None:
    set_variables(ALL_PROXY="http://a.example", NO_PROXY="10.0.0.0/8, fd00::/8")
    assert proxy_for("http://10.1.2.3:80/v1") is None
    assert proxy_for("http://[fd00::1]/v1") is None
    assert proxy_for("http://11.1.2.3:80/v1") == "http://a.example"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["missing", "not PEM", "empty", "wrong kind"])
def test_bad_certificates_are_one_line_that_names_the_variable(
    name: str,
    kind: str,
    tmp_path: Path,
    set_variables: SetVariables,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, is_folder = tmp_path / "certificates", (name == "SSL_CERT_DIR") != (kind == "wrong kind")
    if kind != "missing" and is_folder:
        path.mkdir()
        if kind == "not PEM":
            (path / "readme.txt").write_text("no certificate")
    elif kind != "missing":
        path.write_text("no certificate" if kind == "not PEM" else "")
    set_variables(**{name: str(path)})
    for use in (open_upstream, Cloudflare, lambda: open_hub(monkeypatch)):
        with pytest.raises(CommandError) as raised:
            use()
        assert str(raised.value).startswith(f"{name}: ") and "\n" not in str(raised.value)


def test_good_certificates_are_accepted(tmp_path: Path, set_variables: SetVariables) -> None:
    (tmp_path / "0a1b2c3d.0").write_bytes(Path(certifi.where()).read_bytes())
    set_variables(SSL_CERT_DIR=f"/missing:{tmp_path}")
    check_certificates()
    set_variables(SSL_CERT_FILE=certifi.where(), SSL_CERT_DIR=str(tmp_path.parent))
    check_certificates()


def test_a_missing_folder_of_certificates_is_an_error_even_beside_a_file(
    set_variables: SetVariables,
) -> None:
    set_variables(SSL_CERT_FILE=certifi.where(), SSL_CERT_DIR="/missing")
    with pytest.raises(SettingInvalid, match=r"^SSL_CERT_DIR: '/missing' "):
        check_certificates()


def test_certificates_that_no_client_here_reads_are_not_checked(
    set_variables: SetVariables,
) -> None:
    set_variables(REQUESTS_CA_BUNDLE="/missing", CURL_CA_BUNDLE="/missing")
    open_upstream()


def test_an_invalid_variable_is_a_setting_that_stops_the_start(set_variables: SetVariables) -> None:
    set_variables(ALL_PROXY="socks://a")
    with pytest.raises(SettingInvalid, match="socks:// proxy, which is not supported"):
        open_upstream()


@pytest.mark.parametrize(
    "url",
    ["", "hub.example", "ftp://hub.example", "http://", "http://[::1", "https://hub.example:port",
     "https://me:secret@a b", "https://hub..example", "http://me:12/secret@hub.example"],
)  # fmt: skip
def test_a_bad_address_of_the_hub_is_one_line(url: str, set_variables: SetVariables) -> None:
    set_variables(HF_ENDPOINT=url)
    with pytest.raises(SettingInvalid) as failure:
        check_hub_endpoint()
    assert str(failure.value).startswith("HF_ENDPOINT is not the URL of a hub")
    assert "`/` in a password is %2F" in str(failure.value)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("url", ["https://hub.example/", "http://[::1]:8080", "HTTP://localhost"])
def test_an_address_of_the_hub_is_accepted(url: str, set_variables: SetVariables) -> None:
    set_variables(HF_ENDPOINT=url)
    check_hub_endpoint()
