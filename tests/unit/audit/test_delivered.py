"""Checkpoints that were kept elsewhere find a log that was cut, taken back or replaced as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qimem.audit.delivered import Delivered, read_delivered
from qimem.audit.log import PublicKey, verify_log
from qimem.audit.segment_file import segment_name
from tests.unit.audit.logs import Log, a_log, signer

NAME = "s000000000001"
KEY = PublicKey.of(signer().public_bytes(), "here")


def lines_of(log: Log) -> list[bytes]:
    return [
        line
        for segment in log.segments
        for line in segment.splitlines()
        if line.startswith(b'{"checkpoint":')
    ]


def put(log: Log, place: Path) -> Path:
    stream = place / log.stream
    stream.mkdir(parents=True)
    (place / "heads").mkdir(exist_ok=True)
    for number, data in enumerate(log.segments, 1):
        (stream / segment_name(number)).write_bytes(data)
    (place / "heads" / log.stream).write_bytes(lines_of(log)[-1])
    return place


def kept(place: Path, *lines: bytes) -> Path:
    place.write_bytes(b"".join(line + b"\n" for line in lines))
    return place


def judged(log: Path, file: Path, key: PublicKey = KEY) -> tuple[list[str], Delivered]:
    delivered = read_delivered(file, key)
    reports = verify_log(log, key, {}, checkpoints=delivered.streams)
    return [report.fault for report in reports if report.fault], delivered


@pytest.fixture
def whole() -> Log:
    return a_log(stream=NAME)


def test_a_log_that_holds_all_of_them_is_good(whole: Log, tmp_path: Path) -> None:
    lines = lines_of(whole)
    assert len(lines) == 9
    faults, delivered = judged(put(whole, tmp_path / "log"), kept(tmp_path / "kept", *lines, *lines[3:]))
    assert (faults, delivered.count, delivered.faults, delivered.unreadable) == ([], 9, [], [])


def test_a_log_that_goes_on_is_good(whole: Log, tmp_path: Path) -> None:
    lines = lines_of(whole)
    whole.batch()
    whole.checkpoint()
    assert judged(put(whole, tmp_path / "log"), kept(tmp_path / "kept", lines[2]))[0] == []


def cut_one(log: Log) -> None:
    log.segments.pop()


def rolled_back(log: Log) -> None:
    """To its first segment, from where it went on with other records."""
    shorter = a_log(1, stream=NAME)
    shorter.made = 1_000
    for _ in range(2):
        shorter.open_segment()
        for _ in range(3):
            shorter.batch()
            shorter.checkpoint()
    log.segments = shorter.segments


def last_checkpoint_gone(log: Log) -> None:
    shorter = a_log(2, stream=NAME)
    shorter.open_segment()
    for _ in range(2):
        shorter.batch()
        shorter.checkpoint()
    log.segments = shorter.segments


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (cut_one, "is behind its end"),
        (rolled_back, "is not the one that is known"),
        (last_checkpoint_gone, "is behind its end"),
    ],
)
def test_a_log_that_was_taken_back_with_its_head_is_found(
    whole: Log, tmp_path: Path, deed: Callable[[Log], None], said: str
) -> None:
    file = kept(tmp_path / "kept", *lines_of(whole))
    deed(whole)
    log = put(whole, tmp_path / "log")
    assert [report.fault for report in verify_log(log, KEY, {})] == [None]
    (fault,) = judged(log, file)[0]
    assert said in fault


def test_one_that_was_kept_is_enough(whole: Log, tmp_path: Path) -> None:
    file = kept(tmp_path / "kept", lines_of(whole)[-1])
    cut_one(whole)
    assert judged(put(whole, tmp_path / "log"), file)[0]


def test_a_stream_that_is_gone_with_its_head_is_missed(whole: Log, tmp_path: Path) -> None:
    log = put(whole, tmp_path / "log")
    file = kept(tmp_path / "kept", *lines_of(whole))
    shutil.rmtree(log / NAME)
    (log / "heads" / NAME).unlink()
    assert verify_log(log, KEY, {}) == []
    assert judged(log, file)[0] == ["the stream is gone"]
    shutil.rmtree(log)
    log.mkdir()
    (log / NAME).mkdir()
    assert "is gone" in judged(log, file)[0][0]


def test_a_log_made_anew_with_another_key_is_found(whole: Log, tmp_path: Path) -> None:
    file = kept(tmp_path / "kept", *lines_of(whole))
    forged, other = a_log(stream=NAME, seed=2), PublicKey.of(signer(2).public_bytes(), "here")
    log = put(forged, tmp_path / "log")
    assert [report.fault for report in verify_log(log, other, {})] == [None]
    _, delivered = judged(log, file, other)
    assert len(delivered.faults) == 9
    assert "not signed with this key" in delivered.faults[0]


def test_checkpoints_of_another_installation_are_told(whole: Log, tmp_path: Path) -> None:
    theirs = a_log(stream=NAME, instance="there")
    _, delivered = judged(put(whole, tmp_path / "log"), kept(tmp_path / "kept", *lines_of(theirs)))
    assert len(delivered.faults) == 9
    assert delivered.count == 0


def test_two_that_share_a_number_are_told(whole: Log, tmp_path: Path) -> None:
    lines = lines_of(whole)
    rolled_back(whole)
    file = kept(tmp_path / "kept", *lines, lines_of(whole)[-1])
    assert "another checkpoint 9" in read_delivered(file, KEY).faults[0]


def test_segments_that_were_given_up_are_not_missed(whole: Log, tmp_path: Path) -> None:
    lines = lines_of(whole)
    whole.first = 3
    whole.checkpoint()
    log = put(whole, tmp_path / "log")
    for number in (1, 2):
        (log / NAME / segment_name(number)).unlink()
    assert judged(log, kept(tmp_path / "kept", *lines))[0] == []


def test_segments_that_are_gone_and_were_not_given_up_are_missed(whole: Log, tmp_path: Path) -> None:
    log = put(whole, tmp_path / "log")
    (log / NAME / segment_name(1)).unlink()
    assert judged(log, kept(tmp_path / "kept", *lines_of(whole)))[0]


def test_lines_that_a_crash_cut_off_are_left_out_and_told(whole: Log, tmp_path: Path) -> None:
    lines = lines_of(whole)
    file = kept(tmp_path / "kept", lines[0], lines[1][:50], b"", bytes(20), lines[2], b"x" * 10_000, lines[3])
    file.write_bytes(file.read_bytes() + lines[4][:-3])
    faults, delivered = judged(put(whole, tmp_path / "log"), file)
    assert (faults, delivered.faults) == ([], [])
    assert delivered.unreadable == [2, 6, 8]
    assert set(delivered.streams[NAME]) == {1, 3, 4}


def test_line_ends_of_other_systems_change_nothing(whole: Log, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_bytes(b"\r\n".join(lines_of(whole)))
    faults, delivered = judged(put(whole, tmp_path / "log"), file)
    assert (faults, delivered.count) == ([], 9)


def test_a_changed_byte_of_what_was_kept_is_told(whole: Log, tmp_path: Path) -> None:
    line = lines_of(whole)[-1].replace(b'"entries":', b'"entries":1')
    assert msgspec.json.decode(line)
    assert "not signed" in read_delivered(kept(tmp_path / "kept", line), KEY).faults[0]
