"""Finds records in the log of this node, newest first.

There is no index: a question reads segments from the newest back, as many as it needs and at most
`AUDIT_SEGMENTS_PER_QUESTION`. Then the page is short, and its cursor goes on from there.

What is damaged is left out and told once: one flipped bit must not hide all that was written before it. What the
damage is, `qimem audit verify` tells.
"""

from __future__ import annotations

import asyncio
import gzip
import heapq
import itertools
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
_HEADER: Final = b'{"qimem_audit":'
_NO_RECORD: Final = (b'{"chain":', b'{"checkpoint":')
_DAMAGED: Final = "holds damaged lines, which are left out"
_ID: Final = b'"id":"'
_ID_CHARS: Final = 24
_AT: Final = slice(len(b'{"at":"'), len(b'{"at":"2026-01-31T12:00:00.000000Z'))

_header: Final = msgspec.json.Decoder(Header)

_Place = tuple[str, int]
"""Stream and segment."""

_Found = tuple[bytes, bytes, bytes, _Place]
"""Time, id and line of a record, and where it stands."""

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


class Damage:
    """What of a log could not be read.

    Args:
        tell: Called once for each segment, with a sentence.
    """

    def __init__(self, tell: Callable[[str], None] = _log.error) -> None:
        self._tell = tell
        self._places: set[_Place] = set()

    @property
    def found(self) -> bool:
        """Whether there is any so far."""
        return bool(self._places)

    def note(self, place: _Place, what: str) -> None:
        """Tell of it, the first time."""
        if place not in self._places:
            self._places.add(place)
            self._tell(f"audit segment {place[1]} of {place[0]} {what}; see qimem audit verify")


class AuditEvents:
    """The records of all streams of a node.

    Args:
        log: Its directory.
        damage: Told of what cannot be read; by default it is logged.
    """

    def __init__(self, log: Path, damage: Damage | None = None) -> None:
        self._log = log
        self._damage = damage or Damage()
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
                return self._page(final, limit, (segment.closed, _LAST_ID))
            # Those that hold the time where this page begins have to be read: if they counted, a log of many
            # streams would never get further.
            spent += segment.closed < until[0]
            lines = wanted_lines(segment.stream, segment.number, wanted, self._damage)
            earlier = (found for found in lines if found[:2] < place)
            # No page needs more of them, and a segment holds tens of thousands.
            pool = heapq.nlargest(limit + 1, itertools.chain(pool, earlier))
        return self._page(pool, limit, None)

    def _page(
        self, found: list[_Found], limit: int, unread: Position | None
    ) -> tuple[list[AuditRecord], Position | None]:
        newest = heapq.nlargest(limit + 1, found)
        page = [record for each in newest[:limit] if (record := _record(each, self._damage)) is not None]
        if len(newest) > limit:
            # Of what was looked at, not of what is shown: the next page goes on behind a damaged record.
            at, record_id = newest[limit - 1][:2]
            return page, (at.decode(), record_id.decode())
        return page, unread

    def _segments(self, until: str, since: str | None) -> Iterator[_Segment]:
        for stream in stream_paths(self._log):
            closed = _FOREVER
            numbers = segment_numbers(stream)
            for index in reversed(range(len(numbers))):
                own = self._opening(stream, numbers[index])
                opened = own or self._last_opening(stream, numbers[:index])
                if _less_lag(opened) <= until and (since is None or closed >= since):
                    yield _Segment(closed, opened, stream, numbers[index])
                closed = own or closed

    def _last_opening(self, stream: Path, numbers: Sequence[int]) -> str:
        # A segment whose header is damaged was opened some time after the one before it.
        return next(filter(None, (self._opening(stream, number) for number in reversed(numbers))), "")

    def _opening(self, stream: Path, number: int) -> str:
        """When a segment was opened; empty when it never was, is gone, or its header is damaged."""
        place = stream.name, number
        known = self._opened.get(place)
        if known is not None:
            return known
        try:
            file = segment_files(stream, number)[0]
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as data:
                line, whole, _ = data.read(_HEADER_BYTES).partition(b"\n")
        except (OSError, IndexError, EOFError, zlib.error):
            # Reading the segment tells what is wrong with it.
            return ""
        try:
            opened = _opened(line) if whole else ""
        except (ValueError, OverflowError):
            self._damage.note(place, _DAMAGED)
            return ""
        if opened:
            self._opened[place] = opened
        return opened


