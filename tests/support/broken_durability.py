"""Servers that do not wait for their disk, and one that gives a test time to hit it: see `broken_server`.

Server(directory, environment=broken(directory, "leaves_commits_to_the_system", module=MODULE))
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.support.broken_server import _replace

MODULE = "broken_durability"


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

    def write(_: keyfile.KeyFileSeal, draft: Any, key: Any, __: Any) -> None:
        # Not truncated first: ext4 writes out at once what replaces something.
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.reveal())

    _replace(keyfile.KeyFileSeal, "_write", write)
    _replace(keyfile, "sync_directory", lambda _: None)


STEPS = ("commit", "publish", "prepare", "schema", "reserve", "link", "key", "directory")
"""Those of an installation that reach the disk."""


def standing_still(when: str, step: str, sign: Path) -> dict[str, str]:
    """What `stands_still_at_a_step` has to be told.

    Args:
        when: `before` or `after`.
        step: Of `STEPS`.
        sign: A file that appears when it stands still.
    """
    return {"STANDS_STILL": f"{when} {step}", "STANDS_STILL_SIGN": str(sign)}


def stands_still_at_a_step() -> None:
    """Not a fault: an installation goes so far and no further, until it is killed."""
    from qimem.bootstrap import first
    from qimem.kms.seal import keyfile
    from qimem.server.credentials import CredentialsFile
    from qimem.storage.sqlite import SqliteDatabase

    write = SqliteDatabase.write

    async def commit(self: SqliteDatabase, work: Any) -> Any:
        _perhaps_stand_still("before commit")
        answer = await write(self, work)
        _perhaps_stand_still("after commit")
        return answer

    _replace(SqliteDatabase, "write", commit)
    for step, owner, name in (
        ("key", keyfile.KeyFileSeal, "_write"),
        ("link", os, "link"),
        ("directory", keyfile, "sync_directory"),
        ("reserve", CredentialsFile, "reserve"),
        ("schema", first, "migrate"),
        ("prepare", CredentialsFile, "prepare"),
        ("publish", CredentialsFile, "publish"),
    ):
        _replace(owner, name, _perhaps_no_further(step, getattr(owner, name)))


def _perhaps_no_further(step: str, call: Any) -> Any:
    def perhaps(*arguments: Any, **more: Any) -> Any:
        _perhaps_stand_still(f"before {step}")
        answer = call(*arguments, **more)
        _perhaps_stand_still(f"after {step}")
        return answer

    return perhaps


def _perhaps_stand_still(point: str) -> None:
    if os.environ.get("STANDS_STILL") == point:
        Path(os.environ["STANDS_STILL_SIGN"]).touch()
        signal.pause()
