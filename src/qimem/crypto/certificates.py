"""X.509 certificates as a server shows them and sees them: what they say, and whether a key is theirs.

Whom to trust is decided in the handshake, by OpenSSL; nothing here does.
"""

from __future__ import annotations

import base64
import hashlib
import warnings

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.utils import CryptographyDeprecationWarning


class Unfit(ValueError):
    """Certificate or key cannot be used.

    Args:
        reason: Why; holds nothing of either.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def validity_of(chain: bytes) -> tuple[float, float]:
    """From when to when the first certificate of a PEM file is valid, in seconds since 1970, both included.

    Raises:
        ValueError: it holds none that can be read.
    """
    certificate = _first(chain)
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def check_key(chain: bytes, key: bytes | bytearray) -> None:
    """See that a private key is that of the first certificate.

    Args:
        chain: Certificates in PEM.
        key: A private key in PEM.

    Raises:
        Unfit: it is not, or one of them cannot be read.
    """
    certificate = _first(chain)
    try:
        private = load_pem_private_key(bytes(key), None)
    except TypeError:
        raise Unfit("the key is encrypted with a passphrase") from None
    except Exception as error:
        # The library's own errors are of several kinds, and may repeat what it read.
        raise Unfit("the key file holds no private key in PEM") from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        shown = certificate.public_key().public_bytes(*form)
    except Exception as error:
        # As above: of a curve that the library does not know, it says so with an error of its own.
        raise Unfit("the certificate is for a kind of key that is not supported") from error
    if private.public_key().public_bytes(*form) != shown:
        raise Unfit("the key is not that of the first certificate")


def thumbprint(certificate: bytes) -> str:
    """`x5t#S256` of a certificate in DER (RFC 8705 §3.1): its SHA-256 in base64url without padding."""
    digest = hashlib.sha256(certificate).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _first(chain: bytes) -> x509.Certificate:
    try:
        with warnings.catch_warnings():
            # Serial numbers that RFC 5280 forbids are for whoever issued it.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise Unfit("the certificate file holds no certificate in PEM") from error
