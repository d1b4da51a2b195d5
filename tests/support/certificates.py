"""Certificates of an authority of the tests' own, made when they are asked for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from qimem.config.schema import TlsSettings
from qimem.kernel.secret import SecretBytes
from qimem.server.tls import Material, make_context
from qimem.web.kit.tls import Tls


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM."""

    chain: bytes
    key: bytes

    def write(self, directory: Path, name: str = "server") -> tuple[Path, Path]:
        """Into two files, the key private; replaced in one step where there are some."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, content in zip(paths, (self.chain, self.key), strict=True):
            draft = path.with_suffix(".draft")
            draft.write_bytes(content)
            draft.chmod(0o600)
            draft.replace(path)
        return paths

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.chain).public_bytes(Encoding.DER)


class Authority:
    """One that signs whatever it is asked to."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self._name, self._name, self._key, -1, 3650).add_extension(
            constraints, critical=True
        )
        self.certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str = "localhost", *, begins: float = -1, ends: float = 90) -> Issued:
        """For this machine's loopback addresses; `begins` and `ends` in days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            *(x509.IPAddress(ip_address(each)) for each in ("127.0.0.1", "::1")),
        ]
        builder = _builder(_name(name), self._name, key, begins, ends).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Issued(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM), private)

    def trusting(self, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """A client's context that trusts this authority alone; `own` is its own certificate and key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem.decode())
        if own is not None:
            context.load_cert_chain(*own)
        return context


@cache
def authority() -> Authority:
    """The one that clients of tests trust."""
    return Authority()


@cache
def trusting() -> ssl.SSLContext:
    """A client's context for `https://127.0.0.1`."""
    return authority().trusting()


def serving(issued: Issued, *, client_ca: bytes = b"", client_certificates: str = "optional") -> Tls:
    """What listeners of this process serve with."""
    settings = TlsSettings(client_certificates=client_certificates)
    return Tls(make_context(Material(issued.chain, SecretBytes(issued.key), client_ca), settings))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: float, ends: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
    )
