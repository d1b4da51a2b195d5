"""Every endpoint with every kind of caller: nobody gets through without the right, and the right alone suffices."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from qimem.authz.permissions import Permission
from qimem.bootstrap.serving import ENDPOINTS
from qimem.web.kit.endpoint import Endpoint
from tests.support.api import PASSWORD, Person, World
from tests.support.paths import OPERATORS_ONLY, filled
from tests.support.server import ok, refused

PUBLIC = {
    "system.root", "system.health", "system.ready", "security.health", "system.openapi", "system.docs", "realms.jwks",
    "tokens.issue", "tokens.refresh", "tokens.revoke", "tokens.introspect",
}  # fmt: skip
"""What the contract lets everybody call. A new endpoint is private unless it is put here on purpose."""
GUARDED = [endpoint for endpoint in ENDPOINTS if endpoint.permission is not None]
NAMING = [endpoint for endpoint in GUARDED if endpoint.names_realm]
OF_ONE_KEY = {"keys.get", "keys.disable", "keys.enable", "keys.encrypt", "keys.decrypt", "keys.rotate"}
OF_ONE_THING = {
    endpoint.name for endpoint in GUARDED if any(name in endpoint.path for name in ("{user_id}", "{client_id}", "{role}"))
}  # fmt: skip
BEARERS = [endpoint for endpoint in ENDPOINTS if endpoint.needs_bearer]
EACH_BEARER = pytest.mark.parametrize("endpoint", BEARERS, ids=lambda e: e.name)
TENANTS = [endpoint for endpoint in NAMING if endpoint.permission not in OPERATORS_ONLY]
EACH = pytest.mark.parametrize("endpoint", GUARDED, ids=lambda e: e.name)


@dataclass(frozen=True)
class Place:
    """A realm with its administrator, and a key and an envelope that exist there."""

    world: World
    owner: Person
    key_id: str
    envelope: str

    def call(
        self, endpoint: Endpoint, caller: httpx.Client, realm_id: str | None = None, **more
    ) -> httpx.Response:
        """The endpoint with a request that works for who has the right, in the caller's or the named realm."""
        made, own = self.world, self.owner.realm_id
        known = {"key_id": self.key_id, "realm_id": realm_id or own}
        if endpoint.permission is Permission.REALMS_MANAGE and realm_id not in {"absent", "system"}:
            # It ends the realm.
            known["realm_id"] = made.realm()
        # Somebody new each time: one of the operations deletes them.
        for name, make in (
            ("user_id", lambda: made.user(own)["id"]),
            ("client_id", lambda: made.client(own)["client_id"]),
            ("role", lambda: made.role(own, [])),
        ):
            if f"{{{name}}}" in endpoint.path:
                known[name] = make()
        more["headers"] = ({"If-Match": "*"} if endpoint.merges else {}) | more.get("headers", {})
        named = {} if realm_id is None or endpoint.realm_in_path else {"realm_id": realm_id}
        if endpoint.name == "realms.delete":
            named = {"confirm": known["realm_id"]}
        path = filled(endpoint.path, **known)
        if endpoint.request is None:
            return caller.request(endpoint.method, path, params=named, **more)
        return caller.request(endpoint.method, path, json=self._body(endpoint) | named, **more)

    def _body(self, endpoint: Endpoint) -> dict[str, object]:
        fresh = self.world.fresh
        special: dict[str, dict[str, object]] = {
            "keys.create": {},
            "keys.encrypt": {"lineage_id": self.key_id, "input": "x"},
            "keys.decrypt": {"input": self.envelope},
            "keys.rotate": {"lineage_id": self.key_id},
            "signing-keys.rotate": {},
            "realms.create": {"id": fresh("realm"), "name": "x"},
            "roles.create": {"name": fresh("role"), "permissions": []},
            "roles.update": {"permissions": []},
            "clients.create": {"redirect_uris": []},
            "authz.explain": {"permission": "keys:read", "client_id": self.owner.client_id},
            "users.create": {"username": fresh("user"), "password": PASSWORD, "roles": []},
        }
        if endpoint.name.endswith("-roles"):
            return {"roles": []}
        return special.get(endpoint.name, dict(endpoint.example or {}))


