"""`POST /v1/auth/clients`: what a client may be, and a secret that is seen once."""

from __future__ import annotations

import hashlib
import re
from uuid import UUID

import pytest

from qimem.authz.permissions import REALM_SCOPED
from qimem.storage.schema import client, client_role, idempotency
from tests.support.api import Person, World
from tests.support.oauth import nobody, rows
from tests.support.server import ok, refused

PATH = "/v1/auth/clients"
EVERY_GRANT = ["password", "client_credentials", "authorization_code", "refresh_token"]
PUBLIC_KEY = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "1"}

FAULTY_METADATA = [
    ({"grant_types": ["password", "implicit"]}, "/grant_types/1", "one of password, client_credentials, authorization_code, refresh_token"),
    ({"grant_types": ["Password"]}, "/grant_types/0", "one of password, client_credentials, authorization_code, refresh_token"),
    ({"token_endpoint_auth_method": "private_key_jwt"}, "/token_endpoint_auth_method", "one of client_secret_basic, client_secret_post, none"),
    ({"token_endpoint_auth_method": "NONE"}, "/token_endpoint_auth_method", "one of client_secret_basic, client_secret_post, none"),
    ({"token_endpoint_auth_method": ""}, "/token_endpoint_auth_method", "one of client_secret_basic, client_secret_post, none"),
    ({"response_types": ["token"]}, "/response_types", "only code is offered"),
    ({"response_types": ["code", "id_token"]}, "/response_types", "only code is offered"),
    ({"scope": ""}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": " read"}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": "read  write"}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": "read\twrite"}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": 'a"b'}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": "a\\b"}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": "lesen-ä"}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"scope": "x" * 1025}, "/scope", "scope tokens of RFC 6749 §3.3 with single spaces between"),
    ({"name": ""}, "/name", "must have 1 to 256 characters"),
    ({"client_name": "x" * 257}, "/name", "must have 1 to 256 characters"),
    ({"name": "a", "client_name": "b"}, "/client_name", "name and client_name are the same field"),
    ({"jwks": {"keys": []}, "jwks_uri": "https://a.example/jwks"}, "/jwks_uri", "jwks and jwks_uri exclude each other (RFC 7591 §2)"),
    ({"jwks_uri": "http://a.example/jwks"}, "/jwks_uri", "must be an https URI"),
    ({"jwks_uri": "http://localhost/jwks"}, "/jwks_uri", "must be an https URI"),
    ({"jwks_uri": "https://u:p@a.example/jwks"}, "/jwks_uri", "must be an https URI"),
    ({"jwks_uri": ""}, "/jwks_uri", "must be an https URI"),
    ({"jwks": {}}, "/jwks", "must be a JWK Set with a keys array (RFC 7517 §5)"),
    ({"jwks": {"keys": {}}}, "/jwks", "must be a JWK Set with a keys array (RFC 7517 §5)"),
    ({"jwks": {"keys": ["EC"]}}, "/jwks", "must be a JWK Set with a keys array (RFC 7517 §5)"),
    ({"jwks": {"keys": [{"crv": "P-256"}]}}, "/jwks", "must be a JWK Set with a keys array (RFC 7517 §5)"),
    ({"jwks": {"keys": [PUBLIC_KEY | {"d": "AA"}]}}, "/jwks", "must hold public keys only"),
    ({"jwks": {"keys": [PUBLIC_KEY, {"kty": "oct", "k": "AA"}]}}, "/jwks", "must hold public keys only"),
    ({"jwks": {"keys": [PUBLIC_KEY | {"x5c": ["A" * 65_536]}]}}, "/jwks", "at most 65536 bytes"),
    ({"tier": "platinum"}, "/tier", "one of free, pro, enterprise, unlimited"),
    ({"tier": ""}, "/tier", "one of free, pro, enterprise, unlimited"),
]  # fmt: skip


