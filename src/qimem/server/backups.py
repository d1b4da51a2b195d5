"""Backup, restore and upgrade on the host: root key, data directory and database in the right order.

A restore goes into an empty place alone. Its database is there as a whole or not at all; a directory that one was begun
in is marked until then, and nothing starts there meanwhile, nor after a crash.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qimem.bootstrap import backup, database
from qimem.bootstrap.alone import append_what_is_pending
from qimem.bootstrap.backup import Judged, Restored
from qimem.config.schema import Settings
from qimem.errors import Conflict
from qimem.kernel.durable import sync_directory
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kms.instance import check_root_key
from qimem.kms.seal.custody import choose
from qimem.server.directories import UNFINISHED, make_private, sole_preparer, unmark
from qimem.storage.migrations.runner import HEAD, KNOWN, SchemaTooNew

_DATABASE = "qimem.db"
_LEFT_BY_A_RESTORE = (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}-journal")
_LOG = "audit"


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What became of a schema.

    Args:
        old: Its version before.
        backup: Where the data is as it was; None where nothing was to be done, or none was wanted.
    """

    old: str
    backup: Path | None


def create_backup(settings: Settings, environ: Mapping[str, str], path: Path) -> Judged:
    """Take a backup of an installation, whether servers run or not.

    Raises:
        Conflict: `already_exists`: the file is there.
        Refused: no installation, an old schema, a root key that is not at hand, or a place that cannot be written.
        Unavailable: database or audit log cannot be used.
    """
    version = _version(settings)
    if version != HEAD:
        raise Refused(
            f"the database has schema version {version}, this program has {HEAD}",
            "run: qimem migrate apply, which takes a backup first",
        )
    # It writes into the audit log: files of root there would keep the server out of its own log at its next start.
    make_private(settings.server.data_dir)
    key = _root_key(settings, environ)
    return asyncio.run(backup.create_backup(settings, key, path))


def verify_backup(settings: Settings, environ: Mapping[str, str], path: Path) -> Judged:
    """Read all of a backup.

    Raises:
        Invalid: it is damaged, or is none.
        Refused: it cannot be read, or another root key belongs to it.
    """
    key = _root_key(settings, environ)
    try:
        return backup.judge_backup(path, key)
    finally:
        key.wipe()


def restore_backup(settings: Settings, environ: Mapping[str, str], path: Path) -> Restored:
    """Make an installation of a backup in an empty place. Whatever ends it, there is all of it or nothing.

    Raises:
        Conflict: `already_exists`: the place is not empty.
        Invalid: the backup is damaged, or is none.
        Refused: root key, backup or directory are not fit to be used.
        Unavailable: the database cannot be written.
    """
    key = _root_key(settings, environ)
    # All of it is read before anything is touched.
    backup.judge_backup(path, key)
    data = settings.server.data_dir
    there = data.exists()
    make_private(data)
    try:
        with sole_preparer(data):
            _check_empty(settings)
            with _marked(settings), _told():
                restored = backup.restore_backup(settings, key, path)
            asyncio.run(append_what_is_pending(settings, key))
    except BaseException:
        if not there and not any(data.iterdir()):
            data.rmdir()
        raise
    return restored


def upgrade(settings: Settings, environ: Mapping[str, str], *, to: Path | None, keep: bool) -> Upgraded:
    """Bring the schema of an installation up to date.

    Args:
        settings: Where it is.
        environ: Where a systemd credential may be announced.
        to: The backup to take before; by default beside the data directory.
        keep: Whether to take one.

    Raises:
        Conflict: `already_exists`: the backup's file is there.
        Refused: no installation, a newer schema, another root key, or a backup that cannot be written.
        Unavailable: the database cannot be used.
    """
    _version(settings)
    # A node on PostgreSQL may not have one yet.
    make_private(settings.server.data_dir)
    with sole_preparer(settings.server.data_dir), _told():
        old = _version(settings)
        key = _root_key(settings, environ)
        asyncio.run(_check(settings, key))
        path = (to or before_upgrade(settings, old)) if keep and old != HEAD else None
        if path is not None:
            backup.back_up_unrecorded(settings, key, path)
        key.wipe()
        database.migrate(settings)
    return Upgraded(old, path)


def upgrade_at_start(settings: Settings, root_key: SecretBytes) -> Path | None:
    """As `upgrade`, for a server that starts and holds the directory; where the backup is, if there was one to take.

    Raises:
        Refused: a newer schema, or a backup that cannot be written.
        Unavailable: the database cannot be used.
    """
    with _told():
        old = database.location(settings).version()
        path = None
        if old in KNOWN and old != HEAD:
            path = before_upgrade(settings, old)
            try:
                backup.back_up_unrecorded(settings, root_key, path)
            except Refused as error:
                hint = "make room, or forgo it: qimem migrate apply --no-backup"
                raise Refused(f"no upgrade without a backup: {error.message}", hint) from error
        database.migrate(settings)
    return path


def before_upgrade(settings: Settings, version: str) -> Path:
    """Where the data is kept as it was before an upgrade: beside the data directory, also that of a PostgreSQL node."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return Path(f"{os.path.realpath(settings.server.data_dir)}.schema-{version}-{stamp}.backup")


def state_of_schema(settings: Settings) -> tuple[str | None, str]:
    """Version of the schema, None where there is none, and what that means: current, old, newer or empty.

    Raises:
        Refused: the file is not a database.
        Unavailable: it cannot be read.
    """
    version = database.location(settings).version()
    if version is None:
        return None, "empty"
    if version not in KNOWN:
        return version, "newer"
    return version, "current" if version == HEAD else "old"


def _version(settings: Settings) -> str:
    version = database.location(settings).version()
    if version is None:
        raise Refused("there is no installation", "run: qimem init")
    return version


async def _check(settings: Settings, root_key: SecretBytes) -> None:
    instance = await database.find_instance(settings)
    if instance is None:
        raise Refused("there is no installation", "run: qimem init")
    check_root_key(root_key, instance.instance_id, instance.key_check)


def _root_key(settings: Settings, environ: Mapping[str, str]) -> SecretBytes:
    return choose(
        settings.server.data_dir,
        source=settings.seal.source,
        root_key_file=settings.seal.root_key_file,
        environ=environ,
        explicit=False,
    ).load()


def _check_empty(settings: Settings) -> None:
    data = settings.server.data_dir
    marked = (data / UNFINISHED).exists()
    if database.location(settings).exists():
        raise Conflict(
            "there is a database already", code="already_exists", hint="restore into an empty place"
        )
    if marked:
        # Nothing of it was ever committed.
        _clear(data)
    found = sorted(path.name for path in data.iterdir() if path.name != UNFINISHED)
    if found:
        raise Conflict(
            f"{data} is not empty: {', '.join(found[:5])}",
            code="already_exists",
            hint="restore into an empty place",
        )


@contextmanager
def _marked(settings: Settings) -> Iterator[None]:
    data = settings.server.data_dir
    (data / UNFINISHED).touch(0o600)
    sync_directory(data)
    try:
        yield
    except BaseException:
        # A commit whose answer was lost may have happened: then the next start goes on from here.
        if not database.location(settings).exists():
            _clear(data)
            unmark(data)
        raise
    # The names of what was made, before that of the marker goes.
    sync_directory(data)
    unmark(data)


def _clear(data: Path) -> None:
    for name in _LEFT_BY_A_RESTORE:
        (data / name).unlink(missing_ok=True)
    shutil.rmtree(data / _LOG, ignore_errors=True)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SchemaTooNew as error:
        raise Refused(
            "the data was written by a newer version", "install that version or a later one"
        ) from error
