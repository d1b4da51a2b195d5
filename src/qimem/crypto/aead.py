"""Authenticated encryption behind one interface: AES-256-GCM and ChaCha20-Poly1305."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from qimem.crypto.algorithms import Algorithm
from qimem.errors import Invalid
from qimem.kernel.secret import SecretBytes

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


class _Primitive(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes: ...


class Aead:
    """One key, ready for use. Holds the library's object, not the key bytes.

    Raises:
        ValueError: the key does not have 32 bytes, or the algorithm does not encrypt.
    """

    __slots__ = ("_primitive",)

    def __init__(self, algorithm: Algorithm, key: SecretBytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("a key has 32 bytes")
        primitive = _PRIMITIVES.get(algorithm)
        if primitive is None:
            raise ValueError(f"{algorithm} does not encrypt")
        self._primitive: _Primitive = primitive(key.reveal())

    def seal(self, nonce: bytes, plaintext: bytes, associated_data: bytes | None) -> bytes:
        """Ciphertext followed by its 16-byte tag.

        Args:
            nonce: 12 bytes, never used before with this key.
            plaintext: Any length that fits an envelope, 0 included.
            associated_data: Authenticated with it, not contained in the result; None for none.

        Raises:
            ValueError: a nonce of another length.
        """
        # The library takes GCM nonces of 8 to 128 bytes; anything but 96 bits weakens the message limit
        # (NIST SP 800-38D §8.3) and has no place in an envelope.
        if len(nonce) != NONCE_BYTES:
            raise ValueError("a nonce has 12 bytes")
        return self._primitive.encrypt(nonce, plaintext, associated_data)

    def open(self, nonce: bytes, sealed: bytes, associated_data: bytes | None) -> bytes:
        """The plaintext of ciphertext-and-tag.

        Raises:
            Invalid: `decryption_failed`, one text for wrong key, tampering and wrong tag.
        """
        if len(nonce) != NONCE_BYTES or len(sealed) < TAG_BYTES:
            raise decryption_failed()
        try:
            return self._primitive.decrypt(nonce, sealed, associated_data)
        except InvalidTag:
            raise decryption_failed() from None


_PRIMITIVES: Final[dict[Algorithm, Callable[[bytearray], _Primitive]]] = {
    Algorithm.AES256_GCM: AESGCM,
    Algorithm.CHACHA20_POLY1305: ChaCha20Poly1305,
}


def decryption_failed() -> Invalid:
    """The one answer to everything that does not authenticate."""
    return Invalid("decryption failed", code="decryption_failed")