def registered(world: World, realm_id: str, **more: object) -> dict:
    return ok(world.operator.post(PATH, json={"realm_id": realm_id, "redirect_uris": [], **more}))


def test_a_client_is_answered_with_everything_it_is(each_world: World) -> None:
    realm_id = each_world.realm()
    body = registered(each_world, realm_id, redirect_uris=["https://shop.example/back"])
    assert body == {
        "client_id": body["client_id"],
        "client_secret": body["client_secret"],
        "realm_id": realm_id,
        "name": None,
        "redirect_uris": ["https://shop.example/back"],
        "grant_types": EVERY_GRANT,
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "scope": None,
        "post_logout_redirect_uris": [],
        "jwks": None,
        "jwks_uri": None,
        "tier": "pro",
        "roles": [],
        "enabled": True,
        "created_at": body["created_at"],
        "refresh_grace_seconds": None,
        "refresh_requires_client": False,
    }
    assert UUID(body["client_id"]).version == 4
    assert re.fullmatch(r"qcs_[A-Za-z0-9_-]{43}", body["client_secret"])


def test_what_was_asked_for_is_what_is_registered(each_world: World) -> None:
    realm_id = each_world.realm()
    asked = {
        "name": "Shop ✓",
        "redirect_uris": ["com.example.shop:/back", "https://EXAMPLE.com:443/%7e?x=1&y="],
        "grant_types": ["refresh_token", "password"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_post",
        "scope": "read write",
        "post_logout_redirect_uris": ["https://shop.example/bye"],
        "jwks": {"keys": [PUBLIC_KEY]},
        "tier": "enterprise",
        "roles": [each_world.role(realm_id, ["keys:read"])],
        "refresh_grace_seconds": 60,
        "refresh_requires_client": True,
    }
    body = registered(each_world, realm_id, **asked)
    assert {name: body[name] for name in asked} == asked


def test_a_client_without_response_types_has_none(world: World, admin: Person) -> None:
    body = {"redirect_uris": [], "grant_types": ["client_credentials"], "response_types": []}
    assert ok(admin.post(PATH, body))["response_types"] == []


def test_only_a_digest_of_the_secret_is_kept(each_world: World) -> None:
    realm_id = each_world.realm()
    body = registered(each_world, realm_id)
    (row,) = rows(each_world.server, client, realm_id=realm_id)
    assert bytes(row["secret_digest"]) == hashlib.sha256(body["client_secret"].encode()).digest()
    assert body["client_secret"] not in str(row)


def test_two_registrations_are_two_clients(each_world: World) -> None:
    realm_id = each_world.realm()
    one, two = (registered(each_world, realm_id, name="same") for _ in range(2))
    assert one["client_id"] != two["client_id"]
    assert one["client_secret"] != two["client_secret"]
    assert len(rows(each_world.server, client, realm_id=realm_id)) == 2


def test_a_repetition_tells_the_id_and_never_the_secret(each_world: World) -> None:
    realm_id, key = each_world.realm(), {"Idempotency-Key": each_world.fresh("key")}
    body = {"realm_id": realm_id, "redirect_uris": []}
    made = ok(each_world.operator.post(PATH, json=body, headers=key))
    for _ in range(2):
        again = each_world.operator.post(PATH, json=body, headers=key)
        told = refused(again, 409, "already_done")
        assert (told["error"], told["object_id"]) == ("already done", made["client_id"])
        assert "qcs_" not in again.text
    assert len(rows(each_world.server, client, realm_id=realm_id)) == 1
    kept = rows(each_world.server, idempotency, realm_id="system", object_id=made["client_id"])
    assert [row["answer_sealed"] for row in kept] == [None]


def test_a_public_client_has_no_secret_and_no_account_of_its_own(each_world: World) -> None:
    body = registered(each_world, each_world.realm(), token_endpoint_auth_method="none")
    assert body["client_secret"] is None
    assert body["grant_types"] == ["password", "authorization_code", "refresh_token"]


def test_a_public_client_cannot_ask_for_an_account_of_its_own(admin: Person) -> None:
    body = {"redirect_uris": [], "token_endpoint_auth_method": "none", "grant_types": ["client_credentials"]}
    fields = refused(admin.post(PATH, body), 400, "invalid_field")["fields"]
    assert fields == {"/grant_types": "client_credentials needs a client with a secret"}


@pytest.mark.parametrize(
    "uri",
    [
        "https://a.example", "https://a.example/", "https://a.example:8443/back?x=%2A&y=a:b@c", "https://127.0.0.1/back",
        "https://A.Example/Back", "https://a.example/a//b/../c", "https://[2001:db8::1]/back", "https://localhost/",
        "http://localhost", "http://localhost:3000/back", "http://127.0.0.1:0808/back", "http://[::1]:3000/back",
        "com.example.app:/back", "com.example.app://back", "a.b:x", "https://a.example/" + "x" * 2030,
    ],
)  # fmt: skip
def test_a_redirect_uri_is_kept_byte_for_byte(world: World, admin: Person, uri: str) -> None:
    body = {"redirect_uris": ["https://first.example/", uri], "post_logout_redirect_uris": [uri]}
    made = ok(admin.post(PATH, body))
    assert made["redirect_uris"] == ["https://first.example/", uri]
    assert made["post_logout_redirect_uris"] == [uri]


@pytest.mark.parametrize(
    "uri",
    [
        "", " ", "/back", "back", "//a.example/back", "a.example/back", "https:", "https:/a.example", "https:a.example",
        "https://", "https:///back", "https://:443/back", "https://?x", "https://a.example/#top", "https://a.example/#",
        "https://u@a.example/", "https://u:p@a.example/", "https://@a.example/", "https://a.example@evil.example/",
        "https://*.a.example/", "https://a.example/*", "*", "https://a.example\\@evil.example/", "https://a.example/\\..",
        "https://a.example/ b", " https://a.example/", "https://a.example/\n", "https://a.example/\u0000",
        "https://a.exämple/", "https://a.example/\u202e", "https://a.example:0/", "https://a.example:65536/",
        "https://a.example:-1/", "https://a.example:x/", "https://[::1/", "https://a.example/{id}", "https://a.example/<x>",
        'https://a.example/"', "https://a.example/|", "https://a.example/^", "https://a.example/`",
        "HTTPS://a.example/", "Https://a.example/", "http://a.example/", "http://localhost.a.example/",
        "http://127.0.0.1.a.example/", "http://127.0.0.2/", "http://127.1/", "http://2130706433/", "http://0x7f000001/",
        "http://0.0.0.0/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://localhost@evil.example/",
        "http://localhost#@evil.example/", "http://evil.example[::1]/", "http://[::1].evil.example/", "https://a.example[::1]/", "javascript:alert(1)", "java.script:alert(1)//*", "data:text/html,x",
        "file:///etc/passwd", "ftp://a.example/", "urn:ietf:wg:oauth:2.0:oob", "myapp://back", "myapp:back", "localhost:3000",
        "COM.example.app:/back", ".com:/back", "com.:/back", "1com.example:/back", "com_example.app:/back",
        "https://a.example/" + "x" * 2031,
    ],
    ids=ascii,
)  # fmt: skip
def test_a_redirect_uri_that_could_lead_elsewhere_is_refused(admin: Person, uri: str) -> None:
    body = {"redirect_uris": ["https://first.example/", uri]}
    fields = refused(admin.post(PATH, body), 400, "invalid_field")["fields"]
    assert list(fields) == ["/redirect_uris/1"]
    logout = {"redirect_uris": [], "post_logout_redirect_uris": [uri]}
    fields = refused(admin.post(PATH, logout), 400, "invalid_field")["fields"]
    assert list(fields) == ["/post_logout_redirect_uris/0"]


def test_more_than_32_redirect_uris_are_refused(admin: Person) -> None:
    many = [f"https://a.example/{number}" for number in range(33)]
    assert len(ok(admin.post(PATH, {"redirect_uris": many[1:]}))["redirect_uris"]) == 32
    fields = refused(admin.post(PATH, {"redirect_uris": many}), 400, "invalid_field")["fields"]
    assert fields == {"/redirect_uris": "at most 32"}


@pytest.mark.parametrize(
    ("metadata", "pointer", "reason"), FAULTY_METADATA, ids=lambda value: str(value)[:60]
)
def test_faulty_metadata_is_refused(world: World, metadata: dict, pointer: str, reason: str) -> None:
    answer = world.operator.post(PATH, json={"redirect_uris": [], **metadata})
    assert refused(answer, 400, "invalid_field")["fields"] == {pointer: reason}


def test_a_name_with_a_null_character_is_refused_on_every_database(each_world: World) -> None:
    body = {"realm_id": each_world.realm(), "redirect_uris": [], "name": "a\u0000b"}
    assert "/name" in refused(each_world.operator.post(PATH, json=body), 400, "invalid_field")["fields"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"/redirect_uris": "required"}),
        ({"redirect_uris": None}, {"/redirect_uris": "expected array, got null"}),
        ({"redirect_uris": "https://a.example/"}, {"/redirect_uris": "expected array, got str"}),
        ({"redirect_uri": []}, {"/redirect_uri": "unknown field; did you mean redirect_uris?"}),
        (
            {"redirect_uris": [], "client_id": "mine"},
            {"/client_id": "unknown field; did you mean client_name?"},
        ),
        ({"redirect_uris": [], "client_secret": "mine"}, {"/client_secret": "unknown field"}),
        ({"redirect_uris": [], "enabled": True}, {"/enabled": "unknown field"}),
        ({"redirect_uris": [], "permissions": ["*"]}, {"/permissions": "unknown field"}),
        ({"redirect_uris": [], "jwks": []}, {"/jwks": "expected object | null, got array"}),
    ],
    ids=str,
)
def test_a_body_of_another_shape_is_refused(admin: Person, body: object, fields: dict[str, str]) -> None:
    found = refused(admin.post(PATH, body), 400, "invalid_field")["fields"]
    assert list(found) == list(fields)
    assert found[next(iter(found))].startswith(fields[next(iter(fields))].partition(";")[0])