@pytest.fixture(scope="module")
def place(world: World) -> Place:
    owner = world.person()
    key_id = ok(owner.post("/v1/security/keys", {}))["key_id"]
    sealed = ok(owner.post("/v1/security/encrypt", {"key_id": key_id, "input": "x"}))
    return Place(world, owner, key_id, sealed["envelope"])


@pytest.fixture(scope="module")
def people(place: Place) -> Callable[..., Person]:
    """Persons of the realm by what their one role permits; each is made once."""
    made: dict[frozenset[str], Person] = {}

    def person(*permissions: str) -> Person:
        wanted = frozenset(permissions)
        if wanted not in made:
            made[wanted] = place.world.person(*permissions, realm_id=place.owner.realm_id)
        return made[wanted]

    return person


@pytest.fixture(scope="module")
def stranger(world: World) -> Person:
    """The administrator of another realm."""
    return world.person()


def check_served(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> dict[str, object]:
    return json.loads(base64.urlsafe_b64decode(text + "=="))


def forged(token: str, **claims: object) -> str:
    """The token with other claims, signed with a key of one's own."""
    head, body, _ = token.split(".")
    signed = f"{head}.{encode(json.dumps(decode(body) | claims).encode())}"
    der = ec.generate_private_key(ec.SECP256R1()).sign(signed.encode(), ec.ECDSA(SHA256()))
    return f"{signed}.{encode(der[-64:])}"


FORGERIES = {
    "garbage": lambda token: "garbage",
    "another signature": forged,
    "expired, by its own word": lambda token: forged(token, iat=0, exp=int(time.time()) - 1),
    "the claim of every permission": lambda token: forged(token, permissions=["*"], roles=["operator"]),
    "of the operators' realm": lambda token: forged(token, realm="system"),
    "a changed signature": lambda token: token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
    "no signature": lambda token: token.rpartition(".")[0] + ".",
    "without algorithm": lambda token: f"{encode(b'{}')}.{token.split('.')[1]}.",
    "two tokens": lambda token: f"{token},{token}",
}


def test_the_public_endpoints_are_those_of_the_contract() -> None:
    assert {endpoint.name for endpoint in ENDPOINTS if not endpoint.needs_bearer} <= PUBLIC


def test_no_guarded_endpoint_was_forgotten() -> None:
    assert {endpoint.permission for endpoint in GUARDED} <= set(Permission)
    assert len(GUARDED) >= 12


@EACH_BEARER
def test_nobody_is_asked_to_sign_in(place: Place, endpoint: Endpoint) -> None:
    refused(place.call(endpoint, place.world.anonymous()), 401, "unauthenticated")


@EACH_BEARER
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_token_is_nobody(place: Place, endpoint: Endpoint, forgery: str) -> None:
    token = FORGERIES[forgery](place.owner.access_token)
    answer = place.call(endpoint, place.world.anonymous(), headers={"Authorization": f"Bearer {token}"})
    refused(answer, 401, "invalid_token")


@EACH_BEARER
def test_a_refresh_token_opens_nothing(place: Place, endpoint: Endpoint) -> None:
    token = place.owner.refresh_token
    answer = place.call(endpoint, place.world.anonymous(), headers={"Authorization": f"Bearer {token}"})
    refused(answer, 401, "invalid_token")


@EACH_BEARER
def test_the_client_secret_is_no_bearer(place: Place, endpoint: Endpoint) -> None:
    credentials = (place.owner.client_id, place.owner.client_secret)
    refused(place.call(endpoint, place.world.anonymous(), auth=credentials), 401, "invalid_token")


@EACH
def test_every_other_permission_does_not_suffice(place: Place, people, endpoint: Endpoint) -> None:
    others = sorted(set(Permission) - {endpoint.permission})
    answer = place.call(endpoint, people(*others).http)
    assert refused(answer, 403, "permission_denied")["permission"] == endpoint.permission


@EACH
def test_application_permissions_of_like_names_do_not_suffice(
    place: Place, people, endpoint: Endpoint
) -> None:
    names = sorted({asked.permission for asked in GUARDED})
    alike = (
        [f"x{name}" for name in names]
        + [name.replace(":", ".") for name in names]
        + [f"my:{n}" for n in names]
    )
    refused(place.call(endpoint, people(*alike).http), 403, "permission_denied")


@EACH
def test_the_one_permission_suffices(place: Place, people, endpoint: Endpoint) -> None:
    answer = place.call(endpoint, people(endpoint.permission).http)
    if endpoint.permission in OPERATORS_ONLY:
        # Realms are one name space for all tenants: the right to make and end them counts in realm `system` alone.
        assert answer.status_code in {403, 404}, answer.text
    else:
        check_served(answer)


@EACH
def test_the_administrator_of_the_realm_may_all_but_make_realms(place: Place, endpoint: Endpoint) -> None:
    answer = place.call(endpoint, place.owner.http)
    if endpoint.permission in OPERATORS_ONLY:
        refused(answer, 403, "permission_denied")
    else:
        check_served(answer)


@pytest.mark.parametrize("endpoint", TENANTS, ids=lambda e: e.name)
def test_the_administrator_of_another_realm_finds_no_such_realm(
    place: Place, stranger: Person, endpoint: Endpoint
) -> None:
    answer = place.call(endpoint, stranger.http, place.owner.realm_id)
    body = refused(answer, 404, "realm_not_found")
    absent = refused(place.call(endpoint, stranger.http, "absent"), 404, "realm_not_found")
    apart = {"request_id", "error"}
    assert {k: v for k, v in body.items() if k not in apart} == {
        k: v for k, v in absent.items() if k not in apart
    }
    assert body["error"].replace(place.owner.realm_id, "absent") == absent["error"]


@pytest.mark.parametrize("endpoint", [e for e in GUARDED if e.name in OF_ONE_KEY], ids=lambda e: e.name)
def test_the_administrator_of_another_realm_finds_no_such_key(
    place: Place, stranger: Person, endpoint: Endpoint
) -> None:
    refused(place.call(endpoint, stranger.http), 404, "key_not_found")


@pytest.mark.parametrize("endpoint", NAMING, ids=lambda e: e.name)
def test_every_other_permission_in_a_foreign_realm_is_denied_before_the_realm_is_looked_at(
    place: Place, people, endpoint: Endpoint
) -> None:
    others = sorted(set(Permission) - {endpoint.permission})
    for realm_id in ("system", "absent"):
        refused(place.call(endpoint, people(*others).http, realm_id), 403, "permission_denied")


@pytest.mark.parametrize("endpoint", NAMING, ids=lambda e: e.name)
def test_an_operator_may_name_any_realm(place: Place, endpoint: Endpoint) -> None:
    check_served(place.call(endpoint, place.world.operator, place.owner.realm_id))


@pytest.mark.parametrize("endpoint", TENANTS, ids=lambda e: e.name)
def test_anyone_may_name_the_own_realm(place: Place, people, endpoint: Endpoint) -> None:
    check_served(place.call(endpoint, people(endpoint.permission).http, place.owner.realm_id))


@pytest.mark.parametrize("endpoint", [e for e in NAMING if not e.realm_in_path], ids=lambda e: e.name)
@pytest.mark.parametrize("name", ["X-Realm", "X-Realm-Id", "Realm-Id", "X-Tenant-Id"])
def test_a_header_names_no_realm(place: Place, stranger: Person, endpoint: Endpoint, name: str) -> None:
    answer = place.call(endpoint, stranger.http, headers={name: place.owner.realm_id})
    if endpoint.name in OF_ONE_KEY:
        refused(answer, 404, "key_not_found")
    elif endpoint.name in OF_ONE_THING or endpoint.name == "authz.explain":
        refused(answer, 404, "not_found")
    else:
        check_served(answer)
        assert f'"{place.owner.realm_id}"' not in answer.text
