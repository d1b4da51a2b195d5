"""Signatures: ES256 for tokens, Ed25519 for the audit log.

ES256 is ECDSA on P-256 with SHA-256 (FIPS 186-5), signatures as r‖s (RFC 7518 §3.4); Ed25519 is RFC 8032.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from qimem.kernel.secret import SecretBytes

_SCALAR_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


class SignatureInvalid(Exception):
    """The signature is not of this key over this data."""


def generate_es256() -> SecretBytes:
    """The 32-byte private scalar of a new key."""
    private = ec.generate_private_key(ec.SECP256R1())
    return SecretBytes(private.private_numbers().private_value.to_bytes(_SCALAR_BYTES))


class ES256Signer:
    """Signs with one private scalar; keeps the library's object, not the scalar."""

    __slots__ = ("_key",)

    def __init__(self, scalar: SecretBytes) -> None:
        self._key = ec.derive_private_key(int.from_bytes(scalar.reveal()), ec.SECP256R1())

    def public_jwk(self) -> dict[str, str]:
        """The public half as a bare JWK: kty, crv, x, y."""
        public = self._key.public_key().public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": _text(public.x), "y": _text(public.y)}

    def sign(self, data: bytes) -> bytes:
        """64-byte signature r‖s."""
        r, s = decode_dss_signature(self._key.sign(data, _ALGORITHM))
        return r.to_bytes(_SCALAR_BYTES) + s.to_bytes(_SCALAR_BYTES)


class ES256Verifier:
    """Verifies against one public JWK.

    Raises:
        ValueError: not a point on P-256, or its coordinates are not 32 bytes each (RFC 7518 §6.2.1.2).
    """

    __slots__ = ("_key",)

    def __init__(self, jwk: Mapping[str, str]) -> None:
        if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
            raise ValueError("not a P-256 key")
        x, y = (_coordinate(jwk.get(name, "")) for name in ("x", "y"))
        self._key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()

    def verify(self, signature: bytes, data: bytes) -> None:
        """Return if the 64-byte signature is good.

        Raises:
            SignatureInvalid: it is not, or has another length.
        """
        if len(signature) != _SIGNATURE_BYTES:
            raise SignatureInvalid
        r, s = int.from_bytes(signature[:_SCALAR_BYTES]), int.from_bytes(signature[_SCALAR_BYTES:])
        try:
            self._key.verify(encode_dss_signature(r, s), data, _ALGORITHM)
        except InvalidSignature:
            raise SignatureInvalid from None


class Ed25519Signer:
    """Signs with one private key; keeps the library's object, not the 32-byte seed."""

    __slots__ = ("_key",)

    def __init__(self, seed: SecretBytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes(seed.reveal()))

    def public_bytes(self) -> bytes:
        """The 32-byte public key."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """64-byte signature."""
        return self._key.sign(data)


class Ed25519Verifier:
    """Verifies against one 32-byte public key.

    Raises:
        ValueError: not 32 bytes.
    """

    __slots__ = ("_key",)

    def __init__(self, public: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public)

    def verify(self, signature: bytes, data: bytes) -> None:
        """Return if the 64-byte signature is good.

        Raises:
            SignatureInvalid: it is not, or has another length.
        """
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            raise SignatureInvalid from None


def _coordinate(text: str) -> int:
    number = int.from_bytes(base64.urlsafe_b64decode(text + "="))
    if number.bit_length() > 8 * _SCALAR_BYTES or _text(number) != text:
        raise ValueError("not a coordinate")
    return number


def _text(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(_SCALAR_BYTES)).rstrip(b"=").decode("ascii")
