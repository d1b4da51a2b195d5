"""Rate limits for tests that care about something else, and what they charged for those that care."""

from __future__ import annotations

from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.metering import UNITS_MAX, Charge

LIMITLESS = {
    "QIMEM_LIMITS__ADDRESS": str(UNITS_MAX),
    "QIMEM_LIMITS__TIERS": ", ".join(f"{tier}={UNITS_MAX}" for tier in ("free", "pro", "enterprise")),
}
"""The configuration of a server that many tests ask from one address."""

ADMITTED = Charge(True, UNITS_MAX, UNITS_MAX - 1, 1, 0)


class FakeMeter:
    """Admits everybody and notes whom: `(realm, client, tier)`, or nothing for the address."""

    def __init__(self) -> None:
        self.charged: list[tuple[str, ...]] = []

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str) -> None:
        self.charged.append((realm_id, client_id, tier))

    async def charge_address(self) -> None:
        self.charged.append(())


class FakeLimits:
    """Admits everybody."""

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str, units: int) -> Charge:
        return ADMITTED

    async def charge_address(self, address: str, units: int) -> Charge:
        return ADMITTED
