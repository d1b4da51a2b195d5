"""Rotates the root key of an installation, with a record of its beginning and one of its end.

The record of the beginning is `root-key.rotate`, that of the end `root-key.retire`; both name the generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from qimem.bootstrap.alone import on_the_host, opened_alone, written
from qimem.bootstrap.audit import AuditLog
from qimem.bootstrap.core import Core
from qimem.bootstrap.root_keys import standing
from qimem.config.schema import Settings
from qimem.crypto.mac import key_check_value
from qimem.kernel.limits import ROOT_ROTATION_WALKS_MAX
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Tx
from qimem.kms.root_keys import Generation
from qimem.kms.root_rotation import Rewrapping
from qimem.storage.repositories.root_keys import RootKeyRepository

BEGIN, END = "root-key.rotate", "root-key.retire"

_STORE = RootKeyRepository()


class Rotated(NamedTuple):
    """A rotation that has ended.

    Args:
        generation: Of the root key in force.
        rewrapped: How many keys this call moved to it.
    """

    generation: int
    rewrapped: int


class _NotNow(Exception):
    """The database is not as it was when it was asked: others are at it."""


@dataclass(frozen=True, slots=True)
class Host:
    """The installation, opened to be changed from its host."""

    core: Core
    log: AuditLog

    async def apply(self, event: str, target: str, change: Callable[[Tx], None]) -> None:
        """Run a change; its record is in the log when this returns.

        Raises:
            Unavailable: storage or audit log cannot be written.
        """
        draft = on_the_host(event)
        draft.target = target
        await self.core.unit_of_work(self.log.intents).apply(draft, change)
        await written(self.log.recorder, draft)


async def rotate(settings: Settings, old: SecretBytes, new: SecretBytes) -> Rotated:
    """Rotate to a root key that is durable in custody; go on with a rotation to it that was cut off.

    Args:
        settings: Where the installation is.
        old: The root key in force; taken over.
        new: Its successor; stays the caller's.

    Raises:
        Refused: another rotation is under way, or a key cannot be moved.
        Unavailable: storage or audit log cannot be written; repeat it.
    """
    async with opened_alone(settings, old) as (core, log):
        host = Host(core, log)
        check = key_check_value(new, core.root_keys.instance_id.bytes)
        generations = await _begun(host, check)
        if generations[0].check != check:
            raise Refused(
                "another rotation is under way, to another key",
                "put the new key of that one beside the old one, as <root key file>.next",
            )
        if len(generations) == 1:
            return Rotated(generations[0].number, 0)
        return await _finished(host, generations[0], generations[1])


async def _begun(host: Host, check: bytes) -> list[Generation]:
    """The generations, newest first, with a rotation to this key begun if none was."""
    core = host.core
    _, before = await standing(core.database)
    if len(before) == 1 and before[0].check != check:
        new = Generation(before[0].number + 1, check, core.clock.now_us())

        def begin(tx: Tx) -> None:
            if list(_STORE.generations(tx)) != list(before) or not _STORE.begin(tx, new):
                raise _NotNow

        # Another process may be faster; what it has begun is looked at below.
        with suppress(_NotNow):
            await host.apply(BEGIN, f"generation {new.number}", begin)
    _, after = await standing(core.database)
    return list(after)


async def _finished(host: Host, new: Generation, old: Generation) -> Rotated:
    database = host.core.database
    under_old, under_new = host.core.root_keys.find(old.check), host.core.root_keys.find(new.check)
    if under_old is None or under_new is None:
        raise Refused("a root key was taken away while it was being rotated", "put it back and repeat this")
    rewrapping = Rewrapping(database, _STORE, under_old, under_new, old.number)

    def retire(tx: Tx) -> None:
        if not _STORE.retire(tx, old, new):
            raise _NotNow

    rewrapped = 0
    for _ in range(ROOT_ROTATION_WALKS_MAX):
        done = await rewrapping.walk()
        rewrapped += done.count
        try:
            await host.apply(END, f"generation {old.number}", retire)
        except _NotNow:
            _, generations = await standing(database)
            if len(generations) == 1 or generations[0] != new:
                # Another process has done the same, and been faster.
                break
            if done.damaged:
                raise _damaged(done.damaged) from None
        else:
            break
    else:
        raise Refused("keys keep being made under the old root key", "see that every node has the new one")
    return Rotated(new.number, rewrapped)


def _damaged(realms: Sequence[str]) -> Refused:
    shown = ", ".join(realms[:10])
    return Refused(
        f"the key-encryption keys of {len(realms)} realms are damaged, and the old root key has to stay: {shown}",
        "restore these rows from a backup or delete the realms, then repeat the command",
    )
