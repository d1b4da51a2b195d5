"""The bearer of a request: read one way, judged by the state of now, refused alike for every reason."""

from __future__ import annotations

import random
import socket
import time
from typing import Any

import httpx
import pytest

from qimem.storage.schema import app_user, client, oauth_grant, realm, role_permission, user_role
from tests.support.api import Person, World
from tests.support.oauth import PROTECTED, add, change, forger, nobody, protected, remove, unwelcome
from tests.support.server import ok, refused
from tests.support.volume import volume


def with_header(world: World, *values: str | bytes) -> httpx.Response:
    raw = [value if isinstance(value, bytes) else value.encode("latin-1") for value in values]
    return nobody(world).get(PROTECTED, headers=[(b"Authorization", value) for value in raw])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PROTECTED), ("POST", "/v1/security/encrypt"), ("POST", "/v1/auth/realms"), ("POST", "/v1/auth/users"),
        ("POST", "/v1/auth/roles"), ("POST", "/v1/auth/clients"),
    ],
)  # fmt: skip
def test_without_a_header_the_caller_is_told_how_to_sign_in(world: World, method: str, path: str) -> None:
    answer = nobody(world).request(method, path)
    body = refused(answer, 401, "unauthenticated")
    assert body["error"] == "authentication required"
    assert body["hint"] == "POST /v1/auth/token; on a new server `qimem token` signs in as its operator"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_read_in_any_case(world: World, admin: Person, scheme: str) -> None:
    ok(with_header(world, f"{scheme} {admin.access_token}"))


@pytest.mark.parametrize(
    "template",
    ["", "Bearer", "{0}", "Token {0}", "Basic {0}", "DPoP {0}", "Bearer:{0}", "Bearer={0}", "Bearer\t{0}", "Bearer  {0}",
     "Bearer {0},{0}", "Bearer {0} {0}", "Bearer {0}, Basic YTpi", 'Bearer "{0}"', "Bearer token={0}", "XBearer {0}", "Bearer Bearer {0}"],
)  # fmt: skip
def test_another_form_of_header_is_refused(world: World, admin: Person, template: str) -> None:
    unwelcome(with_header(world, template.format(admin.access_token)))


@pytest.mark.parametrize(
    "values", [("{0}", "{0}"), ("{0}", "Bearer x"), ("Bearer x", "{0}"), ("Basic YTpi", "{0}")]
)
def test_two_headers_are_two_callers_and_refused(
    world: World, admin: Person, values: tuple[str, ...]
) -> None:
    answer = with_header(world, *(value.format(f"Bearer {admin.access_token}") for value in values))
    assert refused(answer, 400, "invalid_request")["error"] == "repeated header: authorization"


def test_a_token_stands_nowhere_but_in_the_header(world: World, admin: Person) -> None:
    refused(nobody(world).get(PROTECTED, params={"access_token": admin.access_token}), 401, "unauthenticated")
    body = {"access_token": admin.access_token}
    refused(nobody(world).post("/v1/security/keys", json=body), 401, "unauthenticated")
    cookie = {"Cookie": f"access_token={admin.access_token}"}
    refused(nobody(world).get(PROTECTED, headers=cookie), 401, "unauthenticated")


@pytest.mark.parametrize("seconds", [0, -1, -60, -3600, -(10**9)])
def test_an_expired_token_is_refused(each_world: World, seconds: float) -> None:
    person = _person(each_world)
    forged = forger(each_world.server, person.access_token)
    unwelcome(protected(each_world, forged.forge(exp=int(time.time() + seconds))))


def test_a_token_expires_while_it_is_used(world: World) -> None:
    expires = int(time.time()) + 2
    token = forger(world.server, world.person().access_token).forge(exp=expires)
    ok(protected(world, token))
    while time.time() < expires:
        time.sleep(0.05)
    unwelcome(protected(world, token))


def test_a_signature_of_another_realm_is_refused(each_world: World) -> None:
    here, there = _person(each_world), each_world.person()
    forged, foreign = (
        forger(each_world.server, here.access_token),
        forger(each_world.server, there.access_token),
    )
    ok(protected(each_world, foreign.forge()))
    unwelcome(protected(each_world, foreign.compact(forged.header, forged.claims)))
    unwelcome(protected(each_world, foreign.compact(foreign.header, forged.claims)))
    unwelcome(protected(each_world, forged.compact(forged.header, foreign.claims)))
    unwelcome(protected(each_world, foreign.forge(realm=here.realm_id, iss=forged.claims["iss"])))


