"""The hard message limit of a key version, without a database write per message.

With random 96-bit nonces a key may encrypt at most 2^32 messages (NIST SP 800-38D §8.3). A worker
takes counts in blocks in advance, small at first and doubling with use; what a crash loses was
counted as used, so the limit holds on the safe side.
"""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import UUID

from qimem.errors import Conflict, Unavailable, storage_unavailable
from qimem.kernel import patience
from qimem.kernel.ids import RealmId
from qimem.kernel.limits import LEASE_BLOCK_MAX, LEASE_BLOCK_MIN
from qimem.kernel.transaction import Database
from qimem.kms.ports import KeyStore


class MessageLease:
    """What this worker may still encrypt under one version before it must ask again."""

    __slots__ = ("_block", "_failures", "_lock", "key_id", "realm_id", "remaining")

    def __init__(self, realm_id: RealmId, key_id: UUID) -> None:
        self.realm_id = realm_id
        self.key_id = key_id
        self.remaining = 0
        self._block = LEASE_BLOCK_MIN
        self._failures = 0
        self._lock = asyncio.Lock()

    def take(self) -> bool:
        """Use one message if the lease has any left."""
        if self.remaining > 0:
            self.remaining -= 1
            return True
        return False

    async def take_leasing(self, database: Database, store: KeyStore) -> None:
        """Use one message, leasing a new block first when none is left.

        Raises:
            Conflict: `key_exhausted`: the version reached its limit.
            Unavailable: the lease could not be written.
        """
        while not self.take():
            failures = self._failures
            await self._turn()
            try:
                if self.remaining:
                    continue
                if self._failures != failures:
                    # One after the other, those who wait here would hang as long as all of them together.
                    raise storage_unavailable()
                block = self._block
                lease = partial(store.lease_messages, realm_id=self.realm_id, key_id=self.key_id, block=block)
                try:
                    granted = await database.write(lease)
                except Unavailable as error:
                    self._failures += 1
                    # Whether the block is ours or lost is not the caller's matter: nothing was encrypted.
                    if error.code == "outcome_unknown":
                        raise storage_unavailable() from error
                    raise
                if granted == 0:
                    raise Conflict(
                        f"key exhausted: {self.key_id}", code="key_exhausted", hint="rotate the key"
                    )
                self._block = min(block * 2, LEASE_BLOCK_MAX)
                self.remaining += granted
            finally:
                self._lock.release()

    async def _turn(self) -> None:
        """Wait for the lock, no longer than the request may wait for storage: it is storage that is waited for."""
        if not self._lock.locked():
            await self._lock.acquire()
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await asyncio.wait_for(self._lock.acquire(), patience.seconds())
        except TimeoutError:
            raise storage_unavailable() from None
        finally:
            patience.spend(loop.time() - began)

    def give_back(self) -> int:
        """How many messages are left unused; they are no longer this lease's."""
        unused, self.remaining = self.remaining, 0
        return unused
