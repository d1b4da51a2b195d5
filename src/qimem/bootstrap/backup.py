"""Takes backups, judges them, and makes installations of them.

A backup says what was true when it was taken. What was revoked since must not live again, so a restore ends all that
proves a session: every grant, and with new signing keys in every realm every access token, whoever checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from qimem.audit.intents import new_record_id
from qimem.audit.log import DIRECTORY, new_stream
from qimem.audit.ports import PendingIntent
from qimem.audit.record import line_of
from qimem.bootstrap.alone import on_the_host, record_alone
from qimem.bootstrap.core import KEYS, REALMS, SIGNING_KEYS
from qimem.bootstrap.database import location
from qimem.config.schema import Settings
from qimem.crypto.mac import key_check_value
from qimem.crypto.randomness import random_bytes
from qimem.crypto.wrap import UnwrapFailed
from qimem.kernel.clock import SystemClock
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import PAGE_MAX, RESTORE_MESSAGES_RESERVED
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kms.hierarchy import RealmKek, RootKey
from qimem.kms.instance import check_root_key
from qimem.kms.models import Purpose
from qimem.kms.signing_keys import RotationMode, SigningKeyLife
from qimem.storage.backup_file import BackupDraft, BackupReader, Header, damaged, new_backup_id
from qimem.storage.repositories.audit import IntentRepository
from qimem.storage.repositories.instance import InstanceRepository
from qimem.storage.repositories.restored import RestoredRows
from qimem.storage.restoring import restore
from qimem.storage.snapshot import Snapshot, snapshot

CREATED, RESTORED = "backup.create", "backup.restore"
_FIRST_SEGMENT = 1
_INSTANCE_COLUMNS = ("instance_id", "incarnation", "key_check")


@dataclass(frozen=True, slots=True)
class Judged:
    """A backup that is whole.

    Args:
        rows: How many there are of each table.
    """

    header: Header
    rows: Mapping[str, int]


async def create_backup(settings: Settings, root_key: SecretBytes, path: Path) -> Judged:
    """Take a backup; servers may be running. Its record stands in the audit log before the file has its name.

    Args:
        settings: Where the installation is.
        root_key: Taken over; wiped at the end.
        path: Of the new file.

    Raises:
        Conflict: `already_exists`: the file is there.
        Refused: no installation, another root key, or a place that cannot be written.
        Unavailable: database or audit log cannot be used.
    """
    draft = BackupDraft(path)
    try:
        judged = _write(settings, root_key, draft)
        record = on_the_host(CREATED)
        record.target = judged.header.backup_id
        await record_alone(settings, root_key, record)
        draft.publish()
    finally:
        draft.close()
    return judged


def back_up_unrecorded(settings: Settings, root_key: SecretBytes, path: Path) -> Judged:
    """As `create_backup`, of a database whose schema is too old to have its log opened.

    Raises:
        Conflict: `already_exists`: the file is there.
        Refused: no installation, another root key, or a place that cannot be written.
        Unavailable: the database cannot be read.
    """
    draft = BackupDraft(path)
    try:
        judged = _write(settings, root_key, draft)
        draft.publish()
    finally:
        draft.close()
    return judged


def judge_backup(path: Path, root_key: SecretBytes) -> Judged:
    """Read all of a backup.

    Raises:
        Invalid: it is damaged, or is none.
        Refused: it cannot be read, or another root key belongs to it.
    """
    reader = BackupReader(path)
    try:
        _check_key(reader.header, root_key)
        for _ in reader.frames(root_key):
            continue
        return Judged(reader.header, reader.counts)
    finally:
        reader.close()


def restore_backup(settings: Settings, root_key: SecretBytes, path: Path) -> Restored:
    """Make an installation of a backup, in an empty place.

    Args:
        settings: Where; the data directory exists.
        root_key: That of the backup.
        path: Of the backup.

    Raises:
        Conflict: `already_exists`: the database is not empty.
        Invalid: the backup is damaged.
        Refused: it cannot be read, or another root key belongs to it.
        SchemaTooNew: it was taken by a newer program.
        Unavailable: the database cannot be written.
    """
    reader = BackupReader(path)
    try:
        _check_key(reader.header, root_key)
        settling = _Settling(settings, root_key, reader.header)
        restore(location(settings), reader.header.schema, reader.frames(root_key), settling.settle)
        return Restored(reader.header, reader.counts, settling.grants, tuple(settling.damaged))
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore made.

    Args:
        rows: How many the backup had of each table.
        grants: How many were revoked.
        damaged: Realms whose keys cannot be unwrapped; they were so when the backup was taken.
    """

    header: Header
    rows: Mapping[str, int]
    grants: int
    damaged: tuple[RealmId, ...]


