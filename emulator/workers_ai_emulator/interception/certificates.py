"""Creates TLS certificates for Cloudflare's two API hosts, for the proxy that `exec` runs.

A certificate authority in the user's cache folder signs a new certificate in every run of `exec`.
Only programs that `exec` runs trust this authority. Its name constraints permit only the two hosts,
so a stolen key of the authority cannot be used to impersonate any other host.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from filelock import FileLock
from trustme import CA

from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.network import HASHED_NAME

HOSTS = ("api.cloudflare.com", "gateway.ai.cloudflare.com")

_NAME = "workers-ai-emulator"
_NO_HOST = "invalid"  # a reserved name: no host can have it [RFC 2606]
_ACCESS_OF_OTHERS = 0o077  # the permission bits of a file for other users
_DAY = timedelta(days=1)
_AUTHORITY_LIFE = 3650 * _DAY
_LIFE = 397 * _DAY  # validity of a server certificate; some clients reject a longer validity
_TRUST_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "DENO_CERT")

_PEM_START = b"-----BEGIN CERTIFICATE-----"

_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)

# The authority may sign certificates for HOSTS only. A constraint limits one kind of name, so there
# are constraints for every kind:
#   - DNS names: HOSTS are permitted. A permitted name includes its subdomains, so the subdomains
#     are excluded. A leading dot stands for them: OpenSSL and Go read `.api.cloudflare.com` as
#     "all subdomains of api.cloudflare.com".
#   - IP addresses: all are excluded.
#   - E-mail addresses and URIs: permitted only at a reserved host name, which no host has.
_CONSTRAINTS = x509.NameConstraints(
    permitted_subtrees=[
        *(x509.DNSName(host) for host in HOSTS),
        x509.RFC822Name(_NO_HOST),
        x509.UniformResourceIdentifier(_NO_HOST),
    ],
    excluded_subtrees=[
        *(x509.DNSName(f".{host}") for host in HOSTS),
        *(x509.IPAddress(ipaddress.ip_network(network)) for network in ("0.0.0.0/0", "::/0")),
    ],
)


def authority(folder: Path) -> CA:
    """Returns the certificate authority that is stored in `folder`.

    Creates a new authority if the stored one is missing or unusable, or if other users could have
    read or replaced it. Raises CommandError if the folder belongs to another user, or cannot be
    read or written.
    """
    path = folder / "authority.pem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        was_private = _make_private(folder)
        with FileLock(folder / "authority.lock"):
            if not (was_private and _is_private(path) and (pem := _usable(path))):
                pem = _new_authority()
                _write_private(path, pem)
    except OSError as error:
        raise CommandError(
            f"cannot store a certificate authority in {folder}: {error.strerror}; check the "
            "owner of that folder, or choose another one with XDG_CACHE_HOME"
        ) from error
    return CA.from_pem(pem, pem)


def server_context(ca: CA) -> ssl.SSLContext:
    """Returns a TLS server context with a new certificate for HOSTS, signed by `ca`."""
    now = datetime.now(UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    leaf = ca.issue_cert(
        *HOSTS, organization_name=_NAME, not_before=now - _DAY, not_after=now + _LIFE
    )
    leaf.configure_cert(context)
    return context


def trust_bundle(ca: CA, variables: Mapping[str, str]) -> bytes:
    """Returns the certificates that a program under `exec` trusts, in the PEM format.

    These are the certificate of `ca`, the certificates that the operating system and certifi
    trust, and the certificates in the user's own files. The user's environment (`variables`) names
    the user's files, for example in SSL_CERT_FILE, or a folder of them, as REQUESTS_CA_BUNDLE may.
    """
    system = ssl.get_default_verify_paths()
    return _joined(
        ca,
        [
            *(variables.get(name, "") for name in _TRUST_VARIABLES),
            system.openssl_cafile,
            # On Debian, this file in OpenSSL's certificate folder contains all trusted
            # certificates.
            f"{system.openssl_capath}/ca-certificates.crt",
            certifi.where(),
        ],
    )


def node_trust_bundle(ca: CA, variables: Mapping[str, str]) -> bytes:
    """Returns the certificates that node trusts in addition to its built-in ones, as PEM.

    These are the certificate of `ca`, and the certificates in the user's own file, if the user's
    environment (`variables`) names one in NODE_EXTRA_CA_CERTS.
    """
    return _joined(ca, [variables.get("NODE_EXTRA_CA_CERTS", "")])


def _joined(ca: CA, paths: Iterable[str]) -> bytes:
    pems = [pem for path in dict.fromkeys(paths) if path for pem in _pems_at(Path(path))]
    return b"\n".join([*pems, ca.cert_pem.bytes()])


def file_content(path: Path) -> bytes:
    """Returns the content of a file; empty if it does not exist or cannot be read."""
    return path.read_bytes() if os.access(path, os.R_OK) and path.is_file() else b""


def _pems_at(path: Path) -> list[bytes]:
    """Returns the content of the file `path`, or of the certificates in the folder `path`.

    OpenSSL finds certificates in a folder by their names, which `openssl rehash` creates. Returns
    an empty list if the path does not exist or cannot be read.
    """
    if not path.is_dir():
        return [content] if (content := file_content(path)) else []
    if not os.access(path, os.R_OK | os.X_OK):
        return []
    files = sorted(file for file in path.iterdir() if HASHED_NAME.fullmatch(file.name))
    pems = [pem for file in files if not file.is_dir() for pem in _pems_at(file)]
    return [pem for pem in pems if _PEM_START in pem]


def _make_private(folder: Path) -> bool:
    """Makes the folder accessible to its owner only (mode 0700).

    Returns whether only the owner had access before. Raises CommandError if the folder belongs to
    another user.
    """
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise CommandError(
            f"the folder of certificates {folder} belongs to another user (id {status.st_uid}); "
            "choose another cache folder with XDG_CACHE_HOME"
        )
    if status.st_mode & _ACCESS_OF_OTHERS:
        folder.chmod(0o700)
        return False
    return True


def _is_private(path: Path) -> bool:
    """Returns whether the path is a regular file of this user that other users cannot access."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return is_ours and not status.st_mode & _ACCESS_OF_OTHERS


def _usable(path: Path) -> bytes | None:
    """Returns the content of the file `path`: the authority's key and certificate as PEM.

    Returns None if the file does not exist or is unusable. The file is usable if its key and
    certificate belong together, the certificate has the name constraints `_CONSTRAINTS`, and the
    certificate stays valid for longer than the server certificates that it signs (397 days).
    """
    try:
        pem = path.read_bytes()
        key = load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None
    is_usable = (
        key.public_key() == certificate.public_key()
        and constraints.value == _CONSTRAINTS
        and certificate.not_valid_after_utc > datetime.now(UTC) + _LIFE
    )
    return pem if is_usable else None


def _new_authority() -> bytes:
    """Returns the key and certificate of a new authority as PEM.

    Uses the package cryptography, because the package trustme cannot create name constraints.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now, number = datetime.now(UTC), x509.random_serial_number()
    certificate = (
        x509.CertificateBuilder(name, name, public_key, number, now - _DAY, now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_CONSTRAINTS, critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ) + certificate.public_bytes(Encoding.PEM)


def _write_private(path: Path, data: bytes) -> None:
    """Writes the data to a file that only its owner can read (mode 0600).

    Replaces an existing file atomically.
    """
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)
