"""Finds records in the log of this node, newest first.

There is no index: a question reads segments from the newest back, as many as it needs and at most
`AUDIT_SEGMENTS_PER_QUESTION`. Then the page is short, and its cursor goes on from there.
"""

from __future__ import annotations

import asyncio
import gzip
import heapq
import itertools
import logging
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from qimem.audit.record import decoded
from qimem.audit.segment import Header
from qimem.audit.segment_file import SegmentGone, read_segment, segment_files, segment_numbers, stream_paths
from qimem.errors import Unavailable, audit_unavailable
from qimem.kernel.clock import MICROSECONDS, parse_rfc3339, rfc3339
from qimem.kernel.limits import AUDIT_LAG_SECONDS, AUDIT_QUESTIONS_MAX, AUDIT_SEGMENTS_PER_QUESTION
from qimem.wire.audit import AuditRecord

_log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 4_096
_FOREVER: Final = "9999"
_LAST_ID: Final = "~"
_CLOSING: Final = b'\n{"chain":'
_RECORD: Final = b'{"at":'
_ID: Final = b'"id":"'
_ID_CHARS: Final = 24
_AT: Final = slice(len(b'{"at":"'), len(b'{"at":"2026-01-31T12:00:00.000000Z'))

_header: Final = msgspec.json.Decoder(Header)

_Found = tuple[bytes, bytes, bytes]
"""Time, id and line of a record."""

Position = tuple[str, str]
"""Time and id of a record: what comes next is before it."""


class Wanted(NamedTuple):
    """Which records; None for all. Times are RFC 3339 as records have them, `since` included, `until` not."""

    realm: str | None = None
    event: str | None = None
    outcome: str | None = None
    subject: str | None = None
    client: str | None = None
    key: UUID | None = None
    request_id: str | None = None
    since: str | None = None
    until: str | None = None

    def needles(self) -> list[bytes]:
        """What stands in the line of each of them, time apart, and of no other: quotes in values are escaped."""
        fields = (
            ("realm", self.realm), ("event", self.event), ("outcome", self.outcome), ("subject", self.subject),
            ("client", self.client), ("key", self.key), ("request_id", self.request_id),
        )  # fmt: skip
        return [
            b'"%b":%b' % (name.encode(), msgspec.json.encode(value))
            for name, value in fields
            if value is not None
        ]

    def times(self) -> tuple[bytes, bytes]:
        """The first time that fits and the first one after that does not."""
        return (self.since or "").encode(), (self.until or _FOREVER).encode()


class _Segment(NamedTuple):
    closed: str
    opened: str
    stream: Path
    number: int