@pytest.mark.parametrize("tier", ["free", "pro", "enterprise", "unlimited"])
def test_an_operator_chooses_the_tier_and_nobody_else(world: World, admin: Person, tier: str) -> None:
    assert registered(world, admin.realm_id, tier=tier)["tier"] == tier
    body = refused(admin.post(PATH, {"redirect_uris": [], "tier": tier}), 403, "permission_denied")
    assert (body["error"], body["permission"], body["resource"]) == (
        "permission denied: limits:manage", "limits:manage", "tier",
    )  # fmt: skip


def test_null_is_as_good_as_absent(admin: Person) -> None:
    optional = ("name", "client_name", "grant_types", "response_types", "token_endpoint_auth_method", "scope", "jwks",
                "jwks_uri", "post_logout_redirect_uris", "tier", "roles", "realm_id", "refresh_grace_seconds",
                "refresh_requires_client")  # fmt: skip
    body = ok(admin.post(PATH, {"redirect_uris": []} | dict.fromkeys(optional)))
    assert (body["realm_id"], body["grant_types"], body["tier"]) == (admin.realm_id, EVERY_GRANT, "pro")


@pytest.mark.parametrize(
    "role", ["absent", "Realm-Admin", "realm-admin ", "operator", "", "x" * 5000], ids=str
)
def test_an_absent_role_is_refused(world: World, role: str) -> None:
    realm_id = world.realm()
    body = {"realm_id": realm_id, "redirect_uris": [], "roles": ["realm-admin", role]}
    error = refused(world.operator.post(PATH, json=body), 400, "role_not_found")["error"]
    assert error == f"role not found: {role}"[:256]
    assert not rows(world.server, client, realm_id=realm_id)


