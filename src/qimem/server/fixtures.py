"""Plants what the API does not let anyone choose: a client's own id and secret."""

from __future__ import annotations

from qimem.bootstrap.database import location
from qimem.config.fixtures import ClientFixture
from qimem.config.schema import Settings
from qimem.crypto.mac import digest
from qimem.kernel.clock import SystemClock
from qimem.kernel.ids import ClientId, RealmId
from qimem.kernel.limits import INSTALL_SECONDS
from qimem.oauth.models import AuthMethod, ClientRecord, GrantType
from qimem.storage.repositories.clients import ClientRepository


async def plant_client(settings: Settings, realm_id: str, client: ClientFixture) -> None:
    """Add the client to a throw-away server that is running already."""
    record = ClientRecord(
        realm_id=RealmId(realm_id),
        client_id=ClientId(client.id),
        name="fixture",
        secret_digest=digest(client.secret.reveal().encode()),
        auth_method=AuthMethod.SECRET_BASIC,
        grant_types=tuple(GrantType),
        redirect_uris=client.redirect_uris,
        scope=None,
        tier=client.tier,
        enabled=True,
        roles=client.roles,
        metadata="{}",
        created_us=SystemClock().now_us(),
    )
    database = location(settings).open(write_seconds=INSTALL_SECONDS)
    try:
        await database.write(lambda tx: ClientRepository().insert(tx, record))
    finally:
        await database.close()
