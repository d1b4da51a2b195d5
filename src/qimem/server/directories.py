"""The data directory: private to the user of the server, or not used at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from qimem.config.schema import SealSettings, Settings
from qimem.kernel.durable import sync_directory
from qimem.kernel.refusal import Refused

_MEMORY = Path("/dev/shm")  # noqa: S108 - a private directory is made inside it
_OTHERS = 0o077
UNFINISHED = "restore.unfinished"
"""In a data directory that a restore was begun in, until its database is there."""


def make_private(directory: Path) -> None:
    """Make the directory, mode 0700, or see that an existing one is private.

    Raises:
        Refused: it is open to other users, someone else's, or no directory.
    """
    try:
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        check_private(directory)
    except OSError as error:
        raise Refused(
            f"cannot make the data directory {directory}: {error.strerror}", "choose another --data-dir"
        ) from error


def check_private(directory: Path) -> None:
    """See that nobody else can list or change the directory; an empty one of ours is made private.

    Raises:
        Refused: they can.
    """
    if directory.is_dir() and directory.stat().st_uid == os.geteuid() and not any(directory.iterdir()):
        directory.chmod(0o700)
    fault = mode_fault(directory)
    if fault is not None:
        raise fault


def mode_fault(directory: Path) -> Refused | None:
    """Why the directory may not hold data, or None."""
    status = directory.stat()
    if not directory.is_dir():
        return Refused(f"the data directory {directory} is not a directory", "choose another --data-dir")
    if status.st_uid not in (os.geteuid(), 0):
        return Refused(
            f"the data directory {directory} belongs to another user (uid {status.st_uid})",
            f"run as that user, or chown -R {os.geteuid()} {directory}",
        )
    if status.st_mode & _OTHERS:
        return Refused(
            f"the data directory {directory} is open to others (mode {status.st_mode & 0o777:04o})",
            f"chmod 700 {directory}",
        )
    return None


def check_not_restoring(directory: Path) -> None:
    """See that no restore was cut off here; for who has found no installation.

    Raises:
        Refused: one was.
    """
    if (directory / UNFINISHED).exists():
        raise Refused(
            f"a restore into {directory} did not come to its end", "run the same qimem restore again"
        )


def unmark(directory: Path) -> None:
    """The restore that was begun here has come to its end: its database is there, or nothing is."""
    marker = directory / UNFINISHED
    # Asked first: a start on a read-only file system has nothing to remove.
    if marker.exists():
        marker.unlink()
        sync_directory(directory)


@contextmanager
def sole_preparer(directory: Path) -> Iterator[None]:
    """Only one process at a time prepares this directory; a second one waits and then finds it prepared."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def in_memory(settings: Settings) -> Iterator[Settings]:
    """The settings with a private data directory that is memory where possible, and is gone afterwards."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    root = Path(tempfile.mkdtemp(prefix="qimem-", dir=base))
    try:
        yield replace(
            settings,
            server=replace(settings.server, data_dir=root / "data"),
            database=replace(settings.database, mode="stateless", url=None),
            seal=SealSettings(),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)
