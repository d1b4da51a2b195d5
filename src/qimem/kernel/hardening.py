"""What the process denies itself and others before it holds a secret.

Not dumpable: no core file, and nobody of the same user reads its memory or environment through
/proc or ptrace. On systems other than Linux the parts that exist there are done.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Private files, no core files, no inspection by other processes of the user, enough descriptors."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if sys.platform == "linux":
        # Usually 1,024 are allowed at first, fewer than the connections that are to be served.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """Be killed when the parent dies, however it dies.

    Args:
        parent: Process id of the one that started this process.

    Raises:
        SystemExit: it is gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the line above; then this process has a new parent and no signal comes.
    if os.getppid() != parent:
        raise SystemExit(1)


def erase_variables(names: Iterable[str]) -> None:
    """Overwrite the values of variables where the system handed them over; `os.environ` keeps its own copies.

    /proc/<pid>/environ shows that memory as long as the process lives, whatever is deleted in the program, and in
    every process that is forked from it. Call it before there are threads: a C library may be reading.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    for name in names:
        value = libc.getenv(name.encode("utf-8", "surrogateescape"))
        if value:
            ctypes.memset(value, 0, len(ctypes.string_at(value)))


def is_setting(name: str) -> bool:
    """Whether a variable is one of ours, and may hold a password."""
    return name.startswith(("QIMEM_", "DATABASE_URL"))


def harmless_environment() -> dict[str, str]:
    """The environment for programs that need no setting: without ours and without those that libpq reads."""
    return {
        name: value
        for name, value in os.environ.items()
        if not is_setting(name) and not name.startswith("PG")
    }


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
