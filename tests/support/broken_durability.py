"""Servers that do not wait for their disk, and one that gives a test time to hit it: see `broken_server`.

Server(directory, environment=broken(directory, "leaves_commits_to_the_system", module=MODULE))
"""

from __future__ import annotations

import os
import time
from typing import Any

from tests.support.broken_server import _replace

MODULE = "broken_durability"

_STEP_SECONDS = 0.05


def leaves_commits_to_the_system() -> None:
    """`synchronous=OFF`: what is committed is written when the system likes."""
    _synchronous("OFF")


def leaves_the_log_to_the_system() -> None:
    """`synchronous=NORMAL`: only checkpoints wait for the disk."""
    _synchronous("NORMAL")


def _synchronous(mode: str) -> None:
    from qimem.storage import sqlite_connection

    prepare = sqlite_connection._prepared

    def prepared(*where: Any, **how: Any) -> Any:
        connection = prepare(*where, **how)
        connection.pragma("synchronous", mode)
        return connection

    _replace(sqlite_connection, "_prepared", prepared)


def leaves_its_root_key_to_the_system() -> None:
    """The root key is written, and nobody waits for the disk."""
    from qimem.kms.seal import keyfile

    def write(_: keyfile.KeyFileSeal, draft: Any, key: Any) -> None:
        draft.touch(mode=0o600)
        draft.write_bytes(bytes(key.reveal()))

    _replace(keyfile.KeyFileSeal, "_write", write)
    _replace(keyfile, "sync_directory", lambda _: None)


def dawdles_over_its_installation() -> None:
    """Not a fault: it rests before and after each step that reaches the disk."""
    from qimem.storage.sqlite import SqliteDatabase

    for owner, name in ((os, "fsync"), (os, "link"), (os, "rename"), (os, "replace")):
        _replace(owner, name, _slow(getattr(owner, name)))
    write = SqliteDatabase.write

    async def slow_write(self: SqliteDatabase, work: Any, *how: Any, **more: Any) -> Any:
        time.sleep(_STEP_SECONDS)
        answer = await write(self, work, *how, **more)
        time.sleep(_STEP_SECONDS)
        return answer

    _replace(SqliteDatabase, "write", slow_write)


def _slow(call: Any) -> Any:
    def slowly(*arguments: Any, **more: Any) -> Any:
        time.sleep(_STEP_SECONDS)
        answer = call(*arguments, **more)
        time.sleep(_STEP_SECONDS)
        return answer

    return slowly
