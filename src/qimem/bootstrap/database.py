"""Where the data is, and whether there is an installation in it."""

from __future__ import annotations

from qimem.config.schema import Settings
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


async def is_initialised(settings: Settings) -> bool:
    """Whether there is an installation in the database."""
    where = location(settings)
    if not where.exists():
        return False
    database = where.open()
    try:
        return await database.read(_INSTANCE.find) is not None
    finally:
        await database.close()