class Follower:
    """Reads what is appended to the log of a node from now on.

    Args:
        log: Its directory.
        damage: Told of what cannot be read; by default it is logged.
    """

    def __init__(self, log: Path, damage: Damage | None = None) -> None:
        self._log = log
        self._damage = damage or Damage()
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
                    acknowledged = _acknowledged(stream, each, self._damage)
                    lines = acknowledged[offset if each == number else 0 :]
                    for one in _wanted(lines, (stream.name, each), Wanted(), self._damage):
                        record = _record(one, self._damage)
                        found += () if record is None else (record,)
                    self._places[stream.name] = each, len(acknowledged)
        return found


def wanted_lines(stream: Path, number: int, wanted: Wanted, damage: Damage) -> Iterator[_Found]:
    """The acknowledged records of a segment that are wanted, as they stand there; damaged ones may be among them.

    To decode 50,000 records for a page of 50 took half a second; to look at their bytes takes a tenth of that.

    Raises:
        OSError: the stream cannot be read.
    """
    return _wanted(_acknowledged(stream, number, damage), (stream.name, number), wanted, damage)


def records(stream: Path, number: int, wanted: Wanted, damage: Damage | None = None) -> Iterator[AuditRecord]:
    """The acknowledged records of a segment that are wanted, in their order.

    Args:
        stream: Its directory.
        number: The segment.
        wanted: Which.
        damage: Told of what cannot be read; by default it is logged.

    Raises:
        OSError: the stream cannot be read.
    """
    damage = damage or Damage()
    for found in wanted_lines(stream, number, wanted, damage):
        record = _record(found, damage)
        if record is not None:
            yield record


def _wanted(lines: bytes, place: _Place, wanted: Wanted, damage: Damage) -> Iterator[_Found]:
    needles, (since, until) = wanted.needles(), wanted.times()
    for line in lines.split(b"\n"):
        if not line.startswith(_RECORD):
            if not _is_sound(line):
                damage.note(place, _DAMAGED)
        elif all(needle in line for needle in needles):
            at, begins = line[_AT], line.find(_ID) + len(_ID)
            record_id = line[begins : begins + _ID_CHARS]
            # They become a cursor; the rest is looked at when the record is shown.
            if begins < len(_ID) or not (at.isascii() and record_id.isascii()):
                damage.note(place, _DAMAGED)
            elif since <= at < until:
                yield at, record_id, line, place


def _is_sound(line: bytes) -> bool:
    """Whether a line that is no record is one that may be there."""
    if not line.startswith(_HEADER):
        return not line or line.startswith(_NO_RECORD)
    try:
        _opened(line)
    except (ValueError, OverflowError):
        return False
    return True


def _record(found: _Found, damage: Damage) -> AuditRecord | None:
    try:
        return decoded(found[2])
    except ValueError:
        damage.note(found[3], _DAMAGED)
        return None


def _acknowledged(stream: Path, number: int, damage: Damage) -> bytes:
    # Asked first: what is read then is final.
    sealed = number < max(segment_numbers(stream), default=number)
    try:
        data = read_segment(stream, number)
    except SegmentGone:
        # Given up in this moment.
        return b""
    except OSError as error:
        damage.note((stream.name, number), f"cannot be read: {error}")
        return b""
    if sealed:
        # It was cut at its last whole batch: whatever does not fit is damage.
        return data
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


def _opened(header: bytes) -> str:
    """When a segment was opened, RFC 3339.

    Raises:
        ValueError: the line is no header.
        OverflowError: nor is its time one.
    """
    opened = _header.decode(header).opened
    # Times are compared as text.
    if rfc3339(parse_rfc3339(opened)) != opened:
        raise ValueError("not as it is written")
    return opened


def _less_lag(opened: str) -> str:
    # A record that lagged stands in a segment that was opened after it was made.
    return opened and rfc3339(max(0, parse_rfc3339(opened) - AUDIT_LAG_SECONDS * MICROSECONDS))
