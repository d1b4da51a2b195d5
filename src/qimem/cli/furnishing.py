"""Furnishes a throw-away server with its fixtures, through its own API as far as that goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from qimem.cli.login import Server, access_token, post
from qimem.config.fixtures import Fixtures
from qimem.config.schema import Settings
from qimem.kernel.ids import SYSTEM_REALM
from qimem.server.fixtures import plant_client


def furnish(
    settings: Settings, url: str, operator: Mapping[str, Any], fixtures: Fixtures
) -> dict[str, str | None]:
    """Make realm, roles, client and user.

    Args:
        settings: Those of the running server.
        url: Its address.
        operator: The operator's credentials.
        fixtures: What to make.

    Returns:
        The credentials to print in place of the operator's.

    Raises:
        ServerRefused: a fixture is not acceptable, in the server's words.
    """
    server = Server.own(settings, url)
    bearer = access_token(server, operator)
    realm_id = fixtures.realm.id
    if realm_id != SYSTEM_REALM:
        post(server, "/v1/auth/realms", {"id": realm_id, "name": fixtures.realm.name}, bearer=bearer)
    for name, permissions in fixtures.roles.items():
        role = {"realm_id": realm_id, "name": name, "permissions": permissions}
        post(server, "/v1/auth/roles", role, bearer=bearer)
    user = {
        "realm_id": realm_id,
        "username": fixtures.user.username,
        "password": fixtures.user.password.reveal(),
        "roles": list(fixtures.user.roles),
    }
    post(server, "/v1/auth/users", user, bearer=bearer)
    asyncio.run(plant_client(settings, realm_id, fixtures.client))
    return dict(operator) | {
        "realm_id": realm_id,
        "client_id": fixtures.client.id,
        "client_secret": fixtures.client.secret.reveal(),
        "username": fixtures.user.username,
        "password": fixtures.user.password.reveal(),
    }
