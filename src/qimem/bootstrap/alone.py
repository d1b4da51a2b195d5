"""Opens an installation for one act on the host, beside its servers or without them, and records it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from qimem.audit.recorder import AuditRecorder
from qimem.bootstrap.audit import AuditLog
from qimem.bootstrap.core import Core
from qimem.bootstrap.database import location
from qimem.bootstrap.first import installer
from qimem.bootstrap.root_keys import look_in_custody, own_root_keys
from qimem.config.schema import Settings
from qimem.crypto.randomness import token_hex
from qimem.errors import QimemError
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.clock import SystemClock
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.secret import SecretBytes


@asynccontextmanager
async def opened_alone(settings: Settings, root_key: SecretBytes) -> AsyncIterator[tuple[Core, AuditLog]]:
    """The installation and a stream of its log.

    Args:
        settings: Where it is.
        root_key: Taken over; wiped at the end.

    Raises:
        Refused: no installation, another root key, or an audit log that cannot be written.
        Unavailable: storage cannot answer.
    """
    async with AsyncExitStack() as stack:
        database = location(settings).open()
        stack.push_async_callback(database.close)
        instance, keys = await own_root_keys(database, root_key, look_in_custody(settings))
        core = Core(database, keys, SystemClock(), instance.external_url or "")
        stack.callback(core.keyring.close)
        stack.callback(core.lane.close)
        log = await AuditLog.open(settings, core, instance)
        stack.push_async_callback(log.close)
        yield core, log


async def record_alone(settings: Settings, root_key: SecretBytes, draft: AuditDraft) -> None:
    """Have a record written that stands for something outside the database.

    Args:
        settings: Where the installation is.
        root_key: Taken over; wiped at the end.
        draft: The record.

    Raises:
        Refused: no installation, another root key, or an audit log that cannot be written.
        Unavailable: storage or audit log cannot be written.
    """
    async with opened_alone(settings, root_key) as (_, log):
        await written(log.recorder, draft)


async def append_what_is_pending(settings: Settings, root_key: SecretBytes) -> None:
    """Open the log, which appends what the database has for it, and close it.

    Raises:
        Refused: no installation, another root key, or an audit log that cannot be written.
        Unavailable: storage cannot answer.
    """
    async with opened_alone(settings, root_key):
        return


def on_the_host(event: str) -> AuditDraft:
    """The record of an act of who holds the host."""
    draft = AuditDraft(event, token_hex(12), "")
    draft.realm_id, draft.subject = SYSTEM_REALM, installer().subject
    return draft


async def written(recorder: AuditRecorder, draft: AuditDraft) -> None:
    """Wait until the record stands in the log.

    Raises:
        QimemError: it cannot be written.
    """
    done: asyncio.Future[QimemError | None] = asyncio.get_running_loop().create_future()
    recorder.record(draft, draft.outcome, done.set_result)
    error = await done
    if error is not None:
        raise error
