"""A stream of sealed chunks, for files that are larger than memory: AES-256-GCM after the STREAM construction.

The nonce of a chunk is its number and whether it is the last one (Hoang, Reyhanitabar, Rogaway, Vizár, "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", §6). So a chunk that is missing, doubled, moved or
appended does not open. Each stream has a key of its own, made from the header that stands before it: a chunk of another
stream does not open either, nor does any when a byte of the header was changed.
"""

from __future__ import annotations

import struct
from typing import Final

from qimem.crypto.aead import TAG_BYTES, Aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.mac import digest, mac
from qimem.kernel.limits import BACKUP_CHUNK_BYTES
from qimem.kernel.secret import SecretBytes

SEALED_CHUNK_BYTES: Final = BACKUP_CHUNK_BYTES + TAG_BYTES
_KEY_LABEL: Final = b"qimem backup stream v1\0"
_NONCE: Final = struct.Struct(">QxxxB")


class StreamKey:
    """What seals one stream.

    Args:
        root_key: 32 bytes.
        header: What stands before the stream; holds something that no other header holds.
    """

    def __init__(self, root_key: SecretBytes, header: bytes) -> None:
        # HMAC-SHA256 as a key derivation (NIST SP 800-108r1): the root key itself only wraps.
        key = SecretBytes(mac(root_key, _KEY_LABEL + digest(header)))
        self._aead = Aead(Algorithm.AES256_GCM, key)
        key.wipe()

    def seal(self, number: int, chunk: bytes, *, last: bool) -> bytes:
        """The sealed chunk.

        Args:
            number: From 0 on, each once.
            chunk: Plaintext; all but the last one have `BACKUP_CHUNK_BYTES`.
            last: Whether the stream ends with it.
        """
        return self._aead.seal(_NONCE.pack(number, last), chunk, None)

    def open(self, number: int, sealed: bytes, *, last: bool) -> bytes:
        """The chunk of this number.

        Raises:
            Invalid: `decryption_failed`: it is not what was sealed under this number, in this stream.
        """
        return self._aead.open(_NONCE.pack(number, last), sealed, None)
