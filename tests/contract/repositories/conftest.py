"""Databases as several workers of one installation have them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from qimem.storage.database import DatabaseLocation, OpenDatabase
from tests.contract.repositories.rows import with_people, with_realms


@pytest.fixture
async def realms(database: OpenDatabase) -> OpenDatabase:
    """Two realms with their key-encryption keys."""
    await with_realms(database)
    return database


@pytest.fixture
async def people(database: OpenDatabase) -> OpenDatabase:
    """Two realms with a role, a user and a client each."""
    await with_people(database)
    return database


@pytest.fixture
async def workers(location: DatabaseLocation, anyio_backend: object) -> AsyncIterator[list[OpenDatabase]]:
    """Four workers on the same data, which has two realms with people."""
    opened = [location.open() for _ in range(4)]
    await with_people(opened[0])
    yield opened
    for database in opened:
        await database.close()
