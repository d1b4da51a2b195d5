"""The next segment is made beside those who wait for the same disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
