"""Key wrapping: AES-256-GCM with associated data that says where the wrapped key belongs.

    format u8 = 1 · nonce 12 · ciphertext · tag 16

Unwrapping decrypts straight into a buffer that can be wiped; the plain `decrypt` would leave a copy
of the key on the heap.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qimem.crypto.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from qimem.crypto.randomness import nonce12
from qimem.kernel.secret import SecretBytes

_FORMAT: Final = 1
_OVERHEAD: Final = 1 + NONCE_BYTES + TAG_BYTES


class UnwrapFailed(Exception):
    """A stored secret is damaged, was moved, or belongs to another key. Never the caller's fault."""


@dataclass(frozen=True, slots=True)
class WrapContext:
    """Where a wrapped secret belongs; every field is authenticated."""

    instance_id: bytes
    table: str
    realm_id: str
    object_id: bytes
    version: int
    purpose: str

    def encode(self) -> bytes:
        """The fields, each behind its length, so that none can lend bytes to its neighbor."""
        parts = (
            self.instance_id,
            self.table.encode(),
            self.realm_id.encode(),
            self.object_id,
            struct.pack(">I", self.version),
            self.purpose.encode(),
        )
        return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def wrap(key: SecretBytes, secret: SecretBytes, context: WrapContext) -> bytes:
    """Wrap a secret under a 32-byte key."""
    nonce = nonce12()
    return bytes((_FORMAT,)) + nonce + _cipher(key).encrypt(nonce, secret.reveal(), context.encode())


def unwrap(key: SecretBytes, wrapped: bytes, context: WrapContext) -> SecretBytes:
    """The secret that `wrap` took, in a buffer of its own.

    Raises:
        UnwrapFailed: damaged, moved, or another key.
    """
    if len(wrapped) < _OVERHEAD or wrapped[0] != _FORMAT:
        raise UnwrapFailed
    secret = SecretBytes(bytes(len(wrapped) - _OVERHEAD))
    nonce, sealed = wrapped[1 : 1 + NONCE_BYTES], wrapped[1 + NONCE_BYTES :]
    try:
        _cipher(key).decrypt_into(nonce, sealed, context.encode(), secret.reveal())
    except InvalidTag:
        # The buffer was written before the tag was judged.
        secret.wipe()
        raise UnwrapFailed from None
    return secret


def seal_record(key: SecretBytes, record: bytes, context: WrapContext) -> bytes:
    """Seal a record that is no key, in the same format."""
    nonce = nonce12()
    return bytes((_FORMAT,)) + nonce + _cipher(key).encrypt(nonce, record, context.encode())


def open_record(key: SecretBytes, sealed: bytes, context: WrapContext) -> bytes:
    """Open what `seal_record` made.

    Raises:
        UnwrapFailed: damaged, moved, or another key.
    """
    return bytes(unwrap(key, sealed, context).reveal())


def _cipher(key: SecretBytes) -> AESGCM:
    # The library would take 16 and 24 bytes too and silently wrap under a weaker cipher.
    if len(key) != KEY_BYTES:
        raise ValueError("a wrapping key has 32 bytes")
    return AESGCM(key.reveal())
