"""What a worker does with the streams that it finds at its start."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import UUID

import pytest

from qimem.audit.events import Wanted, records
from qimem.audit.log import PublicKey, new_stream, verify_log
from qimem.audit.ports import PendingIntent
from qimem.audit.record import encoded
from qimem.audit.segment_file import StreamDirectory, StreamFiles, stream_paths
from qimem.bootstrap.audit import AuditLog, _Opening
from qimem.bootstrap.core import Core
from qimem.config.schema import AuditSettings, DatabaseSettings, Settings
from qimem.kernel.clock import SystemClock, rfc3339
from qimem.kernel.limits import AUDIT_SEGMENT_IN_MEMORY_BYTES
from qimem.storage.database import DatabaseLocation, OpenDatabase
from qimem.storage.repositories.audit import IntentRepository
from qimem.wire.audit import AuditRecord
from tests.unit.audit.logs import signer

pytestmark = pytest.mark.anyio

INTENTS = IntentRepository()


def record(number: int, bytes_of_it: int = 1) -> AuditRecord:
    at = rfc3339(SystemClock().now_us())
    return AuditRecord(at=at, event="keys.create", outcome="ok", id=f"{number:024}", target="x" * bytes_of_it)


def an_opening(database: OpenDatabase) -> _Opening:
    core = cast("Core", SimpleNamespace(database=database, clock=SystemClock()))
    return _Opening(core, Settings(database=DatabaseSettings(mode="stateless")), signer(), UUID(int=1))


async def fill_a_segment(opening: _Opening, log: Path) -> StreamDirectory:
    """A stream that ends in order, with no room for another record of 4 KiB in its segment."""
    directory = new_stream(log)
    trail = await opening._open(directory, (), set(), set())
    for number in range(40):
        await trail.append(encoded(record(number, AUDIT_SEGMENT_IN_MEMORY_BYTES // 40 - 512)))
    while trail._state.offset < AUDIT_SEGMENT_IN_MEMORY_BYTES - 4 * 1024:
        await trail.append(encoded(record(40, 512)))
    await trail.close()
    directory.close()
    assert directory.segments() == [1]
    return directory


async def test_an_open_intent_is_appended_to_a_stream_whose_segment_is_full(
    sqlite_location: DatabaseLocation, tmp_path: Path
) -> None:
    database = sqlite_location.open()
    opening = an_opening(database)
    log = tmp_path / "audit"
    full = await fill_a_segment(opening, log)
    intent = PendingIntent(f"{99:024}", 1, encoded(record(99, 4 * 1024)))
    await database.write(lambda tx: INTENTS.put(tx, full.path.name, intent))
    async with asyncio.timeout(20):
        directory, trail = await opening.take(log)
        await trail.close()
    directory.close()
    await database.close()
    assert directory.path == full.path
    assert [found.id for found in records(full.path, 2, Wanted())] == [intent.record_id]


async def test_a_stream_whose_worker_is_no_longer_started_is_looked_after(
    sqlite_location: DatabaseLocation, tmp_path: Path
) -> None:
    database = sqlite_location.open()
    opening, path = an_opening(database), tmp_path / "audit"
    for _ in range(2):
        directory = await fill_a_segment(opening, path)
        trail = await opening.take_up(directory := StreamDirectory(directory.path))
        await trail.append(encoded(record(1, 8 * 1024)))
        await trail.close()
        directory.close()
        os.utime(directory.path / "00000001.jsonl", (0, 0))
    own, trail = await opening.take(path)
    log = AuditLog(opening, AuditSettings(retention_days=400), own, trail, path)
    for keeper in log._upkeep._keepers:
        await keeper.keep_house()
    await log.close()
    await database.close()
    assert [StreamFiles(stream).segments() for stream in stream_paths(path)] == [[2], [2]]
    key = PublicKey.of(signer().public_bytes(), str(UUID(int=1)))
    assert [report.fault for report in verify_log(path, key, {})] == [None, None]
