"""The client against a real server: every operation that the server offers has a method that works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.client import Client, Credentials, NotFound, PreconditionFailed, SecretText
from qimem.client.transport import Transport
from qimem.testing import LocalServer, Tenant
from qimem.wire.auth import (
    IntrospectRequest,
    RefreshRequest,
    RevokeRequest,
    RotateSigningKeyRequest,
    TokenRequest,
)
from qimem.wire.authz import ExplainRequest
from qimem.wire.clients import CreateClientRequest, RotateClientSecretRequest, UpdateClientRequest
from qimem.wire.common import RealmQuery, RolesRequest
from qimem.wire.factors import ConfirmTotpRequest, EnrolTotpRequest, ProveFactorRequest
from qimem.wire.realms import CreateRealmRequest, CreateRoleRequest, UpdateRealmRequest, UpdateRoleRequest
from qimem.wire.security import CreateKeyRequest, ListKeysQuery, RotateRequest
from qimem.wire.users import ChangePasswordRequest, SetPasswordRequest, UpdateUserRequest
from tests.support.one_time import code_of

NOT_FOR_PROGRAMS = {
    "system.root", "system.health", "security.health", "system.openapi", "system.docs",
}  # fmt: skip


@pytest.fixture
def asked() -> Iterator[set[str]]:
    """Names of the operations that were asked for."""
    names: set[str] = set()
    patterns = [
        (one.name, one.method, re.compile(re.sub(r"\{\w+\}", "[^/]+", one.path))) for one in ENDPOINTS
    ]
    exchange = Transport.exchange

    def recorded(self: Transport, request: Any) -> Any:
        path = request.target.partition("?")[0]
        names.update(
            name for name, method, pattern in patterns if method == request.method and pattern.fullmatch(path)
        )
        return exchange(self, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "exchange", recorded)
        yield names


def keys(tenant: Tenant, server: LocalServer) -> None:
    admin = tenant.admin
    key = admin.keys.create(CreateKeyRequest(name="orders"))
    assert admin.decrypt(admin.encrypt(b"\xff\0 any bytes", name="orders")) == b"\xff\0 any bytes"
    envelopes = admin.encrypt_many([b"one", b"two"], key_id=key.key_id)
    assert admin.decrypt_many(envelopes) == [b"one", b"two"]
    newer = admin.keys.rotate(RotateRequest(name="orders"))
    assert (newer.version, admin.decrypt(envelopes[0], name="orders")) == (2, b"one")
    assert [one.version for one in admin.keys.get(key.key_id).versions] == [1, 2]
    assert not admin.keys.disable(key.key_id).enabled
    assert admin.keys.enable(key.key_id).enabled
    for number in range(4):
        admin.keys.create(CreateKeyRequest(name=f"key-{number}"))
    listed = [one.name for one in admin.keys.list(ListKeysQuery(limit=2))]
    assert sorted(map(str, listed)) == ["key-0", "key-1", "key-2", "key-3", "orders"]


def realms(tenant: Tenant, server: LocalServer) -> None:
    operator, name = server.operator, f"{tenant.realm_id}-more"
    operator.realms.create(CreateRealmRequest(id=name, name="More"))
    assert name in [realm.id for realm in operator.realms.list()]
    found, tag = operator.realms.get_tagged(name)
    assert operator.realms.get(name) == found
    changed = operator.realms.update(name, UpdateRealmRequest(name="Most"), if_match=tag)
    assert changed.name == "Most"
    with pytest.raises(PreconditionFailed):
        operator.realms.update(name, UpdateRealmRequest(name="Least"), if_match=tag)
    assert not operator.realms.disable(name).enabled
    assert operator.realms.enable(name).enabled
    operator.tokens.rotate_signing_key(RotateSigningKeyRequest(realm_id=name))
    assert operator.tokens.key_set(name).keys
    assert operator.realms.delete(name, confirm=name).deleted
    with pytest.raises(NotFound):
        operator.realms.get(name)


def roles(tenant: Tenant, server: LocalServer) -> None:
    admin = tenant.admin
    admin.roles.create(CreateRoleRequest(name="clerk", permissions=["keys:read"]))
    assert "clerk" in [role.name for role in admin.roles.list()]
    found, tag = admin.roles.get_tagged("clerk")
    assert admin.roles.get("clerk") == found
    changed = admin.roles.update("clerk", UpdateRoleRequest(permissions=["keys:encrypt"]), if_match=tag)
    assert changed.permissions == ["keys:encrypt"]
    assert admin.roles.delete("clerk").deleted


def clients(tenant: Tenant, server: LocalServer) -> None:
    admin = tenant.admin
    admin.roles.create(CreateRoleRequest(name="reader", permissions=["keys:read"]))
    made = admin.clients.create(CreateClientRequest(redirect_uris=[], name="shop"))
    assert made.client_id in [one.client_id for one in admin.clients.list()]
    found, tag = admin.clients.get_tagged(made.client_id)
    assert admin.clients.get(made.client_id) == found
    changed = admin.clients.update(made.client_id, UpdateClientRequest(name=None), if_match=tag)
    assert changed.name is None
    assert admin.clients.assign_roles(made.client_id, RolesRequest(roles=["reader"])).roles == ["reader"]
    assert admin.clients.remove_roles(made.client_id, RolesRequest(roles=["reader"])).roles == []
    assert not admin.clients.disable(made.client_id).enabled
    assert admin.clients.enable(made.client_id).enabled
    rotated = admin.clients.rotate_secret(made.client_id, RotateClientSecretRequest(overlap_seconds=60))
    assert rotated.client_secret != made.client_secret
    assert admin.clients.delete(made.client_id).deleted


def users(tenant: Tenant, server: LocalServer) -> None:
    admin = tenant.admin
    ada = tenant.user("ada", roles=["realm-admin"])
    with tenant.signed_in("ada") as own:
        assert own.me.get().username == "ada"
        assert [grant.client_id for grant in admin.users.grants(ada.id)] == [tenant.client_id]
        assert admin.users.revoke_grants(ada.id).revoked == 1
        # The client finds the token dead, and signs in anew.
        assert own.me.get().username == "ada"
    assert [user.username for user in admin.users.list()] == ["ada"]
    found, tag = admin.users.get_tagged(ada.id)
    assert admin.users.get(ada.id) == found
    changed = admin.users.update(ada.id, UpdateUserRequest(email="ada@shop.example"), if_match=tag)
    assert changed.email == "ada@shop.example"
    admin.roles.create(CreateRoleRequest(name="guest", permissions=[]))
    assert "guest" in admin.users.assign_roles(ada.id, RolesRequest(roles=["guest"])).roles
    assert "guest" not in admin.users.remove_roles(ada.id, RolesRequest(roles=["guest"])).roles
    assert admin.explain(ExplainRequest(permission="keys:read", user_id=ada.id)).allowed
    assert admin.users.set_password(ada.id, SetPasswordRequest(password="another")).revoked == 1
    assert not admin.users.disable(ada.id).enabled
    assert admin.users.enable(ada.id).enabled
    assert not admin.users.disable_totp(ada.id).enabled
    assert admin.users.delete(ada.id).deleted
    with pytest.raises(NotFound):
        admin.users.get(ada.id, RealmQuery(realm_id=tenant.realm_id))


def own_account(tenant: Tenant, server: LocalServer) -> None:
    tenant.user("grace")
    with tenant.signed_in("grace") as own:
        enrolled = own.me.enrol_totp(EnrolTotpRequest(current_password="password"))
        codes = own.me.confirm_totp(ConfirmTotpRequest(code=code_of(enrolled.secret))).recovery_codes
        proof = [ProveFactorRequest(current_password="password", code=code) for code in codes]
        assert len(own.me.renew_recovery_codes(proof[0]).recovery_codes) == len(codes)
        proof.append(ProveFactorRequest(current_password="password", code=code_of(enrolled.secret, 1)))
        state = own.me.disable_totp(proof[-1])
        assert not state.enabled
        change = ChangePasswordRequest(current_password="password", password="another")
        assert own.me.change_password(change).revoked >= 1


def tokens(tenant: Tenant, server: LocalServer) -> None:
    tenant.user("edsger")
    request = TokenRequest(
        client_id=tenant.client_id, client_secret=tenant.client_secret, realm_id=tenant.realm_id,
        username="edsger", password="password",
    )  # fmt: skip
    with Client(tenant.url) as nobody:
        pair = nobody.tokens.issue(request)
        refresh = RefreshRequest(
            refresh_token=str(pair.refresh_token),
            client_id=tenant.client_id,
            client_secret=tenant.client_secret,
        )
        pair = nobody.tokens.refresh(refresh)
        assert tenant.admin.tokens.introspect(IntrospectRequest(token=pair.access_token)).active
        assert nobody.tokens.revoke(RevokeRequest(token=pair.access_token)).revoked
        assert not tenant.admin.tokens.introspect(IntrospectRequest(token=pair.access_token)).active
        assert nobody.ready().status == "ready"
    events = [record.event for record in tenant.admin.audit_events()]
    assert {"tokens.issue", "tokens.revoke"} <= set(events)


PARTS = (keys, realms, roles, clients, users, own_account, tokens)


def test_every_operation_has_a_method_that_does_what_it_says(
    asked: set[str], qimem_tenant: Tenant, qimem_server: LocalServer
) -> None:
    for part in PARTS:
        part(qimem_tenant, qimem_server)
    assert {one.name for one in ENDPOINTS} - asked == NOT_FOR_PROGRAMS


def test_credentials_are_not_printed(qimem_tenant: Tenant) -> None:
    credentials = Credentials("id", SecretText("topsecret"), "realm", "ada", SecretText("topsecret"))
    assert "topsecret" not in repr(credentials) + str(vars(Client(qimem_tenant.url, credentials)))