def _write(settings: Settings, root_key: SecretBytes, draft: BackupDraft) -> Judged:
    with snapshot(location(settings)) as found:
        header = _header(found, root_key)
        return Judged(header, draft.write(root_key, header, found.frames()))


def _header(found: Snapshot, root_key: SecretBytes) -> Header:
    # In the snapshot itself: the root key that the file is sealed under is the one that its rows are wrapped with.
    rows = [row for batch in found.read("instance", _INSTANCE_COLUMNS) for row in batch]
    if not rows:
        raise Refused("the database holds no installation", "run: qimem init")
    # Before schema 0009 there was no such table, and no rotation.
    generations = found.read("root_key", ("generation",)) if "root_key" in found.tables else iter(())
    if sum(map(len, generations)) > 1:
        raise Refused(
            "the root key is being rotated: neither key alone would open the backup",
            "finish it first: qimem root-key rotate",
        )
    instance_id, incarnation, key_check = rows[0]
    check_root_key(root_key, UUID(bytes=instance_id), key_check)
    return Header(
        backup_id=new_backup_id(),
        instance_id=str(UUID(bytes=instance_id)),
        incarnation=incarnation.hex(),
        key_check=key_check.hex(),
        schema=found.schema,
        taken_us=SystemClock().now_us(),
    )


def _check_key(header: Header, root_key: SecretBytes) -> None:
    try:
        expected = key_check_value(root_key, UUID(header.instance_id).bytes).hex()
    except ValueError:
        raise damaged("its header cannot be read") from None
    if expected != header.key_check:
        raise Refused(
            "the root key is not the one this backup was made with",
            "give the right one with --root-key-file; without it the backup cannot be read",
        )


class _Settling:
    """What a restore changes in the rows, before anybody sees them."""

    def __init__(self, settings: Settings, root_key: SecretBytes, header: Header) -> None:
        self._now_us = SystemClock().now_us()
        self._root_key = RootKey(UUID(header.instance_id), root_key)
        self._header = header
        self._log = settings.server.data_dir / DIRECTORY
        self.grants = 0
        self.damaged: list[RealmId] = []

    def settle(self, tx: Tx) -> None:
        instance, rows = InstanceRepository().find(tx), RestoredRows()
        if instance is None or str(instance.instance_id) != self._header.instance_id:
            raise damaged("its rows belong to another installation")
        check_root_key(self._root_key.key, instance.instance_id, instance.key_check)
        rows.renew(tx, random_bytes(16))
        self.grants = rows.revoke_grants(tx, self._now_us)
        rows.reserve_messages(tx, RESTORE_MESSAGES_RESERVED)
        after: str | None = None
        while page := REALMS.page(tx, after=after, limit=PAGE_MAX):
            for realm in page:
                self._renew_signing_key(tx, realm.realm_id)
            after = page[-1].realm_id
        self._record(tx)

    def _renew_signing_key(self, tx: Tx, realm_id: RealmId) -> None:
        versions = KEYS.find_internal(tx, realm_id, Purpose.TOKEN_SIGNING)
        try:
            kek = self._kek(tx, realm_id)
        except UnwrapFailed:
            self.damaged.append(realm_id)
        else:
            life = SigningKeyLife(KEYS, SIGNING_KEYS)
            life.replace(tx, life.published(tx, realm_id), kek, self._now_us, RotationMode.COMPROMISED)
        # Of all that were there, whether they are published or not: a key that verifies once more revives its tokens.
        for version in versions:
            KEYS.set_enabled(tx, realm_id, enabled=False, key_id=version.key_id)

    def _kek(self, tx: Tx, realm_id: RealmId) -> RealmKek:
        version = KEYS.newest_kek_version(tx, realm_id)
        stored = None if version is None else KEYS.find_kek(tx, realm_id, version)
        if version is None or stored is None:
            raise UnwrapFailed
        return self._root_key.unwrap_kek(realm_id, version, stored.wrapped)

    def _record(self, tx: Tx) -> None:
        """Beside the effect, like that of every change: whoever opens this log first appends it."""
        self._log.mkdir(mode=0o700, exist_ok=True)
        stream = new_stream(self._log)
        stream.close()
        draft, record_id = on_the_host(RESTORED), new_record_id()
        draft.target = self._header.backup_id
        line = line_of(draft, record_id, self._now_us, draft.outcome)
        IntentRepository().put(tx, stream.path.name, PendingIntent(record_id, _FIRST_SEGMENT, line))
