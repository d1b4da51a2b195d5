"""The file of a backup: rows of every table, sealed chunk by chunk under a key made from the root key.

    "QIMEMBK1" · u32 length · header (JSON) · sealed chunks

    chunks, opened and joined:  { u32 length · MessagePack }…  with, for each table, its columns and then its rows;
                                at the end the count of rows of each table and SHA-256 of all that was before

The header can be read by anybody and names no secret: which installation, which schema, when. Every byte of the file is
authenticated, the header through the key of the chunks. The root key is not in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from qimem.crypto.randomness import token_hex
from qimem.crypto.sealed_stream import SEALED_CHUNK_BYTES, StreamKey
from qimem.errors import Conflict, Invalid
from qimem.kernel.durable import sync_directory
from qimem.kernel.limits import BACKUP_CHUNK_BYTES, BACKUP_FRAME_BYTES_MAX, BACKUP_HEADER_BYTES_MAX
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes

_MAGIC: Final = b"QIMEMBK1"
_LENGTH: Final = struct.Struct(">I")
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems say that know no second name for a file: FAT, exFAT, many shares."""

Value = int | str | bytes | None
"""What every column is written as, whichever database it comes from: UUIDs as 16 bytes, truth as 0 and 1."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in clear before the rows.

    Args:
        backup_id: 128 random bits in hex; no two headers, and so no two keys, are the same.
        key_check: Key check value of the root key in hex, see `crypto.mac.key_check_value`.
        schema: Version of the schema of the rows.
        taken_us: When the rows were read.
    """

    backup_id: str
    instance_id: str
    incarnation: str
    key_check: str
    schema: str
    taken_us: int


class TableHead(msgspec.Struct, frozen=True, array_like=True, tag="table"):
    """The rows of this table follow."""

    name: str
    columns: tuple[str, ...]


class Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    """Rows of the table named last."""

    # Of `Value`s; msgspec cannot tell text from bytes in a union, MessagePack can.
    rows: list[tuple[Any, ...]]


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """Nothing follows; what was before is this much."""

    counts: dict[str, int]
    digest: bytes


Frame = TableHead | Rows

_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(TableHead | Rows | End)
_header_decoder: Final = msgspec.json.Decoder(Header)


def damaged(what: str) -> Invalid:
    """A backup that is not what was written."""
    return Invalid(
        f"the backup is damaged: {what}",
        code="decryption_failed",
        hint="use another copy of it, or another backup",
    )


def new_backup_id() -> str:
    """128 random bits."""
    return token_hex(16)


class _Counted:
    """Counts and digests what passes, alike where it is written and where it is read."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._table = ""
        self._digest = hashlib.sha256()

    def note(self, frame: Frame, encoded: bytes) -> None:
        self._digest.update(_LENGTH.pack(len(encoded)) + encoded)
        if isinstance(frame, TableHead):
            self._table = frame.name
            self.counts[frame.name] = 0
        else:
            self.counts[self._table] += len(frame.rows)

    def end(self) -> End:
        return End(self.counts, self._digest.digest())


class BackupDraft:
    """A new backup, which has its name only when it is whole.

    Args:
        path: Its name; nothing is ever overwritten.

    Raises:
        Conflict: `already_exists`: there is something of that name.
        Refused: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(f".{path.name}.{token_hex(6)}")
        if os.path.lexists(path):
            raise _exists(path)
        try:
            self._file = os.fdopen(os.open(self._draft, _NEW, 0o600), "wb")
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, root_key: SecretBytes, header: Header, frames: Iterable[Frame]) -> Mapping[str, int]:
        """Seal all frames, durably; the number of rows of each table.

        Raises:
            Refused: it cannot be written.
        """
        encoded = msgspec.json.encode(header)
        sealer = _Sealer(self._file, StreamKey(root_key, encoded))
        counted = _Counted()
        try:
            self._file.write(_MAGIC + _LENGTH.pack(len(encoded)) + encoded)
            for frame, data in (each for given in frames for each in _fitting(given)):
                counted.note(frame, data)
                sealer.write(data)
            sealer.write(_encode(counted.end()))
            sealer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return counted.counts

    def publish(self) -> None:
        """Give it its name.

        Raises:
            Conflict: `already_exists`: something else has got that name meanwhile.
            Refused: it cannot be written.
        """
        try:
            self._name()
            sync_directory(self.path.parent)
        except FileExistsError as error:
            raise _exists(self.path) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Let go of it; what has no name yet is gone."""
        self._draft.unlink(missing_ok=True)
        # What is still buffered then is of a backup that failed: on a full disk it cannot be written now either.
        with suppress(OSError):
            self._file.close()

    def _name(self) -> None:
        try:
            os.link(self._draft, self.path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Claimed and then replaced, so that nothing of somebody else's is.
            os.close(os.open(self.path, _NEW, 0o600))
            self._draft.rename(self.path)
        else:
            self._draft.unlink()


class BackupReader:
    """An existing backup.

    Raises:
        Refused: it cannot be read.
        Invalid: it is no backup.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            self._encoded = self._read_header()
            self.header = _header_decoder.decode(self._encoded)
        except Exception as error:
            self._file.close()
            # It is judged before it is authenticated, and msgspec does not call all that is wrong by one name.
            if isinstance(error, msgspec.MsgspecError | ValueError | RecursionError):
                raise damaged("its header cannot be read") from error
            if isinstance(error, OSError):
                raise _unreadable(path, error) from error
            raise
        self._start = len(_MAGIC) + _LENGTH.size + len(self._encoded)
        self.counts: Mapping[str, int] = {}

    def close(self) -> None:
        """Let go of it."""
        self._file.close()

    def frames(self, root_key: SecretBytes) -> Iterator[Frame]:
        """Everything in it, in order; after the last one `counts` has the number of rows of each table.

        What was given may still turn out to be part of a damaged whole: it is good when the iteration has ended.

        Raises:
            Invalid: `decryption_failed`: it is not what was written.
        """
        self._file.seek(self._start)
        opener = _Opener(self._file, StreamKey(root_key, self._encoded))
        counted = _Counted()
        while True:
            encoded = opener.frame()
            try:
                frame = _decoder.decode(encoded)
            except msgspec.MsgspecError as error:
                raise damaged("it is not what this program writes") from error
            if isinstance(frame, End):
                break
            if isinstance(frame, Rows) and not counted.counts:
                raise damaged("it is not what this program writes")
            counted.note(frame, encoded)
            yield frame
        opener.finish()
        if frame != counted.end():
            raise damaged("rows are missing")
        self.counts = counted.counts

    def _read_header(self) -> bytes:
        start = self._file.read(len(_MAGIC) + _LENGTH.size)
        if not start.startswith(_MAGIC) or len(start) < len(_MAGIC) + _LENGTH.size:
            raise Invalid(f"{self._path} is no backup of this program", hint="name the file of a backup")
        (length,) = _LENGTH.unpack_from(start, len(_MAGIC))
        if length > BACKUP_HEADER_BYTES_MAX:
            raise damaged("its header cannot be read")
        header = self._file.read(length)
        if len(header) < length:
            raise damaged("it is cut short")
        return header