def test_an_absent_role_with_a_null_character_is_absent_on_every_database(each_world: World) -> None:
    body = {"realm_id": each_world.realm(), "redirect_uris": [], "roles": ["a\u0000b"]}
    refused(each_world.operator.post(PATH, json=body), 400, "role_not_found")


def test_a_client_has_each_role_once_and_at_most_64(world: World, admin: Person) -> None:
    assert ok(admin.post(PATH, {"redirect_uris": [], "roles": ["realm-admin"] * 65}))["roles"] == [
        "realm-admin"
    ]
    body = {"redirect_uris": [], "roles": [f"role-{number}" for number in range(65)]}
    fields = refused(admin.post(PATH, body), 400, "invalid_field")["fields"]
    assert fields == {"/roles": "at most 64 roles"}


@pytest.mark.parametrize("lacking", ["realm:*", "keys:encrypt", "users:create", "keys:decrypt:" + "0" * 32])
def test_a_client_is_given_nothing_that_its_maker_lacks(each_world: World, lacking: str) -> None:
    person = each_world.person("clients:create", "mine")
    role = "realm-admin" if lacking == "realm:*" else each_world.role(person.realm_id, ["mine", lacking])
    body = refused(person.post(PATH, {"redirect_uris": [], "roles": [role]}), 403, "permission_denied")
    assert body["permission"].replace("-", "") == lacking.replace("-", "")
    assert not rows(each_world.server, client_role, realm_id=person.realm_id)


