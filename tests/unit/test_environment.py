"""Tests the environment variables that `exec` sets, and how it combines them with the user's."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from workers_ai_emulator.interception.environment import (
    Interception,
    curlrc,
    environment,
    wgetrc,
)
from workers_ai_emulator.interception.proxy import Address

from tests import npm

INTERCEPTION = Interception(
    emulator=Address("127.0.0.1", 1),
    proxy=Address("127.0.0.1", 2),
    tls=Address("127.0.0.1", 3),
    bundle=Path("/run/trusted.pem"),
    node_bundle=Path("/run/trusted-by-node.pem"),
)
LOOPBACK = "127.0.0.1,localhost"


def variables(**users: str) -> dict[str, str]:
    return environment(INTERCEPTION, users)


def test_the_variables_have_the_addresses_and_the_bundles() -> None:
    found = variables()
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://127.0.0.1:2"
    assert found["WORKERS_AI_EMULATOR_ADDRESS"] == "127.0.0.1:1"
    assert found["WORKERS_AI_EMULATOR_TLS_ADDRESS"] == "127.0.0.1:3"
    assert found["CLOUDFLARE_API_BASE_URL"] == "http://127.0.0.1:1/client/v4"
    assert found["SSL_CERT_FILE"] == found["REQUESTS_CA_BUNDLE"] == "/run/trusted.pem"
    assert found["NODE_EXTRA_CA_CERTS"] == "/run/trusted-by-node.pem"


def test_the_hooks_that_the_variables_name_exist() -> None:
    found = variables()
    assert (Path(found["PYTHONPATH"]) / "sitecustomize.py").is_file()
    assert Path(found["NODE_OPTIONS"].split('"')[1]).is_file()
    assert (Path(found["RUBYLIB"]) / f"{found['RUBYOPT'].removeprefix('-r')}.rb").is_file()


@pytest.mark.parametrize(
    ("users", "kept"),
    [
        ("", ""),
        ("*", ""),
        ("a.example, *", "a.example,"),
        ("*:443,*.,a.example", "a.example,"),
        ("::1,[::1]:80", "::1,[::1]:80,"),
        ("example.com,10.0.0.0/8", "example.com,10.0.0.0/8,"),
        ("a.example b.example", "a.example,b.example,"),
        ("api.cloudflare.com", ""),
        (".cloudflare.com,www.cloudflare.com", "www.cloudflare.com,"),
        ("*.cloudflare.com,Cloudflare.com:443,com", ""),
        ("notcloudflare.com", "notcloudflare.com,"),
    ],
)
def test_proxy_exceptions_are_kept_except_those_for_the_api_hosts(users: str, kept: str) -> None:
    assert variables(NO_PROXY=users)["no_proxy"] == kept + LOOPBACK


def test_proxy_exceptions_of_both_spellings_are_merged_without_duplicates() -> None:
    found = variables(NO_PROXY="a.example,b.example", no_proxy="b.example,c.example")
    assert found["NO_PROXY"] == found["no_proxy"] == f"a.example,b.example,c.example,{LOOPBACK}"


def test_an_emulator_on_another_host_is_called_without_a_proxy() -> None:
    interception = Interception(
        Address("box.example", 8790), *(Address("127.0.0.1", 2),) * 2, Path("a"), Path("b")
    )
    assert environment(interception, {})["NO_PROXY"].split(",")[-1] == "box.example"


def test_the_credentials_of_the_proxy_are_in_its_url() -> None:
    interception = replace(INTERCEPTION, credentials="exec:secret")
    found = environment(interception, {})
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://exec:secret@127.0.0.1:2"


@pytest.mark.parametrize("host", ["::1", "2001:db8::1"])
def test_no_exception_is_an_ipv6_address_which_httpx_0_24_cannot_parse(host: str) -> None:
    interception = replace(INTERCEPTION, emulator=Address(host, 8790))
    assert environment(interception, {})["NO_PROXY"] == LOOPBACK


def test_the_users_own_ipv6_exceptions_are_kept() -> None:
    assert variables(NO_PROXY="fd00::/8")["NO_PROXY"] == f"fd00::/8,{LOOPBACK}"


def test_wgets_configuration_is_the_users_with_our_certificates_and_proxy_at_the_end(
    tmp_path: Path,
) -> None:
    ours = (
        b"\nca_certificate = /run/trusted.pem\nuse_proxy = on\nhttps_proxy = http://127.0.0.1:2\n"
        b"no_proxy =\nno_proxy = 127.0.0.1,localhost\n"
    )
    assert wgetrc(INTERCEPTION, {}, tmp_path) == ours
    (tmp_path / ".wgetrc").write_text("tries = 1")
    assert wgetrc(INTERCEPTION, {}, tmp_path) == b"tries = 1" + ours
    (tmp_path / "other").write_text("tries = 2")
    users = {"WGETRC": str(tmp_path / "other")}
    assert wgetrc(INTERCEPTION, users, tmp_path) == b"tries = 2" + ours


def test_wgets_own_exceptions_are_kept_except_those_for_the_api_hosts(tmp_path: Path) -> None:
    (tmp_path / ".wgetrc").write_text("No-Proxy = a.example, cloudflare.com\nnoproxy=b.example\n")
    found = wgetrc(INTERCEPTION, {"NO_PROXY": "c.example"}, tmp_path).decode()
    assert found.endswith(f"\nno_proxy = c.example,a.example,b.example,{LOOPBACK}\n")


@pytest.mark.parametrize("line", ["proxy = corp:3128", "-x corp:3128", "--socks5 a", "noproxy=*"])
def test_a_proxy_in_curls_configuration_is_replaced(tmp_path: Path, line: str) -> None:
    ours = f'\nproxy = "http://127.0.0.1:2"\nnoproxy = "c.example,{LOOPBACK}"\n'
    (tmp_path / ".curlrc").write_text(f"silent\n{line}")
    found = curlrc(INTERCEPTION, {"NO_PROXY": "c.example"}, tmp_path)
    assert found == f"silent\n{line}{ours}".encode()


def test_a_configuration_of_curl_without_a_proxy_is_used_as_it_is(tmp_path: Path) -> None:
    assert curlrc(INTERCEPTION, {}, tmp_path) is None
    (tmp_path / ".curlrc").write_text("silent\n# proxy = corp:3128\n")
    assert curlrc(INTERCEPTION, {}, tmp_path) is None
    assert "CURL_HOME" not in variables(CURL_HOME="/users")
    assert environment(replace(INTERCEPTION, curl_home=Path("/run")), {})["CURL_HOME"] == "/run"


def test_the_users_search_paths_and_options_are_kept() -> None:
    options = {"NODE_OPTIONS": "--max-old-space-size=99", "RUBYOPT": "-W0"}
    found = variables(PYTHONPATH="/a:/b", RUBYLIB="/c:/d", **options)
    assert found["PYTHONPATH"].endswith("hooks:/a:/b")
    assert found["RUBYLIB"].endswith("hooks:/c:/d")
    assert found["NODE_OPTIONS"].startswith('--max-old-space-size=99 --require "')
    assert found["RUBYOPT"].startswith("-W0 -r")


def test_credentials_are_set_only_if_the_user_has_none() -> None:
    assert variables()["CLOUDFLARE_API_TOKEN"] == "local"
    assert variables()["CLOUDFLARE_ACCOUNT_ID"] == "0123456789abcdef0123456789abcdef"
    assert "CLOUDFLARE_API_TOKEN" not in variables(CLOUDFLARE_API_TOKEN="mine")


def test_no_api_key_is_set_because_the_sdk_for_python_would_send_it_instead_of_a_token() -> None:
    assert not variables().keys() & {"CLOUDFLARE_API_KEY", "CLOUDFLARE_EMAIL"}


def test_the_variables_of_other_proxies_are_not_set() -> None:
    found = variables(HTTP_PROXY="http://corp:3128", ALL_PROXY="http://corp:3128")
    assert not found.keys() & {"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"}


def test_an_exception_for_all_hosts_disables_the_users_other_proxies() -> None:
    corp = {"HTTP_PROXY": "http://corp:3128", "all_proxy": "http://corp:3128", "FTP_PROXY": ""}
    found = variables(NO_PROXY="a.example, *", **corp)
    assert (found["HTTP_PROXY"], found["all_proxy"]) == ("", "")
    assert found["HTTPS_PROXY"] == "http://127.0.0.1:2"
    assert not found.keys() & {"http_proxy", "ALL_PROXY", "FTP_PROXY"}


@pytest.mark.node
def test_node_loads_the_hook_from_a_path_with_quotes_and_backslashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm.require_node()
    folder = tmp_path / 'a "b" \\c'
    folder.mkdir()
    (folder / "node.cjs").write_text("console.log('read')")
    monkeypatch.setattr("workers_ai_emulator.interception.environment._HOOKS", folder)
    users = os.environ | {"NODE_OPTIONS": variables(NODE_OPTIONS="--no-warnings")["NODE_OPTIONS"]}
    assert subprocess.check_output(["node", "-e", ""], env=users) == b"read\n"


def test_the_variables_name_the_account_of_all_calls() -> None:
    account = "c" * 32
    found = environment(replace(INTERCEPTION, account=account, is_strict=True), {})
    assert found["CLOUDFLARE_ACCOUNT_ID"] == found["WORKERS_AI_EMULATOR_ACCOUNT"] == account
    root = f"http://127.0.0.1:1/_emulator/accounts/{account}"
    assert found["WORKERS_AI_EMULATOR_URL"] == root
    assert found["CLOUDFLARE_API_BASE_URL"] == f"{root}/client/v4"
    assert found["WORKERS_AI_EMULATOR_STRICT"] == "true"


def test_without_an_account_and_strictness_the_variables_change_neither() -> None:
    found = variables()
    assert found["WORKERS_AI_EMULATOR_URL"] == "http://127.0.0.1:1"
    assert found["WORKERS_AI_EMULATOR_ACCOUNT"] == ""
    assert "WORKERS_AI_EMULATOR_STRICT" not in found
