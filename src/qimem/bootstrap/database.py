"""Where the data is, and whether there is an installation in it."""

from __future__ import annotations

from qimem.config.schema import Settings
from qimem.kms.instance import Instance
from qimem.storage.database import DatabaseLocation
from qimem.storage.repositories.instance import InstanceRepository

_INSTANCE = InstanceRepository()


def location(settings: Settings) -> DatabaseLocation:
    """Where the data is."""
    url = settings.database.url
    return DatabaseLocation(
        directory=settings.server.data_dir,
        url=None if url is None else url.reveal(),
        durable=settings.database.mode != "stateless",
        bounded=settings.consistency.mode == "bounded",
    )


def migrate(settings: Settings) -> None:
    """Bring the schema up to date.

    Raises:
        SchemaTooNew: the data is newer than this program.
    """
    location(settings).migrate()


async def find_instance(settings: Settings) -> Instance | None:
    """The installation in the database, None where there is none.

    Raises:
        Refused: the file is not a database.
        Unavailable: the database cannot be read.
    """
    where = location(settings)
    if not where.exists():
        return None
    database = where.open()
    try:
        return await database.read(_INSTANCE.find)
    finally:
        await database.close()


async def is_initialised(settings: Settings) -> bool:
    """Whether there is an installation in the database."""
    return await find_instance(settings) is not None
