"""Tests for which hosts the certificate authority of `exec` is valid, and how it is stored."""

from __future__ import annotations

import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception import certificates
from workers_ai_emulator.interception.certificates import (
    HOSTS,
    authority,
    node_trust_bundle,
    server_context,
    trust_bundle,
)

DAY = timedelta(days=1)


def handshake(server: ssl.SSLContext, ca: trustme.CA, host: str) -> ssl.SSLObject:
    """Returns the client's side after a TLS handshake in memory. Raises ssl.SSLError."""
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13 and newer do so by default
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


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "notapi.cloudflare.com",
        "x.api.cloudflare.com",
        "a.b.gateway.ai.cloudflare.com",
        "127.0.0.1",
        "::1",
    ],
)
def test_the_authority_cannot_certify_another_host(tmp_path: Path, host: str) -> None:
    ca = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host).configure_cert(context)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted subtree|excluded subtree"):
        handshake(context, ca, host)


@pytest.mark.parametrize(
    "name",
    [
        x509.RFC822Name("me@api.cloudflare.com"),
        x509.RFC822Name("me@example.com"),
        x509.UniformResourceIdentifier("https://api.cloudflare.com/"),
        x509.UniformResourceIdentifier("spiffe://example.com/a"),
    ],
)
def test_the_authority_cannot_certify_mail_addresses_and_uris(
    tmp_path: Path, name: x509.GeneralName
) -> None:
    ca = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, _issued(ca, [x509.DNSName(HOSTS[0]), name]), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        handshake(context, ca, HOSTS[0])


def _issued(ca: trustme.CA, names: list[x509.GeneralName]) -> bytes:
    """Returns a key and a certificate for names of any kind, which trustme does not permit."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key(), 7, now, now + DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(load_pem_private_key(ca.private_key_pem.bytes(), None), hashes.SHA256())  # type: ignore[arg-type]
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _load(context: ssl.SSLContext, pem: bytes, folder: Path) -> None:
    path = folder / "server.pem"
    path.write_bytes(pem)
    context.load_cert_chain(path)


def test_a_folder_of_another_user_is_refused_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CommandError, match="belongs to another user") as raised:
        authority(tmp_path)
    assert "\n" not in str(raised.value) and "XDG_CACHE_HOME" in str(raised.value)
    assert not (tmp_path / "authority.pem").exists()


@pytest.mark.parametrize(
    ("name", "mode"), [("", 0o755), ("", 0o770), ("authority.pem", 0o644), ("authority.pem", 0o640)]
)
def test_an_authority_that_others_could_read_or_replace_is_replaced(
    tmp_path: Path, name: str, mode: int
) -> None:
    old = authority(tmp_path).cert_pem.bytes()
    (tmp_path / name).chmod(mode)
    new = authority(tmp_path).cert_pem.bytes()
    assert new != old
    assert authority(tmp_path).cert_pem.bytes() == new
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "authority.pem").stat().st_mode & 0o777 == 0o600


def test_a_link_to_an_authority_is_replaced(tmp_path: Path) -> None:
    authority(tmp_path / "other")
    (tmp_path / "authority.pem").symlink_to(tmp_path / "other" / "authority.pem")
    authority(tmp_path)
    assert not (tmp_path / "authority.pem").is_symlink()


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


def test_programs_also_trust_the_certificates_in_the_users_folder(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    (folder / "0a1b2c3d.5").mkdir(parents=True)
    users = [trustme.CA().cert_pem.bytes() for _ in range(3)]
    (folder / "users.pem").write_bytes(users[0])
    (folder / "0a1b2c3d.0").symlink_to("users.pem")
    (folder / "0a1b2c3d.1").write_bytes(users[1])
    (folder / "0a1b2c3d.2").write_bytes(b"\x30\x82 no PEM")
    (folder / "0a1b2c3d.3").symlink_to("missing.pem")
    (folder / "unhashed.pem").write_bytes(users[2])
    bundle = trust_bundle(authority(tmp_path / "ca"), {"REQUESTS_CA_BUNDLE": str(folder)})
    assert [bundle.count(pem) for pem in users] == [1, 1, 0]
    assert b"no PEM" not in bundle
