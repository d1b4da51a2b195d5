"""Whether the root keys at hand open the installation in the database."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from qimem.bootstrap.core import KEYS
from qimem.bootstrap.database import location
from qimem.config.schema import Settings
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kernel.transaction import Database, Tx
from qimem.kms.instance import Instance
from qimem.kms.root_keys import Generation, Look, RootKeys
from qimem.kms.seal.base import Seal
from qimem.kms.seal.custody import choose, keys_at
from qimem.storage.repositories.instance import InstanceRepository

_INSTANCE = InstanceRepository()


def custody_of(settings: Settings, environ: Mapping[str, str], *, explicit: bool) -> Seal:
    """Where the root key is kept.

    Args:
        settings: What is configured.
        environ: Where a systemd credential may be announced.
        explicit: Whether the operator asked for a new installation.

    Raises:
        Refused: a credential is wanted and there is none.
    """
    return choose(
        settings.server.data_dir,
        source=settings.seal.source,
        root_key_file=settings.seal.root_key_file,
        environ=environ,
        explicit=explicit,
    )


def look_in_custody(settings: Settings) -> Look:
    """Where a process finds the root key that took the place of the one it was started with."""
    if settings.database.mode == "stateless":
        # Its key is nowhere but in memory.
        return tuple
    return lambda: keys_at(custody_of(settings, os.environ, explicit=False))


async def standing(database: Database) -> tuple[Instance, Sequence[Generation]]:
    """The installation, and its root keys in use, newest first.

    Raises:
        Refused: there is none.
    """

    def find(tx: Tx) -> tuple[Instance | None, Sequence[Generation]]:
        return _INSTANCE.find(tx), KEYS.root_generations(tx)

    instance, generations = await database.read(find)
    if instance is None:
        raise Refused("the database holds no installation", "run: qimem init")
    return instance, generations


async def look_at(settings: Settings) -> tuple[Instance, Sequence[Generation]]:
    """As `standing`, of a database that is not open.

    Raises:
        Refused: there is no installation.
        Unavailable: storage cannot answer.
    """
    database = location(settings).open()
    try:
        return await standing(database)
    finally:
        await database.close()


async def own_root_keys(
    database: Database, root_key: SecretBytes, look: Look = tuple
) -> tuple[Instance, RootKeys]:
    """The installation in the database and its root keys, if all that are in use are at hand.

    Args:
        database: Open.
        root_key: What the process was started with; taken over. It may be one that has been replaced since.
        look: Where others may be.

    Raises:
        Refused: there is no installation, or a root key is missing.
    """
    instance, generations = await standing(database)
    keys = RootKeys(instance.instance_id, root_key, look)
    missing = [generation for generation in generations if keys.find(generation.check) is None]
    if missing:
        raise _missing(generations, missing)
    return instance, keys


def _missing(generations: Sequence[Generation], missing: Sequence[Generation]) -> Refused:
    newest = generations[0]
    if len(missing) < len(generations):
        which = "new" if missing[0] == newest else "old"
        return Refused(
            f"the root key is being rotated, and the {which} one is not at hand",
            "put the new key beside the old one, as <root key file>.next; both are needed until the rotation ends",
        )
    if newest.number > 1:
        return Refused(
            f"the root key is not the one in force: it was rotated, generation {newest.number} is needed",
            "give the newest one with --root-key-file; an old one opens backups from before the rotation alone",
        )
    return Refused(
        "the root key is not the one this database was made with",
        "give the right one with --root-key-file; without it the data cannot be read",
    )
