"""The whole way through the house, once, for real. Reads like the tutorial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server import Server, ok, refused


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_from_first_start_to_a_rotated_key(tmp_path: Path, workers: int, database: str, request) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else None
    server = Server(tmp_path, workers=workers, database_url=url).start()
    try:
        _live_through_a_day(server)
    finally:
        server.stop()


def _live_through_a_day(server: Server) -> None:
    # The operator signs in with what the first start wrote beside the data directory …
    operator = server.client(server.token())

    # … makes a realm, a role that may use keys, an application, and a person with that role.
    realm = ok(operator.post("/v1/auth/realms", json={"id": "acme", "name": "Acme"}))
    assert realm["issuer"].endswith("/realms/acme")
    permissions = [
        "keys:create",
        "keys:encrypt",
        "keys:decrypt",
        "keys:rotate",
        "keys:read",
        "orders:approve",
    ]
    role = {"realm_id": "acme", "name": "cipher", "permissions": permissions}
    assert ok(operator.post("/v1/auth/roles", json=role))["permissions"] == permissions
    shop = ok(operator.post("/v1/auth/clients", json={"realm_id": "acme", "redirect_uris": []}))
    ada = {"realm_id": "acme", "username": "ada", "password": "a long enough phrase", "roles": ["cipher"]}
    ok(operator.post("/v1/auth/users", json=ada))

    # The person signs in through the application.
    login = {"client_id": shop["client_id"], "client_secret": shop["client_secret"], "realm_id": "acme",
             "username": "Ada", "password": "a long enough phrase"}  # fmt: skip
    pair = ok(operator.post("/v1/auth/token", json=login))
    assert (pair["token_type"], pair["expires_in"]) == ("Bearer", 900)
    user = server.client(pair["access_token"])

    # A key, a secret, and the secret back.
    key = ok(user.post("/v1/security/keys", json={"name": "orders"}))
    assert (key["version"], key["active"], key["enabled"], key["lineage_id"]) == (
        1,
        True,
        True,
        key["key_id"],
    )
    sealed = ok(user.post("/v1/security/encrypt", json={"name": "orders", "input": "4111 1111"}))
    opened = ok(user.post("/v1/security/decrypt", json={"input": sealed["envelope"]}))
    assert opened == {"plaintext": "4111 1111", "key_id": key["key_id"], "version": 1}

    # Rotate: the name now means version 2, the old id no longer encrypts, the old envelope still opens.
    rotated = ok(user.post("/v1/security/rotate", json={"key_id": key["key_id"]}))
    assert (rotated["version"], rotated["lineage_id"]) == (2, key["lineage_id"])
    by_old_id = {"key_id": key["key_id"], "input": "x"}
    assert (
        key["lineage_id"]
        in refused(user.post("/v1/security/encrypt", json=by_old_id), 400, "key_inactive")["hint"]
    )
    assert ok(user.post("/v1/security/encrypt", json={"name": "orders", "input": "x"}))["version"] == 2
    assert ok(user.post("/v1/security/decrypt", json={"input": sealed["envelope"]}))["version"] == 1

    # Power fails. Everything acknowledged is still there, and the same token still works.
    address = server.url.removeprefix("http://")
    server.kill()
    server.start(bind=address)
    opened = ok(user.post("/v1/security/decrypt", json={"input": sealed["envelope"]}))
    assert opened["plaintext"] == "4111 1111"

    # The pair is renewed, and revoked: dead in the next request.
    renewed = ok(user.post("/v1/auth/token/refresh", json={"refresh_token": pair["refresh_token"]}))
    user = server.client(renewed["access_token"])
    ok(user.get("/v1/security/keys"))
    assert ok(user.post("/v1/auth/token/revoke", json={"token": renewed["refresh_token"]})) == {
        "revoked": True
    }
    refused(user.get("/v1/security/keys"), 401, "invalid_token")
