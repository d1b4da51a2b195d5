"""A backup is what was written, to the last byte, or it is refused."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qimem.crypto.aead import TAG_BYTES
from qimem.crypto.sealed_stream import SEALED_CHUNK_BYTES, StreamKey
from qimem.errors import Conflict, Invalid
from qimem.kernel.limits import BACKUP_CHUNK_BYTES
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.storage.backup_file import (
    BackupDraft,
    BackupReader,
    Frame,
    Header,
    Rows,
    TableHead,
    new_backup_id,
)

ROOT_KEY = bytes(range(32))
PREFIX = 12
"""Magic and length of the header."""


def key() -> SecretBytes:
    return SecretBytes(ROOT_KEY)


def header() -> Header:
    return Header(new_backup_id(), "1" * 32, "aa" * 16, "bb" * 32, "0008", 1_700_000_000_000_000)


def frames(count: int, size: int = 900) -> Iterator[Frame]:
    yield TableHead("realm", ("realm_id", "n", "wrapped", "none"))
    for number in range(count):
        yield Rows([(f"realm-{number}", number, os.urandom(size), None)])
    yield TableHead("empty", ("realm_id",))


def made(path: Path, count: int = 3, size: int = 900) -> Path:
    draft = BackupDraft(path)
    draft.write(key(), header(), frames(count, size))
    draft.publish()
    draft.close()
    return path


def read(path: Path, root_key: SecretBytes | None = None) -> list[Frame]:
    reader = BackupReader(path)
    try:
        return list(reader.frames(root_key or key()))
    finally:
        reader.close()


def refused(path: Path, root_key: SecretBytes | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        read(path, root_key)
    return caught.value


def changed(path: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    other = path.with_name("changed")
    other.write_bytes(data)
    return other


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("small") / "a.backup", 2, 20)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("large") / "a.backup", 300)


def chunks_of(path: Path) -> tuple[bytes, list[bytes]]:
    data = path.read_bytes()
    start = PREFIX + int.from_bytes(data[8:PREFIX], "big")
    sealed = data[start:]
    return data[:start], [
        sealed[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(sealed), SEALED_CHUNK_BYTES)
    ]


def joined(path: Path, head: bytes, chunks: list[bytes]) -> Path:
    other = path.with_name("joined")
    other.write_bytes(head + b"".join(chunks))
    return other


def test_what_is_written_is_read(large: Path) -> None:
    found = read(large)
    assert [type(frame) for frame in found].count(Rows) == 300
    first = found[1]
    assert isinstance(first, Rows)
    name, number, wrapped, none = first.rows[0]
    assert (name, number, len(wrapped), none) == ("realm-0", 0, 900, None)
    assert found[-1] == TableHead("empty", ("realm_id",))


def test_rows_are_counted(large: Path) -> None:
    reader = BackupReader(large)
    list(reader.frames(key()))
    reader.close()
    assert reader.counts == {"realm": 300, "empty": 0}


def test_nothing_of_the_rows_stands_in_clear(large: Path) -> None:
    assert b"realm-1" not in large.read_bytes()
    assert ROOT_KEY not in large.read_bytes()


def test_it_is_private(small: Path) -> None:
    assert stat.S_IMODE(small.stat().st_mode) == 0o600


def test_every_byte_counts(small: Path) -> None:
    original = small.read_bytes()
    for at in range(len(original)):

        def flip(data: bytearray, at: int = at) -> None:
            data[at] ^= 1 << at % 8

        refused(changed(small, flip))


def test_every_length_but_its_own_is_refused(small: Path) -> None:
    length = small.stat().st_size
    for shorter in range(length):
        refused(changed(small, lambda data, end=shorter: data.__delitem__(slice(end, None))))
    refused(changed(small, lambda data: data.extend(b"\0")))
    refused(changed(small, lambda data: data.extend(data[-100:])))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_backup_that_ends_with_a_whole_chunk_is_cut_short(large: Path, cut: int) -> None:
    head, chunks = chunks_of(large)
    assert len(chunks) == 5
    refused(joined(large, head, chunks[:-cut]))


def test_chunks_have_their_places(large: Path) -> None:
    head, chunks = chunks_of(large)
    first, second, *others = chunks
    for order in (
        [second, first, *others],
        [first, first, *others],
        [first, second, second, *others],
        others,
    ):
        refused(joined(large, head, order))


def test_another_backups_chunks_do_not_fit(large: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "b.backup", 300)
    head, chunks = chunks_of(large)
    _, others = chunks_of(other)
    for at in range(len(chunks)):
        refused(joined(large, head, [*chunks[:at], others[at], *chunks[at + 1 :]]))
    refused(joined(large, chunks_of(other)[0], chunks))


def test_another_root_key_opens_nothing(small: Path) -> None:
    refused(small, SecretBytes(bytes(32)))


def test_a_whole_number_of_chunks_is_written_and_read(tmp_path: Path) -> None:
    # The last chunk may be full: what tells it from others is its nonce, not its length.
    for more in range(-2, 3):
        path = tmp_path / f"{more}.backup"
        draft = BackupDraft(path)
        content = [TableHead("t", ("a",)), Rows([(b"x" * (BACKUP_CHUNK_BYTES - 82 + more),)])]
        draft.write(key(), header(), content)
        draft.publish()
        draft.close()
        assert read(path) == content


def test_something_else_is_no_backup(tmp_path: Path) -> None:
    for content in (b"", b"QIMEM", b"SQLite format 3\0" * 99, b"QIMEMBK2" + bytes(99)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(Invalid, match="no backup"):
            read(tmp_path / "other")


def test_an_endless_header_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"QIMEMBK1" + b"\xff" * 4 + b" " * 9999)
    assert "header" in refused(tmp_path / "other").message


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.backup"
    path.write_text("precious")
    with pytest.raises(Conflict):
        BackupDraft(path)
    assert path.read_text() == "precious"


def test_nor_what_comes_meanwhile(tmp_path: Path) -> None:
    draft = BackupDraft(tmp_path / "a.backup")
    draft.write(key(), header(), frames(1))
    (tmp_path / "a.backup").write_text("precious")
    with pytest.raises(Conflict):
        draft.publish()
    draft.close()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    def failing() -> Iterator[Frame]:
        yield from frames(100)
        raise RuntimeError("the database is gone")

    draft = BackupDraft(tmp_path / "a.backup")
    with pytest.raises(RuntimeError):
        draft.write(key(), header(), failing())
    draft.close()
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot write"):
        BackupDraft(tmp_path / "missing" / "a.backup")
    with pytest.raises(Refused, match="cannot read"):
        BackupReader(tmp_path / "missing")


def test_nothing_is_left_on_a_full_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    draft = BackupDraft(tmp_path / "a.backup")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        # What is buffered is still to be written when it is closed.
        with pytest.raises(Refused, match="cannot write"), closing(draft):
            draft.write(key(), header(), frames(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("says", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_takes_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: int
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(says, os.strerror(says))

    monkeypatch.setattr(os, "link", link)
    path = made(tmp_path / "a.backup")
    assert len(read(path)) == 5
    before = path.read_bytes()
    draft = BackupDraft(tmp_path / "b.backup")
    (tmp_path / "b.backup").write_text("precious")
    draft.write(key(), header(), frames(3))
    with pytest.raises(Conflict), closing(draft):
        draft.publish()
    assert path.read_bytes() == before
    assert {each.name: each.stat().st_size for each in tmp_path.iterdir()} == {
        "a.backup": len(before), "b.backup": len("precious"),
    }  # fmt: skip


def test_rows_that_are_too_large_together_are_written_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 500 clients of 200 KB each made a backup that its own reader refused.
    rows: list[tuple[Any, ...]] = [(number, bytes(900)) for number in range(50)]
    monkeypatch.setattr("qimem.storage.backup_file.BACKUP_FRAME_BYTES_MAX", 4_000)
    draft = BackupDraft(tmp_path / "a.backup")
    with closing(draft):
        counts = draft.write(key(), header(), [TableHead("client", ("n", "data")), Rows(rows)])
        draft.publish()
    found = read(tmp_path / "a.backup")
    assert [row for frame in found if isinstance(frame, Rows) for row in frame.rows] == rows
    assert counts == {"client": 50}
    assert len(found) > 10


def test_a_disk_that_cannot_be_read_is_told() -> None:
    # Nothing is mapped at address 0: reading it is an input/output error.
    with pytest.raises(Refused, match="cannot read"):
        BackupReader(Path("/proc/self/mem"))


def test_two_streams_never_share_a_key() -> None:
    one, other = StreamKey(key(), b"one"), StreamKey(key(), b"other")
    sealed = one.seal(0, b"rows", last=True)
    assert len(sealed) == 4 + TAG_BYTES
    assert one.open(0, sealed, last=True) == b"rows"
    for stream, number, last in ((other, 0, True), (one, 1, True), (one, 0, False), (one, 256, True)):
        with pytest.raises(Invalid):
            stream.open(number, sealed, last=last)
