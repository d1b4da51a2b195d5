"""What the storage tests may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from qimem.storage.database import DatabaseLocation


@pytest.fixture
async def admin(postgres_location: DatabaseLocation) -> AsyncIterator[psycopg.Connection]:
    """A connection of an operator."""
    assert postgres_location.url is not None
    with psycopg.connect(postgres_location.url, autocommit=True) as connection:
        yield connection