class AuditEvents:
    """The records of all streams of a node."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._opened: dict[tuple[str, int], str] = {}
        self._thread = ThreadPoolExecutor(1, "audit-events")
        self._asking = 0

    async def search(
        self, wanted: Wanted, before: Position | None, limit: int
    ) -> tuple[list[AuditRecord], Position | None]:
        """As `find`, beside the loop: a segment takes tenths of a second.

        Raises:
            Unavailable: `overloaded`: others are asking; `audit_unavailable`: the log cannot be read.
        """
        if self._asking >= AUDIT_QUESTIONS_MAX:
            raise Unavailable("too many questions to the audit log at once", code="overloaded")
        self._asking += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self.find, wanted, before, limit)
        except OSError as error:
            raise audit_unavailable() from error
        finally:
            self._asking -= 1

    def find(
        self, wanted: Wanted, before: Position | None, limit: int
    ) -> tuple[list[AuditRecord], Position | None]:
        """The newest records of those that are wanted.

        Args:
            wanted: Which.
            before: Position of the page before.
            limit: At most so many.

        Returns:
            The records, and the position to go on from or None when there is nothing before.

        Raises:
            OSError: the log cannot be read.
        """
        until = before or (_FOREVER, _LAST_ID)
        segments = sorted(self._segments(until[0], wanted.since), reverse=True)
        place = until[0].encode(), until[1].encode()
        pool: list[_Found] = []
        spent = 0
        for segment in segments:
            closed = segment.closed.encode()
            final = [found for found in pool if found[0] > closed]
            if len(final) > limit or spent >= AUDIT_SEGMENTS_PER_QUESTION:
                return _page(final, limit, (segment.closed, _LAST_ID))
            # Those that hold the time where this page begins have to be read: if they counted, a log of many
            # streams would never get further.
            spent += segment.closed < until[0]
            lines = wanted_lines(segment.stream, segment.number, wanted)
            earlier = (found for found in lines if found[:2] < place)
            # No page needs more of them, and a segment holds tens of thousands.
            pool = heapq.nlargest(limit + 1, itertools.chain(pool, earlier))
        return _page(pool, limit, None)

    def _segments(self, until: str, since: str | None) -> Iterator[_Segment]:
        for stream in stream_paths(self._log):
            closed = _FOREVER
            for number in reversed(segment_numbers(stream)):
                opened = self._opening(stream, number)
                if opened is None:
                    continue
                if _less_lag(opened) <= until and (since is None or closed >= since):
                    yield _Segment(closed, opened, stream, number)
                closed = opened

    def _opening(self, stream: Path, number: int) -> str | None:
        """When a segment was opened; None when it never was, or is gone."""
        known = self._opened.get((stream.name, number))
        if known is not None:
            return known
        with suppress(OSError, IndexError, EOFError, zlib.error, msgspec.MsgspecError):
            file = segment_files(stream, number)[0]
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as data:
                opened = _header.decode(data.read(_HEADER_BYTES).partition(b"\n")[0]).opened
            self._opened[stream.name, number] = opened
            return opened
        return None


class Follower:
    """Reads what is appended to the log of a node from now on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._places: dict[str, tuple[int, int]] = {}
        self.read()

    def read(self) -> list[AuditRecord]:
        """What was acknowledged since the last call, stream after stream.

        Raises:
            OSError: the log cannot be read.
        """
        found: list[AuditRecord] = []
        for stream in stream_paths(self._log):
            number, offset = self._places.get(stream.name, (0, 0))
            for each in segment_numbers(stream):
                if each >= number:
                    acknowledged = _acknowledged(stream, each)
                    lines = acknowledged[offset if each == number else 0 :].split(b"\n")
                    found += (decoded(line) for line in lines if line.startswith(_RECORD))
                    self._places[stream.name] = each, len(acknowledged)
        return found


def wanted_lines(stream: Path, number: int, wanted: Wanted) -> Iterator[_Found]:
    """The acknowledged records of a segment that are wanted, as they stand there.

    To decode 50,000 records for a page of 50 took half a second; to look at their bytes takes a tenth of that.

    Raises:
        OSError: it cannot be read.
    """
    needles, (since, until) = wanted.needles(), wanted.times()
    for line in _acknowledged(stream, number).split(b"\n"):
        if line.startswith(_RECORD) and all(needle in line for needle in needles):
            at = line[_AT]
            if since <= at < until:
                begins = line.index(_ID) + len(_ID)
                yield at, line[begins : begins + _ID_CHARS], line


def records(stream: Path, number: int, wanted: Wanted) -> Iterator[AuditRecord]:
    """The acknowledged records of a segment that are wanted, in their order.

    Raises:
        OSError: it cannot be read.
    """
    return (decoded(line) for _, _, line in wanted_lines(stream, number, wanted))


def _acknowledged(stream: Path, number: int) -> bytes:
    try:
        data = read_segment(stream, number)
    except SegmentGone:
        # Given up in this moment.
        return b""
    except OSError as error:
        # One damaged segment must not hide all others; `qimem audit verify` tells what it is.
        _log.error("audit segment %s of %s cannot be read: %s", number, stream.name, error)
        return b""
    if (zeros := data.find(b"\0")) >= 0:
        # Behind them, a power cut can have left parts of a write that nobody was told of.
        data = data[:zeros]
    # What is behind the last whole batch was told to nobody.
    last = data.rfind(_CLOSING)
    end = data.find(b"\n", last + 1)
    if end < 0 <= last:
        # Half of the last line was there when it was read.
        end = data.find(b"\n", data.rfind(_CLOSING, 0, last) + 1)
    return data[: end + 1] if last >= 0 else b""


def _page(
    found: list[_Found], limit: int, unread: Position | None
) -> tuple[list[AuditRecord], Position | None]:
    newest = heapq.nlargest(limit + 1, found)
    page = [decoded(line) for _, _, line in newest[:limit]]
    if len(newest) > limit:
        return page, (page[-1].at, page[-1].id)
    return page, unread


def _less_lag(opened: str) -> str:
    # A record that lagged stands in a segment that was opened after it was made.
    return rfc3339(max(0, parse_rfc3339(opened) - AUDIT_LAG_SECONDS * MICROSECONDS))
