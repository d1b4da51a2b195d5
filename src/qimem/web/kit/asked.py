"""One request before anything was made of it, and whom it is charged to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from qimem.errors import Internal, Limited, Unavailable
from qimem.kernel.audit_draft import AuditDraft
from qimem.kernel.context import Actor
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import BATCH_ITEMS_MAX
from qimem.kernel.metering import Charge, rate_limited
from qimem.web.kit.errors import request_id
from qimem.web.kit.forwarded import Peers

if TYPE_CHECKING:
    from qimem.web.kit.endpoint import Endpoint

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class RateLimits(Protocol):
    """Counts requests; implemented by `coordination.rate_limits.RateLimits`."""

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str, units: int) -> Charge:
        """Charge a client that was proven; negative units are given back."""
        ...

    async def charge_address(self, address: str, units: int) -> Charge:
        """Charge whoever is behind an address; negative units are given back."""
        ...


def exchange_of(scope: Scope) -> Any:
    """The short way past the messages of ASGI that our own protocol offers; None under other servers."""
    extensions = scope.get("extensions")
    return None if extensions is None else extensions.get("qimem.exchange")


class Asked:
    """One request; headers of the same name show the last value. It is the meter that services charge."""

    __slots__ = (
        "_limits", "address", "began", "charge", "draft", "endpoint", "exchange", "headers", "heard", "receive", "request_id", "scope", "shed",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, receive: Receive, limits: RateLimits, peers: Peers, began: float
    ) -> None:
        self.began = began
        self.scope = scope
        self.receive = receive
        self._limits = limits
        self.exchange = exchange = exchange_of(scope)
        self.headers: Mapping[bytes, bytes] = (
            dict(scope["headers"]) if exchange is None else exchange.framing.fields
        )
        peer = scope.get("client")
        self.address = peers.address_behind(peer[0], self.headers, scope["headers"]) if peer else ""
        """Whom it counts for where nobody proves who asks."""
        self.request_id = request_id(self.headers.get(b"x-request-id"))
        self.endpoint: Endpoint | None = None
        self.draft: AuditDraft | None = None
        self.charge: Charge | None = None
        """None as long as nobody was charged."""
        self.heard = False
        """Whether its path, method and head are such that a limit may refuse it."""
        self.shed = False

    def turn_away(self) -> None:
        """It is refused because there is too much to do: nobody is charged, and its connection rests."""
        self.shed = True
        if self.exchange is not None:
            self.exchange.turn_away()

    async def charge_client(self, realm_id: RealmId, client_id: ClientId, tier: str, units: int = 1) -> None:
        """Charge the client that was proven to ask.

        Raises:
            Limited: `rate_limited`.
        """
        self._judge(await self._limits.charge_client(realm_id, client_id, tier, units))

    async def charge_address(self) -> None:
        """Charge the address, for nobody was proven to ask.

        Raises:
            Limited: `rate_limited`.
        """
        self._judge(await self._limits.charge_address(self.address, 1))

    async def charge_items(self, actor: Actor, count: int) -> None:
        """Charge a batch for the items beyond its first, which the request itself was charged for.

        Raises:
            Limited: `rate_limited`; then the request is not charged either.
        """
        more = min(count, BATCH_ITEMS_MAX) - 1
        if more <= 0:
            return
        before = self.charge
        try:
            await self.charge_client(actor.realm_id, actor.client_id, actor.tier, more)
        except Limited:
            # A body may arrive in another window than its head: what the first unit was taken from is over then.
            if before is not None and self.charge is not None and self.charge.reset == before.reset:
                await self._limits.charge_client(actor.realm_id, actor.client_id, actor.tier, -1)
            raise

    @property
    def owes_charge(self) -> bool:
        """Whether nobody was charged for what is counted."""
        return (
            self.charge is None and not self.shed and (self.endpoint is None or not self.endpoint.unmetered)
        )

    async def charge_unproven(self, failure: Exception | None) -> Limited | None:
        """Charge the address, for nobody was proven to ask.

        Args:
            failure: What would be answered.

        Returns:
            What to answer in its place, when the address may ask for no more: whoever guesses tokens or secrets learns
            nothing from then on. Our own failures are told all the same.
        """
        try:
            await self.charge_address()
        except Limited as limited:
            refused = self.heard and not isinstance(failure, Unavailable | Internal | None)
            return limited if refused else None
        return None

    def _judge(self, charge: Charge) -> None:
        self.charge = charge
        if not charge.admitted:
            raise rate_limited(charge)