def test_a_client_is_given_what_its_maker_holds(world: World) -> None:
    person = world.person("clients:create", "keys:encrypt", "roles:create")
    role = world.role(person.realm_id, ["keys:encrypt", "clients:create", "orders:approve"])
    assert ok(person.post(PATH, {"redirect_uris": [], "roles": [role]}))["roles"] == [role]


def test_what_an_application_trusts_is_given_with_the_right_to_make_roles_alone(world: World) -> None:
    person = world.person("clients:create", "orders:approve")
    role = world.role(person.realm_id, ["orders:approve"])
    answer = refused(person.post(PATH, {"redirect_uris": [], "roles": [role]}), 403, "permission_denied")
    assert answer["permission"] == "roles:create"


def test_nobody_but_an_operator_makes_a_client_an_operator(world: World) -> None:
    person = world.person(realm_id="system")
    body = refused(person.post(PATH, {"redirect_uris": [], "roles": ["operator"]}), 403, "permission_denied")
    assert (body["error"], body["permission"]) == ("permission denied: *", "*")
    assert registered(world, "system", roles=["operator"])["roles"] == ["operator"]


def test_another_realm_looks_like_an_absent_one(world: World, admin: Person) -> None:
    for realm_id in (world.realm(), "system", "absent"):
        body = {"realm_id": realm_id, "redirect_uris": []}
        error = refused(admin.post(PATH, body), 404, "realm_not_found")["error"]
        assert error == f"realm not found: {realm_id}"


def test_without_the_right_no_client_is_made(world: World) -> None:
    person = world.person(*sorted(REALM_SCOPED - {"clients:create"}))
    body = refused(person.post(PATH, {"redirect_uris": []}), 403, "permission_denied")
    assert (body["error"], body["permission"]) == ("permission denied: clients:create", "clients:create")
    refused(nobody(world).post(PATH, json={}), 401, "unauthenticated")


def test_the_repetition_of_an_answer_without_a_secret_is_answered(each_world: World) -> None:
    person = each_world.person()
    key = {"Idempotency-Key": each_world.fresh("key")}
    body = {"redirect_uris": [], "token_endpoint_auth_method": "none"}
    first = person.post(PATH, body, headers=key)
    second = person.post(PATH, body, headers=key)
    assert ok(second) == ok(first)
    assert second.headers["idempotency-replayed"] == "true"
