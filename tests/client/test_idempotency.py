"""Who repeats a call whose outcome is not known does it under the same key: the caller's, or the one that was made up."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from qimem.bootstrap.serving import ENDPOINTS
from qimem.client import ApiError, BadRequest, Client, Unavailable, Unreachable
from qimem.testing import LocalServer, Tenant
from qimem.wire.auth import RotateSigningKeyRequest
from qimem.wire.clients import CreateClientRequest
from qimem.wire.realms import CreateRealmRequest, CreateRoleRequest
from qimem.wire.security import CreateKeyRequest, RotateRequest
from qimem.wire.users import CreateUserRequest
from tests.client.scripted import OK, answer, scripted

Call = Callable[[Client, str | None], object]

UNKNOWN = answer(503, b'{"error":"outcome unknown","code":"outcome_unknown"}', b"Retry-After: 1")
REALM = CreateRealmRequest(id="acme", name="A")
MADE = answer(200, b'{"id":"acme","name":"A","issuer":"i","created_at":"t","password_min_length":8}')
CALLS: dict[str, Call] = {
    "keys.create": lambda on, key: on.keys.create(CreateKeyRequest(name="k"), idempotency_key=key),
    "keys.rotate": lambda on, key: on.keys.rotate(RotateRequest(name="k"), idempotency_key=key),
    "realms.create": lambda on, key: on.realms.create(REALM, idempotency_key=key),
    "roles.create": lambda on, key: on.roles.create(
        CreateRoleRequest(name="r", permissions=[]), idempotency_key=key
    ),
    "clients.create": lambda on, key: on.clients.create(
        CreateClientRequest(redirect_uris=[]), idempotency_key=key
    ),
    "clients.secret.rotate": lambda on, key: on.clients.rotate_secret("c", idempotency_key=key),
    "users.create": lambda on, key: on.users.create(
        CreateUserRequest(username="u", password="p", roles=[]), idempotency_key=key
    ),
    "signing_keys.rotate": lambda on, key: on.tokens.rotate_signing_key(
        RotateSigningKeyRequest(), idempotency_key=key
    ),
}


def keys_of(asked: list[bytes]) -> list[str]:
    return [key.decode() for one in asked for key in re.findall(rb"Idempotency-Key: (\S+)", one)]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_callers_key_is_sent_and_told(call: Call) -> None:
    with scripted([UNKNOWN]) as server, Client(server.url, "t") as client:
        with pytest.raises(Unavailable) as caught:
            call(client, "mine-1")
    assert caught.value.code == "outcome_unknown"
    assert caught.value.idempotency_key == "mine-1"
    assert keys_of(server.asked) == ["mine-1"]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_key_that_was_made_up_is_told(call: Call) -> None:
    with scripted([UNKNOWN, UNKNOWN]) as server, Client(server.url, "t") as client:
        told = []
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                call(client, None)
            told.append(caught.value.idempotency_key)
    assert told == keys_of(server.asked)
    assert len(set(told)) == 2


def test_every_idempotent_operation_takes_a_key() -> None:
    said = [UNKNOWN] * len(CALLS)
    with scripted(said) as server, Client(server.url, "t") as client:
        for call in CALLS.values():
            with pytest.raises(Unavailable):
                call(client, None)
    asked = {b" ".join(one.split(b" ")[:2]).decode().replace("/c/", "/{client_id}/") for one in server.asked}
    assert asked == {f"{one.method} {one.path}" for one in ENDPOINTS if one.idempotent}


def test_a_lost_answer_is_asked_for_under_the_key_it_was_lost_with() -> None:
    # Closed before it is answered, on a connection that nobody else had used: the library does not repeat that.
    with scripted([b""], [MADE]) as server, Client(server.url, "t") as client:
        with pytest.raises(Unreachable) as caught:
            client.realms.create(REALM)
        made = client.realms.create(REALM, idempotency_key=caught.value.idempotency_key)
    assert made.id == "acme"
    first, second = keys_of(server.asked)
    assert first == second == caught.value.idempotency_key


def test_an_answer_that_cannot_be_read_tells_the_key_too() -> None:
    with scripted([answer(200, b"<html>")]) as server, Client(server.url, "t") as client:
        with pytest.raises(Unreachable) as caught:
            client.realms.create(REALM, idempotency_key="mine")
    assert caught.value.idempotency_key == "mine"


def test_what_has_no_key_tells_none() -> None:
    with scripted([UNKNOWN, UNKNOWN]) as server, Client(server.url, "t") as client:
        for call in (client.ready, client.me.get):
            with pytest.raises(ApiError) as caught:
                call()
            assert caught.value.idempotency_key is None
    assert keys_of(server.asked) == []


def test_a_key_that_would_be_a_header_of_its_own_is_not_sent() -> None:
    with scripted([OK]) as server, Client(server.url, "t") as client:
        with pytest.raises(ValueError, match="header"):
            client.realms.create(REALM, idempotency_key="a\r\nX-More: b")
        assert client.ready().status == "ready"
    assert len(server.asked) == 1


def test_of_one_key_there_is_one_effect(qimem_tenant: Tenant, qimem_server: LocalServer) -> None:
    admin = qimem_tenant.admin
    request = CreateKeyRequest(name="orders")
    made = [admin.keys.create(request, idempotency_key="order-7") for _ in range(2)]
    assert made[0] == made[1]
    rotated = [admin.keys.rotate(RotateRequest(name="orders"), idempotency_key="r") for _ in range(2)]
    assert [one.version for one in rotated] == [2, 2]
    with pytest.raises(BadRequest) as caught:
        admin.keys.create(CreateKeyRequest(name="others"), idempotency_key="order-7")
    assert (caught.value.code, caught.value.idempotency_key) == ("idempotency_mismatch", "order-7")
    # Not the caller's own empty key in place of one that nobody knows.
    with pytest.raises(BadRequest):
        admin.keys.create(request, idempotency_key="")