def _fitting(frame: Frame) -> Iterator[tuple[Frame, bytes]]:
    """The frame as it is written, in parts where a reader would refuse it as too large."""
    data = _encode(frame)
    if len(data) <= BACKUP_FRAME_BYTES_MAX or isinstance(frame, TableHead) or len(frame.rows) < 2:
        yield frame, data
        return
    half = len(frame.rows) // 2
    yield from _fitting(Rows(frame.rows[:half]))
    yield from _fitting(Rows(frame.rows[half:]))


class _Sealer:
    """Cuts frames into chunks and seals them."""

    def __init__(self, file: IO[bytes], key: StreamKey) -> None:
        self._file = file
        self._key = key
        self._number = 0
        self._pending = bytearray()

    def write(self, frame: bytes) -> None:
        self._pending += _LENGTH.pack(len(frame)) + frame
        # More than a chunk, not a whole one: the last one is sealed as such when nothing follows.
        while len(self._pending) > BACKUP_CHUNK_BYTES:
            self._seal(bytes(self._pending[:BACKUP_CHUNK_BYTES]), last=False)
            del self._pending[:BACKUP_CHUNK_BYTES]

    def finish(self) -> None:
        self._seal(bytes(self._pending), last=True)

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._file.write(self._key.seal(self._number, chunk, last=last))
        self._number += 1


class _Opener:
    """Opens chunks and joins them to frames."""

    def __init__(self, file: IO[bytes], key: StreamKey) -> None:
        self._file = file
        self._key = key
        self._number = 0
        self._ended = False
        self._next = file.read(SEALED_CHUNK_BYTES)
        self._open = bytearray()

    def frame(self) -> bytes:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > BACKUP_FRAME_BYTES_MAX:
            raise damaged("it is not what this program writes")
        return self._take(length)

    def finish(self) -> None:
        if self._open or not self._ended:
            raise damaged("something follows its end")

    def _take(self, count: int) -> bytes:
        while len(self._open) < count:
            self._open += self._chunk()
        taken = bytes(self._open[:count])
        del self._open[:count]
        return taken

    def _chunk(self) -> bytes:
        if self._ended:
            raise damaged("it is cut short")
        sealed, self._next = self._next, self._file.read(SEALED_CHUNK_BYTES)
        self._ended = not self._next
        try:
            chunk = self._key.open(self._number, sealed, last=self._ended)
        except Invalid:
            raise damaged("a part of it was changed, is missing, or belongs to another one") from None
        self._number += 1
        return chunk


def _exists(path: Path) -> Conflict:
    return Conflict(f"{path} exists", code="already_exists", hint="choose another name")


def _unreadable(path: Path, error: OSError) -> Refused:
    return Refused(f"cannot read {path}: {error.strerror}", "name the file of a backup")


def _unwritable(path: Path, error: OSError) -> Refused:
    return Refused(f"cannot write {path}: {error.strerror}", "make room, or choose another place")
