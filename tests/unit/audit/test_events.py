"""Finding records: each once, newest first, over streams, segments, compression and unfinished writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from qimem.audit import events as events_module
from qimem.audit.events import AuditEvents, Damage, Follower, Wanted, records
from qimem.audit.record import encoded
from qimem.audit.segment_file import (
    StreamDirectory,
    read_segment,
    segment_files,
    segment_name,
    segment_numbers,
)
from qimem.audit.stream import StreamState
from qimem.audit.trail import open_trail
from qimem.kernel.clock import ManualClock, rfc3339
from qimem.wire.audit import AuditRecord, KeyUse
from tests.unit.audit.logs import signer, verifier_of

SIZE = 4 * 1024
KEY, OTHER = UUID(int=1), UUID(int=2)


def record(number: int, clock: ManualClock, **facts: object) -> AuditRecord:
    facts = {"realm": "acme", "event": "keys.encrypt", "outcome": "ok"} | facts
    return AuditRecord(at=rfc3339(clock.now_us()), id=f"{number:024}", **facts)  # type: ignore[arg-type]


def write(log: Path, streams: int = 2, records: int = 60, **facts: object) -> list[AuditRecord]:
    """A log of several streams that were written in turn; its records in the order of time."""
    clock, made = ManualClock(), []

    async def run() -> None:
        opened = []
        for number in range(streams):
            directory = StreamDirectory(log / f"s{number:012}")
            state = StreamState(
                "here", f"s{number:012}", signer(), verifier_of(signer()), clock, segment_bytes=SIZE
            )
            opened.append((directory, await open_trail(state, directory, lambda line: None)))
        for number in range(records):
            clock.advance(1.0)
            made.append(record(number, clock, **facts))
            await opened[number % streams][1].append(encoded(made[-1]))
        for directory, trail in opened:
            await trail.close()
            directory.compress(1)
            directory.close()

    asyncio.run(run())
    return made


def pages(log: Path, wanted: Wanted, limit: int) -> list[list[AuditRecord]]:
    events, before, found = AuditEvents(log), None, []
    while True:
        page, before = events.find(wanted, before, limit)
        found.append(page)
        if before is None:
            return found
        assert len(found) < 1_000


@pytest.mark.parametrize("limit", [1, 7, 200])
@pytest.mark.parametrize("streams", [1, 2, 12])
def test_every_record_stands_on_one_page(tmp_path: Path, streams: int, limit: int) -> None:
    made = write(tmp_path, streams)
    found = [record for page in pages(tmp_path, Wanted(), limit) for record in page]
    assert found == made[::-1]


def test_a_question_that_finds_little_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write(tmp_path, 2, 200)
    monkeypatch.setattr(events_module, "AUDIT_SEGMENTS_PER_QUESTION", 2)
    monkeypatch.setattr(events_module, "AUDIT_LAG_SECONDS", 1)
    found = pages(tmp_path, Wanted(request_id="none"), 10)
    assert len(found) > 3
    assert not any(found)
    first = pages(tmp_path, Wanted(until=made[1].at), 10)
    assert [record for page in first for record in page] == made[:1]


def test_a_record_that_lagged_behind_its_time_is_on_its_page(tmp_path: Path) -> None:
    clock = ManualClock()
    late = record(999, clock)
    clock.advance(1)

    async def run() -> list[AuditRecord]:
        directory = StreamDirectory(tmp_path / "s000000000000")
        state = StreamState(
            "here", "s000000000000", signer(), verifier_of(signer()), clock, segment_bytes=SIZE
        )
        trail, made = await open_trail(state, directory, lambda line: None), []
        for number in range(40):
            clock.advance(1)
            made.append(record(number, clock))
            await trail.append(encoded(made[-1]))
        await trail.append(encoded(late))
        await trail.close()
        directory.close()
        return made

    made = asyncio.run(run())
    found = [record for page in pages(tmp_path, Wanted(), 5) for record in page]
    assert found == [*made[::-1], late]


def fits(wanted: Wanted, record: AuditRecord) -> bool:
    return all(needle in encoded(record) for needle in wanted.needles())


def test_filters_hold_together() -> None:
    one = record(1, ManualClock(), key=KEY, subject="ada")
    assert fits(Wanted(key=KEY, subject="ada"), one)
    assert not fits(Wanted(key=KEY, subject="eve"), one)
    assert not fits(Wanted(key=OTHER, subject="ada"), one)
    batch = record(2, ManualClock(), used=[KeyUse(key=OTHER, version=1, count=2)], subject="ada")
    assert fits(Wanted(key=OTHER), batch)
    assert not fits(Wanted(key=OTHER, subject="eve"), batch)
    assert not fits(Wanted(key=KEY), batch)


@pytest.mark.parametrize(
    "text", ['x","realm":"other', '"realm":"other"', "\\u0022realm", "é\u2028", 'x\\","realm":"other"']
)
def test_what_stands_inside_a_value_is_no_field(text: str) -> None:
    one = record(1, ManualClock(), target=text, subject=text)
    assert not fits(Wanted(realm="other"), one)
    assert fits(Wanted(realm="acme", subject=text), one)
    assert not fits(Wanted(subject=text[:-1]), one)


def test_a_realm_whose_name_begins_another_is_not_mixed_up(tmp_path: Path) -> None:
    write(tmp_path, 1, 5, realm="acme-2")
    assert pages(tmp_path, Wanted(realm="acme"), 10) == [[]]
    assert len(pages(tmp_path, Wanted(realm="acme-2"), 10)[0]) == 5


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_half_a_write_shows_what_was_acknowledged_before_it(tmp_path: Path, cut: int) -> None:
    made = write(tmp_path, 1, 3)
    segment = tmp_path / "s000000000000" / "00000001.jsonl.gz"
    content = read_segment(tmp_path / "s000000000000", 1).rstrip(b"\0")
    segment.unlink()
    (tmp_path / "s000000000000" / "00000001.jsonl").write_bytes(content[:-cut] + bytes(1_000))
    (found,) = pages(tmp_path, Wanted(), 10)
    whole = content[:-cut].count(b'{"chain":"')
    assert found == made[: len(found)][::-1]
    assert len(found) >= min(whole, 3) - 1


def test_a_follower_sees_each_record_once(tmp_path: Path) -> None:
    write(tmp_path, 2, 10)
    follower = Follower(tmp_path)
    assert follower.read() == []
    assert Follower(tmp_path).read() == []

    async def more() -> list[AuditRecord]:
        clock, made, found = ManualClock(), [], []
        directory = StreamDirectory(tmp_path / "s000000000000")
        state = StreamState(
            "here", "s000000000000", signer(), verifier_of(signer()), clock, segment_bytes=SIZE
        )
        trail = await open_trail(state, directory, lambda line: None)
        for number in range(100, 180):
            made.append(record(number, clock))
            await trail.append(encoded(made[-1]))
            if number % 9 == 0:
                found += follower.read()
        await trail.close()
        directory.close()
        assert found + follower.read() == made
        return made

    assert len(asyncio.run(more())) == 80
    assert follower.read() == []


def plain(stream: Path) -> list[Path]:
    """The segments of a stream, none of them compressed, oldest first."""
    for number in segment_numbers(stream):
        content = read_segment(stream, number)
        segment_files(stream, number)[0].unlink()
        (stream / segment_name(number)).write_bytes(content)
    return sorted(stream.glob("0*"))


def change(segment: Path, old: bytes, new: bytes) -> None:
    content = segment.read_bytes()
    assert old in content
    segment.write_bytes(content.replace(old, new, 1))


def middle_of(segment: Path) -> bytes:
    """The id of a record that has others before and behind it."""
    return re.findall(rb'"id":"([0-9]{24})"', segment.read_bytes())[3]


DAMAGES: dict[str, Callable[[bytes], tuple[bytes, bytes]]] = {
    "a quote of a record": lambda hit: (b'"id":"%b",' % hit, b'"id":"%b#,' % hit),
    "no UTF-8 in a record": lambda hit: (
        b'"id":"%b","realm":"acme"' % hit,
        b'"id":"%b","realm":"acm\xe5"' % hit,
    ),
    "no UTF-8 in an id": lambda hit: (b'"id":"%b' % hit, b'"id":"\xb0%b' % hit[1:]),
    "the marker of an id": lambda hit: (b'"id":"%b' % hit, b'"hd":"%b' % hit),
    "the beginning of a record": lambda hit: (
        b'"outcome":"ok","id":"%b' % hit,
        b'"outcome":"ok\n,"id":"%b' % hit,
    ),
    "a zero in a record": lambda hit: (b'"id":"%b",' % hit, b'"id":"%b\0,' % hit),
}


@pytest.mark.parametrize("limit", [1, 7])
@pytest.mark.parametrize("which", DAMAGES)
def test_a_damaged_record_is_left_out_and_those_before_it_are_found(
    tmp_path: Path, which: str, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = write(tmp_path, 1)
    segment = plain(tmp_path / "s000000000000")[1]
    hit = middle_of(segment)
    change(segment, *DAMAGES[which](hit))
    left = [one for one in made if one.id.encode() != hit]
    found = [one for page in pages(tmp_path, Wanted(), limit) for one in page]
    assert found == left[::-1]
    assert [record.message for record in caplog.records] == [
        "audit segment 2 of s000000000000 holds damaged lines, which are left out; see qimem audit verify"
    ]
    damage = Damage(lambda text: None)
    numbers = segment_numbers(tmp_path / "s000000000000")
    shown = [one for n in numbers for one in records(tmp_path / "s000000000000", n, Wanted(), damage)]
    assert shown == left
    assert damage.found


def test_a_time_that_is_no_text_does_not_become_a_cursor(tmp_path: Path) -> None:
    made = write(tmp_path, 1)
    segment = plain(tmp_path / "s000000000000")[1]
    hit = middle_of(segment)
    at = next(one.at for one in made if one.id.encode() == hit).encode()
    change(segment, b'{"at":"%b' % at, b'{"at":"%b\xb0%b' % (at[:-2], at[-1:]))
    found = [one for page in pages(tmp_path, Wanted(), 1) for one in page]
    assert found == [one for one in made if one.id.encode() != hit][::-1]


OPENED = re.compile(rb'"opened":"([^"]*)"')


@pytest.mark.parametrize("limit", [1, 7, 200])
@pytest.mark.parametrize(
    "opened", [b"2026-1\xb1-24T12:00:00.000000Z", b"2026-41-24T12:00:00.000000Z", b"", b"x"]
)
def test_records_behind_a_damaged_header_are_found(tmp_path: Path, opened: bytes, limit: int) -> None:
    made = write(tmp_path, 2)
    segments = plain(tmp_path / "s000000000000")
    for segment in (segments[0], segments[2]):
        segment.write_bytes(OPENED.sub(b'"opened":"%b"' % opened, segment.read_bytes(), count=1))
    told: list[str] = []
    events, before, found = AuditEvents(tmp_path, Damage(told.append)), None, []
    while True:
        page, before = events.find(Wanted(), before, limit)
        found += page
        if before is None:
            break
    assert found == made[::-1]
    assert len(told) == 2


def test_records_before_the_damaged_ends_of_their_batches_are_shown(tmp_path: Path) -> None:
    made = write(tmp_path, 1)
    segment = plain(tmp_path / "s000000000000")[0]
    # All of a segment that another one follows was acknowledged.
    segment.write_bytes(segment.read_bytes().replace(b'\n{"chain":', b'\n["chain":'))
    found = [one for page in pages(tmp_path, Wanted(), 7) for one in page]
    assert found == made[::-1]


@pytest.mark.anyio
async def test_a_question_about_a_damaged_log_has_an_answer(tmp_path: Path) -> None:
    made = await asyncio.to_thread(write, tmp_path, 1)
    hit = made[-1].id.encode()
    change(plain(tmp_path / "s000000000000")[-1], b'"id":"%b",' % hit, b'"id":"%b#,' % hit)
    found, _ = await AuditEvents(tmp_path).search(Wanted(), None, 2)
    assert found == [made[-2]]


def test_a_follower_goes_on_behind_a_damaged_record(tmp_path: Path) -> None:
    made = write(tmp_path, 1)
    segment = plain(tmp_path / "s000000000000")[1]
    change(segment, *DAMAGES["a quote of a record"](middle_of(segment)))
    follower = Follower(tmp_path)
    follower._places.clear()
    assert len(follower.read()) == len(made) - 1


def test_there_may_be_no_log_at_all(tmp_path: Path) -> None:
    assert pages(tmp_path / "none", Wanted(), 10) == [[]]
    assert Follower(tmp_path / "none").read() == []
