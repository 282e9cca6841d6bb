"""The certificates that make programs take the emulator for Cloudflare.

A certificate authority of this user's own, kept in a folder, signs a certificate anew for every
run. Only programs that `exec` runs are told to trust it, and its own certificate confines it to
two hosts: whoever steals its key can pass for nothing else.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
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
from filelock import FileLock
from trustme import CA

from workers_ai_emulator.errors import CommandError

HOSTS = ("api.cloudflare.com", "gateway.ai.cloudflare.com")

_NAME = "workers-ai-emulator"
_DAY = timedelta(days=1)
_AUTHORITY_LIFE = 3650 * _DAY
_LIFE = 397 * _DAY  # the most that every client takes, and longer than any run
_TRUST_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "DENO_CERT")

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

# Names of a kind that is not mentioned would be free, so addresses are excluded, all of them.
_CONFINEMENT = x509.NameConstraints(
    permitted_subtrees=[x509.DNSName(host) for host in HOSTS],
    excluded_subtrees=[
        x509.IPAddress(ipaddress.ip_network(every)) for every in ("0.0.0.0/0", "::/0")
    ],
)


def authority(folder: Path) -> CA:
    """The authority kept in a folder; made if none is there that can be used.

    Raises CommandError.
    """
    path = folder / "authority.pem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / "authority.lock"):
            if not (pem := _usable(path)):
                pem = _new_authority()
                _write_private(path, pem)
    except OSError as error:
        raise CommandError(
            f"cannot keep a certificate authority in {folder}: {error.strerror}; check whose "
            "folder that is, or choose another place with XDG_CACHE_HOME"
        ) from error
    return CA.from_pem(pem, pem)


def server_context(ca: CA) -> ssl.SSLContext:
    """TLS as our hosts, by a certificate that is made now and kept nowhere."""
    now = datetime.now(UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    leaf = ca.issue_cert(
        *HOSTS, organization_name=_NAME, not_before=now - _DAY, not_after=now + _LIFE
    )
    leaf.configure_cert(context)
    return context


def trusted(ca: CA, variables: Mapping[str, str]) -> bytes:
    """For variables that replace what a program trusts: all that any did trust, and the authority.

    `variables` are the user's own.
    """
    system = ssl.get_default_verify_paths()
    return _joined(
        ca,
        [
            *(variables.get(name, "") for name in _TRUST_VARIABLES),
            system.openssl_cafile,
            # Debian and its kin have the whole in the folder of single certificates.
            f"{system.openssl_capath}/ca-certificates.crt",
            certifi.where(),
        ],
    )


def trusted_besides(ca: CA, variables: Mapping[str, str]) -> bytes:
    """For NODE_EXTRA_CA_CERTS, which adds to what node trusts."""
    return _joined(ca, [variables.get("NODE_EXTRA_CA_CERTS", "")])


def _joined(ca: CA, paths: Iterable[str]) -> bytes:
    files = [Path(path) for path in dict.fromkeys(paths)]
    pems = [file.read_bytes() for file in files if os.access(file, os.R_OK) and file.is_file()]
    return b"\n".join([*pems, ca.cert_pem.bytes()])


def _usable(path: Path) -> bytes | None:
    """The file's key and certificate, unless they are damaged, too old or of other hosts."""
    try:
        pem = path.read_bytes()
        key = load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(certificate)
        confinement = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None
    is_usable = (
        key.public_key() == certificate.public_key()
        and confinement.value == _CONFINEMENT
        and certificate.not_valid_after_utc > datetime.now(UTC) + _LIFE
    )
    return pem if is_usable else None


def _new_authority() -> bytes:
    """A key and a certificate. trustme's own authorities cannot be confined."""
    key = ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now, number = datetime.now(UTC), x509.random_serial_number()
    certificate = (
        x509.CertificateBuilder(name, name, public_key, number, now - _DAY, now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_CONFINEMENT, critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ) + certificate.public_bytes(Encoding.PEM)


def _write_private(path: Path, data: bytes) -> None:
    """Write a file all at once that nobody else could read at any time."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    partial.replace(path)
