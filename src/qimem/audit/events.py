"""Finds records in the log of this node, newest first.

There is no index: a question reads segments from the newest back, as many as it needs and at most
`AUDIT_SEGMENTS_PER_QUESTION`. Then the page is short, and its cursor goes on from there.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from qimem.audit.record import decoded
from qimem.audit.segment import Header
from qimem.audit.segment_file import read_segment, segment_files, segment_numbers, stream_paths
from qimem.errors import audit_unavailable
from qimem.kernel.clock import MICROSECONDS, parse_rfc3339, rfc3339
from qimem.kernel.limits import AUDIT_LAG_SECONDS, AUDIT_SEGMENTS_PER_QUESTION
from qimem.wire.audit import AuditRecord

_HEADER_BYTES: Final = 4_096
_FOREVER: Final = "9999"
_LAST_ID: Final = "~"
_CLOSING: Final = b'\n{"chain":'
_RECORD: Final = b'{"at":'

_header: Final = msgspec.json.Decoder(Header)

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

    def fits(self, record: AuditRecord) -> bool:
        """Whether it is one of them."""
        if (self.since is not None and record.at < self.since) or (
            self.until is not None and record.at >= self.until
        ):
            return False
        if self.key not in (None, record.key, *(use.key for use in record.used)):
            return False
        return all(
            wanted is None or wanted == found
            for wanted, found in (
                (self.realm, record.realm),
                (self.event, record.event),
                (self.outcome, record.outcome),
                (self.subject, record.subject),
                (self.client, record.client),
                (self.request_id, record.request_id),
            )
        )


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

    async def search(
        self, wanted: Wanted, before: Position | None, limit: int
    ) -> tuple[list[AuditRecord], Position | None]:
        """As `find`, beside the loop: a segment takes tenths of a second.

        Raises:
            Unavailable: `audit_unavailable`: the log cannot be read.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self.find, wanted, before, limit)
        except OSError as error:
            raise audit_unavailable() from error

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
        pool: list[AuditRecord] = []
        spent = 0
        for segment in segments:
            final = [record for record in pool if record.at > segment.closed]
            if len(final) > limit or spent >= AUDIT_SEGMENTS_PER_QUESTION:
                return _page(final, limit, (segment.closed, _LAST_ID))
            # Those that hold the time where this page begins have to be read: if they counted, a log of many
            # streams would never get further.
            spent += segment.closed < until[0]
            pool += (
                record
                for record in records(segment.stream, segment.number, wanted.realm)
                if (record.at, record.id) < until and wanted.fits(record)
            )
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
        with suppress(OSError, IndexError, EOFError, msgspec.MsgspecError):
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
                    found += _records(acknowledged[offset if each == number else 0 :], b"")
                    self._places[stream.name] = each, len(acknowledged)
        return found


def records(stream: Path, number: int, realm: str | None = None) -> Iterator[AuditRecord]:
    """The acknowledged records of a segment, of one realm or of all.

    Raises:
        OSError: it cannot be read.
    """
    needle = b"" if realm is None else b'"realm":%b' % msgspec.json.encode(realm)
    return _records(_acknowledged(stream, number), needle)


def _acknowledged(stream: Path, number: int) -> bytes:
    try:
        data = read_segment(stream, number)
    except IndexError:
        # Given up in this moment.
        return b""
    # What is behind the last whole batch was told to nobody.
    last = data.rfind(_CLOSING)
    end = data.find(b"\n", last + 1)
    if end < 0 <= last:
        # Half of the last line was there when it was read.
        end = data.find(b"\n", data.rfind(_CLOSING, 0, last) + 1)
    return data[: end + 1] if last >= 0 else b""


def _records(lines: bytes, needle: bytes) -> Iterator[AuditRecord]:
    for line in lines.split(b"\n"):
        if line.startswith(_RECORD) and needle in line:
            yield decoded(line)


def _page(
    found: list[AuditRecord], limit: int, unread: Position | None
) -> tuple[list[AuditRecord], Position | None]:
    found.sort(key=lambda record: (record.at, record.id), reverse=True)
    page = found[:limit]
    if len(found) > limit:
        return page, (page[-1].at, page[-1].id)
    return page, unread


def _less_lag(opened: str) -> str:
    # A record that lagged stands in a segment that was opened after it was made.
    return rfc3339(max(0, parse_rfc3339(opened) - AUDIT_LAG_SECONDS * MICROSECONDS))
