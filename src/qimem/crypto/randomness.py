"""Randomness: the only caller of the operating system's generator.

Nonces and ids are cut from blocks: one system call for hundreds of them. Two rules keep them single.
Handing one out is one deque operation, so neither a second thread nor a signal handler can be handed
the same one, as could happen with a position counter. And nothing that was drawn survives a fork,
where parent and child would hand out the same values.
"""

from __future__ import annotations

import base64
import os
import stat
from collections import deque
from typing import Final
from uuid import UUID

_PIECES_PER_BLOCK: Final = 512
_NONCE_BYTES: Final = 12
_UUID_BYTES: Final = 16
_DEVICE: Final = "/dev/urandom"

_nonces: Final[deque[bytes]] = deque()
_uuids: Final[deque[bytes]] = deque()
os.register_at_fork(after_in_child=_nonces.clear)
os.register_at_fork(after_in_child=_uuids.clear)


def nonce12() -> bytes:
    """A random 12-byte nonce (NIST SP 800-38D §8.2.2)."""
    try:
        return _nonces.popleft()
    except IndexError:
        return _refill(_nonces, _NONCE_BYTES)


def new_uuid() -> UUID:
    """A random UUIDv4 (RFC 9562 §5.4): it tells nothing, not even when it was made."""
    try:
        value = _uuids.popleft()
    except IndexError:
        value = _refill(_uuids, _UUID_BYTES)
    return UUID(bytes=value, version=4)


def _refill(supply: deque[bytes], length: int) -> bytes:
    block = os.urandom(length * _PIECES_PER_BLOCK)
    pieces = [block[start : start + length] for start in range(0, len(block), length)]
    # The caller's piece never enters the supply: a busy thread could empty it again before we look.
    first = pieces.pop()
    supply.extend(pieces)
    return first


def random_bytes(count: int) -> bytes:
    """`count` random bytes that need not be wiped."""
    return os.urandom(count)


def token_text(count: int) -> str:
    """`count` random bytes as base64url without padding."""
    return base64.urlsafe_b64encode(os.urandom(count)).rstrip(b"=").decode("ascii")


def token_hex(count: int) -> str:
    """`count` random bytes as lower-case hexadecimal digits."""
    return os.urandom(count).hex()


def fill(buffer: bytearray) -> None:
    """Fill a caller's buffer with key-grade randomness, leaving no copy elsewhere on the heap.

    Raises:
        OSError: what stands in the device's place is not a random device.
    """
    try:
        descriptor = os.open(_DEVICE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # A jail without devices: a key with one stray copy is better than no key.
        buffer[:] = os.urandom(len(buffer))
        return
    try:
        # Careless container images put a plain file here, which yields the same keys every time.
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise OSError(f"{_DEVICE} is not a device")
        _read_exactly(descriptor, memoryview(buffer))
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, view: memoryview) -> None:
    while view:
        count = os.readv(descriptor, [view])
        if count == 0:
            raise OSError(f"{_DEVICE} ended")
        view = view[count:]
