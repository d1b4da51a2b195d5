"""Client authentication: by secret, or none for public clients."""

from __future__ import annotations

import base64
import hmac
from collections import OrderedDict
from dataclasses import replace
from urllib.parse import unquote_plus

from qimem.crypto.mac import digest
from qimem.errors import Unauthenticated
from qimem.kernel.clock import Clock
from qimem.kernel.epochs import RealmCaches
from qimem.kernel.ids import ClientId, RealmId, is_client_id
from qimem.kernel.limits import CACHED_REALMS_MAX
from qimem.kernel.metering import Meter
from qimem.kernel.secret import SecretText
from qimem.kernel.transaction import Database
from qimem.oauth.models import ClientRecord, GrantRecord
from qimem.oauth.ports import ClientStore
from qimem.oauth.standing import StandingCheck

BASIC = b"Basic "

_NOBODY = digest(b"no client has this digest")


def invalid_client() -> Unauthenticated:
    """One answer for unknown client, wrong secret and wrong realm."""
    return Unauthenticated("invalid client credentials", code="invalid_client")


class ClientAuthenticator:
    """Finds the client behind an id and checks its secret."""

    def __init__(
        self,
        database: Database,
        caches: RealmCaches,
        clients: ClientStore,
        standing: StandingCheck,
        clock: Clock,
    ) -> None:
        self._database = database
        self._caches = caches
        self._clients = clients
        self._standing = standing
        self._clock = clock
        # A client id is random and belongs to one realm for ever, so only presence is remembered.
        self._realm_of: OrderedDict[str, RealmId] = OrderedDict()

    async def authenticate(
        self, client_id: str, secret: SecretText | None, realm_id: str | None, meter: Meter
    ) -> ClientRecord:
        """The client, if it is who it says; of two secrets its record holds the one that was shown.

        Args:
            client_id: As presented.
            secret: None for public clients.
            realm_id: The realm the caller named, or None to use the client's.
            meter: A client that proves itself is charged. One that is public proves nothing.

        Raises:
            Unauthenticated: `invalid_client`, for every reason alike.
            Limited: `rate_limited`.
            Unavailable: storage cannot answer.
        """
        client = await self._find(client_id)
        stored = client.secret_digest if client is not None else None
        presented = digest(secret.reveal().encode("utf-8", "surrogatepass")) if secret is not None else b""
        matches = hmac.compare_digest(stored or _NOBODY, presented)
        # Compared for everybody: who waits must not learn whether a client has two secrets.
        before = self._previous(client)
        matches_before = hmac.compare_digest(before or _NOBODY, presented)
        if client is None or (realm_id is not None and realm_id != client.realm_id):
            raise invalid_client()
        if stored is None and secret is None:
            return client
        if stored is None or not (matches or matches_before):
            raise invalid_client()
        await meter.charge_client(client.realm_id, client.client_id, client.tier)
        if matches:
            return client
        return replace(client, secret_digest=before, previous_digest=None, previous_until_us=None)

    async def grace_seconds(self, realm_id: RealmId, client_id: str) -> int | None:
        """The grace of a refresh that client or realm ask for, enabled or not; None when they ask for none.

        Raises:
            Unavailable: storage cannot answer.
        """
        return await self._database.read(lambda tx: self._standing.grace_seconds(tx, realm_id, client_id))

    async def charge_grant(self, meter: Meter, grant: GrantRecord) -> None:
        """Charge the client of a grant that a genuine refresh token names; the address where the grant is over.

        Anybody may have a dead token, and must not use up with it what the client's users need.

        Raises:
            Limited: `rate_limited`.
            Unavailable: storage cannot answer.
        """
        if grant.lives_at(self._clock.now_us()):
            await self.charge_holder(meter, grant.realm_id, grant.client_id)
        else:
            await meter.charge_address()

    async def charge_holder(self, meter: Meter, realm_id: RealmId, client_id: str) -> None:
        """Charge the client that a token of ours was issued to; the address where it is not there any more.

        Raises:
            Limited: `rate_limited`.
            Unavailable: storage cannot answer.
        """
        client = await self._find(client_id)
        if client is None or client.realm_id != realm_id:
            await meter.charge_address()
        else:
            await meter.charge_client(realm_id, client.client_id, client.tier)

    async def with_basic(self, authorization: bytes, meter: Meter) -> ClientRecord:
        """The client behind `Authorization: Basic` (RFC 6749 §2.3.1); it is charged.

        Raises:
            Unauthenticated: `invalid_client`, for every reason alike.
            Limited: `rate_limited`.
            Unavailable: storage cannot answer.
        """
        if authorization[: len(BASIC)].lower() != BASIC.lower():
            raise invalid_client()
        try:
            pair = base64.b64decode(authorization[len(BASIC) :].strip(), validate=True).decode("utf-8")
        except ValueError:
            raise invalid_client() from None
        client_id, separator, secret = pair.partition(":")
        if not separator:
            raise invalid_client()
        # Both are form-encoded first: a colon in an id would end it.
        return await self.authenticate(unquote_plus(client_id), SecretText(unquote_plus(secret)), None, meter)

    def _previous(self, client: ClientRecord | None) -> bytes | None:
        """The digest of the secret before the current one, while that is taken too."""
        until_us = client.previous_until_us if client is not None else None
        if client is None or until_us is None or self._clock.now_us() >= until_us:
            return None
        return client.previous_digest

    async def _find(self, client_id: str) -> ClientRecord | None:
        # Only what can be an id is looked up: not every database can be asked for every text.
        if not is_client_id(client_id):
            return None
        realm_id = await self._realm(client_id)
        cache = await self._caches.fresh(realm_id) if realm_id is not None else None
        if cache is None:
            return None
        found = cache.realm_id
        return await cache.get("client", client_id, lambda tx: self._standing.client(tx, found, client_id))

    async def _realm(self, client_id: str) -> RealmId | None:
        realm_id = self._realm_of.get(client_id)
        if realm_id is None:
            realm_id = await self._database.read(lambda tx: self._clients.find_realm(tx, ClientId(client_id)))
            if realm_id is not None:
                self._realm_of[client_id] = realm_id
                if len(self._realm_of) > CACHED_REALMS_MAX:
                    self._realm_of.popitem(last=False)
        return realm_id
