"""Rate limits as everything below the web sees them: tiers, what is left of one, and whom to charge."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from qimem.errors import Limited
from qimem.kernel.ids import ClientId, RealmId

UNITS_MAX: Final = 2_147_483_647
"""Of a window: the largest that every client's integer takes."""


class Allowance(NamedTuple):
    """What one bucket may use: `limit` units in each window of `window_seconds`, both at least 1."""

    limit: int
    window_seconds: int

    def __str__(self) -> str:
        return f"{self.limit}/{self.window_seconds}"


UNLIMITED_TIER: Final = "unlimited"
DEFAULT_TIER: Final = "pro"
TIERS: Final = {
    "free": Allowance(600, 60),
    DEFAULT_TIER: Allowance(6_000, 60),
    "enterprise": Allowance(60_000, 60),
    UNLIMITED_TIER: Allowance(UNITS_MAX, 60),
}
"""Tiers of clients by name, with what they allow unless the configuration says otherwise."""


class Charge(NamedTuple):
    """What the answer to a request says about the bucket that it was charged to.

    Args:
        admitted: False: less was left than was asked for, and nothing was charged.
        limit: Units of a window.
        remaining: Units left in this window, ≥ 0; 0 when not admitted.
        reset: Unix second, rounded up, at which the window ends.
        retry_after_seconds: Whole seconds until then, at least 1; 0 when admitted.
    """

    admitted: bool
    limit: int
    remaining: int
    reset: int
    retry_after_seconds: int


class Meter(Protocol):
    """Charges one request to the best identity that it proves; the last one charged is what the answer tells."""

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str) -> None:
        """Charge the client that was proven to ask.

        Raises:
            Limited: `rate_limited`.
        """
        ...

    async def charge_address(self) -> None:
        """Charge the address, for nobody was proven to ask.

        Raises:
            Limited: `rate_limited`.
        """
        ...


def rate_limited(charge: Charge) -> Limited:
    """The refusal of what the bucket has no units for."""
    message = f"rate limit of {charge.limit} requests exceeded"
    return Limited(message, retry_after_seconds=charge.retry_after_seconds)
