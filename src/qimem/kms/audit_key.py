"""The key that vouches for the audit log: one of realm `system`, made at the first start that needs it."""

from __future__ import annotations

from qimem.crypto.algorithms import Algorithm
from qimem.crypto.signatures import Ed25519Signer
from qimem.errors import Internal
from qimem.kernel.clock import Clock
from qimem.kernel.epochs import EpochSource
from qimem.kernel.ids import SYSTEM_REALM
from qimem.kernel.transaction import Database, Tx
from qimem.kms.internal_keys import first_version
from qimem.kms.keyring import Keyring
from qimem.kms.keys import new_material
from qimem.kms.models import KeyVersion, Purpose
from qimem.kms.ports import KeyStore


async def audit_signer(
    database: Database, epochs: EpochSource, store: KeyStore, keyring: Keyring, clock: Clock
) -> Ed25519Signer:
    """The signer of this installation's audit logs.

    Raises:
        Unavailable: storage cannot be read or written.
        UnwrapFailed: the key is damaged.
    """

    def find(tx: Tx) -> KeyVersion | None:
        return next(iter(store.find_internal(tx, SYSTEM_REALM, Purpose.AUDIT_SIGNING)), None)

    version = await database.read(find)
    if version is None:
        made = first_version(SYSTEM_REALM, Purpose.AUDIT_SIGNING, Algorithm.ED25519, clock.now_us())
        material = new_material(await keyring.record_sealer(SYSTEM_REALM), made)

        def make(tx: Tx) -> None:
            # Workers and nodes start at the same time: the realm's row decides who is first.
            epochs.bump(tx, SYSTEM_REALM)
            if find(tx) is None:
                store.insert_key(tx, made, material)

        await database.write(make)
        version = await database.read(find)
    if version is None:
        raise Internal
    return await keyring.handle(version, Ed25519Signer)
