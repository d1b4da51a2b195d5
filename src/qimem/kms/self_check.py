"""Can this process really do its work? Asked by health checks, so bounded and remembered for a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from qimem.crypto.aead import Aead
from qimem.crypto.algorithms import Algorithm
from qimem.crypto.randomness import nonce12
from qimem.crypto.wrap import UnwrapFailed
from qimem.errors import QimemError, Unavailable, storage_unavailable
from qimem.kernel.clock import Clock
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.transaction import Database, Tx
from qimem.kms.hierarchy import random_key
from qimem.kms.keyring import Keyring

_REMEMBERED_SECONDS = 1.0
_SAMPLE = b"self-check"


READINESS = ("storage", "migrations", "root_key")
"""What `readiness` looks at, in this order; behind one that fails it looks no further."""

Fit = Callable[[Tx], Mapping[str, str]]
"""Whether what the database holds is what this process was started for: name → reason of the check that fails."""


class SelfCheck:
    """Readiness and the cryptographic self-check."""

    def __init__(
        self, database: Database, epochs: EpochSource, keyring: Keyring, clock: Clock, fit: Fit
    ) -> None:
        self._database = database
        self._epochs = epochs
        self._fit = fit
        self._unfit: dict[str, str] = {}
        self._keyring = keyring
        self._clock = clock
        self._passed_until = 0.0

    async def readiness(self) -> dict[str, str]:
        """Name → reason of every check that fails; empty when this process can serve."""
        try:
            if await self._epochs.current(SYSTEM_REALM) is None:
                return {"migrations": "the database holds no installation"}
        except QimemError as error:
            return {"storage": error.message}
        # Storage has just answered. That its pool is full of other work must not take requests away from this process
        # when there are most of them: then what was found last counts.
        with contextlib.suppress(Unavailable):
            self._unfit = dict(await self._database.read(self._fit))
        if self._unfit:
            return self._unfit
        try:
            await self._keyring.record_sealer(SYSTEM_REALM)
        except Unavailable as error:
            return {"root_key" if error.code == "sealed" else "storage": error.message}
        except (QimemError, UnwrapFailed):
            return {"root_key": "the root key does not open this database"}
        return {}

    async def run(self) -> None:
        """Encrypt and decrypt under the hierarchy and under each algorithm.

        Raises:
            QimemError: something does not work.
        """
        now = self._clock.monotonic_seconds()
        if now < self._passed_until:
            return
        if await self._epochs.current(SYSTEM_REALM) is None:
            raise storage_unavailable()
        try:
            sealer = await self._keyring.record_sealer(SYSTEM_REALM)
        except UnwrapFailed as error:
            raise Unavailable("the root key does not open this database", code="sealed") from error
        if sealer.open("self-check", sealer.seal("self-check", _SAMPLE)) != _SAMPLE:
            raise storage_unavailable()
        for algorithm in (Algorithm.AES256_GCM, Algorithm.CHACHA20_POLY1305):
            cipher, nonce = Aead(algorithm, random_key()), nonce12()
            if cipher.open(nonce, cipher.seal(nonce, _SAMPLE, None), None) != _SAMPLE:
                raise storage_unavailable()
        self._passed_until = now + _REMEMBERED_SECONDS
