"""A real server inside a test: in memory, with real keys and real tokens, gone afterwards.

With pytest there is nothing to set up:

    def test_a_card_is_kept_encrypted(qimem_tenant):
        key = qimem_tenant.admin.keys.create(CreateKeyRequest(name="cards"))
        assert "4111" not in Shop(qimem_tenant.url, qimem_tenant.client_id, ...).stored("4111")

Elsewhere:

    with serve() as server:
        tenant = server.tenant()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qimem.testing.server import LocalServer, Tenant, serve

__all__ = ["LocalServer", "Tenant", "serve"]


def __getattr__(name: str) -> object:
    # pytest imports this package at every start for the sake of its fixtures: half a second for who asks for none.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qimem.testing import server  # noqa: PLC0415

    return getattr(server, name)
