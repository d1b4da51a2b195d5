"""The next segment is made beside those who wait for the same disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qimem.audit import segment_file
from qimem.audit.segment_file import StreamFiles

SIZE = 4 * 1024 * 1024 + 100
PIECE = 256 * 1024


def unflushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How far the spare segment had grown at each flush since the one before."""
    grown: list[int] = []
    flush = os.fsync

    def noted(descriptor: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            grown.append(os.fstat(descriptor).st_size - sum(grown))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return grown


def test_a_spare_segment_is_flushed_piece_by_piece(tmp_path: Path, monkeypatch) -> None:
    grown = unflushed(monkeypatch)
    StreamFiles(tmp_path).prepare_spare(SIZE)
    assert max(grown) <= PIECE
    assert (tmp_path / "spare").read_bytes() == bytes(SIZE)


def test_a_segment_that_is_waited_for_is_flushed_once(tmp_path: Path, monkeypatch) -> None:
    grown = unflushed(monkeypatch)
    os.close(StreamFiles(tmp_path).open_new(1, SIZE))
    assert grown == [SIZE]
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.jsonl"]


def test_a_spare_segment_that_is_there_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    StreamFiles(tmp_path).prepare_spare(SIZE)
    grown = unflushed(monkeypatch)
    StreamFiles(tmp_path).prepare_spare(SIZE)
    assert grown == []


def test_a_spare_segment_that_cannot_be_made_takes_nothing_of_the_disk(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        StreamFiles(tmp_path).prepare_spare(SIZE)
    assert list(tmp_path.iterdir()) == []


def test_on_a_disk_without_room_a_spare_segment_is_not_begun(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(segment_file, "write_all", lambda *_: pytest.fail("written"))
    room = os.statvfs(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        StreamFiles(tmp_path).prepare_spare((room.f_bavail + 1) * room.f_frsize)
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_a_spare_segment_ends_the_patience(tmp_path: Path, monkeypatch) -> None:
    grown = unflushed(monkeypatch)
    asked = iter([False, False, *[True] * 100])
    StreamFiles(tmp_path).prepare_spare(SIZE, lambda: next(asked))
    assert grown == [PIECE, PIECE, SIZE - 2 * PIECE]
