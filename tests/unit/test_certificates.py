"""Certificates: for which hosts the authority is valid, and how it is stored."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import certifi
import pytest
import trustme
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception import certificates
from workers_ai_emulator.interception.certificates import (
    HOSTS,
    authority,
    node_trust_bundle,
    server_context,
    trust_bundle,
)


def handshake(server: ssl.SSLContext, ca: trustme.CA, host: str) -> ssl.SSLObject:
    """Returns the client's side after a handshake in memory. Raises ssl.SSLError."""
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
    context.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = context.wrap_bio(to_client, to_server, server_hostname=host)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client_side, server_side, client_side, server_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client_side


@pytest.mark.parametrize("host", HOSTS)
def test_clients_accept_the_certificate_for_the_api_hosts_over_http_1(
    tmp_path: Path, host: str
) -> None:
    ca = authority(tmp_path)
    client = handshake(server_context(ca), ca, host)
    assert client.selected_alpn_protocol() == "http/1.1"
    assert dict(client.getpeercert() or {})["subjectAltName"] == tuple(("DNS", h) for h in HOSTS)


@pytest.mark.parametrize("host", ["example.com", "notapi.cloudflare.com", "127.0.0.1", "::1"])
def test_the_authority_cannot_certify_another_host(tmp_path: Path, host: str) -> None:
    ca = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host).configure_cert(context)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted subtree|excluded subtree"):
        handshake(context, ca, host)


def test_only_the_user_can_read_the_key(tmp_path: Path) -> None:
    authority(tmp_path / "certificates")
    assert (tmp_path / "certificates").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "certificates" / "authority.pem").stat().st_mode & 0o777 == 0o600


def test_concurrent_calls_create_one_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        authorities = list(pool.map(authority, [tmp_path / "certificates"] * 8))
    assert len({ca.cert_pem.bytes() for ca in authorities}) == 1


def test_an_unusable_authority_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    authority(tmp_path)
    good, other = path.read_bytes(), trustme.CA()
    key, certificate = (
        good[: good.index(b"-----BEGIN CERT")],
        good[good.index(b"-----BEGIN CERT") :],
    )
    unconstrained = other.private_key_pem.bytes() + other.cert_pem.bytes()
    changed = good.replace(certificate.splitlines()[-2], b"AAAA")
    mismatched = other.private_key_pem.bytes() + certificate
    for bad in (b"", good[:200], key, certificate, mismatched, unconstrained, changed):
        path.write_bytes(bad)
        ca = authority(tmp_path)
        assert path.read_bytes() not in (bad, good)
        assert handshake(server_context(ca), ca, HOSTS[0])
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_authority_that_expires_too_soon_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_AUTHORITY_LIFE", timedelta(days=30))
        old = authority(tmp_path).cert_pem.bytes()
    assert authority(tmp_path).cert_pem.bytes() != old


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_variable(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="XDG_CACHE_HOME"):
        authority(tmp_path / "file" / "certificates")


def test_the_bundles_keep_the_certificates_that_programs_trust_already(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    (tmp_path / "corporate.pem").write_text("corporate, without a final line break")
    (tmp_path / "node.pem").write_text("node's")
    users = {
        "SSL_CERT_FILE": str(tmp_path / "corporate.pem"),
        "REQUESTS_CA_BUNDLE": str(tmp_path / "missing.pem"),
        "NODE_EXTRA_CA_CERTS": str(tmp_path / "node.pem"),
    }
    bundle = trust_bundle(ca, users)
    assert bundle.startswith(b"corporate, without a final line break\n")
    assert Path(certifi.where()).read_bytes() in bundle
    assert bundle.endswith(ca.cert_pem.bytes())
    assert node_trust_bundle(ca, users) == b"node's\n" + ca.cert_pem.bytes()
