"""File systems of their own for a test: small, and unmounted whatever happens. They need root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import eventually

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN of linux/ext4.h, with how to do it."""
_NOLOGFLUSH = struct.pack("=I", 2)


def run(*command: str | Path) -> str:
    """Run a tool of the system; its output."""
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


@contextlib.contextmanager
def memory_disk(place: Path, mebibytes: int) -> Iterator[Path]:
    """A tmpfs of this size."""
    place.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "none", place)
    try:
        yield place
    finally:
        _unmount(place)


class Ext4:
    """ext4 on a loop device, its image beside it.

    Args:
        place: Where it is mounted.
    """

    def __init__(self, place: Path, mebibytes: int) -> None:
        self.place = place
        self._image = place.with_name(f"{place.name}.ext4")
        place.mkdir(exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(mebibytes << 20)
        # Without its reserve for root, so that full means full for everyone.
        run("mkfs.ext4", "-q", "-F", "-m", "0", self._image)

    def mount(self) -> None:
        run("mount", "-o", "loop,errors=remount-ro", self._image, self.place)
        # A directory of an installation is private, and a new one is empty.
        self.place.chmod(0o700)
        shutil.rmtree(self.place / "lost+found", ignore_errors=True)

    def unmount(self) -> None:
        _unmount(self.place)

    def repair(self) -> None:
        """What the system does before it mounts a file system that had an error."""
        done = subprocess.run(
            ["e2fsck", "-f", "-y", self._image], capture_output=True, check=False, timeout=60
        )
        # 1: errors were corrected.
        assert done.returncode in {0, 1}, done.stdout

    def break_down(self) -> None:
        """Have it meet an error of its own: from then on it is read-only, whoever has files open."""
        device = Path(run("findmnt", "-n", "-o", "SOURCE", self.place).strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def cut_power(self) -> None:
        """From now on nothing reaches the disk, and what had not reached it is lost."""
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mount what reached the disk; every process that had files open there has ended, or is about to."""
        # Never lazily here: two mounts of one image would make a mess that no power cut makes.
        eventually(
            lambda: (
                subprocess.run(["umount", self.place], check=False, stderr=subprocess.DEVNULL).returncode == 0
            )
        )
        # A process elsewhere that took a copy of all mounts keeps the dead file system, and would hand it out again.
        eventually(
            lambda: not run("losetup", "--noheadings", "--associated", self._image).strip(), seconds=60
        )
        self.mount()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Every write and sync hangs meanwhile."""
        run("fsfreeze", "-f", self.place)
        try:
            yield
        finally:
            run("fsfreeze", "-u", self.place)


@contextlib.contextmanager
def ext4_disk(place: Path, mebibytes: int) -> Iterator[Ext4]:
    """An ext4 of this size, mounted."""
    disk = Ext4(place, mebibytes)
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()


@contextlib.contextmanager
def filled(place: Path) -> Iterator[Path]:
    """The file system is full to its last byte meanwhile."""
    filler = place / "filler"
    fill(filler)
    try:
        yield filler
    finally:
        filler.unlink()


def fill(filler: Path) -> None:
    """Take all that is left."""
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())


def _unmount(place: Path) -> None:
    # Already unmounted by the test itself, or never mounted again.
    if place.is_mount():
        # Lazily in the end: a process that a failed test left behind must not keep the rest from running.
        if subprocess.run(["umount", place], capture_output=True, check=False, timeout=30).returncode:
            run("umount", "-l", place)
