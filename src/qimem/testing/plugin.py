"""Fixtures for pytest, which finds them by itself. Nothing of the server is imported before one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qimem.testing.server import LocalServer, Tenant


@pytest.fixture(scope="session")
def qimem_server() -> Iterator[LocalServer]:
    """One server for all tests of this process."""
    from qimem.testing.server import serve  # noqa: PLC0415

    with serve() as server:
        yield server


@pytest.fixture
def qimem_tenant(qimem_server: LocalServer) -> Iterator[Tenant]:
    """A realm for this test alone, with an administrator."""
    tenant = qimem_server.tenant()
    yield tenant
    tenant.admin.close()
