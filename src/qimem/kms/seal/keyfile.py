"""The root key in a file of its own: 32 bytes, mode 0600, beside the data and never inside it.

Whoever copies the data directory gets ciphertext; the key has to be fetched separately. It stops
the thief of a disk image or a backup, not one who is root on the running host.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from qimem.kernel.durable import sync_directory
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kms.hierarchy import KEY_BYTES, random_key

_OTHERS = 0o077
_NEXT = ".next"


@dataclass(frozen=True, slots=True)
class KeyFileSeal:
    """A key file.

    Args:
        path: The file.
        loose: Permission bits that are refused.
        creatable: Whether `create` may make it; a place that someone else fills stays untouched.
    """

    path: Path
    loose: int = _OTHERS
    creatable: bool = True

    @property
    def successor(self) -> KeyFileSeal:
        """Where the next root key waits until nothing is wrapped under this one any more."""
        return KeyFileSeal(self.path.with_name(f"{self.path.name}{_NEXT}"), self.loose)

    @property
    def location(self) -> str:
        """The path."""
        return str(self.path)

    def exists(self) -> bool:
        """Whether the name is taken, by a dangling link as well."""
        return os.path.lexists(self.path)

    def load(self) -> SecretBytes:
        """Read the key.

        Raises:
            Refused: missing, a link, not a plain file, of the wrong length, or open to others.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            self._judge(os.fstat(descriptor))
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def create(self) -> SecretBytes:
        """Make the key. It appears under its name complete or not at all, so a crash leaves no half of one.

        Raises:
            Refused: the name is taken, or the place cannot be written.
        """
        if not self.creatable:
            raise Refused(f"no root key at {self.path}", "put the 32-byte root key there first")
        key = random_key()
        self.keep(key)
        return key

    def make_successor(self) -> None:
        """Make a new key as successor of this one; see `create`.

        Raises:
            Refused: there is a successor, or the place cannot be written.
        """
        key = random_key()
        try:
            self.successor.keep(key, self.path.stat())
        finally:
            key.wipe()

    def keep(self, key: SecretBytes, like: os.stat_result | None = None) -> None:
        """Write a key; see `create`.

        Args:
            key: Stays the caller's.
            like: A file whose owner is to be this one's, too: the service may be another user than who acts.

        Raises:
            Refused: the name is taken, or the place cannot be written.
        """
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            # A crash between two steps may have left one; nothing was ever wrapped under it.
            draft.unlink(missing_ok=True)
            self._write(draft, key, like)
            os.link(draft, self.path, follow_symlinks=False)
        except FileExistsError as error:
            raise Refused(
                f"{self.path} exists already", "keep it: it may be the key of existing data"
            ) from error
        except OSError as error:
            raise Refused(
                f"cannot write the root key to {self.path}: {error.strerror}",
                "name a writable place with --root-key-file",
            ) from error
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def make_durable(self) -> None:
        """See that the key survives a power cut, whoever wrote it.

        Raises:
            Refused: the disk does not take it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(self.path.parent)
        except OSError as error:
            raise Refused(f"cannot write {self.path} to the disk: {error.strerror}") from error

    def succeed(self) -> None:
        """Put the successor in the place of this key, durably. This key is gone afterwards.

        Raises:
            Refused: the place cannot be written.
        """
        try:
            self.successor.path.rename(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise Refused(
                f"cannot put {self.successor.path} in the place of {self.path}: {error.strerror}",
                "make the directory writable and repeat the command",
            ) from error

    def _write(self, draft: Path, key: SecretBytes, like: os.stat_result | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600)
        try:
            if like is not None and like.st_uid != os.geteuid():
                os.fchown(descriptor, like.st_uid, like.st_gid)
            os.writev(descriptor, [key.reveal()])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> SecretBytes:
        # One byte more than a key: a longer file is seen, and nothing is read into immutable bytes.
        buffer = bytearray(KEY_BYTES + 1)
        try:
            length = os.readv(descriptor, [buffer])
            if length != KEY_BYTES:
                raise Refused(
                    f"the root key file {self.path} does not hold {KEY_BYTES} bytes",
                    "restore the file from its backup",
                )
            return SecretBytes(memoryview(buffer)[:KEY_BYTES])
        finally:
            buffer[:] = bytes(len(buffer))

    def _judge(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"the root key file {self.path} is not a plain file", "name the file itself")
        if status.st_uid not in (os.geteuid(), 0):
            raise Refused(
                f"the root key file {self.path} belongs to another user (uid {status.st_uid})",
                f"chown {os.geteuid()} {self.path}",
            )
        if status.st_mode & self.loose:
            raise Refused(
                f"the root key file {self.path} is open to others (mode {status.st_mode & 0o777:04o})",
                f"chmod 600 {self.path}, and rotate the key if someone may have read it",
            )

    def _unreadable(self, error: OSError) -> Refused:
        if error.errno == errno.ENOENT:
            return Refused(
                f"the root key {self.path} is missing",
                "restore it or name it with --root-key-file; without it the data cannot be decrypted",
            )
        if error.errno == errno.ELOOP:
            return Refused(f"the root key file {self.path} is a symbolic link", "name the file itself")
        return Refused(f"cannot read the root key {self.path}: {error.strerror}")
