"""A secret that stands in a file of its own: a systemd credential, a secret that a container is given, a file of mode 0600."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_BYTES_MAX = 8 * 1024
_NOT_FOR_OTHERS = 0o037
"""The group may read: so systemd and Kubernetes hand a file to a user who does not own it."""


def read_line(path: Path) -> str:
    """The one line of the file, without the line break that editors put behind it.

    Raises:
        ValueError: why it cannot be used; the reason never repeats what stands in it.
    """
    try:
        # Links are followed: Kubernetes makes every file of a secret one. Nonblocking: a pipe must not hold up the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    try:
        _judge(path, os.fstat(descriptor))
        content = os.read(descriptor, _BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    return _line(path, content)


def _judge(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a plain file")
    if status.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"{path} belongs to another user (uid {status.st_uid}); chown {os.geteuid()} {path}")
    if status.st_mode & _NOT_FOR_OTHERS:
        raise ValueError(f"{path} is open to others (mode {status.st_mode & 0o777:04o}); chmod 600 {path}")


def _line(path: Path, content: bytes) -> str:
    if len(content) > _BYTES_MAX:
        raise ValueError(f"{path} is longer than {_BYTES_MAX} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or any(char <= " " or char == "\x7f" for char in line):
        raise ValueError(f"{path} does not hold one line without spaces")
    return line
