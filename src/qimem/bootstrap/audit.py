"""Opens this worker's audit log and takes up what others left."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from qimem.audit.delivery import CheckpointDelivery, DeliveryTimes
from qimem.audit.events import AuditEvents
from qimem.audit.intents import APPENDED_TOGETHER, Intents
from qimem.audit.log import (
    DIRECTORY,
    PublicKey,
    new_stream,
    ownerless_streams,
    taking_streams,
    write_public_key,
)
from qimem.audit.ownerless import OwnerlessKeeper
from qimem.audit.ports import PendingIntent
from qimem.audit.record import ids_in, recovered
from qimem.audit.recorder import AuditRecorder
from qimem.audit.refusals import RefusalCounts
from qimem.audit.retention import Retention, Retirement, SegmentKeeper
from qimem.audit.segment_file import StreamDirectory
from qimem.audit.sinks import Sink
from qimem.audit.space import AuditSpace, thresholds
from qimem.audit.stream import StreamState
from qimem.audit.trail import AuditTrail, open_trail
from qimem.audit.upkeep import Upkeep
from qimem.audit.verification import Altered
from qimem.bootstrap.core import KEYS, Core
from qimem.config.schema import AuditSettings, Settings
from qimem.crypto.signatures import Ed25519Signer, Ed25519Verifier
from qimem.kernel.limits import AUDIT_SEGMENT_BYTES, AUDIT_SEGMENT_IN_MEMORY_BYTES
from qimem.kernel.refusal import Refused
from qimem.kms.audit_key import audit_signer
from qimem.kms.instance import Instance
from qimem.storage.repositories.audit import IntentRepository

_log = logging.getLogger(__name__)
_INTENTS = IntentRepository()
_MEBIBYTE = 1024 * 1024


class AuditLog:
    """The log of this worker: its stream, and who looks after it."""

    def __init__(
        self,
        opening: _Opening,
        settings: AuditSettings,
        directory: StreamDirectory,
        trail: AuditTrail,
        log: Path,
    ) -> None:
        core = opening.core
        clock = core.clock
        refusals = RefusalCounts(clock)
        self.intents = Intents(_INTENTS, clock, directory.path.name, lambda: trail.segment)
        self.recorder = AuditRecorder(trail, self.intents, refusals, clock)
        self.events = AuditEvents(log)
        self.trail = trail
        self._trail = trail
        self._directory = directory
        self._space = partial(AuditSpace, log, opening.room)
        self._delivery = partial(
            CheckpointDelivery, log, opening.verifier, DeliveryTimes(clock, settings.checkpoint_seconds)
        )
        total = settings.retention_mebibytes
        retention = Retention(
            days=settings.retention_days,
            total_bytes=None if total is None else total * _MEBIBYTE,
            archive=settings.archive_command,
        )
        keepers = (
            SegmentKeeper(directory, trail, clock, retention),
            OwnerlessKeeper(log, opening.verifier, opening.take_up, Retirement(clock, retention)),
        )
        self._upkeep = Upkeep(trail, self.intents, refusals, keepers, core.database)

    @classmethod
    async def open(cls, settings: Settings, core: Core, instance: Instance) -> AuditLog:
        """Take a stream that nobody writes, or begin one, and put into it what was left open.

        Raises:
            Refused: the log cannot be written.
            Unavailable: storage cannot answer.
        """
        signer = await audit_signer(core.database, core.database, KEYS, core.keyring, core.clock)
        log = settings.server.data_dir / DIRECTORY
        try:
            write_public_key(log, PublicKey.of(signer.public_bytes(), str(instance.instance_id)))
            async with taking_streams(log):
                opening = _Opening(core, settings, signer, instance.instance_id)
                directory, trail = await opening.take(log)
        except OSError as error:
            raise Refused(
                f"the audit log cannot be written: {error.strerror}",
                "make room or permit it in the data directory",
            ) from error
        opened = cls(opening, settings.audit, directory, trail, log)
        opened.intents.inherit(opening.left)
        opened._upkeep.start()
        return opened

    def space(self, warn: Callable[[str], None]) -> AuditSpace:
        """Looks at the disk that the log is on.

        Args:
            warn: Told when it gets tight.
        """
        return self._space(warn)

    def delivery(self, sinks: Sequence[Sink], failed: Callable[[str], None]) -> CheckpointDelivery:
        """Brings the checkpoints of this node elsewhere.

        Args:
            sinks: Where to.
            failed: Told the name of a sink for each attempt that failed.
        """
        return self._delivery(sinks, failed)

    async def close(self) -> None:
        """Write and sign what is left, and let the stream go."""
        await self._upkeep.close()
        await self._trail.close()
        self._directory.close()


class _Opening:
    """One worker's look for a stream."""

    def __init__(self, core: Core, settings: Settings, signer: Ed25519Signer, instance_id: UUID) -> None:
        self.core = core
        self._signer = signer
        self.verifier = Ed25519Verifier(signer.public_bytes())
        self._instance = str(instance_id)
        self._strict = settings.audit.mode == "strict"
        in_memory = settings.database.mode == "stateless"
        self.segment_bytes = AUDIT_SEGMENT_IN_MEMORY_BYTES if in_memory else AUDIT_SEGMENT_BYTES
        self.room = thresholds(settings.server.workers, segment_bytes=self.segment_bytes)
        self.left: list[tuple[str, str]] = []
        """What the database is to forget: later, since a server starts on a full disk, too."""

    async def take(self, log: Path) -> tuple[StreamDirectory, AuditTrail]:
        """A stream with its trail; records of this and of all streams that nobody writes are in it."""
        own: tuple[StreamDirectory, AuditTrail] | None = None
        others: list[StreamDirectory] = []
        found = list(ownerless_streams(log))
        pending = {
            directory.path.name: await self.core.database.read(
                lambda tx, name=directory.path.name: _INTENTS.pending(tx, name)  # type: ignore[misc]
            )
            for directory in found
        }
        # A start that was cut off may have put a stream's records into another one.
        wanted = {intent.record_id for intents in pending.values() for intent in intents}
        seen: set[str] = set()
        for directory in found:
            trail = await self._open_existing(directory, pending[directory.path.name], wanted, seen)
            if trail is not None and own is None:
                own = directory, trail
            else:
                others.append(directory)
                if trail is not None:
                    await trail.close()
        if own is None:
            directory = new_stream(log)
            own = directory, await self.take_up(directory)
        for other in others:
            other.close()
        lost = [each.line for intents in pending.values() for each in intents if each.record_id not in seen]
        for start in range(0, len(lost), APPENDED_TOGETHER):
            # One after the other took 8 s for 80, when each waits for others to come along.
            await asyncio.gather(
                *(own[1].append(recovered(line)) for line in lost[start : start + APPENDED_TOGETHER])
            )
        self.left += [(name, each.record_id) for name, intents in pending.items() for each in intents]
        return own

    async def take_up(self, directory: StreamDirectory) -> AuditTrail:
        """The trail of a stream that this process holds; what the database has of it stays there.

        Raises:
            Altered: it is not what was written.
            OSError: it cannot be read or written.
        """
        return await self._open(directory, (), set(), set())

    async def _open_existing(
        self, directory: StreamDirectory, pending: Sequence[PendingIntent], wanted: set[str], seen: set[str]
    ) -> AuditTrail | None:
        try:
            return await self._open(directory, pending, wanted, seen)
        except (Altered, OSError, ValueError) as error:
            # It is left as it is, for whoever looks into it; the server goes on in another stream.
            _log.error("audit stream %s was changed by somebody: %s; see qimem audit verify",
                       directory.path.name, error)  # fmt: skip
            return None

    async def _open(
        self, directory: StreamDirectory, pending: Sequence[PendingIntent], wanted: set[str], seen: set[str]
    ) -> AuditTrail:
        def visit(lines: bytes) -> None:
            # Only searched: after a crash there are some 100,000 records to look at before anybody is served.
            if wanted:
                seen.update(wanted & ids_in(lines))

        state = StreamState(
            self._instance,
            directory.path.name,
            self._signer,
            self.verifier,
            self.core.clock,
            segment_bytes=self.segment_bytes,
        )
        since = sys.maxsize
        if wanted:
            # What a start that was cut off has put here is in the last segments.
            since = min([intent.segment for intent in pending] + directory.segments()[-2:], default=1)
        return await open_trail(state, directory, visit, since=since, strict=self._strict)
