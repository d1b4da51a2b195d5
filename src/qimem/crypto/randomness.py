"""Randomness: the only caller of the operating system's generator.

Nonces and ids are drawn in blocks: one system call for hundreds of them. A block never survives a
fork, where parent and child would hand out the same values.
"""

from __future__ import annotations

import base64
import os
from uuid import UUID

_BLOCK_BYTES = 12 * 512


class _Block:
    __slots__ = ("_bytes", "_position")

    def __init__(self) -> None:
        self._bytes = b""
        self._position = 0

    def take(self, count: int) -> bytes:
        start = self._position
        end = start + count
        if end > len(self._bytes):
            self._bytes = os.urandom(_BLOCK_BYTES)
            start, end = 0, count
        self._position = end
        return self._bytes[start:end]

    def forget(self) -> None:
        self._bytes = b""
        self._position = 0


_block = _Block()
os.register_at_fork(after_in_child=_block.forget)


def nonce12() -> bytes:
    """A random 12-byte nonce (NIST SP 800-38D §8.2.2)."""
    return _block.take(12)


def new_uuid() -> UUID:
    """A random UUIDv4 (RFC 9562 §5.4): it tells nothing, not even when it was made."""
    return UUID(bytes=_block.take(16), version=4)


def random_bytes(count: int) -> bytes:
    """`count` random bytes that need not be wiped."""
    return os.urandom(count)


def token_text(count: int) -> str:
    """`count` random bytes as base64url without padding."""
    return base64.urlsafe_b64encode(os.urandom(count)).rstrip(b"=").decode("ascii")


def fill(buffer: bytearray) -> None:
    """Fill a caller's buffer with key-grade randomness, leaving no copy elsewhere on the heap."""
    descriptor = os.open("/dev/urandom", os.O_RDONLY | os.O_CLOEXEC)
    try:
        view = memoryview(buffer)
        while view:
            view = view[os.readv(descriptor, [view]) :]
    finally:
        os.close(descriptor)
