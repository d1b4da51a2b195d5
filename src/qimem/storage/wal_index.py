"""The header of SQLite's log index, read where it lies: in memory that all processes share.

Each commit rewrites these 48 bytes before COMMIT returns: they count commits and hold the running
checksum of the log. As long as they are what they were, nothing was committed, and no lock has to be taken
to know that. ADR 0009 has the figures; https://www.sqlite.org/walformat.html §2 has the layout.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path

from qimem.storage.sqlite_guard import descriptors

_HEADER_BYTES = 48
_MAPPED_BYTES = mmap.PAGESIZE
_VERSION = 3_007_000
_START = struct.Struct("=I8xB")
"""Version of the layout, and whether the header was ever written."""


class WalIndex:
    """A view of one database's header. Looking is free of system calls."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._header = (ctypes.c_char * _HEADER_BYTES).from_address(address)

    @classmethod
    def of(cls, database: Path) -> WalIndex | None:
        """The index of a database that this process has open; None where it cannot be seen like this.

        Args:
            database: Its file; a connection to it is open and stays open until the view is closed.
        """
        descriptor = descriptors((f"{database.resolve()}-shm",))
        if len(descriptor) != 1:
            return None
        address = _mapped(*descriptor.values())
        if address is None:
            return None
        index = cls(address)
        if _START.unpack_from(index.header()) != (_VERSION, 1):
            index.close()
            return None
        return index

    def header(self) -> bytes:
        """48 bytes that differ after every commit. Half a new one is possible, and differs, too."""
        return self._header.raw

    def close(self) -> None:
        """Give the memory back; the view must not be used again."""
        del self._header
        _libc.munmap(self._address, _MAPPED_BYTES)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def _mapped(descriptor: int) -> int | None:
    # By SQLite's own descriptor, and not by Python's mmap, which makes a second one: when any descriptor of
    # the file is closed, POSIX drops every lock that this process holds on it.
    if os.fstat(descriptor).st_size < _MAPPED_BYTES:
        return None
    address: int = _libc.mmap(None, _MAPPED_BYTES, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    return None if address == _FAILED else address
