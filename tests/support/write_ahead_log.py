"""SQLite's write-ahead log as its file format describes it: where its commits end, and checksums that fit.

https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_BIG_ENDIAN = 0x377F0683


@dataclass(frozen=True, slots=True)
class Frame:
    """One page as a transaction left it.

    Args:
        begin: Its first byte in the file.
        end: The first byte behind it.
        commits: Whether it is the last of a transaction.
    """

    begin: int
    end: int
    commits: bool


class WriteAheadLog:
    """The bytes of a log."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        magic, _, self._page_bytes = struct.unpack_from(">III", data)
        self._order = ">" if magic == _BIG_ENDIAN else "<"
        self._salt = data[16:24]
        self.frames = list(self._valid())

    @property
    def end(self) -> int:
        """Where its last transaction ends; what comes behind is of an earlier use of the file, or unfinished."""
        return max((frame.end for frame in self.frames if frame.commits), default=HEADER_BYTES)

    def commits_before(self, offset: int) -> int:
        """How many transactions are whole when nothing from here on can be read."""
        return sum(frame.commits for frame in self.frames if frame.end <= offset)

    @property
    def commit_ends(self) -> list[int]:
        """Where each transaction ends."""
        return [frame.end for frame in self.frames if frame.commits]

    def forged(self, offset: int, replacement: bytes) -> bytes:
        """The log with other bytes in a page, and with checksums that fit."""
        data = bytearray(self.data)
        data[offset : offset + len(replacement)] = replacement
        sums = struct.unpack_from(">II", data, 24)
        for frame in self.frames:
            sums = self._sums(data, frame.begin, sums)
            struct.pack_into(">II", data, frame.begin + 16, *sums)
        return bytes(data)

    def _valid(self) -> Iterator[Frame]:
        length = FRAME_HEADER_BYTES + self._page_bytes
        sums = struct.unpack_from(">II", self.data, 24)
        for begin in range(HEADER_BYTES, len(self.data) - length + 1, length):
            _, pages, salt, *told = struct.unpack_from(">II8sII", self.data, begin)
            sums = self._sums(self.data, begin, sums)
            if salt != self._salt or sums != tuple(told):
                return
            yield Frame(begin, begin + length, commits=pages > 0)

    def _sums(self, data: bytes | bytearray, begin: int, sums: tuple[int, ...]) -> tuple[int, int]:
        first, second = sums
        page = begin + FRAME_HEADER_BYTES
        for part in (data[begin : begin + 8], data[page : page + self._page_bytes]):
            words = struct.unpack(f"{self._order}{len(part) // 4}I", part)
            for even, odd in zip(words[::2], words[1::2], strict=True):
                first = (first + even + second) & 0xFFFFFFFF
                second = (second + odd + first) & 0xFFFFFFFF
        return first, second