def test_a_token_of_another_realm_finds_nothing_here(each_world: World) -> None:
    here, there = _person(each_world), each_world.person()
    key = ok(here.post("/v1/security/keys", {}))["key_id"]
    for answer in (
        there.get(f"/v1/security/keys/{key}"),
        there.post("/v1/security/encrypt", {"key_id": key, "input": "x"}),
    ):
        assert refused(answer, 404, "key_not_found")["error"] == f"key not found: {key}"
    answer = there.post("/v1/security/encrypt", {"key_id": key, "input": "x", "realm_id": here.realm_id})
    refused(answer, 404, "realm_not_found")
    refused(there.get(PROTECTED, params={"realm_id": here.realm_id}), 404, "realm_not_found")


def test_what_claims_to_be_permitted_is_not(world: World) -> None:
    person = world.person("keys:read")
    forged = forger(world.server, person.access_token)
    token = forged.forge(permissions=["*", "realm:*", "users:create"], roles=["operator", "realm-admin"])
    ok(protected(world, token))
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/v1/auth/users", "/v1/auth/realms", "/v1/security/encrypt"):
        refused(nobody(world).post(path, json={}, headers=headers), 403, "permission_denied")


def test_what_the_roles_permit_counts_from_the_next_request_on(each_world: World) -> None:
    server, person = each_world.server, each_world.person("keys:read", "orders:approve")
    role = {"realm_id": person.realm_id, "role": person.roles[0]}
    ok(person.get(PROTECTED))
    remove(server, role_permission, permission="keys:read", **role)
    assert refused(person.get(PROTECTED), 403, "permission_denied")["permission"] == "keys:read"
    add(server, role_permission, permission="keys:read", position=0, **role)
    ok(person.get(PROTECTED))
    remove(server, user_role, **role)
    refused(person.get(PROTECTED), 403, "permission_denied")


@pytest.mark.parametrize("table", [app_user, client, realm], ids=str)
def test_whoever_is_disabled_is_out_from_the_next_request_on(each_world: World, table: Any) -> None:
    server, person = each_world.server, each_world.person()
    for _ in range(2):
        ok(person.get(PROTECTED))
        change(server, table, {"enabled": False}, realm_id=person.realm_id)
        unwelcome(person.get(PROTECTED))
        change(server, table, {"enabled": True}, realm_id=person.realm_id)
    ok(person.get(PROTECTED))


def test_a_revoked_grant_takes_its_access_tokens_along(each_world: World) -> None:
    person = each_world.person()
    ok(person.get(PROTECTED))
    change(each_world.server, oauth_grant, {"revoked_us": 1}, realm_id=person.realm_id)
    unwelcome(person.get(PROTECTED))


@pytest.mark.parametrize("letter", ["x", "\\", '"'])
@pytest.mark.parametrize("count", [20, 60, 100, 105, 110, 140, 250])
def test_every_token_that_is_handed_out_is_accepted(
    world: World, admin: Person, letter: str, count: int
) -> None:
    # However much the roles carry and however JSON has to spell it: a token that no door takes is none.
    role = world.role(
        admin.realm_id, ["keys:read", *(f"{number:03}" + letter * 125 for number in range(count))]
    )
    made = world.client(admin.realm_id, roles=[role])
    asked = {name: made[name] for name in ("client_id", "client_secret")} | {
        "grant_type": "client_credentials"
    }
    answer = nobody(world).post("/v1/auth/token", json=asked)
    if answer.status_code == 200:
        ok(protected(world, answer.json()["access_token"]))
    else:
        error = refused(answer, 409, "conflict")["error"]
        assert error == "the roles carry more permissions than fit into a token"
        assert count > 20


_CHANCE = random.Random(7)
_GARBAGE = [
    bytes(_CHANCE.choices(alphabet, k=128 * 1024))
    for alphabet in (b"ABCDabcd0123-_.", b"e30.", bytes(range(0x21, 0x7F)) + b"\xe9\xff")
]


def garbage(length: int) -> bytes:
    """Another piece of another kind for every length."""
    return _GARBAGE[length % 3][length : 2 * length]


@pytest.mark.acceptance
def test_garbage_of_any_length_is_refused(world: World) -> None:
    lengths = range(1, 31 * 1024, 31 * 1024 // volume(31 * 1024, share=0.005))
    for length in (*lengths, *range(24 * 1024 - 9, 24 * 1024 + 2)):
        unwelcome(with_header(world, b"Bearer " + garbage(length)))


@pytest.mark.acceptance
def test_a_header_beyond_the_limit_is_cut_off(world: World) -> None:
    host, _, port = world.server.url.removeprefix("http://").partition(":")
    lengths = range(32 * 1024, 64 * 1024, 32 * 1024 // volume(32 * 1024, share=0.0005))
    for length in (*lengths, 64 * 1024):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = b"GET " + PROTECTED.encode() + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            connection.sendall(head + garbage(length) + b"\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"connection: close\r\n" in answer


def _person(world: World) -> Person:
    """Somebody in a realm; the same one for every test that changes nothing about them."""
    if world not in _people:
        _people[world] = world.person()
    return _people[world]


_people: dict[World, Person] = {}
