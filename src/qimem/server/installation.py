"""Opens an installation or makes a new one: data directory, root key, database, in that order.

The order keeps every crash repairable: a key without data is used by the next attempt, data
without its key is refused and never given a new one, and credentials are on the disk before what they open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from qimem.bootstrap import database, first
from qimem.bootstrap.first import AdminChoice, AlreadyInitialised, Installed
from qimem.bootstrap.root_keys import custody_of
from qimem.config.schema import Settings
from qimem.errors import Conflict
from qimem.kernel.refusal import Refused
from qimem.kernel.secret import SecretBytes
from qimem.kms.hierarchy import random_key
from qimem.kms.seal.base import Seal
from qimem.kms.seal.keyfile import KeyFileSeal
from qimem.kms.seal.placement import Mounts, check_outside, check_placement
from qimem.observability.logging import logger
from qimem.server import root_key
from qimem.server.credentials import CredentialsFile, shown
from qimem.server.directories import check_not_restoring, make_private, sole_preparer, unmark
from qimem.storage.migrations.runner import HEAD


@dataclass(frozen=True, slots=True)
class Opened:
    """An installation that can be started.

    Args:
        installed: What was made, when it is new.
    """

    root_key: SecretBytes
    installed: Installed | None


async def initialise(settings: Settings, admin: AdminChoice, environ: Mapping[str, str]) -> Installed:
    """Make a new installation because the operator asked for one.

    Its credentials are put aside until `handed_out`: whatever ends the command first, a later start finds them.

    Raises:
        Conflict: there is one already.
        Refused: the place is not fit for a root key or for data.
    """
    make_private(settings.server.data_dir)
    with sole_preparer(settings.server.data_dir):
        if await database.is_initialised(settings):
            raise Conflict("initialised already", code="already_exists", hint="start it with qimem serve")
        check_not_restoring(settings.server.data_dir)
        custody = custody_of(settings, environ, explicit=True)
        key = _key_for_new(settings, custody)
        file = CredentialsFile.beside(settings.server.data_dir)

        def keep(made: Installed) -> None:
            # Where it can be: the operator asked for an answer and not for a file.
            with suppress(Refused, OSError):
                file.prepare(shown(made, None))

        try:
            return await _make(settings, key, admin, custody, keep)
        finally:
            key.wipe()


def handed_out(settings: Settings) -> None:
    """The operator has the credentials that `initialise` answered: nothing of them is kept any more."""
    with suppress(OSError):
        CredentialsFile.beside(settings.server.data_dir).discard()


async def recover_operator(settings: Settings, username: str, environ: Mapping[str, str]) -> Installed:
    """Add an operator to an installation whose operators are locked out; see `bootstrap.recovery`.

    Raises:
        Conflict: the name is taken.
        Refused: there is no installation, or its root key is not at hand.
        Unavailable: storage or audit log cannot be written.
    """
    if not await database.is_initialised(settings):
        raise Refused("there is no installation", "run: qimem init")
    # As for a backup: what it writes into the audit log has to be the server's.
    make_private(settings.server.data_dir)
    from qimem.bootstrap import recovery  # noqa: PLC0415 - of no use to a server, which would start later

    key = custody_of(settings, environ, explicit=False).load()
    return await recovery.recover_operator(settings, key, username)


async def open_or_initialise(
    settings: Settings, admin: AdminChoice, environ: Mapping[str, str], *, url: str
) -> Opened:
    """Open the installation; where there is none make one and write its credentials file.

    Args:
        settings: A data directory that may not exist yet.
        admin: The operator of a new installation.
        environ: Where a systemd credential may be announced.
        url: Address of this server, for the credentials file.

    Raises:
        Refused: key, directory or database are not fit to be used.
    """
    make_private(settings.server.data_dir)
    with sole_preparer(settings.server.data_dir):
        custody = custody_of(settings, environ, explicit=False)
        file = CredentialsFile.beside(settings.server.data_dir)
        external_url = settings.server.external_url or url
        instance = await database.find_instance(settings)
        if instance is not None:
            # Before anything is changed: data must not be upgraded by who cannot read it.
            key = root_key.in_force(custody, instance)
            _upgrade(settings, key)
            # A database is committed as a whole: the restore lacked no more than this.
            unmark(settings.server.data_dir)
            await root_key.settle(settings, custody)
            await _hand_out_late(settings, file, external_url)
            return Opened(key, None)
        check_not_restoring(settings.server.data_dir)
        key = _key_for_new(settings, custody)
        file.reserve()
        try:
            installed = await _make(
                settings, key, admin, custody, lambda made: file.prepare(shown(made, external_url))
            )
        except BaseException:
            # What was put aside stays: the installation may be there all the same, if it failed at the very end.
            file.abandon()
            raise
        file.publish()
        return Opened(key, installed)


async def initialise_in_memory(settings: Settings, admin: AdminChoice) -> Opened:
    """Make an installation whose root key exists nowhere but in this process."""
    make_private(settings.server.data_dir)
    key = random_key()
    installed = await first.initialise(settings, key, admin)
    return Opened(key, replace(installed, root_key_file=None))


async def _hand_out_late(settings: Settings, file: CredentialsFile, external_url: str) -> None:
    """Publish the credentials of an installation whose first start ended before it could.

    Raises:
        Refused: they cannot be written.
    """
    found = file.prepared()
    # On a shared database another node may have made another installation since.
    ours = found is not None and await first.knows_client(settings, str(found.get("client_id")))
    try:
        if found is not None and ours:
            file.prepare(found | {"external_url": external_url})
            file.publish()
        else:
            file.discard()
    except OSError as error:
        raise Refused(f"cannot write {file.path}: {error.strerror}", "make the place writable") from error


async def _make(
    settings: Settings,
    key: SecretBytes,
    admin: AdminChoice,
    custody: Seal,
    keep: Callable[[Installed], None] = lambda _: None,
) -> Installed:
    def with_the_key(made: Installed) -> Installed:
        return replace(made, root_key_file=custody.location)

    try:
        installed = await first.initialise(settings, key, admin, lambda made: keep(with_the_key(made)))
    except AlreadyInitialised as error:
        # On a shared database another node was faster, with a root key of its own.
        raise Refused(
            "another node made the installation in this moment",
            f"replace {custody.location} with the root key of that node",
        ) from error
    return with_the_key(installed)


def _upgrade(settings: Settings, key: SecretBytes) -> None:
    if database.location(settings).version() == HEAD:
        return
    from qimem.server.backups import upgrade_at_start  # noqa: PLC0415 - of no use to nearly every start

    kept = upgrade_at_start(settings, key)
    if kept is not None:
        logger().warning("the schema was brought up to date; the data as it was is kept", path=str(kept))


def _key_for_new(settings: Settings, custody: Seal) -> SecretBytes:
    """The key that waits for its first data, or a new one."""
    if isinstance(custody, KeyFileSeal):
        check_outside(settings.server.data_dir, custody.path)
    if custody.exists() or not isinstance(custody, KeyFileSeal) or not custody.creatable:
        return custody.load()
    check_placement(
        settings.server.data_dir,
        custody.path,
        named=settings.seal.root_key_file is not None,
        embedded=settings.database.url is None,
        mounts=Mounts.read(),
    )
    os.umask(0o077)
    custody.path.parent.mkdir(parents=True, exist_ok=True)
    return custody.create()
