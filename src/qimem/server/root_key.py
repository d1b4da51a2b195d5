"""Rotates the root key: the files of it, in the order that keeps every crash repairable.

    F ── F and F.next, durable ── everything under F.next ── F.next takes the name F

A server opens everything at each of these points with what it finds at the two names. Who is killed leaves what the
next one, or the next start of a server, goes on from. Files are touched under a lock on their directory, and the
database is asked within it: what it calls the key in force is the only one that takes the name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qimem.bootstrap import database
from qimem.bootstrap.database import location
from qimem.bootstrap.root_keys import custody_of, look_at, look_in_custody
from qimem.config.schema import Settings
from qimem.crypto.mac import key_check_value
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kms.instance import Instance, check_root_key
from qimem.kms.root_keys import RootKeys
from qimem.kms.seal.base import Seal
from qimem.kms.seal.custody import CREDENTIAL_NAME, keys_at
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.server.directories import make_private, sole_preparer


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation that has ended.

    Args:
        generation: Of the root key in force.
        rewrapped: How many keys this call moved to it.
        root_key_file: Where the root key is.
    """

    generation: int
    rewrapped: int
    root_key_file: str


@dataclass(frozen=True, slots=True)
class GenerationSeen:
    """A root key that the database names.

    Args:
        number: 1 for the first one.
        in_force: Whether new keys are wrapped under it.
        keys: How many are wrapped under it.
        at_hand: Whether this host has it.
    """

    number: int
    in_force: bool
    keys: int
    at_hand: bool


async def rotate(settings: Settings, environ: Mapping[str, str], new_file: Path | None) -> Rotated:
    """Rotate the root key, or go on with a rotation that was cut off; servers may be running.

    Args:
        settings: Where the installation is.
        environ: Where a systemd credential may be announced.
        new_file: The new key; on the embedded database one is made without it.

    Raises:
        Refused: there is no installation, the key's place cannot be written, or a key is missing.
        Unavailable: storage or audit log cannot be written; repeat it.
    """
    from qimem.bootstrap import root_rotation  # noqa: PLC0415 - of no use to a server, which would start later

    if not await database.is_initialised(settings):
        raise Refused("there is no installation", "run: qimem init")
    if not location(settings).is_current():
        raise Refused("the data is of an older version", "start the servers of this version first")
    # It writes into the audit log: files of root there would keep the server out of its own log at its next start.
    make_private(settings.server.data_dir)
    custody = _usable(custody_of(settings, environ, explicit=False), environ)
    if await settle(settings, custody):
        _, generations = await look_at(settings)
        return Rotated(generations[0].number, 0, custody.location)
    old, new = await _prepared(settings, custody, new_file)
    try:
        number, rewrapped = await root_rotation.rotate(settings, old, new)
    finally:
        new.wipe()
    await settle(settings, custody)
    # In a directory that is not ours to write in, the successor stays where it is.
    place = custody.successor if custody.successor.exists() else custody
    return Rotated(number, rewrapped, place.location)


async def status(settings: Settings) -> list[GenerationSeen]:
    """The root keys in use, newest first: one, or two while a rotation is under way.

    Raises:
        Refused: there is no installation.
        Unavailable: storage cannot answer.
    """
    from qimem.storage.repositories.root_keys import RootKeyRepository  # noqa: PLC0415

    if not location(settings).is_current():
        raise Refused("there is no installation of this version", "run: qimem init, or start the server once")
    instance, generations = await look_at(settings)
    keys = RootKeys(instance.instance_id, None, look_in_custody(settings))
    opened = location(settings).open()
    try:
        return [
            GenerationSeen(
                number=each.number,
                in_force=each == generations[0],
                keys=await opened.read(lambda tx, n=each.number: RootKeyRepository().count(tx, n)),  # type: ignore[misc]
                at_hand=keys.find(each.check) is not None,
            )
            for each in generations
        ]
    finally:
        keys.close()
        await opened.close()


def in_force(custody: Seal, instance: Instance) -> SecretBytes:
    """The root key that the database names as the one in force; the caller owns it.

    Mostly it is where it should be. A rotation that was cut off before its last step has left it at the next name.

    Raises:
        Refused: it cannot be read, or is another one.
    """
    key = custody.load()
    found = RootKeys(instance.instance_id, key, lambda: keys_at(custody)).find(instance.key_check)
    if found is None:
        check_root_key(key, instance.instance_id, instance.key_check)
    return key if found is None else found.key


async def settle(settings: Settings, custody: Seal) -> bool:
    """Let the successor take the name of the root key, if it is the key in force; whether it did.

    Raises:
        Refused: it cannot be read or renamed.
        Unavailable: storage cannot answer.
    """
    if not isinstance(custody, KeyFileSeal) or not custody.successor.exists():
        return False
    with sole_preparer(custody.path.parent):
        # Looked at again: it may have been waited for.
        if not custody.successor.exists():
            return False
        instance, generations = await look_at(settings)
        with_check = custody.successor.load()
        check = key_check_value(with_check, instance.instance_id.bytes)
        with_check.wipe()
        if (
            len(generations) > 1
            or check != generations[0].check
            or not os.access(custody.path.parent, os.W_OK)
        ):
            # Not begun or not ended. Or a directory that is not ours to write in, such as one of credentials.
            return False
        custody.succeed()
        return True


async def _prepared(
    settings: Settings, custody: KeyFileSeal, new_file: Path | None
) -> tuple[SecretBytes, SecretBytes]:
    """The old root key and the new one, which is durable beside it.

    Raises:
        Refused: a key is missing or cannot be written.
    """
    with sole_preparer(custody.path.parent):
        instance, generations = await look_at(settings)
        successor = custody.successor
        old = custody.load()
        given = None if new_file is None else KeyFileSeal(new_file).load()
        if not successor.exists():
            if given is not None:
                successor.keep(given, custody.path.stat())
            elif len(generations) > 1:
                raise Refused(
                    f"the root key is being rotated, and the new one is not at {successor.path}",
                    "put it there, or name its file with --new-root-key-file",
                )
            elif settings.database.url is not None:
                raise Refused(
                    f"no new root key at {successor.path}",
                    "put the new 32-byte key there on every node, then repeat the command",
                )
            else:
                custody.make_successor()
        new = successor.load()
        if given is not None and not given.equals(new.reveal()):
            raise Refused(
                f"{successor.path} exists already and holds another key than {new_file}",
                "rotate to that one, or remove it if no rotation to it has begun: see qimem root-key status",
            )
        checks = [generation.check for generation in generations]
        if len(checks) == 1 and key_check_value(new, instance.instance_id.bytes) in checks:
            raise Refused(
                "the new root key is the one in force",
                f"let {successor.path.name} take the name of the old one, or make another one",
            )
        successor.make_durable()
        return old, new


def _usable(custody: Seal, environ: Mapping[str, str]) -> KeyFileSeal:
    """Where the new key can be put, or where whoever hands out credentials has put it already."""
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if not isinstance(custody, KeyFileSeal) or (
        credentials
        and custody.path.parent == Path(os.path.realpath(credentials))
        and not custody.successor.exists()
    ):
        raise Refused(
            "the root key is a credential, of which this process has a copy",
            f"make the new key a credential, too: {CREDENTIAL_NAME}.next",
        )
    return custody
